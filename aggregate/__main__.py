"""Stage 4: from crop probabilities to image labels, scores and a submission.

    python -m aggregate run work/my

Reads  recipe.toml, images.parquet, folds.parquet, classify/<window>/probabilities.parquet.
Writes aggregate/: images.parquet, thresholds.json, metrics.json, submission.csv, run.json.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hpa.command import call, new_app

app = new_app(__doc__)


@app.callback()
def _stage() -> None:
    """Keep `run` a verb although it is the only one."""


@app.command()
def run(
    work: Annotated[Path, typer.Argument(help="The work folder.")],
    overwrite: Annotated[bool, typer.Option(help="Begin anew.")] = False,
) -> None:
    """Pool, tune thresholds, score, and write the submission."""
    from aggregate.run import run as run_stage
    from aggregate.table import print_metrics
    from hpa.work import locked, open_work

    folder = open_work(work)
    with locked(work):
        code = run_stage(folder, overwrite=overwrite)
        print_metrics(folder)
    raise typer.Exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return call(app, "python -m aggregate", arguments)


if __name__ == "__main__":
    raise SystemExit(main())
