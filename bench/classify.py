"""Compare ways to train the classifier: ``uv run python -m bench.classify PART [--tiny]``.

Each part makes a table of docs/results.md:

windows     cells, full frames, five crops, and cells + full frames, at equal processor time: from nothing, and new
            heads on the frozen features of backbones that were trained on the same windows of other images, in
            equal time too; also heads on the shipped backbone, which has seen cells only
atlases     the same on an atlas with high and one with low penetrance
objectives  inherited cell labels, bags, and both, with three poolings, from nothing and on frozen features
triplets    triplet loss in addition to the class loss; also MAP@R of its embedding and of the plain features; the same
ingredients one line of the recipe at a time, added to the recommended recipe (`ingredients.INGREDIENTS`): one fold,
            three seeds, the interval of the gain over resampled antibodies and seeds
real        train on the green channel of the atlas, score real green images (CELLWISE_REAL_DATA, ../shared/real)
step        the training step with the real loader relative to a batch in memory, prediction relative to the bare
            forward pass
gpu         crops per second at 128 px in bfloat16, and the fraction of time spent waiting, if there is a GPU

Systems are compared by mean average precision, which needs no thresholds, and by macro F1 with thresholds tuned on the
out-of-fold scores of all train images: each system is trained once per fold, and a test image gets the mean over the
folds' models, as in the pipeline. Thresholds of one fold of 100 images would be left to chance, whatever the network
does. Each row has the 95% interval of its gain in mean AP over the first row, over resampled antibodies.

All files are written below work/bench-classify; a stopped run resumes in the epoch it was in. --tiny runs all of a part
in about a minute, only to show that it runs. Compare seconds only within one table: they depend on the machine.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.classification.ingredients import ingredients
from bench.classification.real_images import real
from bench.classification.runs import FOLD, Job, image_probabilities, joined, run, show, train
from bench.classification.scores import Scored, Truth, mean_ap_gain, retrieval, score
from bench.classification.speed import Steps, gpu, step
from bench.classification.world import FULL, TINY, Size, World
from classify.config import ClassifySection, Pooling
from classify.data.batches import training_batches
from classify.data.crops import FoldCrops
from hpa.work.files import write_json
from hpa.work.folder import WorkFolder

POOLINGS: Final[tuple[Pooling, ...]] = ("max", "log-sum-exp", "auto")


def _systems(world: World) -> dict[str, Job]:
    """Return the systems to compare from nothing, with one backbone.

    A frame is four times as high as a crop of a cell, and a window twice. This is about the scale of the crops, because
    a typical cell is a fifth of a field wide.
    """
    size = world.size
    full_frame, five_crop = _frames(world), _quarters(world)
    of_frames = size.section.model_copy(update={"batch_size": 8})
    parts = {"random_crop": "crop", "random_crop_px": 2 * size.crop_px}
    return {
        "cells": _inherited_labels(world),
        "full_frame": Job("full_frame", of_frames, full_frame, full_frame),
        "five_crop": Job("five_crop", of_frames.model_copy(update=parts), full_frame, five_crop),
    }


def _frames(world: World) -> tuple[WorkFolder, str]:
    return world.work("full_frame", 4 * world.size.crop_px), "full_frame"


def _quarters(world: World) -> tuple[WorkFolder, str]:
    return world.work("five_crop", 2 * world.size.crop_px), "five_crop"


def _inherited_labels(world: World) -> Job:
    """Return the system that all parts share as their baseline, so that it is trained once: cells, inherited labels."""
    cells = (world.work("cells", world.size.crop_px), "cells")
    return Job("cells", world.size.section, cells, cells)


def _seconds_per_epoch(job: Job) -> float:
    """Return the processor time of one epoch of one fold, measured over some training steps at the first call."""
    record = job.folder / "step.json"
    if not record.is_file():
        crops = job.crops()
        timed = Steps(job.section, crops)
        timed.run(2)
        steps = len(training_batches(crops, job.section, 0, FOLD, 0))
        started = time.process_time()
        timed.run(6)
        write_json(record, {"seconds": (time.process_time() - started) / 6 * steps})
    return float(json.loads(record.read_text())["seconds"])


def _equal_time(systems: dict[str, Job], epochs: int) -> dict[str, Job]:
    """Return the systems with the numbers of epochs that take as long as `epochs` of cells."""
    epoch = {name: _seconds_per_epoch(job) for name, job in systems.items()}

    def of(name: str) -> int:
        return max(1, round(epochs * epoch["cells"] / epoch[name]))

    return {
        name: replace(job, section=job.section.model_copy(update={"epochs": of(name)})) for name, job in systems.items()
    }


def _pretrained(world: World) -> dict[str, Job]:
    """Return the systems with new heads on features of backbones that were trained on the same windows of other images.

    Features are computed once, so that the heads of `five_crop` learn from the five windows in place of random ones.
    """
    other = _equal_time(_systems(World.for_pretraining(world.size)), world.size.epochs)
    scored = {"cells": _inherited_labels(world).scored_on, "full_frame": _frames(world), "five_crop": _quarters(world)}
    sections = {name: world.size.heads(str(train(job, FOLD).resolve())) for name, job in other.items()}
    return {name: Job(f"heads-{name}", sections[name], place, place) for name, place in scored.items()}


def windows(size: Size, penetrance: float = 1.0) -> None:
    """Compare windows at equal processor time: that of `size.epochs` epochs of cells."""
    world = World.of(size, penetrance)
    truth, table = Truth(world), _Table(world.root / "windows.json")
    from_nothing = _equal_time(_systems(world), size.epochs)
    cells = from_nothing["cells"].scored_on
    kinds = {"nothing": from_nothing}
    if penetrance == 1:
        frames, held = _frames(world), size.heads().model_copy(update={"heads": "pretrained"})
        shipped = {
            "cells": _frozen(world),
            "full_frame": Job("frozen-frame", size.heads(), frames, frames),
            "cells, heads held": Job("held", held, cells, cells),
        }
        kinds |= {"the same windows": _pretrained(world), "shipped": shipped}
    for start, systems in kinds.items():
        pooled = {}
        for name, job in systems.items():
            ran = run(job)
            pooled[name] = image_probabilities(ran)
            of_cells = name.startswith("cells")
            row = {"start": start, "system": name, "epochs": job.section.epochs, "seconds": ran.seconds}
            table.add(row, score(truth, cells[0], pooled[name], ran.table if of_cells else None))
            if of_cells:
                smooth = replace(ran, pooling=replace(ran.pooling, pooling="log-sum-exp", sharpness=10.0))
                found = score(truth, cells[0], image_probabilities(smooth), ran.table)
                table.add({"start": start, "system": f"{name}, log-sum-exp"}, found)
        both = joined([pooled["cells"], pooled["full_frame"]])
        table.add({"start": start, "system": "cells + full_frame"}, score(truth, cells[0], both))


def _frozen(world: World) -> Job:
    """Return the system that all parts share as their second baseline: heads on features of the shipped backbone."""
    cells = _inherited_labels(world).scored_on
    return Job("frozen", world.size.heads(), cells, cells)


class _Table:
    """A table that is written and printed whenever a row is added; the first row is the reference of the others."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[dict[str, object]] = []
        self._reference: Scored | None = None

    def add(self, row: dict[str, object], scored: Scored) -> None:
        low, high = mean_ap_gain(scored, self._reference) if self._reference else (0.0, 0.0)
        self._reference = self._reference or scored
        self._rows.append({**row, **vars(scored.score), "gain_low": low, "gain_high": high})
        show(self._rows, self._path)


