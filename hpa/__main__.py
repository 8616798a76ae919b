"""The ground floor's own commands.

    python -m hpa synthesize OUT --images 400 --test 100 --seed 0      a synthetic atlas in the Kaggle 2018 layout
    python -m hpa montage OUT atlas.png                                composites of its train images
    python -m hpa patterns patterns.png                                the 28 patterns, as the atlas draws them
    python -m hpa leaks WORK                                           what leaks in a data set and its split
    python -m hpa explore WORK                                         a data set at a glance
    python -m hpa shard DIR OUT --files 1000                           a large folder in parts, to upload it
    python -m hpa download-v18 LIST OUT                                images of the Human Protein Atlas, version 18

synthesize    writes OUT/train/, OUT/test/, train.csv, sample_submission.csv, antibodies.csv and the truth/ folder.
leaks         reads  a work folder and its images; writes its folders scan/ and leaks/, and a table.
explore       reads  a work folder and its images; writes its folders scan/ and explore/, and a table.
shard         writes OUT with the tables of DIR and its images in folders of so many files.
download-v18  writes OUT/{Id}_{color}.jpg, the table, and failures.csv.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hpa.command import call, new_app

app = new_app(__doc__)

Work = Annotated[Path, typer.Argument(help="The work folder.")]
Workers = Annotated[int, typer.Option(help="Processes that read images; 0 takes one a processor.", min=0)]


@app.command()
def synthesize(
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    images: Annotated[int, typer.Option(help="Train images.", min=0)] = 400,
    test: Annotated[int, typer.Option(help="Test images, of other antibodies.", min=0)] = 100,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.", min=0)] = 0,
    size_px: Annotated[int, typer.Option(help="Height and width of an image.", min=128, max=4096)] = 512,
    workers: Annotated[int, typer.Option(help="Processes; 0 takes one a processor.", min=0)] = 0,
) -> None:
    """Draw a synthetic atlas with its truth."""
    from hpa.atlas import synthesize as draw
    from hpa.work.progress import progress

    with progress("synthesize", images + test) as advance:
        draw(out, images, test, seed, size_px=size_px, workers=workers or None, on_image=lambda: advance(1))


@app.command()
def montage(
    data: Annotated[Path, typer.Argument(help="A folder made by synthesize.")],
    out: Annotated[Path, typer.Argument(help="The picture to write, a PNG.")],
) -> None:
    """Draw composites of a synthetic atlas, each channel in its colour."""
    from hpa.atlas.montage import draw_montage

    draw_montage(data, out)


@app.command()
def patterns(out: Annotated[Path, typer.Argument(help="The picture to write, a PNG.")]) -> None:
    """Draw the 28 patterns of the protein, with the nuclei."""
    from hpa.atlas.montage import draw_patterns

    draw_patterns(out)


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
) -> None:
    """Tell what leaks: near-duplicates, contradicting labels, torn groups, train and test that differ."""
    from hpa.reports.leaks import report_leaks
    from hpa.work.folder import locked, open_work

    folder = open_work(work)
    with locked(work):
        report_leaks(folder, lists or (), workers=workers)


@app.command()
def explore(
    work: Work,
    ids: Annotated[list[str] | None, typer.Option("--id", help="An image of the sheet; without any, chosen.")] = None,
    images: Annotated[int, typer.Option(help="Images of the sheet.", min=1, max=200)] = 12,
    order: Annotated[str, typer.Option(help="Which images: of rare classes first (rare), or random.")] = "rare",
    seed: Annotated[int, typer.Option(help="Of the choice.", min=0)] = 0,
    workers: Workers = 0,
) -> None:
    """Draw a data set at a glance: classes, intensities, sizes, a sheet of images."""
    from hpa.errors import UserError
    from hpa.reports.explore import explore as look
    from hpa.work.folder import locked, open_work

    if order not in ("rare", "random"):
        raise UserError(f"expected --order rare or random, found {order!r}")
    folder = open_work(work)
    with locked(work):
        look(folder, ids=ids or (), n_images=images, rare_first=order == "rare", seed=seed, workers=workers)


@app.command()
def shard(
    data: Annotated[Path, typer.Argument(metavar="DIR", help="The folder, with its sub-folders.")],
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    files: Annotated[int, typer.Option(help="Most files of a folder; an image's files stay together.", min=4)] = 1000,
    by: Annotated[str, typer.Option(help="How files get there: link (no room needed), symlink or copy.")] = "link",
) -> None:
    """Split a large folder of images into folders that can be uploaded."""
    from hpa.layouts.split_folder import shard as split

    split(data, out, files, by)


@app.command("download-v18")
def download_v18(
    table: Annotated[Path, typer.Argument(metavar="LIST", help="A CSV with a column Id, or a text with an Id a line.")],
    out: Annotated[Path, typer.Argument(help="The folder to fill; what is there already is kept.")],
    base_url: Annotated[str, typer.Option(help="Where the images lie.")] = "http://v18.proteinatlas.org/images",
    colors: Annotated[str, typer.Option(help="Which colours, with commas between.")] = "red,green,blue,yellow",
    parallel: Annotated[int, typer.Option(help="Files fetched at once; be polite.", min=1, max=16)] = 4,
    retries: Annotated[int, typer.Option(help="Further tries for a file.", min=0, max=20)] = 5,
    timeout: Annotated[
        float, typer.Option(help="Seconds of silence that end a try; ten times as many do so anyhow.", min=0.1)
    ] = 20,
) -> None:
    """Fetch the images of the Human Protein Atlas, version 18."""
    from hpa.layouts.download import download

    raise typer.Exit(download(table, out, base_url, colors.split(","), parallel, retries, timeout))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return call(app, "python -m hpa", arguments)


if __name__ == "__main__":
    raise SystemExit(main())
