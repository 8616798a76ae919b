"""Stage 1: segment the cells and nuclei of every image.

    python -m segment run work/my
    python -m segment import work/my --masks DIR
    python -m segment score MASKS REFERENCE
    python -m segment fine-tune work/my --masks DIR --out tuned.pt
    python -m segment distill work/my --teacher cpsam_v2 --out student.pt
    python -m segment train-compact --out compact.pt --images 1500 --epochs 24 --seed 0

run            reads   recipe.toml, images.parquet, the ER and nucleus channels of the images, and their microtubules
                       to see whether these show the same cells as the ER
               writes  segment/: masks/<image_id>.png, nuclei/<image_id>.png, masks.parquet, failures.csv,
                       diameters.json, figures/, run.json
               A run that was killed resumes with the unfinished chunks of images.

import         reads   label images made elsewhere (HPA-Cell-Segmentation, napari, Cellpose)
               writes  the same files as run, and imported.json instead of diameters.json

score          compares label images <id>.png with reference label images <id>_mask.png or <id>.png,
               and prints a table of scores

fine-tune      trains the compact network further on your own label images
distill        trains the compact network on masks that a larger network makes
train-compact  trains the compact network on synthetic images; this made the shipped weights

The last three write weights and, beside them, a JSON file with settings, losses and scores. To use the weights, set
`network` in the recipe to their path.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hpa.command import Threads, call, new_app

app = new_app(__doc__)

Work = Annotated[Path, typer.Argument(help="The work folder.")]
Device = Annotated[str, typer.Option(help="Device for the networks: auto, cpu, cuda, cuda:1, mps.")]
Workers = Annotated[int, typer.Option(help="Processes; 0 uses one per processor, or four with a GPU.", min=0)]
Dask = Annotated[str, typer.Option(help="Address of a Dask scheduler; its workers replace local processes.")]
Overwrite = Annotated[bool, typer.Option(help="Discard existing results and start over.")]
Epochs = Annotated[int, typer.Option(help="Number of passes over the images.", min=1)]
Seed = Annotated[int, typer.Option(help="Seed of the images, their order and augmentation.", min=0)]


@app.command()
def run(
    work: Work, device: Device = "auto", workers: Workers = 0, dask: Dask = "", overwrite: Overwrite = False
) -> None:
    """Segment the cells and nuclei of every image."""
    from hpa.work.folder import locked, open_work
    from segment.run import run as run_stage

    folder = open_work(work)
    with locked(work):
        raise typer.Exit(run_stage(folder, device=device, workers=workers, dask=dask, overwrite=overwrite))


@app.command("train-compact")
def train_compact(
    out: Annotated[Path, typer.Option(help="File of weights to write.")],
    images: Annotated[int, typer.Option(help="Number of synthetic images.", min=8)] = 1500,
    epochs: Annotated[int, typer.Option(help="Number of passes over the images.", min=1)] = 24,
    seed: Annotated[int, typer.Option(help="Seed of the images, the initial weights and the order.", min=0)] = 0,
    workers: Annotated[int, typer.Option(help="Processes that draw images; 0 uses one per processor.", min=0)] = 0,
    threads: Annotated[int, typer.Option(help="Threads of the training.", min=1)] = 1,
    start: Annotated[str, typer.Option(help="Weights to start from, such as `compact`; without, random ones.")] = "",
) -> None:
    """Train the compact network on synthetic images."""
    from segment.training.pretrain import pretrain

    pretrain(out, images=images, epochs=epochs, seed=seed, workers=workers, threads=threads, start=start)


@app.command("import")
def import_masks(
    work: Work,
    masks: Annotated[Path, typer.Option(help="Folder of label images <id>_mask.png, .tif or .npy.")],
    device: Device = "auto",
    workers: Workers = 0,
    dask: Dask = "",
    overwrite: Overwrite = False,
) -> None:
    """Import masks that were made elsewhere."""
    from hpa.work.folder import locked, open_work
    from segment.import_masks import import_masks as import_stage

    folder = open_work(work)
    with locked(work):
        raise typer.Exit(import_stage(folder, masks, device=device, workers=workers, dask=dask, overwrite=overwrite))


@app.command("fine-tune")
def fine_tune(
    work: Work,
    masks: Annotated[Path, typer.Option(help="Folder of label images <id>_mask.png, .tif or .npy.")],
    out: Annotated[Path, typer.Option(help="File of weights to write.")],
    epochs: Epochs = 20,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Train the compact network further on your own label images."""
    from hpa.work.device import computing_threads, default_threads
    from hpa.work.folder import open_work
    from segment.training.finetune import fine_tune as train_further
    from segment.training.finetune import format_summary

    with computing_threads(threads or default_threads()):
        record = train_further(open_work(work), masks, out, epochs=epochs, seed=seed, device=device)
    typer.echo(format_summary(record, out))


@app.command()
def distill(
    work: Work,
    out: Annotated[Path, typer.Option(help="File of weights to write.")],
    teacher: Annotated[str, typer.Option(help="Network that makes the masks.")] = "cpsam_v2",
    images: Annotated[int, typer.Option(help="Number of images that the teacher segments.", min=1)] = 64,
    epochs: Epochs = 20,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Train the compact network on the masks of a larger network."""
    from hpa.work.device import computing_threads, default_threads
    from hpa.work.folder import open_work
    from segment.training.finetune import distill as distill_teacher
    from segment.training.finetune import format_summary

    with computing_threads(threads or default_threads()):
        record = distill_teacher(open_work(work), teacher, out, images=images, epochs=epochs, seed=seed, device=device)
    typer.echo(format_summary(record, out))


@app.command()
def score(
    masks: Annotated[Path, typer.Argument(help="Folder of predicted label images <id>.png.")],
    reference: Annotated[Path, typer.Argument(help="Folder of reference label images <id>_mask.png, .tif or .npy.")],
) -> None:
    """Score label images against reference label images."""
    from segment.score import score_folders

    typer.echo(score_folders(masks, reference))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return call(app, "python -m segment", arguments)


if __name__ == "__main__":
    raise SystemExit(main())
