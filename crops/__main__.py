"""Stage 2: place windows on the images, around the cells or otherwise, and cut them out.

    python -m crops run work/my
    python -m crops sheet work/my
    python -m crops export work/my --to webdataset

run     reads  recipe.toml, images.parquet, the images; for windows around cells segment/masks.parquet, segment/masks/,
        segment/nuclei/.
        writes crops/<window>/, for every kind of window in the recipe: shard-*.npy, shard-*.mask.npy, crops.parquet,
        dropped.parquet, failures.csv, run.json. A run that was killed goes on with the unfinished chunks of images.
sheet   reads  a store, and the images of dropped cells.
        writes crops/<window>/figures/: cells of each class, cells at the border, dropped cells by reason.
export  reads  a store and images.parquet.
        writes export/<window>.h5sc (AnnData), export/<window>-webdataset/ or export/<window>-png/.
"""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpa.command import call, new_app

if TYPE_CHECKING:
    from crops.config import Window
    from hpa.work.folder import WorkFolder

app = new_app(__doc__)

Work = Annotated[Path, typer.Argument(help="The work folder.")]
Kind = Annotated[str, typer.Option(help="Which store; the recipe's first kind of window if not named.")]


class Form(StrEnum):
    """What `export` writes."""

    ANNDATA = "anndata"
    WEBDATASET = "webdataset"
    PNG = "png"


class Shown(StrEnum):
    """What an exported crop shows outside its own cell."""

    KEEP = "keep"
    DIM = "dim"
    ZERO = "zero"


@app.command()
def run(
    work: Work,
    workers: Annotated[int, typer.Option(help="Processes; 0 takes one a processor.", min=0)] = 0,
    dask: Annotated[str, typer.Option(help="Address of a Dask scheduler whose workers do the work.")] = "",
    overwrite: Annotated[bool, typer.Option(help="Begin anew.")] = False,
    compress: Annotated[bool, typer.Option(help="Half the room, slower to read.")] = False,
) -> None:
    """Cut the windows of every image into crop stores."""
    from crops.run import run as run_stage
    from hpa.work.folder import locked, open_work

    folder = open_work(work)
    with locked(work):
        raise typer.Exit(run_stage(folder, workers=workers, dask=dask, overwrite=overwrite, compress=compress))


@app.command()
def sheet(
    work: Work,
    window: Kind = "",
    class_name: Annotated[str, typer.Option("--class", help="One sheet of this class alone.")] = "",
) -> None:
    """Draw crops of each class, at the border and dropped."""
    from crops.sheet import draw_sheets
    from hpa.work.folder import open_work

    folder = open_work(work)
    for path in draw_sheets(folder, _kind(folder, window), class_name):
        print(path)


@app.command()
def export(
    work: Work,
    to: Annotated[Form, typer.Option(help="The form.")],
    window: Kind = "",
    out: Annotated[Path | None, typer.Option(help="The file or folder to make; by default in WORK/export.")] = None,
    outside_cell: Annotated[Shown, typer.Option(help="What is shown outside the own cell.")] = Shown.KEEP,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
) -> None:
    """Write a store in a form that other programs read."""
    from crops.export import export as export_store
    from hpa.work.folder import open_work

    folder = open_work(work)
    print(export_store(folder, _kind(folder, window), to.value, out, outside_cell.value, overwrite=overwrite))


def _kind(work: "WorkFolder", name: str) -> "Window":
    from crops.config import CropsSection
    from hpa.errors import UserError

    known = work.section("crops", CropsSection).stores
    if name and name not in known:
        raise UserError(f"expected a kind of window of the recipe ({', '.join(known)}), found {name!r}")
    return next(window for window in known if window == (name or known[0]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return call(app, "python -m crops", arguments)


if __name__ == "__main__":
    raise SystemExit(main())
