"""Stage 1: find the cells and nuclei of every image.

    python -m segment run work/my
    python -m segment train-compact --out compact.pt --images 1500 --epochs 24 --seed 0
    python -m segment score MASKS REFERENCE_PLANES
    python -m segment import work/my --masks DIR
    python -m segment fine-tune work/my --masks DIR --out tuned.pt
    python -m segment distill work/my --teacher cpsam_v2 --out student.pt

run           reads  recipe.toml, images.parquet, the ER and nucleus channel of the images.
              writes segment/: masks/<image_id>.png, nuclei/<image_id>.png, masks.parquet, failures.csv,
              diameters.json, figures/, run.json. A run that was killed goes on with the unfinished chunks of images.
train-compact draws synthetic images and trains the compact network on them; writes the weights and, beside them, a
              JSON file of settings, losses, seconds and scores.
score         holds label images against reference ones, <id>.png against <id>_mask.png or <id>.png.
import        takes masks made elsewhere (HPA-Cell-Segmentation, napari, Cellpose) in place of `run`.
fine-tune     trains the compact network further on label images of your own.
distill       lets a big network segment some images and trains the compact one on its masks.
              Both write weights and a JSON file of figures; name the weights as `network` in the recipe to use them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hpa.command import call, new_app

app = new_app(__doc__)

Work = Annotated[Path, typer.Argument(help="The work folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Workers = Annotated[int, typer.Option(help="Processes; 0 takes one a processor, four with a GPU.", min=0)]
Dask = Annotated[str, typer.Option(help="Address of a Dask scheduler whose workers do the work.")]
Overwrite = Annotated[bool, typer.Option(help="Begin anew.")]
Epochs = Annotated[int, typer.Option(help="How often each image is seen.", min=1)]
Seed = Annotated[int, typer.Option(help="Of images, order and looks.", min=0)]


@app.command()
def run(
    work: Work, device: Device = "auto", workers: Workers = 0, dask: Dask = "", overwrite: Overwrite = False
) -> None:
    """Find the cells and nuclei of every image."""
    from hpa.work.folder import locked, open_work
    from segment.run import run as run_stage

    folder = open_work(work)
    with locked(work):
        raise typer.Exit(run_stage(folder, device=device, workers=workers, dask=dask, overwrite=overwrite))


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
    from segment.training.pretrain import pretrain

    pretrain(out, images=images, epochs=epochs, seed=seed, workers=workers, threads=threads)


@app.command("import")
def import_masks(
    work: Work,
    masks: Annotated[Path, typer.Option(help="Folder of label images <id>_mask.png, .tif, .npy.")],
    device: Device = "auto",
    workers: Workers = 0,
    dask: Dask = "",
    overwrite: Overwrite = False,
) -> None:
    """Take masks that were made elsewhere."""
    from hpa.work.folder import locked, open_work
    from segment.import_masks import import_masks as import_stage

    folder = open_work(work)
    with locked(work):
        raise typer.Exit(import_stage(folder, masks, device=device, workers=workers, dask=dask, overwrite=overwrite))


@app.command("fine-tune")
def fine_tune(
    work: Work,
    masks: Annotated[Path, typer.Option(help="Folder of label images <id>_mask.png, .tif, .npy.")],
    out: Annotated[Path, typer.Option(help="The weights to write.")],
    epochs: Epochs = 20,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train the compact network further on your own label images."""
    from hpa.work.folder import open_work
    from segment.training.finetune import fine_tune as tune
    from segment.training.finetune import told

    typer.echo(told(tune(open_work(work), masks, out, epochs=epochs, seed=seed, device=device), out))


@app.command()
def distill(
    work: Work,
    out: Annotated[Path, typer.Option(help="The weights to write.")],
    teacher: Annotated[str, typer.Option(help="The network that makes the masks.")] = "cpsam_v2",
    images: Annotated[int, typer.Option(help="How many images the teacher segments.", min=1)] = 64,
    epochs: Epochs = 20,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train the compact network on the masks of a big one."""
    from hpa.work.folder import open_work
    from segment.training.finetune import distill as teach
    from segment.training.finetune import told

    figures = teach(open_work(work), teacher, out, images=images, epochs=epochs, seed=seed, device=device)
    typer.echo(told(figures, out))


@app.command()
def score(
    masks: Annotated[Path, typer.Argument(help="Folder of label images <id>.png.")],
    reference: Annotated[Path, typer.Argument(help="Folder of label images <id>_mask.png or <id>.png.")],
) -> None:
    """Score label images against reference ones."""
    from segment.score import score_folders

    typer.echo(score_folders(masks, reference))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return call(app, "python -m segment", arguments)


if __name__ == "__main__":
    raise SystemExit(main())
