"""Draw the pictures of the documentation: docs/pictures/*.svg, from the data below.

They follow the reader's light or dark scheme. With `--check` nothing is written: it fails if a picture is out of date.
"""

from __future__ import annotations

import pathlib
import sys
from dataclasses import dataclass
from html import escape

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "docs" / "pictures"

LINE, PAD = 19, 12

STYLE = """
  text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1f2328; }
  .code { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
  .note { fill: #59636e; font-size: 13px; }
  .title { font-weight: 600; }
  .ground { fill: #ffffff; stroke: #d1d9e0; }
  .area { fill: #f6f8fa; stroke: #d1d9e0; }
  .box { fill: #ffffff; stroke: #818b98; }
  .ours { fill: #ddf4ff; stroke: #0969da; }
  .gap { fill: none; stroke: #bc4c00; stroke-dasharray: 4 3; }
  .end { stroke-width: 2.5; }
  .arrow { fill: none; stroke: #59636e; stroke-width: 1.4; marker-end: url(#head); }
  .edge { fill: none; stroke: #818b98; }
  .head { fill: #59636e; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .note { fill: #9198a1; }
    .ground { fill: #0d1117; stroke: #3d444d; }
    .area { fill: #151b23; stroke: #3d444d; }
    .box { fill: #0d1117; stroke: #656c76; }
    .ours { fill: #0c2d50; stroke: #4493f8; }
    .gap { stroke: #db6d28; }
    .arrow { stroke: #9198a1; }
    .edge { stroke: #656c76; }
    .head { fill: #9198a1; }
  }
"""


@dataclass
class Box:
    """A box with lines of text; the first one is its title, those that begin with a back quote are code."""

    x: float
    y: float
    width: float
    lines: list[str]
    kind: str = "box"
    height: float = 0

    def __post_init__(self) -> None:
        self.height = self.height or LINE * len(self.lines) + PAD

    def draw(self) -> list[str]:
        shapes = [
            f'<rect class="{self.kind}" x="{self.x:g}" y="{self.y:g}" width="{self.width:g}" '
            f'height="{self.height:g}" rx="6"/>'
        ]
        if self.kind == "area":
            shapes.append(text(self.x + PAD, self.y + 22, self.lines[0], "title"))
            return shapes
        top = self.y + (self.height - LINE * len(self.lines)) / 2 + 14
        for number, line in enumerate(self.lines):
            kind = "code" if line.startswith("`") else "title" if number == 0 and len(self.lines) > 1 else "note"
            if len(self.lines) == 1 and kind == "note":
                kind = ""
            shapes.append(text(self.x + self.width / 2, top + LINE * number, line.lstrip("`"), kind, "middle"))
        return shapes


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def arrow(start: Box, end: Box, label: str = "", aside: float = 0) -> list[str]:
    """Draw an arrow from one box to another: to the side where it is, with words above it."""
    if start.x + start.width <= end.x or end.x + end.width <= start.x:
        forth = start.x < end.x
        x1, x2 = (start.x + start.width, end.x - 3) if forth else (start.x, end.x + end.width + 3)
        y1, y2 = start.y + start.height / 2, end.y + end.height / 2
        middle = (x1 + x2) / 2
        shapes = [f'<path class="arrow" d="M{x1:g} {y1:g} C{middle:g} {y1:g} {middle:g} {y2:g} {x2:g} {y2:g}"/>']
    else:
        down = start.y < end.y
        x1 = x2 = max(start.x, end.x) + min(start.width, end.width) / 2 + aside
        y1, y2 = (start.y + start.height, end.y - 3) if down else (start.y, end.y + end.height + 3)
        middle = x1
        shapes = [f'<path class="arrow" d="M{x1:g} {y1:g} L{x2:g} {y2:g}"/>']
    if label and x1 != x2:
        shapes.append(text(middle, (y1 + y2) / 2 - 8, label, "note", "middle"))
    elif label:
        shapes.append(text(x1 + 8, (y1 + y2) / 2 + 5, label, "note"))
    return shapes


