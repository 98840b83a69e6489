"""Draw the pictures of the documentation: docs/pictures/*.svg, from the data below.

They are narrow enough that their words can be read on a phone, and follow the reader's light or dark scheme. With
`--check` nothing is written: it fails if a picture is out of date.
"""

from __future__ import annotations

import asyncio
import logging
import pathlib
import sys
from dataclasses import dataclass
from html import escape

from hubsub import Event, Gap, Hub, Overflow

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "docs" / "pictures"

LINE, PAD = 19, 12
WIDTH = 620

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


def fall(start: Box, end: Box) -> list[str]:
    """Draw an arrow from the lower edge of a box to the upper edge of one further down, beside it."""
    x1, x2 = start.x + start.width / 2, end.x + end.width / 2
    y1, y2 = start.y + start.height, end.y - 3
    middle = (y1 + y2) / 2
    return [f'<path class="arrow" d="M{x1:g} {y1:g} C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}"/>']


def page(title: str, height: float, shapes: list[str]) -> str:
    width = WIDTH
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
    area = Box(170, 20, 430, ["Hub"], "area", 126)
    publisher = Box(20, 67.5, 112, ["Publisher", "adds a prefix"])
    route = Box(186, 58, 194, ["Route", "`order/new → 3 targets", "kept for each key"], "ours")
    matcher = Box(444, 58, 140, ["Matcher", "exact keys: a dict", "patterns: a trie"])
    plain = Box(20, 196, 180, ["sync listener", "called inside publish"])
    queue = Box(220, 196, 180, ["queue", "bounded"])
    listener = Box(220, 286, 180, ["async listener", "one task, in order"])
    other = Box(420, 196, 180, ["queue", "bounded"])
    reader = Box(420, 286, 180, ["your own loop", "`async for, consume"])
    upper, lower = (Box(0, route.y + y, 0, [""], "box", 20) for y in (8, 42))
    shapes = [
        *area.draw(),
        *arrow(publisher, route),
        text(412, 65, "once", "note", "middle"),
        *level(route, matcher, upper),
        *level(matcher, route, lower),
        *(each for target in (plain, queue, other) for each in fall(route, target)),
        *arrow(queue, listener),
        *arrow(other, reader),
    ]
    for box in (publisher, route, matcher, plain, queue, listener, other, reader):
        shapes += box.draw()
    return page("How a message gets from a publisher to its listeners", 356, shapes)


EXACT = ["order/new", "sensor/kitchen/temperature"]
WILDCARD = ["order/+", "sensor/*", "sensor/*/humidity", "sensor/*/temperature"]
PUBLISHED = "sensor/kitchen/temperature"


def trie() -> str:
    """Draw the patterns of a hub as they are kept, and what one key walks through."""
    leaves: list[str] = []
    nodes: dict[tuple[str, ...], float] = {}
    step, root, left, column, first = 44, 40, 92, 174, 156

    def lay(prefix: tuple[str, ...]) -> float:
        parts = [tuple(p.split("/")) for p in WILDCARD]
        below = sorted({p[: len(prefix) + 1] for p in parts if p[: len(prefix)] == prefix and len(p) > len(prefix)})
        if below:
            ys = [lay(each) for each in below]
            nodes[prefix] = (ys[0] + ys[-1]) / 2
        else:
            nodes[prefix] = first + step * len(leaves)
            leaves.append("/".join(prefix))
        return nodes[prefix]

    lay(())
    bottom = first + step * len(leaves)
    shapes = [
        *Box(20, 20, WIDTH - 40, ["Exact keys: a dict"], "area", 82).draw(),
        *Box(20, 114, WIDTH - 40, ["Patterns with wildcards: a trie"], "area", bottom - 114).draw(),
    ]
    for number, pattern in enumerate(EXACT):
        kind = "ours end" if pattern == PUBLISHED else "box end"
        shapes += Box(root + 150 * number, 56, (136, 260)[number], [f"`{pattern}"], kind, 30).draw()
    key = tuple(PUBLISHED.split("/"))
    for prefix, y in nodes.items():
        x = left + column * (len(prefix) - 1) if prefix else root
        if prefix:
            parent = root + 12 if len(prefix) == 1 else left + column * (len(prefix) - 2) + 110
            top = nodes[prefix[:-1]] + 15
            middle = (parent + x) / 2
            curve = f"M{parent:g} {top:g} C{middle:g} {top:g} {middle:g} {y + 15:g} {x:g} {y + 15:g}"
            shapes.append(f'<path class="edge" d="{curve}"/>')
        seen = all(part in ("*", "+", own) for part, own in zip(prefix, key, strict=False))
        name = prefix[-1] if prefix else ""
        kind = ("ours" if seen else "box") + (" end" if "/".join(prefix) in WILDCARD else "")
        box = Box(x, y, 110 if prefix else 12, [f"`{name}"], kind, 30)
        shapes += box.draw()
    shapes.append(text(20, bottom + 26, "A route is made for", "note"))
    shapes.append(text(150, bottom + 26, PUBLISHED, "code"))
    shapes.append(text(20, bottom + 48, "Blue: visited for it. Bold: a pattern ends here.", "note"))
    return page("How a hub keeps its patterns", bottom + 64, shapes)


