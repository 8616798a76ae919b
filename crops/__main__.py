"""Stage 2: cut crops out of images, around cells or at other windows.

    python -m crops run work/my
    python -m crops sheet work/my
    python -m crops export work/my --to webdataset
    python -m crops synthesize work/drawn --cells 100000

run     Cut the windows of every image into crop stores. A killed run resumes
        with the unfinished images.
        reads:  recipe.toml, images.parquet, the images; for windows around
                cells also segment/masks.parquet, segment/masks/ and
                segment/nuclei/
        writes: crops/<window>/ for each window of the recipe: shard-*.npy,
                shard-*.mask.npy, crops.parquet, dropped.parquet,
                failures.csv, run.json

sheet   Draw crops of each class, cells at the border, and dropped cells.
        reads:  a store, and the images of dropped cells
        writes: crops/<window>/figures/

export  Write a store in a format that other programs read.
        reads:  a store and images.parquet
        writes: export/<window>.h5sc (AnnData), export/<window>-webdataset/
                or export/<window>-png/

synthesize  Draw crops of synthetic cells with the true classes of each cell,
        to train networks on. A killed run resumes.
        writes: a folder that is a crop store, with labels.parquet and
                synthesize.json
"""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpa.command import FigureFormat, call, new_app

if TYPE_CHECKING:
    from crops.config import Window
    from hpa.work.folder import WorkFolder

app = new_app(__doc__)

WorkArgument = Annotated[Path, typer.Argument(help="The work folder.")]
WindowOption = Annotated[str, typer.Option(help="The window of the store; by default the first one of the recipe.")]


class ExportFormat(StrEnum):
    """The formats of `export`."""

    ANNDATA = "anndata"
    WEBDATASET = "webdataset"
    PNG = "png"


class OutsideCellOption(StrEnum):
    """What to do with the pixels outside each crop's own cell (`crops.config.OutsideCell`)."""

    KEEP = "keep"
    DIM = "dim"
    ZERO = "zero"


@app.command()
def run(
    work: WorkArgument,
    workers: Annotated[int, typer.Option(help="Number of processes; 0 uses one per processor.", min=0)] = 0,
    dask: Annotated[str, typer.Option(help="Address of a Dask scheduler to run on instead.")] = "",
    overwrite: Annotated[bool, typer.Option(help="Discard existing results and start over.")] = False,
    compress: Annotated[bool, typer.Option(help="Compress shards: half the disk space, slower to read.")] = False,
) -> None:
    """Cut the windows of every image into crop stores."""
    from crops.run import run as run_stage
    from hpa.work.folder import locked, open_work

    folder = open_work(work)
    with locked(work):
        raise typer.Exit(run_stage(folder, workers=workers, dask=dask, overwrite=overwrite, compress=compress))


@app.command()
def sheet(
    work: WorkArgument,
    window: WindowOption = "",
    class_name: Annotated[str, typer.Option("--class", help="Draw only one sheet, of this class.")] = "",
    figure_format: FigureFormat = "png",
) -> None:
    """Draw crops of each class, cells at the border, and dropped cells."""
    from crops.sheet import draw_sheets
    from hpa.work.folder import locked, open_work

    folder = open_work(work)
    with locked(work):
        for path in draw_sheets(folder, _chosen_window(folder, window), class_name, figure_format):
            print(path)


@app.command()
def export(
    work: WorkArgument,
    to: Annotated[ExportFormat, typer.Option(help="The format.")],
    window: WindowOption = "",
    out: Annotated[Path | None, typer.Option(help="The file or folder to create; by default in WORK/export.")] = None,
    outside_cell: Annotated[
        OutsideCellOption, typer.Option(help="Keep, dim or set to zero the pixels outside each crop's own cell.")
    ] = OutsideCellOption.KEEP,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing export.")] = False,
) -> None:
    """Write a store in a format that other programs read."""
    from crops.export import export_crops
    from hpa.work.folder import locked, open_work

    folder = open_work(work)
    window_name = _chosen_window(folder, window)
    with locked(work):
        print(export_crops(folder, window_name, to.value, out, outside_cell.value, overwrite=overwrite))


@app.command()
def synthesize(
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    cells: Annotated[int, typer.Option(help="Number of cells.", min=1)],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.", min=0)] = 0,
    size_px: Annotated[int, typer.Option(help="Height and width of a crop.", min=8, max=1024)] = 64,
    style: Annotated[
        str, typer.Option(help="Optics, camera and cell lines: atlas, varied, or other (outside of varied).")
    ] = "varied",
    without: Annotated[list[int] | None, typer.Option(help="A class to leave out, 0..27; may be repeated.")] = None,
    workers: Annotated[int, typer.Option(help="Number of processes; 0 uses one per processor.", min=0)] = 0,
) -> None:
    """Draw crops of synthetic cells with the true classes of each cell."""
    from crops.synthesize import synthesize_crops
    from hpa.errors import UserError
    from hpa.vocabulary import HPA28
    from hpa.work.processes import available_processors
    from hpa.work.progress import progress

    unknown = sorted(label for label in without or () if not 0 <= label < len(HPA28))
    if unknown:
        raise UserError(f"expected classes between 0 and {len(HPA28) - 1} to leave out, found {unknown}")
    patterns = set(range(len(HPA28))) - set(without or ())
    with progress("synthesize", cells) as advance:
        synthesize_crops(
            out, cells, seed=seed, size_px=size_px, style=style, patterns=patterns,
            workers=workers or available_processors(), on_cells=advance,
        )  # fmt: skip


def _chosen_window(work: "WorkFolder", name: str) -> "Window":
    """Return the window of the recipe with this name, or its first one if the name is empty."""
    from crops.config import CropsSection
    from hpa.errors import UserError

    windows = work.section("crops", CropsSection).stores
    if name and name not in windows:
        raise UserError(f"expected a window of the recipe ({', '.join(windows)}), found {name!r}")
    return next(window for window in windows if window == (name or windows[0]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return call(app, "python -m crops", arguments)


if __name__ == "__main__":
    raise SystemExit(main())
