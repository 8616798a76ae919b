"""Protein localisation in fluorescence microscopy, one cell at a time.

    cellwise demo work/demo                                 the whole pipeline on a synthetic atlas
    cellwise init work/my --data /data/hpaic --recipe cells
    cellwise run work/my                                    every stage, resuming what is unfinished
    cellwise apply work/my --data /data/new --out work/new  a trained work folder on new images

The stages of a run, which `cellwise run` calls in this order:

    cellwise segment run work/my
    cellwise crops run work/my
    cellwise classify train work/my
    cellwise classify predict work/my
    cellwise aggregate run work/my

`cellwise PACKAGE VERB` is the same as `python -m PACKAGE VERB`.
"""

from collections.abc import Sequence
from typing import Annotated

import typer

import aggregate.__main__
import classify.__main__
import crops.__main__
import hpa.__main__
import pipeline.__main__
import segment.__main__
from cellwise import __version__
from hpa.command import call, new_app

app = new_app(__doc__)
app.registered_commands.extend(pipeline.__main__.app.registered_commands)
for _name, _package, _summary in (
    ("hpa", hpa.__main__, "Look at data sets: explore, leaks, the synthetic atlas, downloads."),
    ("segment", segment.__main__, "Stage 1: segment cells and nuclei."),
    ("crops", crops.__main__, "Stage 2: cut crops."),
    ("classify", classify.__main__, "Stage 3: train classifiers of crops and predict."),
    ("aggregate", aggregate.__main__, "Stage 4: image labels, scores and the submission."),
    ("pipeline", pipeline.__main__, "All stages in sequence; its verbs are also at the top."),
):
    app.add_typer(_package.app, name=_name, short_help=_summary)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"cellwise {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return call(app, "cellwise", arguments)


if __name__ == "__main__":
    raise SystemExit(main())
