"""A bar chart as SVG, which follows the reader's light or dark scheme and needs no library."""

from __future__ import annotations

from html import escape

from .harness import figure

WIDTH, LABEL, VALUE = 720, 110, 80
BAR, STEP = 18, 26

STYLE = """
  text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; }
  .value { paint-order: stroke; stroke: #ffffff; stroke-width: 5px; }
  .note { fill: #59636e; font-size: 13px; }
  .ground { fill: #ffffff; stroke: #d1d9e0; }
  .bar { fill: #9aa4b2; }
  .ours { fill: #0969da; }
  .line { stroke: #0969da; stroke-dasharray: 3 3; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .value { stroke: #0d1117; }
    .note { fill: #9198a1; }
    .ground { fill: #0d1117; stroke: #3d444d; }
    .bar { fill: #656c76; }
    .ours { fill: #4493f8; }
    .line { stroke: #4493f8; }
  }
"""


def draw(heading: str, note: str, panels: dict[str, list[tuple[str, float]]]) -> str:
    """Draw a panel of bars for each title; the first bar of a panel is ours, and 1."""
    shapes = [_text(20, 32, heading, "title"), _text(20, 54, note, "note")]
    left = 20 + LABEL
    # One scale for all, so that bars may be compared between panels.
    scale = (WIDTH - left - VALUE) / max(value for bars in panels.values() for _, value in bars)
    y = 92
    for title, bars in panels.items():
        shapes.append(_text(20, y, title, "title"))
        y += 14
        bottom = y + STEP * len(bars)
        shapes.append(f'<line class="line" x1="{left + scale:.1f}" x2="{left + scale:.1f}" y1="{y}" y2="{bottom}"/>')
        for place, (name, value) in enumerate(bars):
            # A bar too short to be seen would look like none.
            length = max(value * scale, 1.5)
            kind = "bar" if place else "ours"
            top = y + (STEP - BAR) / 2
            shapes.append(f'<rect class="{kind}" x="{left}" y="{top:g}" width="{length:.1f}" height="{BAR}" rx="2"/>')
            shapes.append(_text(left - 8, y + 18, name, "", anchor="end"))
            shapes.append(_text(left + length + 6, y + 18, figure(value, "×"), "value"))
            y += STEP
        y += 34
    height = y - 18
    ground = f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    title = f"<title>{escape(heading)}</title>"
    return "\n".join([f'{head} role="img">', title, f"<style>{STYLE}</style>", ground, *shapes, "</svg>", ""])


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'
