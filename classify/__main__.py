"""Stage 3: train one classifier of crops per fold, and predict each crop with models that never saw it.

    python -m classify train work/my
    python -m classify predict work/my
    python -m classify curves work/my
    python -m classify neighbours work/my

train reads recipe.toml, images.parquet, folds.parquet and crops/<window>/; it writes checkpoint.pt, history.csv and
run.json to classify/<window>/fold-<k>/. An interrupted run resumes after its last finished epoch.

predict reads the same tables and classify/<window>/fold-<k>/checkpoint.pt; it writes
classify/<window>/probabilities.parquet, and the parts of each fold and run.json to classify/<window>/predict/. With
--embeddings it also writes features.npy and, if the network has an embedding head, embedding.npy, whose rows are
those of keys.parquet.

curves draws loss, scores and learning rate over the epochs to classify/<window>/figures/.

neighbours needs the embeddings; it reports how often the nearest crops and images share labels (precision@1, MAP@R),
and lists and draws some of them in classify/<window>/.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hpa.command import call, new_app

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
    fold: Annotated[list[int] | None, typer.Option(help="Train only this fold; may be given several times.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Train one model per fold."""
    from classify.run import train as run_train
    from hpa.work.folder import locked, open_work

    folder = open_work(work)
    with locked(work):
        raise typer.Exit(run_train(folder, device=device, workers=workers, overwrite=overwrite, folds=fold))


@app.command()
def predict(
    work: Work,
    device: Device = "auto",
    embeddings: Annotated[bool, typer.Option(help="Also write the features and embeddings of every crop.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write out-of-fold and test probabilities."""
    from classify.run import predict as run_predict
    from hpa.work.folder import locked, open_work

    folder = open_work(work)
    with locked(work):
        raise typer.Exit(run_predict(folder, device=device, overwrite=overwrite, embeddings=embeddings))


@app.command()
def curves(work: Work) -> None:
    """Draw loss, scores and learning rate over the epochs."""
    from classify.inspect.curves import curves as draw
    from hpa.work.folder import locked, open_work

    folder = open_work(work)
    with locked(work):
        raise typer.Exit(draw(folder))


@app.command()
def neighbours(
    work: Work,
    queries: Annotated[int, typer.Option(min=1, help="Number of query crops, and of query images, per fold.")] = 1000,
    shown: Annotated[int, typer.Option(min=1, help="Number of queries per sheet.")] = 12,
) -> None:
    """Score, list and draw the nearest crops and images."""
    from classify.inspect.neighbours import neighbours as find
    from hpa.work.folder import locked, open_work

    folder = open_work(work)
    with locked(work):
        raise typer.Exit(find(folder, queries=queries, shown=shown))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return call(app, "python -m classify", arguments)


if __name__ == "__main__":
    raise SystemExit(main())
