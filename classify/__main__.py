"""Stage 3: train one classifier of crops per fold, and predict each crop with models that never saw it.

    python -m classify train work/my
    python -m classify predict work/my
    python -m classify find-lr work/my
    python -m classify curves work/my
    python -m classify neighbours work/my
    python -m classify explain work/my --worst 20
    python -m classify embed work/my
    python -m classify train-backbone work/backbone --cells 1000000

train reads recipe.toml, images.parquet, folds.parquet and crops/<window>/; it writes checkpoint.pt, history.csv and
run.json to classify/<window>/fold-<k>/. An interrupted run resumes after its last finished epoch.

predict reads the same tables and classify/<window>/fold-<k>/checkpoint.pt; it writes
classify/<window>/probabilities.parquet, and the parts of each fold and run.json to classify/<window>/predict/. With
--embeddings it also writes features.npy and, if the network has an embedding head, embedding.npy, whose rows are
those of keys.parquet. With classify.nearest_crops it writes classify/<window>/neighbours/probabilities.parquet, and the
crops that labels are transferred from to classify/<window>/predict/references-<k>.npz.

find-lr trains an untrained network for some steps with rising learning rates, writes the losses to
classify/<window>/find-lr/fold-<k>.csv and draws them beside it; no model changes.

curves draws loss, scores and learning rate over the epochs to classify/<window>/figures/.

neighbours needs the embeddings; it reports how often the nearest crops and images share labels (precision@1, MAP@R),
and lists and draws some of them in classify/<window>/.

explain needs the predictions and the package grad-cam; it draws where images show their classes, and which cell gave
them to the image, to classify/<window>/explain/.

embed runs the shipped backbone over all crops, so that those of all folds share one space, and draws a map of them
(UMAP with the extra `cellwise[umap]`, else principal components); it writes features, map.csv and figures/map.png to
embedding/<window>/.

train-backbone trains a backbone on drawn cells with true labels, which takes an hour or more and made the shipped
weights; it writes <backbone>.safetensors, a record and a model card to a folder of its own. A run that was killed goes
on with the same command.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hpa.command import Code, FigureFormat, Threads, call, new_app

app = new_app(__doc__)

Work = Annotated[Path, typer.Argument(help="The work folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Overwrite = Annotated[bool, typer.Option(help="Discard existing results and start over.")]


@app.command()
def train(
    work: Work,
    device: Device = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, help="Processes that read and augment crops; by default up to 8 with a GPU and none without."
        ),
    ] = None,
    threads: Threads = None,
    fold: Annotated[list[int] | None, typer.Option(help="Train only this fold; may be given several times.")] = None,
    devices: Annotated[
        str,
        typer.Option(help="Number of devices of each node that train one model together, or GPUs as in 0,1."),
    ] = "1",
    nodes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of nodes that train one model together; each runs this command, with MASTER_ADDR, MASTER_PORT"
            " and NODE_RANK in its environment.",
        ),
    ] = 1,
    wait_s: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the other nodes.")] = 600,
    log: Annotated[
        list[str] | None,
        typer.Option(
            help="csv or tensorboard: also log every epoch, with the memory of a GPU and how busy it is, to"
            " fold-<k>/logs/; may be given several times."
        ),
    ] = None,
    code: Code = None,
    overwrite: Overwrite = False,
) -> None:
    """Train one model per fold."""
    import torch

    from classify.own_code import code_from
    from classify.run import join_training, parts_of_training
    from classify.run import train as run_train
    from classify.training.devices import choose_devices
    from hpa.work.device import resolve_device
    from hpa.work.folder import locked, open_work

    folder = open_work(work)
    chosen = choose_devices(devices, nodes, torch.device(resolve_device(device)), wait_s)
    if chosen is not None and chosen.node:  # node 0 holds the lock and writes
        raise typer.Exit(join_training(folder, chosen, workers, code))
    with locked(work, parts=parts_of_training(folder, fold)), code_from(code):
        outcome = run_train(
            folder,
            device=device,
            workers=workers,
            overwrite=overwrite,
            folds=fold,
            threads=threads,
            devices=chosen,
            logs=log or (),
        )
        raise typer.Exit(outcome)


@app.command()
def predict(
    work: Work,
    device: Device = "auto",
    threads: Threads = None,
    embeddings: Annotated[bool, typer.Option(help="Also write the features and embeddings of every crop.")] = False,
    code: Code = None,
    overwrite: Overwrite = False,
) -> None:
    """Write out-of-fold and test probabilities."""
    from classify.own_code import code_from
    from classify.prediction import predict as run_predict
    from hpa.work.folder import locked, open_work

    folder = open_work(work)
    with locked(work), code_from(code):
        outcome = run_predict(folder, device=device, overwrite=overwrite, embeddings=embeddings, threads=threads)
        raise typer.Exit(outcome)


@app.command("find-lr")
def find_lr(
    work: Work,
    device: Device = "auto",
    threads: Threads = None,
    fold: Annotated[int, typer.Option(min=0, help="The fold whose model would be trained.")] = 0,
    phase: Annotated[
        int, typer.Option(min=0, help="Number of the phase whose parts are trained, from 1; 0 means the last.")
    ] = 0,
    steps: Annotated[int, typer.Option(min=10, help="Number of steps.")] = 100,
    lowest: Annotated[float, typer.Option(help="Learning rate of the first step.")] = 1e-6,
    highest: Annotated[float, typer.Option(help="Learning rate of the last step.")] = 1.0,
    code: Code = None,
    figure_format: FigureFormat = "png",
) -> None:
    """Draw the loss of a new network over rising learning rates."""
    from classify.own_code import code_from
    from classify.rate_search import RateRange
    from classify.rate_search import find_lr as run
    from hpa.work.folder import locked, open_work

    folder = open_work(work)
    with locked(work), code_from(code):
        rates = RateRange(lowest, highest, steps)
        made = run(folder, rates, device=device, threads=threads, fold=fold, phase=phase, figure_format=figure_format)
        raise typer.Exit(made)


@app.command()
def curves(work: Work, figure_format: FigureFormat = "png") -> None:
    """Draw loss, scores and learning rate over the epochs."""
    from classify.inspect.curves import curves as draw
    from hpa.work.folder import locked, open_work

    folder = open_work(work)
    with locked(work):
        raise typer.Exit(draw(folder, figure_format))


@app.command()
def neighbours(
    work: Work,
    queries: Annotated[int, typer.Option(min=1, help="Number of query crops, and of query images, per fold.")] = 1000,
    shown: Annotated[int, typer.Option(min=1, help="Number of queries per sheet.")] = 12,
    figure_format: FigureFormat = "png",
) -> None:
    """Score, list and draw the nearest crops and images."""
    from classify.inspect.neighbours import neighbours as find
    from hpa.work.folder import locked, open_work

    folder = open_work(work)
    with locked(work):
        raise typer.Exit(find(folder, queries=queries, shown=shown, figure_format=figure_format))


@app.command()
def explain(
    work: Work,
    image_ids: Annotated[list[str] | None, typer.Argument(help="Ids of images.")] = None,
    worst: Annotated[int, typer.Option(min=0, help="Also draw this many images: those that were most wrong.")] = 0,
    class_: Annotated[
        list[str] | None,
        typer.Option("--class", help="Class to explain, again for more; by default those that are true or predicted."),
    ] = None,
    device: Device = "auto",
    code: Code = None,
    figure_format: FigureFormat = "png",
) -> None:
    """Draw where images show their classes, and in which cell."""
    from classify.inspect.explain import explain as run_explain
    from classify.own_code import code_from
    from hpa.work.folder import locked, open_work

    folder = open_work(work)
    with locked(work), code_from(code):
        made = run_explain(
            folder, image_ids or [], worst=worst, classes=class_ or [], device=device, figure_format=figure_format
        )
        raise typer.Exit(made)


@app.command()
def embed(
    work: Work,
    device: Device = "auto",
    threads: Threads = None,
    crops: Annotated[int, typer.Option(min=2, help="Crops on the map; of more, a sample is drawn.")] = 20_000,
    figure_format: FigureFormat = "png",
) -> None:
    """Embed all crops in the space of the shipped backbone, and draw a map of them."""
    from classify.inspect.embedding import embed as run_embed
    from classify.inspect.embedding import embedding_folder
    from crops.config import CropsSection
    from hpa.work.folder import locked, open_work

    folder = open_work(work)
    with locked(work):
        for window in folder.section("crops", CropsSection).windows:
            made = run_embed(
                folder, window, max_crops=crops, device=device, threads=threads, figure_format=figure_format
            )
            print(f"embed: {len(made.places)} crops of {window} by {made.method}: {embedding_folder(folder, window)}")


@app.command("train-backbone")
def train_backbone(
    out: Annotated[Path, typer.Argument(help="Folder of the weights, their record and their model card.")],
    cells: Annotated[int, typer.Option(min=128, help="Number of cells to draw.")] = 1_000_000,
    crops_seen: Annotated[
        int, typer.Option(min=0, help="Number of varied crops to train on; 0 means two of each cell.")
    ] = 0,
    minutes: Annotated[
        float, typer.Option(min=0, help="Limit of time, 0 for none; the result then depends on the machine.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the cells, the weights and the augmentation.")] = 0,
    backbone: Annotated[str, typer.Option(help="Name of the backbone.")] = "resnet18_half",
    size_px: Annotated[int, typer.Option(min=32, max=256, help="Side of the drawn crops.")] = 64,
    start: Annotated[
        str, typer.Option(help="Weights to go on from: `atlas`, the shipped ones, or a file. Take another seed.")
    ] = "",
    threads: Threads = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that draw cells; 0 uses half as many as there are processors.")
    ] = 0,
) -> None:
    """Train a backbone on drawn cells."""
    from classify.training.backbone import BackboneTraining
    from classify.training.backbone import train_backbone as run
    from crops.synthesize import draw_crops
    from hpa.work.device import default_threads
    from hpa.work.folder import locked
    from hpa.work.processes import available_processors

    settings = BackboneTraining(cells, crops_seen or 2 * cells, backbone, size_px, seed, minutes, start)
    options = [f"--cells {cells}", f"--crops-seen {settings.crops_seen}", *([f"--minutes {minutes:g}"] * bool(minutes))]
    options += [f"--seed {seed}", f"--backbone {backbone}", f"--size-px {size_px}"]
    options += [f"--start {start}"] * bool(start)
    with locked(out):
        record = run(
            out,
            settings,
            draw_crops,
            threads=threads or default_threads(),
            workers=workers or max(1, available_processors() // 2),
            command=f"uv run python -m classify train-backbone OUT {' '.join(options)}",
        )
    for name, scores in record["held_out"].items():
        typer.echo(f"{name}: mean AP {scores['mean_ap']:.3f}, mean AUC {scores['mean_auc']:.3f} of held-out cells")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return call(app, "python -m classify", arguments)


if __name__ == "__main__":
    raise SystemExit(main())
