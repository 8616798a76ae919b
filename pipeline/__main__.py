"""Run all stages in sequence.

    python -m pipeline demo work/demo                                 the whole pipeline on a synthetic atlas
    python -m pipeline init work/my --data /data/hpaic --recipe cells
    python -m pipeline init work/second --from work/my --set classify.seed=1   shares all but what differs
    python -m pipeline run work/my                                    every stage, resuming what is unfinished
    python -m pipeline apply work/my --data /data/new --out work/new  a trained work folder on new images
    python -m pipeline export work/my my.bundle                       all that apply needs, in one folder
    python -m pipeline compare work/my work/second                    scores side by side, with intervals
    python -m pipeline sweep work/my --vary classify.seed=1,2         one run per value, and their comparison
    python -m pipeline relabel work/my work/relabelled                a second model on labels of single cells
    python -m pipeline picture work/my picture.png                    one image on its way through the pipeline
    python -m pipeline report work/my                                 one HTML page about the run
    python -m pipeline view work/my ID                                one image in napari, masks and predictions

init    reads data folders and a recipe.
        Writes recipe.toml (resolved), images.parquet and folds.parquet; where they apply, also conflicts.csv (sources
        that contradict each other), scan/ (perceptual hashes) and dropped.csv (near-duplicates). With --from it
        shares those tables, and every finished stage that the recipe leaves as it was, with another work folder, and
        writes shared.json.
run     reads and writes what the stages do (`python -m segment --help`, and so on).
apply   reads a trained work folder or a bundle, and new images.
        Writes a work folder with a submission.csv, and one in its joined/ for each run that the trained one joins.
export  reads a trained work folder and those it joins.
        Writes a bundle: recipes, checkpoints and thresholds, but no images. With --to anndata it reads a finished work
        folder and writes one file of its cells: probabilities, predictions, places and, after `classify embed`, the
        embedding and its map.
compare reads finished work folders; prints tables, and writes a CSV and a figure on request.
sweep   reads a work folder; writes one for each combination of values to WORK-sweep/, and what compare does.
relabel reads a finished work folder; writes a second one that shares with it, and cell_labels.parquet in that.
demo    writes an atlas, a work folder, demo.json and report.html.
picture reads a finished work folder; writes a figure.
report  reads a work folder, finished or not; writes a page that needs no network and no other file.
view    reads a work folder; with --corrected it also writes masks that `segment import` reads.
"""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hpa.command import Code, Threads, call, new_app

app = new_app(__doc__)

Work = Annotated[Path, typer.Argument(help="Work folder.")]
Data = Annotated[list[str], typer.Option(help="Data folder, PATH or NAME=PATH; may be given several times.")]
RecipeName = Annotated[str | None, typer.Option(help="TOML file, or name of a shipped recipe such as cells.")]
Pattern = Annotated[
    str,
    typer.Option(help="Names of the files, such as {well}_f{field}_d{channel}.tif."),
]
ChannelNames = Annotated[
    list[str] | None,
    typer.Option(
        "--channel",
        help="With --pattern: TEXT=CHANNEL for each text of {channel}, or for each plane of a file without that field;"
        " for example 0=blue.",
    ),
]
Device = Annotated[str, typer.Option(help="Device of the networks: auto, cpu, cuda.")]
Workers = Annotated[int, typer.Option(help="Processes that work on images; 0 lets each stage choose.", min=0)]
Dask = Annotated[str, typer.Option(help="Address of a Dask scheduler whose workers process the images.")]
Overwrite = Annotated[bool, typer.Option(help="Discard existing results and start over.")]

Truth = Annotated[
    Path | None,
    typer.Option(
        help="Folder truth of the synthetic atlas that the runs were made from; scores test images and cells."
    ),
]
Resamples = Annotated[int, typer.Option(help="Resamples of the paired bootstrap; 0 for no intervals.", min=0)]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print the tables in Markdown.")]
Csv = Annotated[Path | None, typer.Option(help="CSV to write.")]
FigureFile = Annotated[Path | None, typer.Option(help="Figure to write: .png, .pdf or .svg.")]


class ExportForm(StrEnum):
    """What `export` makes."""

    BUNDLE = "bundle"
    ANNDATA = "anndata"


