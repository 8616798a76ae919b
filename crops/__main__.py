"""Stage 2: cut the cells out of the images.

    python -m crops run work/my

Reads  recipe.toml, images.parquet, segment/masks.parquet, segment/masks/, segment/nuclei/, the images.
Writes crops/cells/: shard-*.npy, shard-*.mask.npy, crops.parquet, dropped.parquet, failures.csv, run.json.
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
    workers: Annotated[int, typer.Option(help="Processes; 0 takes one a processor.", min=0)] = 0,
    dask: Annotated[str, typer.Option(help="Address of a Dask scheduler whose workers do the work.")] = "",
    overwrite: Annotated[bool, typer.Option(help="Begin anew.")] = False,
) -> None:
    """Cut the cells of every image into the crop store."""
    from crops.run import run as run_stage
    from hpa.work import locked, open_work

    folder = open_work(work)
    with locked(work):
        raise typer.Exit(run_stage(folder, workers=workers, dask=dask, overwrite=overwrite))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return call(app, "python -m crops", arguments)


if __name__ == "__main__":
    raise SystemExit(main())
