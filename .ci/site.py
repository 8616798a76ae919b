"""MkDocs hooks: pages that are not in `docs`, and one page of reference per package and room.

The reference is read from the source by `griffe`; nothing is imported, so the pages need no torch.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PACKAGES = ("cellwise", "pipeline", "aggregate", "classify", "crops", "segment", "hpa")
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the reference, and the pages that exist beyond those listed, to the navigation."""
    assert config.nav is not None
    listed = set(_pages(config.nav))
    others = sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name not in listed)
    config.nav += [*others, {"Reference": [{name: f"reference/{name}.md"} for name in _references()]}]
    return config


def _pages(entries: list[Any]) -> Iterator[str]:
    """Yield the pages of a navigation, those in its sections too."""
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        if isinstance(value, list):
            yield from _pages(value)
        else:
            yield value


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages at the root of the repository, with links as they are seen from `docs`, and the reference."""
    for source, target in PAGES.items():
        text = re.sub(r"\]\(docs/", "](", (ROOT / source).read_text())
        for other, page in PAGES.items():
            text = text.replace(f"]({other})", f"]({page})")
        files.append(File.generated(config, target, content=text))
    for name, modules in _references().items():
        text = f"# {name}\n\n" + "\n".join(f"::: {module}\n" for module in modules)
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Indent nested lists by four spaces, which Python-Markdown needs, instead of the two that GitHub reads."""
    blocks = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        block if block.startswith("```") else re.sub(r"^ +", lambda spaces: 2 * spaces[0], block, flags=re.MULTILINE)
        for block in blocks
    )


def _references() -> dict[str, list[str]]:
    """Return the modules of each page of the reference, a page per package and room, except commands."""
    pages: dict[str, list[str]] = {}
    for package in PACKAGES:
        for init in sorted((ROOT / package).rglob("__init__.py")):
            name = ".".join(init.parent.relative_to(ROOT).parts)
            modules = sorted(path.stem for path in init.parent.glob("*.py") if not path.stem.startswith("_"))
            pages[name] = [f"{name}.{module}" for module in modules]
    pages["cellwise"].insert(0, "cellwise")
    return pages