@app.command()
def init(
    work: Work,
    data: Annotated[
        list[str] | None, typer.Option(help="Data folder, PATH or NAME=PATH; may be given several times.")
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="Instead of data: a work folder whose images, folds and valid stages are shared."),
    ] = None,
    recipe: RecipeName = None,
    pattern: Pattern = "",
    channel: ChannelNames = None,
    limit: Annotated[int, typer.Option(help="Use about this many images of each split; 0 uses all.", min=0)] = 0,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; overrides the recipe.")] = None,
    workers: Workers = 0,
    code: Code = None,
) -> None:
    """Make a work folder from one or more data folders, or one that shares with another what stays the same."""
    from classify.own_code import code_from
    from hpa.errors import UserError
    from pipeline.init import init as init_work
    from pipeline.naming import parse_naming, with_naming
    from pipeline.recipe import read_recipe
    from pipeline.share import init_from

    if bool(data) == bool(from_):
        raise UserError("expected either --data or --from, found " + ("both" if data else "neither"))
    with code_from(code):
        if from_:
            for flag, value in {"--limit": limit, "--pattern": pattern, "--channel": channel}.items():
                if value:
                    raise UserError(f"expected {flag} with --data, found it with --from, which shares all images")
            init_from(work, from_, recipe, set_ or ())
            return
        named = with_naming(read_recipe(recipe, set_ or ()), parse_naming(pattern, channel or ()))
        init_work(work, data or [], named, limit=limit, workers=workers)


@app.command()
def run(
    work: Work,
    device: Device = "auto",
    threads: Threads = None,
    workers: Workers = 0,
    dask: Dask = "",
    overwrite: Overwrite = False,
    code: Code = None,
) -> None:
    """Run every stage, resuming what is unfinished."""
    from aggregate.scoring.terminal import print_metrics
    from classify.own_code import code_from
    from hpa.work.folder import locked, open_work
    from pipeline.stages import run_stages

    folder = open_work(work)
    with locked(work), code_from(code):
        outcome = run_stages(folder, device=device, workers=workers, dask=dask, threads=threads, overwrite=overwrite)
        print_metrics(folder)
    print(f"for a page about this run: python -m pipeline report {work}")
    raise typer.Exit(outcome.code)