async def read_full_queue() -> list[Event[int] | Gap]:
    """Return what a queue holds after more came than it has room for, the oldest first."""
    # That the queue is full is what is wanted.
    logging.getLogger("hubsub").setLevel(logging.ERROR)
    hub = Hub()
    numbers = hub.subscribe("number", maxsize=4, overflow=Overflow.DROP_OLDEST, gaps=True)
    for number in range(1, 10):
        hub.publish("number", number)
        if number <= 3:
            await numbers.consume()
    return await numbers.get_batch(10)


def queue() -> str:
    """Draw a full queue that dropped its oldest messages."""
    held = asyncio.run(read_full_queue())
    gap = next(each for each in held if isinstance(each, Gap))
    first = next(each.message for each in held if isinstance(each, Event))
    dropped = " and ".join(str(first - each) for each in range(gap.count or 0, 0, -1))
    source = Box(20, 64, 106, ["publish", "never waits"])
    sink = Box(WIDTH - 116, 64, 96, ["consumer", "`async for"])
    shapes = [*Box(160, 20, 310, ["Queue: maxsize=4, DROP_OLDEST"], "area", 110).draw()]
    boxes = []
    for number, each in enumerate(reversed(held)):
        is_gap = isinstance(each, Gap)
        words = f"Gap: {gap.count}" if isinstance(each, Gap) else str(each.message)
        boxes.append(Box(176 + 50 * number, 72, 78 if is_gap else 42, [f"`{words}"], "gap" if is_gap else "ours", 34))
    for box in (*boxes, source, sink):
        shapes += box.draw()
    shapes += [*arrow(source, boxes[0]), *arrow(boxes[-1], sink)]
    words = f"{dropped} were dropped. In their place the consumer receives a Gap."
    shapes.append(text(20, 156, words, "note"))
    return page("A full queue, with a gap where messages were dropped", 176, shapes)


def bridge() -> str:
    """Draw how two processes are connected."""
    shapes = []
    columns = []
    for left, name, hub_at, inner_at in ((20, "Process A", 14, 96), (WIDTH - 216, "Process B", 118, 14)):
        area = Box(left, 20, 196, [name], "area", 196)
        top = Box(left + hub_at, 56, 64, ["Hub"], "box", 144)
        out = Box(left + inner_at, 56, 86, ["outbox", "bounded"], "ours")
        into = Box(left + inner_at, 150, 86, ["receiver", "decodes"], "ours")
        for box in (area, top, out, into):
            shapes += box.draw()
        shapes += [*level(top, out, out), *level(into, top, into)]
        columns.append((out, into))
    broker = Box(
        247, 56, 126, ["Broker", "Redis, Kafka,", "or a file:", "keys become its", "channels, topics"], "box", 144
    )
    shapes += broker.draw()
    (out, into), (other_out, other_into) = columns
    for start, end in ((out, broker), (broker, into), (other_out, broker), (broker, other_into)):
        shapes += level(start, end, start if end is broker else end)
    return page("Two processes with a bridge each", 236, shapes)


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
