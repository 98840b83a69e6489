"""Record the demo in a real terminal: docs/pictures/recording.svg.

    python tools/recording.py

Two terminals of tmux run `hubsub demo` and, over the same file, `hubsub tap`. What they show is taken a few times a
second and written as one picture that moves. It follows the reader's light or dark scheme, and stands still for readers
who want less motion. Needs tmux and the extra `demo`. As root on Linux it runs apart from the other processes of the
machine, so that the recording shows none of them.
"""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from html import escape

ROOT = pathlib.Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "pictures" / "recording.svg"

# Seconds.
EVERY = 0.3
KEYSTROKE = 0.03
HOLD = 2.0
# Bytes: it stands on top of a page that is read on a phone, too.
LIMIT = 300_000

COLUMNS = 76
# Pixels.
CELL, LINE = 7.8, 16
MARGIN, BAR, BETWEEN = 12, 26, 12

# Names of the eight colours in the order of the terminal's codes.
COLOURS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")

STYLE = """
  text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #1f2328; }
  .window { fill: #ffffff; stroke: #d1d9e0; }
  .bar { fill: #f6f8fa; stroke: #d1d9e0; }
  .name { fill: #59636e; }
  .bold { font-weight: 700; }
  .dim, .black { fill: #59636e; }
  .red { fill: #cf222e; } .green { fill: #116329; } .yellow { fill: #7d4e00; } .blue { fill: #0969da; }
  .magenta { fill: #8250df; } .cyan { fill: #1b7c83; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .window { fill: #0d1117; stroke: #3d444d; }
    .bar { fill: #151b23; stroke: #3d444d; }
    .name, .dim, .black { fill: #9198a1; }
    .red { fill: #ff7b72; } .green { fill: #3fb950; } .yellow { fill: #d29922; } .blue { fill: #58a6ff; }
    .magenta { fill: #bc8cff; } .cyan { fill: #39c5cf; }
  }
  .past { visibility: hidden; }
  @media (prefers-reduced-motion: reduce) { text { animation: none !important; } }
"""

# Something for the demo to show: idle, then at work, again and again.
LOAD = """
import socket, time
wire = socket.socket(type=socket.SOCK_DGRAM)
wire.bind(("127.0.0.1", 0))
while True:
    time.sleep(2.5)
    until = time.monotonic() + 2
    while time.monotonic() < until:
        sum(range(50_000))
        wire.sendto(bytes(1_000), wire.getsockname())
        wire.recv(1_000)
"""


