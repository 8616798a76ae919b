"""Use a trained run on new images."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from hpa.errors import UserError
from hpa.images import read_images
from hpa.work.folder import check_not_written, locked
from pipeline.bundle import open_bundle
from pipeline.init import init_apply
from pipeline.model import Model, with_joined
from pipeline.stages import run_stages


def open_model(root: Path) -> Model:
    """Return the trained run of a work folder or a bundle.

    Raises
    ------
    UserError
        If it is neither, the work folder is not trained or being written to, or a bundle is damaged.
    """
    if (root / "bundle.json").exists():
        return open_bundle(root)
    model = Model.of_work(root)
    for work in (model.work, *(part.work for part in model.joined)):
        check_not_written(work.root)
    if not (root / "aggregate" / "thresholds.json").is_file():
        raise UserError(f"expected a trained work folder (made by `python -m pipeline run {root}`), found none")
    return model


def apply(
    model: Model,
    data: Sequence[str],
    out: Path,
    *,
    device: str = "auto",
    workers: int = 0,
    dask: str = "",
    threads: int | None = None,
    naming: Mapping[str, object] | None = None,
) -> int:
    """Apply a trained run, and those joined with it, to new images; nothing is trained or tuned.

    Parameters
    ----------
    model
        The run.
    data
        Data folders, ``PATH`` or ``NAME=PATH``.
    out
        The work folder to make; joined runs get their own inside it, ``joined/0`` and so on. A folder that an
        earlier, killed call made of the same images is resumed. Every run segments and crops by its own recipe.
    device, workers, dask, threads
        As for `pipeline.stages.run_stages`.
    naming
        As for `pipeline.init.init_apply`.

    Returns
    -------
    int
        The highest exit code of the stages.

    Raises
    ------
    UserError
        If a stage cannot run, or ranks are joined and there are too few images to rank.
    """
    names = [Path("joined") / str(place) for place in range(len(model.joined))]
    folder = init_apply(out, data, with_joined(model.recipe, model.work.root, names), naming)
    _check_ranked(model, len(read_images(folder.images)))
    run_part = partial(run_stages, device=device, workers=workers, dask=dask, threads=threads)
    code = 0
    with locked(out):
        for name, part in zip(names, model.joined, strict=True):
            print(f"apply: {part.work.root}, which {model.work.root} joins")
            other = init_apply(out / name, data, part.recipe, naming)
            ran = run_part(other, model=part.work, ends_with="predict")
            code = max(code, ran.code)
        print(f"apply: {model.work.root}")
        ran = run_part(folder, model=model.work)
    return max(code, ran.code)


def _check_ranked(model: Model, images: int) -> None:
    section = model.recipe.aggregate
    sources = len(model.recipe.crops.windows) + len(section.join)
    if sources > 1 and section.join_by == "rank" and images < section.min_images:
        raise UserError(
            f"expected at least {section.min_images} images (aggregate.min_images) to rank, as runs or windows were"
            f" joined by rank, found {images}"
        )
