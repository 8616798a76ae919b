"""The roof: the stages in sequence.

    python -m pipeline demo work/demo                                             the main job on a synthetic atlas
    python -m pipeline init work/my --data /data/hpaic --recipe recipes/cells.toml
    python -m pipeline run work/my                                                every stage, resuming
    python -m pipeline apply work/my --data /data/new --out work/new              a trained work folder on new images
    python -m pipeline export work/my my.bundle                                   what apply needs, to hand on

init   reads data folders and a recipe; writes recipe.toml (resolved), images.parquet, folds.parquet, and where there
       are any conflicts.csv (sources that contradict each other), scan/ (hashes), dropped.csv (near-duplicates).
run    reads and writes what the stages do (`python -m segment --help`, and so on).
apply  reads a trained work folder, or a bundle, and new images; writes a work folder with a submission.csv, and in
       its joined/ one for each run that the trained one joins.
export reads a trained work folder and those it joins; writes a bundle: recipes, checkpoints, thresholds, no image.
demo   writes an atlas, a work folder and demo.json.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hpa.command import call, new_app

app = new_app(__doc__)

Work = Annotated[Path, typer.Argument(help="The work folder.")]
Data = Annotated[list[str], typer.Option(help="A data folder, PATH or NAME=PATH; may be given several times.")]
Device = Annotated[str, typer.Option(help="Where the networks run: auto, cpu, cuda.")]
Workers = Annotated[int, typer.Option(help="Processes where work is mapped over images; 0 chooses.", min=0)]
Dask = Annotated[str, typer.Option(help="Address of a Dask scheduler whose workers map over images.")]
Overwrite = Annotated[bool, typer.Option(help="Begin every stage anew.")]


@app.command()
def init(
    work: Work,
    data: Data,
    recipe: Annotated[Path | None, typer.Option(help="A TOML file; without it all defaults.")] = None,
    limit: Annotated[int, typer.Option(help="Take about so many images of each split; 0 takes all.", min=0)] = 0,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, over the recipe.")] = None,
    workers: Workers = 0,
) -> None:
    """Make a work folder from one or several data folders."""
    from pipeline.init import init as init_work
    from pipeline.recipe import load_recipe

    init_work(work, data, load_recipe(recipe, set_ or ()), limit=limit, workers=workers)


@app.command()
def run(
    work: Work, device: Device = "auto", workers: Workers = 0, dask: Dask = "", overwrite: Overwrite = False
) -> None:
    """Run every stage, resuming what is unfinished."""
    from aggregate.scoring.terminal import print_metrics
    from hpa.work.folder import locked, open_work
    from pipeline.stages import run_stages

    folder = open_work(work)
    with locked(work):
        ran = run_stages(folder, device=device, workers=workers, dask=dask, overwrite=overwrite)
        print_metrics(folder)
    raise typer.Exit(ran.code)


@app.command()
def demo(
    work: Work,
    recipe: Annotated[Path | None, typer.Option(help="A TOML file; without it recipes/demo.toml.")] = None,
    images: Annotated[int, typer.Option(help="Train images to draw.", min=1)] = 320,
    test: Annotated[int, typer.Option(help="Test images to draw.", min=1)] = 80,
    seed: Annotated[int, typer.Option(help="Of the atlas.", min=0)] = 0,
    tiny: Annotated[bool, typer.Option(help="A few small steps, to see that everything runs.")] = False,
    device: Device = "auto",
) -> None:
    """Do the main job on a synthetic atlas, without any download."""
    from pipeline.demo import RECIPE
    from pipeline.demo import demo as run_demo

    if tiny:
        images, test = 16, 8
    raise typer.Exit(run_demo(work, recipe or RECIPE, images, test, seed, tiny=tiny, device=device))


@app.command()
def export(
    work: Work,
    bundle: Annotated[Path, typer.Argument(help="The folder to make.")],
) -> None:
    """Pack what `apply` needs into one folder that can be handed on."""
    from hpa.work.folder import locked
    from pipeline.bundle import export as pack
    from pipeline.model import Model

    model = Model.of_work(work)
    with locked(work):
        files = pack(model, bundle)
    print(f"{files} files in {bundle}")


@app.command()
def apply(
    work: Annotated[Path, typer.Argument(help="A trained work folder or a bundle.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="The work folder to make for the new images.")],
    device: Device = "auto",
    workers: Workers = 0,
    dask: Dask = "",
) -> None:
    """Use a trained work folder, or a bundle of one, on new images; nothing is trained or tuned."""
    from pipeline.apply import apply as apply_model
    from pipeline.apply import open_model

    code = apply_model(open_model(work), data, out, device=device, workers=workers, dask=dask)
    print(f"look at {out}/aggregate/submission.csv")
    raise typer.Exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return call(app, "python -m pipeline", arguments)


if __name__ == "__main__":
    raise SystemExit(main())
