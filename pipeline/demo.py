"""Demonstrate the whole pipeline on a synthetic atlas: no download, known truth, one table at the end."""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from classify.inspect.curves import curves
from classify.inspect.embedding import embed
from crops.sheet import draw_sheets
from hpa.atlas import synthesize
from hpa.errors import UserError
from hpa.images import read_images
from hpa.work.files import write_json
from hpa.work.folder import WorkFolder, locked, open_work
from hpa.work.records import read_record
from pipeline.init import init
from pipeline.recipe import read_recipe
from pipeline.report.page import write_report
from pipeline.stages import run_stages
from pipeline.truth import score_against_truth
from segment.masks import read_masks

TINY: Final = ("classify.epochs=1", "crops.size_px=32", "data.folds=2")
"""Settings of `--tiny`: every part runs, but hardly anything is learned."""


_MAP_CROPS: Final = 3000
"""Crops on the map; UMAP, where it is installed, takes half a minute for so many."""


def demo(
    root: Path,
    recipe: str | Path,
    images: int,
    test: int,
    seed: int,
    *,
    overrides: Sequence[str] = (),
    tiny: bool = False,
    device: str = "auto",
    threads: int | None = None,
) -> int:
    """Draw a synthetic atlas, run every stage on it, score the results against the truth and print a table.

    Parameters
    ----------
    root
        The work folder; the atlas goes to its folder ``atlas``, the scores to ``demo.json``, the report to
        ``report.html``.
    recipe
        The recipe: a file, or the name of a shipped one.
    images, test
        Number of train and test images to draw.
    seed
        Seed of the atlas.
    overrides
        Settings that override the recipe's, ``section.key=value``.
    tiny
        Run a few small steps only, to check that everything works.
    device, threads
        As for `pipeline.stages.run_stages`.

    Returns
    -------
    int
        The highest exit code of the stages.

    Raises
    ------
    UserError
        If the folder is in use by something else than this demo with the same settings, or the recipe is unusable.
    """
    settings = read_recipe(recipe, [*overrides, *(TINY if tiny else ())])  # an unusable recipe costs no drawing
    with locked(root):  # before anything is drawn: another demo would delete what this one has drawn so far
        _begin(root, {"images": images, "test": test, "seed": seed, "tiny": tiny} | settings.model_dump(mode="json"))
        started = time.monotonic()
        atlas, seconds = root / "atlas", {}
        if not atlas.exists():
            print(f"synthesize: {images} train and {test} test images to {atlas}")
            unfinished = root / "atlas.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            synthesize(unfinished, images, test, seed, size_px=256 if tiny else 512)
            unfinished.rename(atlas)
            seconds["synthesize"] = round(time.monotonic() - started, 1)
        work = WorkFolder(root)
        if not work.recipe.exists():
            init(root, [atlas], settings)
        ran = run_stages(open_work(root), device=device, threads=threads)
        figures = _figures(work, atlas / "truth")
        figures["seconds"] = seconds | ran.seconds | {"all": round(time.monotonic() - started, 1)}
        write_json(root / "demo.json", figures)
        curves(work)
        for window in settings.crops.windows:
            draw_sheets(work, window)
            embed(work, window, max_crops=_MAP_CROPS, device=device, threads=threads)
        write_report(open_work(root), root / "report.html")
    _print(root, figures)
    return ran.code


def _begin(root: Path, wanted: dict[str, Any]) -> None:
    """Record the settings of a new demo, or check that those of one that is resumed are the same."""
    path = root / "demo-settings.json"
    wanted = json.loads(json.dumps(wanted))  # as they are read again: lists for tuples
    if path.is_file():
        found = read_record(path, dict[str, Any], "remove the folder and run the demo again")
        if changed := [key for key in wanted if found.get(key) != wanted[key]]:
            raise UserError(
                f"expected a new folder, or the settings that the demo at {root} was begun with, found others"
                f" ({', '.join(changed)})"
            )
    elif (root / "atlas").exists() or (root / "recipe.toml").exists():
        raise UserError(f"expected a new folder for the demo, found another work folder at {root}")
    else:
        write_json(path, wanted)


def _figures(work: WorkFolder, truth: Path) -> dict[str, Any]:
    metrics = json.loads((work.root / "aggregate" / "metrics.json").read_text())
    figures = {"images": len(read_images(work.images)), "oof_macro_f1": metrics["macro_f1"]}
    if read_recipe(work.recipe).crops.needs_masks:
        figures["cells"] = int(read_masks(work)["n_cells"].sum())
    return figures | score_against_truth(work, truth)


def _print(root: Path, figures: dict[str, Any]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    rows = {"images": str(figures["images"])}
    if "cells" in figures:
        rows["cells"] = str(figures["cells"])
        rows["segmentation AP@0.5 on test images"] = f"{figures['segmentation_ap50']:.3f}"
    rows |= {
        "macro F1 of images, out of fold": f"{figures['oof_macro_f1']:.3f}",
        "macro F1 of images, test truth": f"{figures['test_macro_f1']:.3f}",
        "  every class for every image": f"{figures['baseline_every_class']:.3f}",
        "  the most frequent classes": f"{figures['baseline_most_frequent']:.3f}",
    }
    if "test_cells" in figures:
        matched = f"{figures['cell_matched_share']:.0%} of {figures['test_cells']} cells matched at IoU 0.5"
        rows["macro F1 of single cells, test truth"] = f"{figures['cell_macro_f1']:.3f} ({matched})"
    rows["seconds"] = " ".join(f"{name} {seconds:.0f}" for name, seconds in figures["seconds"].items())
    for name, value in rows.items():
        table.add_row(name, value)
    console = Console(width=110)
    console.print(table)
    for line in (f"report, to open in a browser: {root}/report.html", f"submission: {root}/aggregate/submission.csv"):
        console.print(line, soft_wrap=True, markup=False)
