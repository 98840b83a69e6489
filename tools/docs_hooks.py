"""What mkdocs does beside: the front page is the README, the changelog is the changelog, and tables break no name."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
REPOSITORY = "https://github.com/hubsub/hubsub/blob/main/"
PICTURES = "https://raw.githubusercontent.com/hubsub/hubsub/main/docs/"
INCLUDED = {"index.md": "README.md", "changelog.md": "CHANGELOG.md"}


def on_page_markdown(markdown, page, **_):
    """Return the file that a page stands for, with its links to pages leading to those of this site."""
    name = INCLUDED.get(page.file.src_uri)
    if name is None:
        return markdown
    text = (ROOT / name).read_text(encoding="utf-8")
    return text.replace(PICTURES, "").replace(REPOSITORY + "docs/", "").replace("](docs/", "](")


def on_page_content(html, **_):
    """Mark each name in a table, so that it stays on one line; what has blanks, or is long, may be broken."""
    return re.sub(
        r"<td\b.*?</td>",
        lambda cell: re.sub(r"<code>(?=[^\s<]{1,40}</code>)", '<code class="name">', cell[0]),
        html,
        flags=re.DOTALL,
    )


def on_serve(server, **_):
    """Build the pages anew when one of these files changes."""
    for name in INCLUDED.values():
        server.watch(str(ROOT / name))
