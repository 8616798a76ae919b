"""Write the report of a work folder: one HTML page that needs no network and no other file."""

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from hpa.errors import UserError
from hpa.work.files import write_bytes
from hpa.work.folder import WorkFolder
from pipeline.report.cells import make_crops, make_outlines
from pipeline.report.data import make_data
from pipeline.report.evidence import Evidence, Missing, attempt
from pipeline.report.examples import make_examples
from pipeline.report.overview import make_overview
from pipeline.report.scores import make_scores, make_shares
from pipeline.report.space import make_space
from pipeline.report.summary import summarise
from pipeline.report.training import make_training

MAX_BYTES: Final = 10_000_000
"""Largest page."""

_SIDES_PX: Final = (640, 448, 288)
"""Sides of the photographs to try until the page is small enough."""


def write_report(work: WorkFolder, out: Path) -> int:
    """Write the report of a work folder, finished or not.

    Parameters
    ----------
    work
        The work folder.
    out
        The file to write.

    Returns
    -------
    int
        Size of the page, in bytes.

    Raises
    ------
    UserError
        If the recipe or the image table cannot be read, or the page would be too large.
    """
    evidence = Evidence(work)
    for side_px in _SIDES_PX:
        page = render(evidence, side_px).encode()
        if len(page) <= MAX_BYTES:
            write_bytes(out, page)
            return len(page)
    raise UserError(f"expected a page of at most {MAX_BYTES:,} bytes, found {len(page):,} bytes")


def render(evidence: Evidence, side_px: int = _SIDES_PX[0]) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    evidence
        The work folder.
    side_px
        Longer side of the photographs.
    """
    root = evidence.work.root
    parts: dict[str, Any] = {
        "overview": make_overview(evidence),
        "data": make_data(evidence),
        "outlines": attempt(lambda: make_outlines(evidence, side_px), f"python -m segment run {root}"),
        "crops": attempt(lambda: make_crops(evidence), f"python -m crops run {root}"),
        "training": attempt(lambda: make_training(evidence), evidence.command("classify train")),
        "scores": attempt(lambda: make_scores(evidence), evidence.command("aggregate run")),
        "shares": attempt(lambda: make_shares(evidence), evidence.command("aggregate run")),
        "examples": attempt(lambda: make_examples(evidence, side_px), evidence.command("aggregate run")),
        "space": attempt(lambda: make_space(evidence), f"python -m classify embed {root}"),
    }
    parts["missing"] = {name: part for name, part in parts.items() if isinstance(part, Missing)}
    script, style = _text("report.js"), _text("report.css")
    environment = Environment(
        loader=FunctionLoader(_text), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page: str = environment.get_template("report.html.jinja").render(
        parts,
        name=evidence.name,
        summary=summarise(evidence, parts),
        # Both are files of this package; everything else is escaped.
        script=Markup(script),
        style=Markup(style),
        # The browser runs this script and no other, whatever a label or a file name may contain.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return page


def _text(name: str) -> str:
    return (files("pipeline.report") / "templates" / name).read_text(encoding="utf-8")
