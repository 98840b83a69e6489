"""Give programs the pages of the site as Markdown: each page, llms.txt with a line for each, llms-full.txt with all.

A hook of mkdocs. What it writes comes from the pages, and the reference from signatures and docstrings.
"""

from __future__ import annotations

import pathlib
import re
import textwrap

import griffe

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A sentence of a page, without its links.
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")

texts: dict[str, str] = {}
sections: list[tuple[str, list]] = []


def on_config(config):
    """Begin anew: `mkdocs serve` builds many times."""
    texts.clear()
    sections.clear()
    return config


def on_nav(nav, **_):
    """Remember the order of the pages: each section, with the pages of the sections in it."""
    sections.extend((item.title, pages_in(item)) for item in nav.items)


def pages_in(item):
    """Return the pages of a section, or of a page alone."""
    return [item] if item.is_page else [page for child in item.children for page in pages_in(child)]


def on_page_markdown(markdown, page, **_):
    """Keep the text of a page, and say in its head what it is about."""
    markdown = re.sub(r"^<!--.*?-->\n+", "", markdown, flags=re.MULTILINE)
    texts[page.file.src_uri] = markdown
    page.meta.setdefault("description", first_sentence(markdown))


def on_post_build(config):
    """Write the files."""
    site = pathlib.Path(config["site_dir"])
    lines = [f"# {config['site_name']}", "", f"> {config['site_description']}.", ""]
    whole = []
    package = griffe.load("hubsub", search_paths=[str(ROOT)], try_relative_path=False)
    for title, pages in sections:
        lines += [f"## {title}", ""]
        for page in pages:
            name = page.file.src_uri
            text = with_reference(texts[name], package)
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_text(text, encoding="utf-8")
            whole.append(f"<!-- {name} -->\n\n{text.strip()}\n")
            lines.append(f"- [{page.title}]({name}): {page.meta['description']}")
        lines.append("")
    lines += ["## Optional", "", "- [All pages in one file](llms-full.txt)", ""]
    (site / "llms.txt").write_text("\n".join(lines), encoding="utf-8")
    (site / "llms-full.txt").write_text("\n".join(whole), encoding="utf-8")


def first_sentence(markdown):
    """Return the first sentence of the first paragraph, without marks."""
    for paragraph in re.split(r"\n{2,}", re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)):
        words = " ".join(paragraph.split())
        if words and not words.startswith(("#", "|", "!", "<", "- ", ":::")):
            words = re.sub(r"[`*]", "", LINK.sub(r"\1", words))
            return re.split(r"(?<=[.:])\s+(?=[A-Z])", words)[0].rstrip(":")
    return ""


def with_reference(markdown, package):
    """Return a page with signatures and docstrings in place of the names for which the site shows them."""

    def described(found):
        thing = package[found[1].removeprefix("hubsub.")]
        return "\n\n".join(describe(thing, found[1], 3))

    return re.sub(r"^::: ([\w.]+)(?:\n {4}.*)*$", described, markdown, flags=re.MULTILINE)


def describe(thing, name, level):
    """Yield what the reference says of a class or a function, and of what a class has."""
    if thing.is_alias:
        thing = thing.final_target
    if not thing.has_docstring and level > 3:
        return
    yield f"{'#' * level} {name}"
    functions = thing.overloads or [thing] if thing.is_function else []
    if functions:
        signatures = "\n".join(("async " if "async" in each.labels else "") + each.signature() for each in functions)
        yield f"```py\n{signatures}\n```"
    if thing.has_docstring:
        yield textwrap.dedent(thing.docstring.value).strip()
    if thing.is_class:
        for own, member in thing.all_members.items():
            # What it has of a class of the standard library is described there.
            if not own.startswith("_") and not (member.is_alias and not member.target_path.startswith("hubsub.")):
                yield from describe(member, own, level + 1)