def level(start: Box, end: Box, at: Box) -> list[str]:
    """Draw a level arrow from one box to another, at the height of a third."""
    return arrow(*(Box(box.x, at.y, box.width, [""], "box", at.height) for box in (start, end)))


def page(title: str, width: float, height: float, shapes: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
    marker = (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path class="head" d="M0 0 L8 4 L0 8 z"/></marker></defs>'
    )
    ground = f'<rect class="ground" x="0.5" y="0.5" width="{width - 1:g}" height="{height - 1:g}" rx="8"/>'
    parts = [f'{head} height="{height:g}" role="img">', f"<title>{escape(title)}</title>"]
    return "\n".join([*parts, f"<style>{STYLE}</style>", marker, ground, *shapes, "</svg>", ""])


def hub() -> str:
    """Draw the path of a message through a hub."""
    area = Box(190, 20, 250, ["Hub"], "area", 270)
    publisher = Box(20, 79, 100, ["Publisher", "adds a prefix"])
    route = Box(210, 70, 210, ["Route", "`order/new → 3 targets", "remembered for each key"], "ours")
    matcher = Box(210, 200, 210, ["Matcher", "exact keys: a dict", "patterns: a trie"])
    plain = Box(520, 34, 180, ["sync listener", "called inside publish"])
    queue = Box(520, 122, 100, ["queue", "bounded"])
    listener = Box(680, 122, 180, ["async listener", "one task, in order"])
    other = Box(520, 210, 100, ["queue", "bounded"])
    reader = Box(680, 210, 180, ["your own loop", "`async for, consume"])
    shapes = [
        *area.draw(),
        *arrow(publisher, route, "publish"),
        *arrow(route, matcher, "the first time", -30),
        *arrow(matcher, route, "", 90),
        *arrow(route, plain),
        *arrow(route, queue),
        *arrow(route, other),
        *arrow(queue, listener),
        *arrow(other, reader),
    ]
    for box in (publisher, route, matcher, plain, queue, listener, other, reader):
        shapes += box.draw()
    return page("How a message gets from a publisher to its listeners", 880, 310, shapes)


EXACT = ["order/new", "sensor/kitchen/temperature"]
WILDCARD = ["order/+", "sensor/*", "sensor/*/humidity", "sensor/*/temperature"]
PUBLISHED = "sensor/kitchen/temperature"


def trie() -> str:
    """Draw the patterns of a hub as they are kept, and what one key walks through."""
    leaves: list[str] = []
    nodes: dict[tuple[str, ...], float] = {}
    step, left, column = 46, 400, 130

    def lay(prefix: tuple[str, ...]) -> float:
        parts = [tuple(p.split("/")) for p in WILDCARD]
        below = sorted({p[: len(prefix) + 1] for p in parts if p[: len(prefix)] == prefix and len(p) > len(prefix)})
        if below:
            ys = [lay(each) for each in below]
            nodes[prefix] = (ys[0] + ys[-1]) / 2
        else:
            nodes[prefix] = 60 + step * len(leaves)
            leaves.append("/".join(prefix))
        return nodes[prefix]

    lay(())
    height = 60 + step * max(len(leaves), 3) + 40
    area = Box(20, 20, 300, ["Exact keys: a dict"], "area", height - 40)
    shapes = [*area.draw(), *Box(340, 20, 520, ["Patterns with wildcards: a trie"], "area", height - 40).draw()]
    for number, pattern in enumerate(EXACT):
        kind = "ours end" if pattern == PUBLISHED else "box end"
        shapes += Box(40, 60 + 38 * number, 260, [f"`{pattern}"], kind, 30).draw()
    shapes.append(text(40, height - 84, "A route is made for", "note"))
    shapes.append(text(40, height - 64, PUBLISHED, "code"))
    shapes.append(text(40, height - 40, "Blue: visited. Bold: a pattern ends here.", "note"))
    key = tuple(PUBLISHED.split("/"))
    for prefix, y in nodes.items():
        x = left + column * (len(prefix) - 1) - 10 if prefix else 360
        if prefix:
            parent = 360 + 12 if len(prefix) == 1 else left + column * (len(prefix) - 2) + 90
            top = nodes[prefix[:-1]] + 15
            middle = (parent + x) / 2
            curve = f"M{parent:g} {top:g} C{middle:g} {top:g} {middle:g} {y + 15:g} {x:g} {y + 15:g}"
            shapes.append(f'<path class="edge" d="{curve}"/>')
        seen = all(part in ("*", "+", own) for part, own in zip(prefix, key, strict=False))
        name = prefix[-1] if prefix else ""
        kind = ("ours" if seen else "box") + (" end" if "/".join(prefix) in WILDCARD else "")
        box = Box(x, y, 100 if prefix else 12, [f"`{name}"], kind, 30)
        shapes += box.draw()
    return page("How a hub keeps its patterns", 880, height, shapes)


def queue() -> str:
    """Draw a full queue that dropped its oldest messages."""
    source = Box(20, 66, 120, ["publish", "never waits"])
    sink = Box(720, 66, 140, ["consumer", "`async for"])
    shapes = [*Box(190, 20, 480, ["Queue of a subscription, maxsize=4, DROP_OLDEST"], "area", 140).draw()]
    boxes = []
    for number, (words, kind) in enumerate(
        [("9", "ours"), ("8", "ours"), ("7", "ours"), ("6", "ours"), ("Gap: 2 missing", "gap")]
    ):
        boxes.append(Box(210 + 76 * number, 72, 130 if kind == "gap" else 62, [f"`{words}"], kind, 34))
    for box in (*boxes, source, sink):
        shapes += box.draw()
    shapes += [*arrow(source, boxes[0]), *arrow(boxes[-1], sink)]
    shapes.append(text(210, 138, "4 and 5 were dropped; the consumer receives a Gap in their place.", "note"))
    return page("A full queue, with a gap where messages were dropped", 880, 180, shapes)


def bridge() -> str:
    """Draw how two processes are connected."""
    shapes = []
    columns = []
    for left, name, hub_at, inner_at in ((20, "Process A", 20, 140), (610, "Process B", 140, 15)):
        area = Box(left, 20, 250, [name], "area", 210)
        top = Box(left + hub_at, 60, 90, ["Hub"], "box", 150)
        out = Box(left + inner_at, 60, 95, ["outbox", "bounded"], "ours")
        into = Box(left + inner_at, 160, 95, ["receiver", "decodes"], "ours")
        for box in (area, top, out, into):
            shapes += box.draw()
        shapes += [*level(top, out, out), *level(into, top, into)]
        columns.append((out, into))
    broker = Box(
        370,
        60,
        140,
        ["Broker", "Redis, Kafka,", "or a file", "", "keys are its topics,", "channels, streams"],
        "box",
        150,
    )
    shapes += broker.draw()
    (out, into), (other_out, other_into) = columns
    for start, end in ((out, broker), (broker, into), (other_out, broker), (broker, other_into)):
        shapes += level(start, end, start if end is broker else end)
    return page("Two processes with a bridge each", 880, 250, shapes)


PICTURES = {"hub": hub, "trie": trie, "queue": queue, "bridge": bridge}


def main() -> None:
    stale = []
    for name, draw in PICTURES.items():
        path = FOLDER / f"{name}.svg"
        picture = draw()
        if path.exists() and path.read_text(encoding="utf-8") == picture:
            continue
        stale.append(path.name)
        if "--check" not in sys.argv[1:]:
            path.write_text(picture, encoding="utf-8")
    if "--check" in sys.argv[1:] and stale:
        sys.exit(f"out of date, run `python tools/pictures.py`: {', '.join(stale)}")


if __name__ == "__main__":
    main()