@app.command()
def demo(
    work: Work,
    recipe: RecipeName = "demo",
    images: Annotated[int, typer.Option(help="Number of train images to draw.", min=1)] = 320,
    test: Annotated[int, typer.Option(help="Number of test images to draw.", min=1)] = 80,
    seed: Annotated[int, typer.Option(help="Seed of the atlas.", min=0)] = 0,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; overrides the recipe.")] = None,
    tiny: Annotated[bool, typer.Option(help="Run a few small steps only, to check that everything works.")] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Run the whole pipeline on a synthetic atlas, without any download."""
    from pipeline.demo import demo as run_demo

    if tiny:
        images, test = 16, 8
    code = run_demo(
        work, recipe or "demo", images, test, seed,
        overrides=set_ or (), tiny=tiny, device=device, threads=threads,
    )  # fmt: skip
    raise typer.Exit(code)


@app.command()
def export(
    work: Work,
    out: Annotated[Path, typer.Argument(help="Folder or file to make.")],
    to: Annotated[ExportForm, typer.Option(help="bundle, a folder for `apply`; or anndata, one file of all cells.")] = (
        ExportForm.BUNDLE
    ),
) -> None:
    """Pack all that `apply` needs into one folder, or the cells with their predictions into one file."""
    from hpa.work.folder import locked, open_work
    from pipeline.bundle import export_bundle
    from pipeline.cells import export_cells
    from pipeline.model import Model

    if to is ExportForm.ANNDATA:
        print(f"{export_cells(open_work(work), out):,} cells in {out}")
        return
    model = Model.of_work(work)
    with locked(work):
        files = export_bundle(model, out)
    print(f"{files} files in {out}")


@app.command()
def apply(
    work: Annotated[Path, typer.Argument(help="Trained work folder, or a bundle.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Work folder to make for the new images.")],
    pattern: Pattern = "",
    channel: ChannelNames = None,
    device: Device = "auto",
    threads: Threads = None,
    workers: Workers = 0,
    dask: Dask = "",
    code: Code = None,
) -> None:
    """Apply a trained work folder, or a bundle of one, to new images; nothing is trained or tuned."""
    from classify.own_code import code_from
    from pipeline.apply import apply as apply_model
    from pipeline.apply import open_model
    from pipeline.naming import parse_naming

    naming = parse_naming(pattern, channel or ())
    with code_from(code):
        outcome = apply_model(
            open_model(work), data, out, device=device, workers=workers, dask=dask, threads=threads, naming=naming
        )
    print(f"submission: {out}/aggregate/submission.csv")
    raise typer.Exit(outcome)


@app.command()
def compare(
    works: Annotated[list[Path], typer.Argument(help="Finished work folders; the others are compared with the first.")],
    truth: Truth = None,
    resamples: Resamples = 1000,
    markdown: Markdown = False,
    csv: Csv = None,
    figure: FigureFile = None,
) -> None:
    """Score finished runs on the same images, side by side, with intervals of the differences."""
    from hpa.pictures import check_figure
    from pipeline.compare import compare as compare_runs
    from pipeline.compare import report

    if figure:
        check_figure(figure)
    report(compare_runs(works, truth=truth, resamples=resamples), markdown=markdown, csv=csv, figure=figure)


@app.command()
def sweep(
    work: Work,
    vary: Annotated[list[str], typer.Option(help="section.key=value,value,...; several keys are combined.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the work folders; by default WORK-sweep.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    workers: Workers = 0,
    truth: Truth = None,
    resamples: Resamples = 1000,
    markdown: Markdown = False,
    csv: Csv = None,
    figure: FigureFile = None,
    code: Code = None,
) -> None:
    """Run one work folder for each value of some keys, sharing the rest with WORK, and compare them."""
    from classify.own_code import code_from
    from hpa.pictures import check_figure
    from pipeline.compare import compare, report
    from pipeline.sweep import sweep as run_sweep

    if figure:
        check_figure(figure)
    with code_from(code):
        roots, outcome = run_sweep(work, vary, out, device=device, workers=workers, threads=threads)
    report(compare(roots, truth=truth, resamples=resamples), markdown=markdown, csv=csv, figure=figure)
    raise typer.Exit(outcome)


@app.command()
def relabel(
    work: Work,
    second: Annotated[Path, typer.Argument(help="Work folder of the second model.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value for the second model.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    truth: Truth = None,
    resamples: Resamples = 1000,
    code: Code = None,
) -> None:
    """Label the cells of a finished run by its own probabilities, train a second model on them, and compare both."""
    from classify.own_code import code_from
    from pipeline.compare import compare, print_comparison
    from pipeline.relabel import relabel as run_relabel

    with code_from(code):
        outcome = run_relabel(work, second, tuple(set_ or ()), device=device, threads=threads)
    print_comparison(compare([work, second], truth=truth, resamples=resamples))
    raise typer.Exit(outcome)


@app.command()
def picture(
    work: Work,
    out: Annotated[Path, typer.Argument(help="Figure to write: .png, .pdf or .svg.")],
    image_id: Annotated[
        str, typer.Option("--id", help="An image; by default the test image with the highest probability.")
    ] = "",
) -> None:
    """Draw one image with its masks, crops, probabilities and labels."""
    from hpa.pictures import check_figure
    from hpa.work.folder import open_work
    from pipeline.picture import draw_journey

    check_figure(out)
    draw_journey(open_work(work), image_id, out)


@app.command()
def report(
    work: Work,
    output: Annotated[Path | None, typer.Option(help="HTML file to write; by default WORK/report.html.")] = None,
) -> None:
    """Write one HTML page about a work folder, finished or not."""
    from hpa.work.folder import open_work
    from pipeline.report.page import write_report

    out = output or work / "report.html"
    size = write_report(open_work(work), out)
    print(f"report: {out} ({size / 1e6:.1f} MB)")


@app.command()
def view(
    work: Work,
    image_id: Annotated[str, typer.Argument(metavar="ID", help="An image.")],
    corrected: Annotated[
        Path | None,
        typer.Option(help="Folder of corrected masks, begun as a copy of all; changes are written there at the end."),
    ] = None,
) -> None:
    """Open one image in napari: channels, nuclei, cells and their classes."""
    from hpa.work.folder import open_work
    from pipeline.view import view as open_viewer

    open_viewer(open_work(work), image_id, corrected)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return call(app, "python -m pipeline", arguments)


if __name__ == "__main__":
    raise SystemExit(main())
