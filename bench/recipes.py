"""Compare the shipped recipes on one atlas: ``uv run python -m bench.recipes [NAME ...] [--minutes M] [--tiny]``.

``--seconds`` prints instead what the recipes say of themselves: seconds of one epoch of one fold on two threads.

All recipes get the same images, two folds, the same masks and the same processor time for training (10 minutes each):
the number of epochs follows from the time of one, and phases keep their shares of them; heads on frozen features, which
need less, keep their own epochs. Frames have 256 px, and what is larger in a recipe is reduced by the same factor.
Weights of ImageNet are taken where the machine has them or can fetch them, and none elsewhere, which the table says.
Thresholds and everything after the probabilities are those of the recipe, but they are tuned on all folds.

The table is that of `pipeline compare`: mean average precision and macro F1 out of fold, on test images and on single
cells, with paired intervals of the differences to the first, and baselines that look at no image. All files are written
below work/bench-recipes; a stopped run goes on with the recipe it was in.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import classify.run
import segment.run
from classify.config import ClassifySection
from classify.network.backbones import library_weights
from crops.config import CropsSection
from hpa.atlas import synthesize
from hpa.errors import UserError
from hpa.work.files import write_json
from hpa.work.folder import WorkFolder, open_work
from pipeline.compare import compare, format_markdown, print_comparison
from pipeline.init import init
from pipeline.recipe import read_recipe
from pipeline.share import init_from
from pipeline.stages import run_stages
from segment.config import SegmentSection

ROOT: Final = Path("work/bench-recipes")
RECIPES: Final = (
    *("cells", "cells_frozen", "cells_triplet", "cells_dual", "cells_plus_frame", "cells_best", "five_crop"),
    *("jovian_resnet18", "cnn3", "resnet18_four_channels", "resnet_cbam", "checklist_resnet34", "densenet121"),
    "winner2018",
)
_FRAME_PX: Final = 256
_CELL_PX: Final = 64


def scaled_sizes(section: CropsSection) -> tuple[float, dict[str, Any]]:
    """Return the factor by which a recipe's windows shrink, and their new sizes: cells of 64 px, frames of 256 px."""
    windows = [window for window in section.stores if window != "cells"]
    largest = max((section.size_px_of(window) for window in windows), default=0)
    factor = min(1.0, _FRAME_PX / largest) if largest else 1.0
    sizes = {window: max(32, round(factor * section.size_px_of(window) / 16) * 16) for window in windows}
    if "full_frame" in sizes:
        factor = _FRAME_PX / section.size_px_of("full_frame")
        sizes = {window: round(factor * section.size_px_of(window) / 16) * 16 for window in windows}
    return factor, ({"cells": _CELL_PX} if "cells" in section.stores else {}) | sizes


def scaled_epochs(section: ClassifySection, epochs: int) -> dict[str, Any]:
    """Return the keys that make a training about as many epochs long, its phases in the same proportion.

    Heads on frozen features keep their own number: most of their time goes into the features, which are computed once.
    """
    phases = section.training_phases
    if section.trainable == "heads":
        return {}
    if len(phases) == 1:
        return {"epochs": epochs}
    total = sum(phase.epochs for phase in phases)
    counts = [max(1, round(epochs * phase.epochs / total)) for phase in phases]
    own = [phase.model_dump(mode="json") for phase in section.phases]
    return {
        "epochs": sum(counts),
        "phases": [phase | {"epochs": count} for phase, count in zip(own, counts, strict=True)],
    }


def _settings(name: str) -> dict[str, Any]:
    """Return the settings of a recipe on the bench, but for its epochs."""
    recipe = read_recipe(name)
    factor, sizes = scaled_sizes(recipe.crops)
    section = recipe.classify
    settings: dict[str, Any] = {"crops.window_px": sizes, "segment.channels": list(SegmentSection().channels)}
    if section.random_crop != "none":
        settings["classify.random_crop_px"] = max(32, round(factor * section.random_crop_px / 16) * 16)
    if len(section.training_phases) > 1:
        phases = [phase.model_dump(mode="json") for phase in section.phases]
        for phase in phases:
            if phase["input_px"] > 0:
                phase["input_px"] = max(32, round(factor * phase["input_px"] / 16) * 16)
        settings["classify.phases"] = phases
    if section.pretrained == "imagenet" and not _has_imagenet(section.backbone):
        settings["classify.pretrained"] = "none"
    return settings


