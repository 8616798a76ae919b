"""Stage 4: crop probabilities to image labels, scores and a submission.

    python -m aggregate run work/my
    python -m aggregate evaluate predictions.csv train.csv          score any table of predictions
    python -m aggregate cells work/my cells.csv                     score single cells with known labels
    python -m aggregate platemap work/my plate.png --class Cytosol  one class in every well of a plate
    python -m aggregate evaluate-2021 submission.csv truth.csv      score a submission of Kaggle 2021
    python -m aggregate submit scores.npy --sample sample_submission.csv --thresholds thresholds.json --out my.csv

run       reads  recipe.toml, images.parquet, folds.parquet, classify/<window>/probabilities.parquet (also of the runs
                 that the recipe joins);
          writes aggregate/: images.parquet, cells.parquet, thresholds.json, metrics.json, submission.csv, figures/,
                 run.json.
evaluate  reads  two tables of labels and, optionally, one of groups; needs no work folder.
cells     reads  a finished work folder and a table with image_id, cell_label, target.
platemap  reads  a finished work folder whose images have wells; writes a picture.
evaluate-2021
          reads  a submission of Kaggle 2021 and the true cells; needs no work folder.
submit    reads  a matrix of scores, a sample submission and thresholds; needs no work folder.
          writes the submission.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from hpa.command import FigureFormat, call, new_app

app = new_app(__doc__)

Classes = Annotated[
    str,
    typer.Option(
        "--vocabulary", help="hpa28, hpa19, jovian10, or a number of classes, which are then named by number."
    ),
]
Bootstrap = Annotated[
    int, typer.Option("--bootstrap", help="Number of resamples for the intervals; 0 omits them.", min=0)
]
Out = Annotated[Path | None, typer.Option("--out", help="Also write the scores to this JSON file.")]


@app.command()
def run(
    work: Annotated[Path, typer.Argument(help="The work folder.")],
    overwrite: Annotated[bool, typer.Option(help="Discard existing results and start over.")] = False,
    figures: Annotated[bool, typer.Option(help="Draw the figures.")] = True,
    figure_format: FigureFormat = "png",
) -> None:
    """Pool crops, tune thresholds, score, and write the submission."""
    from aggregate.run import run as run_stage
    from aggregate.scoring.terminal import print_metrics
    from hpa.work.folder import locked, open_work

    folder = open_work(work)
    with locked(work):
        code = run_stage(folder, overwrite=overwrite, figures=figure_format if figures else None)
        print_metrics(folder)
    raise typer.Exit(code)


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="A CSV or Parquet table with a column of ids and one of labels.")],
    truth: Annotated[Path, typer.Argument(help="A table of the same form with the true labels.")],
    vocabulary: Classes = "hpa28",
    predicted_column: Annotated[
        str, typer.Option(help="Column of the predictions; by default looks for the usual names.")
    ] = "",
    truth_column: Annotated[
        str, typer.Option(help="Column of the true labels; by default looks for the usual names.")
    ] = "",
    groups: Annotated[
        Path | None,
        typer.Option(
            help="A table of ids and groups, such as antibodies.csv or the truth itself; the bootstrap then draws whole"
            " groups. Without it, images are drawn, and the intervals are too narrow if several share an antibody."
        ),
    ] = None,
    groups_column: Annotated[
        str, typer.Option(help="Column of the groups; by default looks for the usual names.")
    ] = "",
    bootstrap: Bootstrap = 1000,
    out: Out = None,
) -> None:
    """Score a table of predictions against a table of labels."""
    from aggregate.external.evaluate import evaluate_images
    from aggregate.external.tables import find_vocabulary
    from aggregate.scoring.terminal import print_summary
    from hpa.work.files import write_json

    metrics = evaluate_images(
        predictions,
        truth,
        find_vocabulary(vocabulary),
        columns=(predicted_column, truth_column),
        groups=groups,
        groups_column=groups_column,
        resamples=bootstrap,
    )
    print_summary(metrics, str(predictions), rows=metrics["rows"])
    if metrics["unscored"]:
        print(f"{metrics['unscored']} predictions have no label and are not scored")
    if metrics["unpredicted"]:
        print(f"{metrics['unpredicted']} labelled {metrics['rows']} have no prediction and are not scored")
    if out:
        write_json(out, metrics)


@app.command()
def cells(
    work: Annotated[Path, typer.Argument(help="A finished work folder.")],
    truth: Annotated[Path, typer.Argument(help="A CSV or Parquet table: image_id, cell_label, target.")],
    bootstrap: Bootstrap = 1000,
    out: Out = None,
) -> None:
    """Score single cells with known labels."""
    from aggregate.external.evaluate import evaluate_cells
    from aggregate.scoring.terminal import print_summary
    from hpa.work.files import write_json
    from hpa.work.folder import open_work

    metrics = evaluate_cells(open_work(work), truth, resamples=bootstrap)
    print_summary(metrics, f"{metrics['images']} of the {metrics['labelled']} labelled cells", rows="cells")
    if out:
        write_json(out, metrics)


@app.command()
def platemap(
    work: Annotated[Path, typer.Argument(help="A finished work folder whose images have wells.")],
    out: Annotated[Path, typer.Argument(help="The PNG, PDF or SVG to write.")],
    class_name: Annotated[str, typer.Option("--class", help="Name of the class.")],
) -> None:
    """Draw the mean probability of a class in every well of a plate."""
    from aggregate.scoring.platemap import draw_platemap
    from hpa.work.folder import open_work

    draw_platemap(open_work(work), class_name, out)
    print(f"plate map: {out}")


@app.command("evaluate-2021")
def evaluate_2021(
    submission: Annotated[Path, typer.Argument(help="A submission: ID,ImageWidth,ImageHeight,PredictionString.")],
    truth: Annotated[
        Path,
        typer.Argument(help="The true cells: a table of the same form, or image_id,cell_label,target and --masks."),
    ],
    masks: Annotated[Path | None, typer.Option(help="Folder of label images, <image_id>.png or .tif.")] = None,
    vocabulary: Annotated[
        Literal["hpa28", "hpa19", "jovian10"], typer.Option(help="Of the targets, with --masks.")
    ] = "hpa28",
    bootstrap: Bootstrap = 1000,
    out: Out = None,
) -> None:
    """Score a submission of Kaggle 2021 by its metric: mean average precision at mask IoU 0.6."""
    from aggregate.external.evaluate_2021 import evaluate_submission_2021
    from aggregate.scoring.terminal import print_cells_2021
    from hpa.vocabulary import VOCABULARIES
    from hpa.work.files import write_json

    metrics = evaluate_submission_2021(submission, truth, masks, VOCABULARIES[vocabulary], resamples=bootstrap)
    print_cells_2021(metrics, str(submission))
    if metrics["unscored"]:
        print(f"{metrics['unscored']} images have no true cells and are not scored")
    if out:
        write_json(out, metrics)


@app.command()
def submit(
    scores: Annotated[
        Path, typer.Argument(help="Scores within 0..1: .npy in the order of the sample, or a table with ids.")
    ],
    sample: Annotated[Path, typer.Option(help="The sample submission, which defines the ids and their order.")],
    thresholds: Annotated[str, typer.Option(help="thresholds.json, a table with one row per class, or a number.")],
    out: Annotated[Path, typer.Option(help="The submission to write.")],
    column: Annotated[str, typer.Option(help="Column of a table of thresholds.")] = "",
    vocabulary: Classes = "hpa28",
    empty: Annotated[
        str, typer.Option(help='What a row without a class gets: "argmax", "blank" or the name of a class.')
    ] = "argmax",
    form: Annotated[
        Literal["kaggle2018", "jovian"], typer.Option("--format", help="Format of the submission.")
    ] = "kaggle2018",
) -> None:
    """Make a submission from any matrix of scores."""
    from aggregate.external.submit import submit_scores
    from aggregate.external.tables import find_vocabulary

    rows = submit_scores(
        scores, sample, thresholds, out, find_vocabulary(vocabulary), column=column, empty=empty, form=form
    )
    print(f"{rows} rows in {out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return call(app, "python -m aggregate", arguments)


if __name__ == "__main__":
    raise SystemExit(main())