def atlases(size: Size) -> None:
    """Compare windows where nearly all cells show the labels of their image, and where few do."""
    for penetrance in (1.6, 0.5):
        print(f"penetrance multiplied by {penetrance}")
        windows(size, penetrance)


def _objective_sections(base: ClassifySection, crops: FoldCrops) -> dict[str, ClassifySection]:
    """Return every objective with each pooling, all trained on the same number of crops and crops per step.

    Bags have four crops, so a step has many images. With bags of sixteen, a step has only a few images and learns
    less.
    """
    sections = {"cell": base}
    for objective in ("bag", "dual"):
        for pooling in POOLINGS:
            keys = {"objective": objective, "pooling": pooling, "bag_size": 4}
            sections[f"{objective} {pooling}"] = base.model_copy(update=keys)

    def crops_per_epoch(section: ClassifySection) -> int:
        return sum(map(len, training_batches(crops, section, 0, FOLD, 0)))

    return {
        name: section.model_copy(
            update={"epochs": round(base.epochs * crops_per_epoch(base) / crops_per_epoch(section))}
        )
        for name, section in sections.items()
    }


def _starts(world: World) -> dict[str, Job]:
    return {"nothing": _inherited_labels(world), "frozen": _frozen(world)}


def objectives(size: Size) -> None:
    """Compare inherited labels, bags and both."""
    world = World.of(size)
    truth = Truth(world)
    for start, base in _starts(world).items():
        table = _Table(world.root / f"objectives-{start}.json")
        for name, section in _objective_sections(base.section, base.crops()).items():
            own_name = base.name if name == "cell" else f"{start}-{name.replace(' ', '-')}"
            ran = run(replace(base, name=own_name, section=section))
            found = score(truth, base.scored_on[0], image_probabilities(ran), ran.table)
            table.add({"start": start, "objective": name, "epochs": section.epochs, "seconds": ran.seconds}, found)


def triplets(size: Size) -> None:
    """Compare the class loss alone and in combination with a triplet loss."""
    world = World.of(size)
    truth = Truth(world)
    kinds: dict[str, dict[str, object]] = {
        "no triplets": {},
        "labels, all": {"triplet_mining": "all"},
        "labels, batch-hard": {"triplet_mining": "batch-hard"},
        "antibody, batch-hard": {"triplet_mining": "batch-hard", "triplet_positives": "antibody"},
    }
    for start, base in _starts(world).items():
        table = _Table(world.root / f"triplets-{start}.json")
        for name, keys in kinds.items():
            section = base.section.model_copy(update=keys | {"embedding_dim": 64}) if keys else base.section
            own_name = f"{start}-triplet-" + name.replace(", ", "-").replace(" ", "-") if keys else base.name
            job = replace(base, name=own_name, section=section)
            ran = run(job, embeddings=True)
            row: dict[str, object] = {"start": start, "triplets": name, "seconds": ran.seconds}
            for space in ("features", "embedding") if keys else ("features",):
                near = retrieval(ran, job, space, 1000)
                row |= {f"{space}_p@1": near["precision_at_1"], f"{space}_map@r": near["map_at_r"]}
            row["chance"] = near["chance"]
            table.add(row, score(truth, job.scored_on[0], image_probabilities(ran), ran.table))


PARTS: Final[dict[str, Callable[[Size], None]]] = {
    "windows": windows,
    "atlases": atlases,
    "objectives": objectives,
    "triplets": triplets,
    "ingredients": ingredients,
    "real": real,
    "step": step,
    "gpu": gpu,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one part, or print the list of parts."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    part = PARTS.get(words[0]) if words else None
    if part is None:
        print(__doc__)
        return
    part(TINY if "--tiny" in words else FULL)


if __name__ == "__main__":
    main()