def _has_imagenet(backbone: str) -> bool:
    try:
        library_weights(backbone)
    except UserError:
        return False
    return True


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def _words(settings: dict[str, Any]) -> list[str]:
    return [f"{key}={_toml(value)}" for key, value in settings.items()]


def _base(root: Path, train: int, test: int, size_px: int) -> Path:
    """Return the work folder whose images, folds and masks all share."""
    if not (root / "atlas").exists():
        synthesize(root / "unfinished", train, test, 0, size_px=size_px)
        (root / "unfinished").rename(root / "atlas")
    base = root / "base"
    if not (base / "recipe.toml").exists():
        init(base, [root / "atlas"], read_recipe("cells", ["data.folds=2", f"crops.size_px={_CELL_PX}"]))
    segment.run.run(open_work(base))
    return base


def run_recipe(name: str, base: Path, seconds: float) -> Path:
    """Train and score a recipe in about some seconds of processor time, and return its work folder."""
    root, record = base.parent / name, base.parent / f"{name}.json"
    settings = _settings(name)
    if not record.exists():
        work = _probe(name, base, settings)
        started = time.process_time()
        classify.run.train(work, folds=[0], overwrite=True)
        write_json(record, {"epoch_s": time.process_time() - started, "settings": _words(settings)})
    epoch_s = float(json.loads(record.read_text())["epoch_s"])
    section = read_recipe(name, _words(settings)).classify
    epochs = {
        f"classify.{key}": value for key, value in scaled_epochs(section, max(1, round(seconds / 2 / epoch_s))).items()
    }
    if not (root / "recipe.toml").exists():
        init_from(root, base, name, _words(settings | epochs))
    run_stages(open_work(root))
    return root


def _probe(name: str, base: Path, settings: dict[str, Any]) -> WorkFolder:
    """Return a work folder with the crops of a recipe, to train a single epoch in."""
    root = base.parent / f"probe-{name}"
    if not (root / "recipe.toml").exists():
        init_from(root, base, name, _words(settings | {"classify.epochs": 1, "classify.phases": []}))
    work = open_work(root)
    run_crops(work)
    return work


def print_seconds(names: Sequence[str], base: Path) -> None:
    """Print the seconds of one epoch of one fold of each recipe, on two threads."""
    for name in names:
        work = _probe(name, base, _settings(name))
        started = time.monotonic()
        classify.run.train(work, folds=[0], overwrite=True, threads=2)
        print(f"{name}: {time.monotonic() - started:.0f} s an epoch", flush=True)


def run_crops(work: WorkFolder) -> None:
    """Cut the crops of a recipe."""
    import crops.run

    crops.run.run(work)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the named recipes, or all, and print their comparison."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    tiny = "--tiny" in words
    minutes = 10.0
    if "--minutes" in words:
        place = words.index("--minutes")
        minutes = float(words[place + 1])
        del words[place : place + 2]
    names = [word for word in words if word not in ("--tiny", "--seconds")] or (
        ["cells_frozen", "cnn3"] if tiny else list(RECIPES)
    )
    root = ROOT / ("tiny" if tiny else "600")
    base = _base(root, *((24, 8, 256) if tiny else (600, 300, 512)))
    if "--seconds" in words:
        print_seconds(names, base)
        return
    roots = [run_recipe(name, base, 4 if tiny else 60 * minutes) for name in names]
    comparison = compare(roots, truth=root / "atlas" / "truth", resamples=20 if tiny else 1000)
    print_comparison(comparison)
    (root / "table.md").write_text(format_markdown(comparison))
    for name in names:
        if read_recipe(name).classify.pretrained == "imagenet":
            found = "found" if _has_imagenet(read_recipe(name).classify.backbone) else "not at hand: from nothing"
            print(f"{name}: weights of ImageNet {found}")


if __name__ == "__main__":
    main()
