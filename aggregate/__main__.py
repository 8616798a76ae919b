"""Stage 4: from crop probabilities to image labels, scores and a submission.

    python -m aggregate run work/my
    python -m aggregate evaluate predictions.csv train.csv          score any file of predictions
    python -m aggregate cells work/my cells.csv                     score single cells whose labels are known
    python -m aggregate submit scores.npy --sample sample_submission.csv --thresholds thresholds.json --out my.csv

run       reads  recipe.toml, images.parquet, folds.parquet, classify/<window>/probabilities.parquet (and those of the
                 runs that the recipe joins);
          writes aggregate/: images.parquet, cells.parquet, thresholds.json, metrics.json, submission.csv, figures/,
                 run.json.
evaluate  reads two tables of labels, and one of groups if there is one; needs no work folder.
cells     reads a finished work folder and a table with image_id, cell_label, target.
submit    reads a matrix of scores, a sample submission and thresholds; needs no work folder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from hpa.command import call, new_app

app = new_app(__doc__)

Classes = Annotated[
    str, typer.Option("--vocabulary", help="hpa28, hpa19, jovian10, or how many classes there are, called by number.")
]


@app.command()
def run(
    work: Annotated[Path, typer.Argument(help="The work folder.")],
    overwrite: Annotated[bool, typer.Option(help="Begin anew.")] = False,
    figures: Annotated[bool, typer.Option(help="Draw them.")] = True,
) -> None:
    """Pool, tune thresholds, score, and write the submission."""
    from aggregate.run import run as run_stage
    from aggregate.scoring.terminal import print_metrics
    from hpa.work.folder import locked, open_work

    folder = open_work(work)
    with locked(work):
        code = run_stage(folder, overwrite=overwrite, figures=figures)
        print_metrics(folder)
    raise typer.Exit(code)


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="A CSV or Parquet table: a column of ids, one of labels.")],
    truth: Annotated[Path, typer.Argument(help="The same, with the true labels.")],
    vocabulary: Classes = "hpa28",
    predicted_column: Annotated[str, typer.Option(help="Of the predictions; found by its usual names.")] = "",
    truth_column: Annotated[str, typer.Option(help="Of the truth; found by its usual names.")] = "",
    groups: Annotated[
        Path | None,
        typer.Option(
            help="A table of ids and groups, such as antibodies.csv or the truth itself, drawn as wholes by the"
            " bootstrap; without it images are, and where several share an antibody the intervals are too narrow."
        ),
    ] = None,
    groups_column: Annotated[str, typer.Option(help="Of the groups; found by its usual names.")] = "",
    bootstrap: Annotated[int, typer.Option(help="Resamples behind the intervals.", min=0)] = 1000,
    out: Annotated[Path | None, typer.Option(help="Write the scores to this JSON file too.")] = None,
) -> None:
    """Score a file of predictions against a table of labels."""
    from aggregate.external.evaluate import evaluate as score
    from aggregate.external.evaluate import find_vocabulary
    from aggregate.scoring.terminal import print_summary
    from hpa.work.files import write_json

    columns = (predicted_column, truth_column)
    told = score(
        predictions,
        truth,
        find_vocabulary(vocabulary),
        columns=columns,
        groups=groups,
        groups_column=groups_column,
        resamples=bootstrap,
    )
    print_summary(told, str(predictions))
    if told["unscored"]:
        print(f"{told['unscored']} predictions have no label and are not scored")
    if out:
        write_json(out, told)


@app.command()
def cells(
    work: Annotated[Path, typer.Argument(help="A finished work folder.")],
    truth: Annotated[Path, typer.Argument(help="A CSV or Parquet table: image_id, cell_label, target.")],
    bootstrap: Annotated[int, typer.Option(help="Resamples behind the intervals.", min=0)] = 1000,
    out: Annotated[Path | None, typer.Option(help="Write the scores to this JSON file too.")] = None,
) -> None:
    """Score single cells, where their labels are known."""
    from aggregate.external.cells import score_cells
    from aggregate.scoring.terminal import print_summary
    from hpa.work.files import write_json
    from hpa.work.folder import open_work

    told = score_cells(open_work(work), truth, resamples=bootstrap)
    print_summary(told, f"{told['images']} of the {told['labelled']} labelled cells")
    if out:
        write_json(out, told)


@app.command()
def submit(
    scores: Annotated[
        Path, typer.Argument(help="Scores within 0..1: .npy in the sample's order, or a table with ids.")
    ],
    sample: Annotated[Path, typer.Option(help="The sample submission: which ids, in which order.")],
    thresholds: Annotated[str, typer.Option(help="thresholds.json, a table with one row a class, or a number.")],
    out: Annotated[Path, typer.Option(help="The submission to write.")],
    column: Annotated[str, typer.Option(help="Which column of a table of thresholds.")] = "",
    vocabulary: Classes = "hpa28",
    empty: Annotated[
        str, typer.Option(help='What a row without a class gets: "argmax", "blank" or a class.')
    ] = "argmax",
    form: Annotated[Literal["kaggle2018", "jovian"], typer.Option("--format", help="Of the file.")] = "kaggle2018",
) -> None:
    """Make a submission from any matrix of scores."""
    from aggregate.external.evaluate import find_vocabulary
    from aggregate.external.evaluate import submit as make

    rows = make(scores, sample, thresholds, out, find_vocabulary(vocabulary), column=column, empty=empty, form=form)
    print(f"{rows} rows in {out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return call(app, "python -m aggregate", arguments)


if __name__ == "__main__":
    raise SystemExit(main())
