"""mkdocs hooks: pages that live outside of docs/, links to the sources, equations, and docstrings' roles."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ("slurm/README.md", "benchmarks/README.md", "CONTRIBUTING.md", "CHANGELOG.md", "assets/example.png")
MODELS = ("models/*/*.md", "models/*/*.png")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s:]+?)(#[^)\s]*)?\)")


def outside() -> list[str]:
    """Files outside of docs/ that are pages and images of the site, under their path in the repository."""
    return [*OUTSIDE, *(file.relative_to(ROOT).as_posix() for pattern in MODELS for file in ROOT.glob(pattern))]


def on_files(files, config):
    for name in outside():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links are written for readers of the repository: here they lead to pages of the site, or are plain text."""
    name = page.file.src_uri
    inside = name not in outside()
    here = posixpath.dirname(f"docs/{name}" if inside else name)

    def link(found: re.Match) -> str:
        mark, text, target, anchor = found.groups("")
        path = posixpath.normpath(posixpath.join(here, target))
        if path.startswith("docs/"):
            uri = path.removeprefix("docs/")
        elif path in outside():
            uri = path
        elif not (ROOT / path).exists():
            return found[0]  # mkdocs says what is wrong with it
        else:
            return f"`{text}`" if re.fullmatch(r"[\w-]*[./][\w./-]*", text) else text
        return f"{mark}[{text}]({posixpath.relpath(uri, posixpath.dirname(name) or '.')}{anchor})"

    markdown = LINK.sub(link, markdown)
    if name == "method.md":
        markdown = re.sub(r"\$\$(.+?)\$\$", displayed, markdown, flags=re.S)
        markdown = re.sub(r"\$([^$\n]+)\$", lambda found: convert(found[1]), markdown)
    return markdown


def displayed(found: re.Match) -> str:
    """An equation on its own lines, as MathML, with the number of its \\tag on the right."""
    formula, _, tag = found[1].replace("\n", " ").partition(r"\tag")
    number = f"<span>({tag.strip('{} .')})</span>" if tag else ""
    return f'<div class="equation">{convert(formula, display="block")}{number}</div>'


def on_page_content(html, page, config, files):
    """Docstrings name things as Sphinx does, :func:`so`; mkdocstrings has no such roles."""
    if page.file.src_uri.startswith("api/"):
        html = re.sub(r":(?:func|class|meth|mod|attr):<code>~?", "<code>", html)
        html = html.replace("::</p>", ":</p>")
    return html
