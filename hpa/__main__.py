"""Synthetic data, reports on a data set, and tools for data folders.

    python -m hpa synthesize OUT --images 400 --test 100 --seed 0
    python -m hpa montage OUT atlas.png
    python -m hpa patterns patterns.png
    python -m hpa check DATA
    python -m hpa leaks WORK
    python -m hpa explore WORK
    python -m hpa split-folder DIR OUT --files 1000
    python -m hpa download-v18 LIST OUT

synthesize    writes OUT in the Kaggle 2018 layout: train/, test/, train.csv,
              sample_submission.csv, antibodies.csv, and truth/
montage       reads  OUT; writes a PNG of composites of its train images
patterns      writes a PNG of the 28 protein patterns of the atlas
check         reads  the tables and file headers of a data folder; prints what is
              there and what is missing
leaks         reads  a work folder and its images; writes its folders scan/
              and leaks/ and prints a table
explore       reads  a work folder and its images; writes its folders scan/
              and explore/ and prints a table
split-folder  writes OUT with the tables of DIR and its images in folders of
              limited size
download-v18  writes OUT/{Id}_{color}.jpg, the table, and failures.csv
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hpa.command import FigureFormat, call, new_app

app = new_app(__doc__)

Work = Annotated[Path, typer.Argument(help="The work folder.")]
Workers = Annotated[int, typer.Option(help="Number of processes that read images; 0 uses one per processor.", min=0)]


@app.command()
def synthesize(
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    images: Annotated[int, typer.Option(help="Number of train images.", min=0)] = 400,
    test: Annotated[int, typer.Option(help="Number of test images, of other antibodies.", min=0)] = 100,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.", min=0)] = 0,
    size_px: Annotated[int, typer.Option(help="Height and width of an image.", min=128, max=4096)] = 512,
    style: Annotated[
        str, typer.Option(help="Optics, camera and cell lines: atlas, varied, or other (outside of varied).")
    ] = "atlas",
    workers: Annotated[int, typer.Option(help="Number of processes; 0 uses one per processor.", min=0)] = 0,
) -> None:
    """Draw a synthetic atlas together with its ground truth."""
    from hpa.atlas import synthesize as draw
    from hpa.work.progress import progress

    with progress("synthesize", images + test) as advance:
        draw(
            out, images, test, seed, size_px=size_px, style=style, workers=workers or None, on_image=lambda: advance(1)
        )


@app.command()
def montage(
    data: Annotated[Path, typer.Argument(help="A folder made by synthesize.")],
    out: Annotated[Path, typer.Argument(help="The figure to write: .png, .pdf or .svg.")],
) -> None:
    """Draw composites of a synthetic atlas, each channel in its colour."""
    from hpa.atlas.montage import draw_montage
    from hpa.pictures import check_figure

    check_figure(out)
    draw_montage(data, out)


@app.command()
def patterns(out: Annotated[Path, typer.Argument(help="The figure to write: .png, .pdf or .svg.")]) -> None:
    """Draw the 28 protein patterns together with the nuclei."""
    from hpa.atlas.montage import draw_patterns
    from hpa.pictures import check_figure

    check_figure(out)
    draw_patterns(out)


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="A data folder of any layout.")],
    layout: Annotated[str, typer.Option(help="Its layout, as data.layout in a recipe.")] = "auto",
) -> None:
    """Count the images of a data folder, their sizes and missing files; exit code 1 if some are missing."""
    from hpa.errors import UserError
    from hpa.layouts.index import LAYOUTS
    from hpa.reports.check import check_data

    if layout != "auto" and layout not in LAYOUTS:
        raise UserError(f"expected --layout auto, {', '.join(LAYOUTS)}, found {layout!r}")
    found = check_data(data, layout)
    print("\n".join(found.lines()))
    raise typer.Exit(1 if found.missing or not found.complete else 0)


@app.command()
def leaks(
    work: Work,
    lists: Annotated[
        list[Path] | None,
        typer.Option(
            "--list", help="A published list: pairs that look alike (Train,Extra) or known labels (Id,Target)."
        ),
    ] = None,
    workers: Workers = 0,
    figure_format: FigureFormat = "png",
) -> None:
    """Report near-duplicates, contradictory labels, split groups, and differences between train and test images."""
    from hpa.reports.leaks import report_leaks
    from hpa.work.folder import locked, open_work

    folder = open_work(work)
    with locked(work):
        report_leaks(folder, lists or (), workers=workers, figure_format=figure_format)


@app.command()
def explore(
    work: Work,
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="An image to show on the sheet; may be repeated.")
    ] = None,
    images: Annotated[
        int, typer.Option(help="Number of images on the sheet if no --id is given.", min=1, max=200)
    ] = 12,
    order: Annotated[
        str, typer.Option(help="How images are chosen: those of rare classes first (rare), or at random (random).")
    ] = "rare",
    seed: Annotated[int, typer.Option(help="Seed of the choice.", min=0)] = 0,
    workers: Workers = 0,
    figure_format: FigureFormat = "png",
) -> None:
    """Draw an overview of a data set: classes, intensities, sizes, and a sheet of images."""
    from hpa.errors import UserError
    from hpa.reports.explore import explore as draw_overview
    from hpa.work.folder import locked, open_work

    if order not in ("rare", "random"):
        raise UserError(f"expected --order rare or random, found {order!r}")
    folder = open_work(work)
    with locked(work):
        draw_overview(
            folder,
            ids=ids or (),
            n_images=images,
            rare_first=order == "rare",
            seed=seed,
            workers=workers,
            figure_format=figure_format,
        )


@app.command("split-folder")
def split_folder(
    data: Annotated[Path, typer.Argument(metavar="DIR", help="The folder, including its sub-folders.")],
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    files: Annotated[
        int, typer.Option(help="Maximum number of files per folder; the files of an image stay together.", min=4)
    ] = 1000,
    by: Annotated[
        str, typer.Option(help="How to put files into the new folder: link (needs no space), symlink or copy.")
    ] = "link",
) -> None:
    """Split a large folder of images into parts that can be uploaded."""
    from hpa.layouts.split_folder import split_folder as split

    split(data, out, files, by)


@app.command("download-v18")
def download_v18(
    table: Annotated[
        Path, typer.Argument(metavar="LIST", help="A CSV with a column Id, or a text file with one Id per line.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder to fill; existing files are kept.")],
    base_url: Annotated[str, typer.Option(help="Address of the images.")] = "http://v18.proteinatlas.org/images",
    colors: Annotated[str, typer.Option(help="Channels to download, separated by commas.")] = "red,green,blue,yellow",
    parallel: Annotated[int, typer.Option(help="Number of files fetched at once; be polite.", min=1, max=16)] = 4,
    retries: Annotated[int, typer.Option(help="Number of further attempts per file.", min=0, max=20)] = 5,
    timeout: Annotated[
        float,
        typer.Option(help="Seconds without data that end an attempt; ten times as many end it in any case.", min=0.1),
    ] = 20,
) -> None:
    """Download the images of the Human Protein Atlas, version 18."""
    from hpa.layouts.download import download

    raise typer.Exit(download(table, out, base_url, colors.split(","), parallel, retries, timeout))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return call(app, "python -m hpa", arguments)


if __name__ == "__main__":
    raise SystemExit(main())
