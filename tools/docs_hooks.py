"""What mkdocs does beside: the front page is the README, and the changelog is the changelog."""

import pathlib

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


def on_serve(server, **_):
    """Build the pages anew when one of these files changes."""
    for name in INCLUDED.values():
        server.watch(str(ROOT / name))
