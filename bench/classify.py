"""Compare ways to train the classifier: ``uv run python -m bench.classify PART [--tiny]``.

Each part makes a table of docs/results.md:

windows     cells, full frames, five crops, and cells + full frames: macro F1 of test images at equal training time
atlases     the same on an atlas with high and one with low penetrance
objectives  inherited cell labels, bags, and both, with each pooling, scored on images and single cells; then the best
            ones with more epochs and three seeds
triplets    triplet loss in addition to the class loss: macro F1, and MAP@R of its embedding and of the plain features
real        train on the green channel of the atlas, score real green images (CELLWISE_REAL_DATA, ../shared/real)
step        the training step with the real loader relative to a batch in memory, prediction relative to the bare
            forward pass
gpu         crops per second at 128 px in bfloat16, and the fraction of time spent waiting, if there is a GPU

All files are written below work/bench-classify; a stopped run resumes. --tiny runs all of a part in about a minute,
only to show that it runs. Compare seconds only within one table: they depend on the machine.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import pandas as pd

from bench.classification.real_images import real
from bench.classification.runs import FOLD, Job, image_probabilities, joined, run, show
from bench.classification.scores import retrieval, score
from bench.classification.speed import Steps, gpu, step
from bench.classification.world import FULL, TINY, Size, World
from classify.config import ClassifySection, Pooling
from classify.data.batches import training_batches
from classify.data.crops import FoldCrops
from hpa.work.files import write_json

POOLINGS: Final[tuple[Pooling, ...]] = (
    *("max", "top-k", "log-sum-exp", "linear-softmax", "noisy-or", "auto", "attention"),
)


def _systems(world: World) -> dict[str, Job]:
    """Return the systems to compare.

    Frames and windows are reduced to half their size. This is about the scale of a cell's crop of 64 px, because a
    typical cell in a field of 512 px is about 110 px wide.
    """
    size = world.size
    full_px, part_px = size.image_px // 2, size.image_px // 4
    cells = (world.work("cells", size.crop_px), "cells")
    full_frame = (world.work("full_frame", full_px), "full_frame")
    five_crop = (world.work("five_crop", part_px), "five_crop")
    of_frames = size.section.model_copy(update={"batch_size": 16})
    parts = {"backbone": size.five_backbone, "random_crop": "crop", "random_crop_px": part_px}
    return {
        "cells": Job("cells", size.section, cells, cells),
        "full_frame": Job("full_frame", of_frames, full_frame, full_frame),
        "five_crop": Job("five_crop", of_frames.model_copy(update=parts), full_frame, five_crop),
    }


def seconds_per_epoch(job: Job) -> float:
    """Return the seconds of one epoch, measured over some training steps at the first call."""
    record = job.scored_on[0].root / "bench" / f"{job.name}-step.json"
    if not record.is_file():
        crops = job.crops()
        timed = Steps(job.section, crops)
        timed.run(2)
        steps = len(training_batches(crops, job.section, 0, FOLD, 0))
        write_json(record, {"seconds": timed.run(6) / 6 * steps})
    return float(json.loads(record.read_text())["seconds"])


def windows(size: Size, penetrance: float = 1.0) -> None:
    """Compare windows at fixed budgets of training time."""
    world = World.of(size, penetrance)
    systems = _systems(world)
    epoch = {name: seconds_per_epoch(job) for name, job in systems.items()}
    rows: list[dict[str, object]] = []
    for budget in size.budgets_s:
        pooled = {}
        for name, job in systems.items():
            epochs = max(1, round(budget / epoch[name]))
            section = job.section.model_copy(update={"epochs": epochs})
            ran = run(replace(job, name=f"{name}-{budget:g}s", section=section))
            pooled[name] = image_probabilities(ran)
            cells = ran.table if name == "cells" else None
            found = score(world, job.scored_on[0], pooled[name], cells)
            rows.append({"budget_s": budget, "system": name, "epochs": epochs, "seconds": ran.seconds, **vars(found)})
        both = score(world, systems["cells"].scored_on[0], joined([pooled["cells"], pooled["full_frame"]]))
        seconds = sum(float(str(row["seconds"])) for row in rows[-3:-1])
        rows.append({"budget_s": budget, "system": "cells + full_frame", "seconds": seconds, **vars(both)})
    show(rows, world.root / "windows.json")


def atlases(size: Size) -> None:
    """Compare windows where nearly all cells show the labels of their image, and where few do."""
    for penetrance in (1.6, 0.5):
        print(f"penetrance multiplied by {penetrance}")
        windows(replace(size, budgets_s=size.budgets_s[-2:-1]), penetrance)


def _objective_sections(size: Size, crops: FoldCrops) -> dict[str, ClassifySection]:
    """Return every objective with each pooling, all trained on the same number of crops and crops per step.

    Bags have four crops, so a step has sixteen images. With bags of sixteen, a step has only four images and learns
    less.
    """
    base = size.section.model_copy(update={"epochs": size.epochs})
    sections = {"cell": base}
    for objective in ("bag", "dual"):
        for pooling in POOLINGS:
            keys = {"objective": objective, "pooling": pooling, "bag_size": 4}
            sections[f"{objective} {pooling}"] = base.model_copy(update=keys)

    def crops_per_epoch(section: ClassifySection) -> int:
        return sum(map(len, training_batches(crops, section, 0, FOLD, 0)))

    return {
        name: section.model_copy(
            update={"epochs": round(size.epochs * crops_per_epoch(base) / crops_per_epoch(section))}
        )
        for name, section in sections.items()
    }


def objectives(size: Size) -> None:
    """Compare inherited labels, bags and both: all with one seed, then the best two and the baseline for longer."""
    world = World.of(size)
    cells = (world.work("cells", size.crop_px), "cells")
    crops = Job("", size.section, cells, cells).crops()

    def rows(sections: dict[str, ClassifySection], seeds: Sequence[int], kind: str) -> list[dict[str, object]]:
        scored: list[dict[str, object]] = []
        for name, section in sections.items():
            for seed in seeds:
                ran = run(Job(f"{name.replace(' ', '-')}-{kind}", section, cells, cells, seed))
                found = score(world, cells[0], image_probabilities(ran), ran.table)
                scored.append({"objective": name, "seed": seed, "seconds": ran.seconds, **vars(found)})
        return scored

    short = replace(size, epochs=-(-size.epochs // 2))
    screening = rows(_objective_sections(short, crops), size.seeds[:1], "short")
    show(screening, world.root / "objectives-screening.json")
    order = pd.DataFrame(screening).sort_values("held_cell_mean_ap", ascending=False)["objective"]
    finalists = ["cell", *[name for name in order if name != "cell"][:2]]
    sections = _objective_sections(size, crops)
    last = rows({name: sections[name] for name in finalists}, size.seeds, "long")
    show(last, world.root / "objectives.json")
    scores = ["image_macro_f1", "image_mean_ap", "cell_macro_f1", "cell_mean_ap", "seconds"]
    print(pd.DataFrame(last).groupby("objective", sort=False)[scores].mean().round(3).to_string())


def triplets(size: Size) -> None:
    """Compare the class loss alone and in combination with a triplet loss."""
    world = World.of(size)
    cells = (world.work("cells", size.crop_px), "cells")
    base = size.section.model_copy(update={"epochs": size.epochs})
    kinds: dict[str, dict[str, object]] = {
        "no triplets": {},
        "labels, all": {"triplet_mining": "all"},
        "labels, semi-hard": {"triplet_mining": "semi-hard"},
        "labels, batch-hard": {"triplet_mining": "batch-hard"},
        "antibody, batch-hard": {"triplet_mining": "batch-hard", "triplet_positives": "antibody"},
    }
    rows: list[dict[str, object]] = []
    for name, keys in kinds.items():
        section = base.model_copy(update=keys | {"embedding_dim": 64} if keys else {})
        job = Job("triplet-" + name.replace(", ", "-").replace(" ", "-"), section, cells, cells)
        ran = run(job, embeddings=True)
        found = score(world, cells[0], image_probabilities(ran), ran.table)
        row: dict[str, object] = {"triplets": name, "image_macro_f1": found.image_macro_f1}
        row |= {"cell_macro_f1": found.cell_macro_f1}
        for space in ("features", "embedding") if keys else ("features",):
            near = retrieval(ran, job, space, 1000)
            row |= {f"{space}_p@1": near["precision_at_1"], f"{space}_map@r": near["map_at_r"]}
        rows.append(row | {"chance": near["chance"]})
    show(rows, world.root / "triplets.json")


PARTS: Final[dict[str, Callable[[Size], None]]] = {
    "windows": windows,
    "atlases": atlases,
    "objectives": objectives,
    "triplets": triplets,
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
