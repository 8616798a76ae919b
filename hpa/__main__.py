"""The ground floor's own commands.

    python -m hpa synthesize OUT --images 400 --test 100 --seed 0      a synthetic atlas in the Kaggle 2018 layout
    python -m hpa montage OUT atlas.png                                composites of its train images
    python -m hpa patterns patterns.png                                the 28 patterns, as the atlas draws them

synthesize  writes OUT/train/, OUT/test/, train.csv, sample_submission.csv, antibodies.csv and the truth/ folder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hpa.command import call, new_app

app = new_app(__doc__)


@app.command()
def synthesize(
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    images: Annotated[int, typer.Option(help="Train images.", min=0)] = 400,
    test: Annotated[int, typer.Option(help="Test images, of other antibodies.", min=0)] = 100,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.", min=0)] = 0,
    size_px: Annotated[int, typer.Option(help="Height and width of an image.", min=128, max=4096)] = 512,
    workers: Annotated[int, typer.Option(help="Processes; 0 takes one a processor.", min=0)] = 0,
) -> None:
    """Draw a synthetic atlas with its truth."""
    from hpa.atlas import synthesize as draw
    from hpa.progress import progress

    with progress("synthesize", images + test) as advance:
        draw(out, images, test, seed, size_px=size_px, workers=workers or None, on_image=lambda: advance(1))


@app.command()
def montage(
    data: Annotated[Path, typer.Argument(help="A folder made by synthesize.")],
    out: Annotated[Path, typer.Argument(help="The picture to write, a PNG.")],
) -> None:
    """Draw composites of a synthetic atlas, each channel in its colour."""
    from hpa.atlas.montage import draw_montage

    draw_montage(data, out)


@app.command()
def patterns(out: Annotated[Path, typer.Argument(help="The picture to write, a PNG.")]) -> None:
    """Draw the 28 patterns of the protein, with the nuclei."""
    from hpa.atlas.montage import draw_patterns

    draw_patterns(out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return call(app, "python -m hpa", arguments)


if __name__ == "__main__":
    raise SystemExit(main())
