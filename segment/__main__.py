"""Stage 1: find the cells and nuclei of every image.

    python -m segment run work/my
    python -m segment train-compact --out compact.pt --images 1500 --epochs 24 --seed 0
    python -m segment score MASKS REFERENCE

run           reads  recipe.toml, images.parquet, the ER and nucleus channel of the images.
              writes segment/: masks/<image_id>.png, nuclei/<image_id>.png, masks.parquet, failures.csv,
              diameters.json, figures/, run.json. A run that was killed goes on with the unfinished chunks of images.
train-compact draws synthetic images and trains the compact network on them; writes the weights and, beside them, a
              JSON file of settings, losses, seconds and scores.
score         holds label images against reference ones, <id>.png against <id>_mask.png or <id>.png.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hpa.command import call, new_app

app = new_app(__doc__)


@app.command()
def run(
    work: Annotated[Path, typer.Argument(help="The work folder.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes; 0 takes one a processor, one with a GPU.", min=0)] = 0,
    overwrite: Annotated[bool, typer.Option(help="Begin anew.")] = False,
) -> None:
    """Find the cells and nuclei of every image."""
    from hpa.work import locked, open_work
    from segment.run import run as run_stage

    folder = open_work(work)
    with locked(work):
        raise typer.Exit(run_stage(folder, device=device, workers=workers, overwrite=overwrite))


@app.command("train-compact")
def train_compact(
    out: Annotated[Path, typer.Option(help="The weights to write.")],
    images: Annotated[int, typer.Option(help="Synthetic images to train on.", min=8)] = 1500,
    epochs: Annotated[int, typer.Option(help="How often each is seen.", min=1)] = 24,
    seed: Annotated[int, typer.Option(help="Of images, weights and order.", min=0)] = 0,
    workers: Annotated[int, typer.Option(help="Processes that draw; 0 takes one a processor.", min=0)] = 0,
    threads: Annotated[int, typer.Option(help="Of the training.", min=1)] = 1,
) -> None:
    """Train the compact network on the synthetic atlas."""
    from segment.compact import make_compact

    make_compact(out, images=images, epochs=epochs, seed=seed, workers=workers, threads=threads)


@app.command()
def score(
    masks: Annotated[Path, typer.Argument(help="Folder of label images <id>.png.")],
    reference: Annotated[Path, typer.Argument(help="Folder of label images <id>_mask.png or <id>.png.")],
) -> None:
    """Score label images against reference ones."""
    from segment.score_files import score_folders

    typer.echo(score_folders(masks, reference))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return call(app, "python -m segment", arguments)


if __name__ == "__main__":
    raise SystemExit(main())