class Terminal:
    """A terminal of tmux with a shell in it, and what it showed each time it was looked at."""

    def __init__(self, name: str, rows: int, folder: str) -> None:
        self.name = name
        self.rows = rows
        self.looks: list[list[str]] = []
        # The shell of nobody in particular: no file of settings, and a prompt that names no machine.
        shell = ["env", f"PATH={pathlib.Path(sys.executable).parent}:{os.environ['PATH']}", f"PYTHONPATH={ROOT}"]
        shell += ["TERM=screen-256color", "PS1=$ ", "bash", "--norc", "--noprofile"]
        size = ["-x", str(COLUMNS), "-y", str(rows)]
        self.tmux("-f", "/dev/null", "new-session", "-d", *size, "-c", folder, shlex.join(shell))
        self.tmux("set-option", "-g", "status", "off")
        # Without its line of state the window has one row more.
        self.tmux("resize-window", *size)

    def tmux(self, *command: str) -> str:
        # The server of a recording is its own: closing it closes nothing else.
        line = ["tmux", "-u", "-L", f"hubsub-{os.getpid()}-{self.name}", *command]
        return subprocess.run(line, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def look(self) -> None:
        self.looks.append(rows(self.tmux("capture-pane", "-e", "-p"))[: self.rows])

    def end(self) -> None:
        self.tmux("kill-server")


@dataclass
class Film:
    """What happens in the terminals, looked at every 0.3 seconds."""

    terminals: list[Terminal]
    due: float = field(default_factory=time.monotonic)

    def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self.due < until:
            time.sleep(max(0.0, self.due - time.monotonic()))
            for terminal in self.terminals:
                terminal.look()
            self.due += EVERY

    def type(self, terminal: Terminal, line: str) -> None:
        for letter in line:
            terminal.press("-l", letter)
            self.run(KEYSTROKE)
        self.run(0.5)
        terminal.press("Enter")


def play(folder: str) -> list[Terminal]:
    """Return the terminals after everything has happened in them."""
    demo, tap = Terminal("demo", 22, folder), Terminal("tap", 8, folder)
    load = subprocess.Popen([sys.executable, "-c", LOAD])
    try:
        time.sleep(1)
        film = Film([demo, tap])
        film.type(demo, "hubsub demo --bridge sqlite://demo.db")
        film.run(3)
        film.type(tap, "hubsub tap sqlite://demo.db 'demo/*' --namespace hubsub-demo")
        film.run(8)
    finally:
        load.kill()
        load.wait()
        for terminal in (demo, tap):
            terminal.end()
    return [demo, tap]


def rows(screen: str) -> list[str]:
    """Return each line of a screen as parts of an SVG text: the codes for colours go on from line to line."""
    drawn = []
    colour, styles = "", set[str]()
    for line in screen.split("\n"):
        column, parts = 0, []
        for codes, words in re.findall(r"(?:\x1b\[([\d;]*)m|[\x0e\x0f])?([^\x1b\x0e\x0f]*)", line):
            for code in map(int, filter(None, codes.split(";"))):
                if code == 0:
                    colour, styles = "", set()
                elif code in (1, 2):
                    styles.add("bold" if code == 1 else "dim")
                elif code == 22:
                    styles.clear()
                elif code == 39:
                    colour = ""
                elif 30 <= code < 38 or 90 <= code < 98:
                    colour = COLOURS[code % 10]
            kind = " ".join(filter(None, [colour, *sorted(styles)]))
            # Where there are two blanks and more, what follows has a place of its own: letters may be of any width.
            parts += [part(column + each.start(), kind, each[0]) for each in re.finditer(r"\S+(?: \S+)*", words)]
            column += len(words)
        drawn.append("".join(parts))
    return drawn


def part(column: int, kind: str, words: str) -> str:
    """Return some words of a line, as wide as in a terminal."""
    style = f' class="{kind}"' if kind else ""
    width = f' textLength="{CELL * len(words):g}"' if len(words) > 1 else ""
    return f'<tspan x="{MARGIN + CELL * column:g}"{width}{style}>{escape(words, quote=False)}</tspan>'


def runs(lines: list[str]) -> list[tuple[int, int, str]]:
    """Return each line that differs from the one before: when it comes, how many looks it stays, and what it says."""
    found: list[tuple[int, int, str]] = []
    for number, line in enumerate(lines):
        if found and found[-1][2] == line:
            found[-1] = (found[-1][0], found[-1][1] + 1, line)
        else:
            found.append((number, 1, line))
    return found


def draw(terminals: list[Terminal]) -> str:
    """Return the picture: each line stands where it was, as long as it was there."""
    looks = len(terminals[0].looks)
    held = looks + round(HOLD / EVERY)
    shapes: list[str] = []
    stays: set[int] = set()
    top = 0.5
    width = 2 * MARGIN + CELL * COLUMNS
    for terminal in terminals:
        height = BAR + LINE * terminal.rows + MARGIN
        box = f'x="0.5" y="{top:g}" width="{width - 1:g}"'
        shapes.append(f'<rect class="window" {box} height="{height:g}" rx="8"/>')
        shapes.append(
            f'<path class="bar" d="M.5 {top + BAR:g}v-{BAR - 8}a8 8 0 0 1 8-8h{width - 17:g}a8 8 0 0 1 8 8'
            f'v{BAR - 8}z"/>'
        )
        shapes.append(f'<text class="name" x="{MARGIN}" y="{top + 18:g}">hubsub {terminal.name}</text>')
        for number in range(terminal.rows):
            y = top + BAR + LINE * (number + 1)
            for start, stay, drawn in runs([look[number] for look in terminal.looks]):
                is_last = start + stay == looks
                # The last picture stays a while.
                stay += (held - looks) * is_last
                if not drawn:
                    continue
                style = ""
                if stay < held:
                    stays.add(stay)
                    style = (
                        f' style="animation:a{stay} {held * EVERY:g}s step-end {(start - held) * EVERY:.1f}s infinite"'
                    )
                kind = "" if is_last else ' class="past"'
                shapes.append(f'<text y="{y:g}"{kind}{style}>{drawn}</text>')
        top += height + BETWEEN
    frames = "\n".join(
        f"@keyframes a{stay}{{0%{{visibility:visible}}{100 * stay / held:.3f}%,to{{visibility:hidden}}}}"
        for stay in sorted(stays)
    )
    title = "<title>The demo in one terminal; in another one, hubsub tap shows what it sends</title>"
    size = f'viewBox="0 0 {width:g} {top - BETWEEN + 0.5:g}" width="{width:g}" height="{top - BETWEEN + 0.5:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return "\n".join([head, title, f"<style>{STYLE}{frames}</style>", *shapes, "</svg>", ""])


def main() -> None:
    if shutil.which("tmux") is None:
        sys.exit("tmux is not here. To add it, type:\n\n    sudo apt-get install tmux\n")
    apart = ["unshare", "--pid", "--fork", "--mount-proc", "--uts", "--net"]
    if os.geteuid() == 0 and "--apart" not in sys.argv and shutil.which("unshare"):
        again = shlex.join([sys.executable, __file__, "--apart"])
        sys.exit(subprocess.call([*apart, "sh", "-c", f"hostname laptop; ip link set lo up; exec {again}"]))
    with tempfile.TemporaryDirectory(prefix="recording") as folder:
        picture = draw(play(folder))
    if len(picture.encode()) > LIMIT:
        sys.exit(f"the recording has {len(picture.encode())} bytes, and {LIMIT} is the limit")
    PICTURE.write_text(picture, encoding="utf-8")
    print(f"{PICTURE.relative_to(ROOT)}: {len(picture.encode())} bytes")


if __name__ == "__main__":
    main()
