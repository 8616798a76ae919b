"""MkDocs hooks: pages that are not in `docs`, and one page of reference per package and room.

The reference is read from the source by `griffe`; nothing is imported, so the pages need no torch.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PACKAGES = ("cellwise", "pipeline", "aggregate", "classify", "crops", "segment", "hpa")
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the reference, and the pages that exist beyond those listed, to the navigation."""
    assert config.nav is not None
    listed = {next(iter(entry.values())) if isinstance(entry, dict) else entry for entry in config.nav}
    others = sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name not in listed)
    config.nav += [*others, {"Reference": [{name: f"reference/{name}.md"} for name in _references()]}]
    return config


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
