"""What the classifier is worth: ``uv run python -m bench.classify PART [--tiny]``.

Parts, each a table in docs/results.md:

windows     cells, whole frames, five windows, and cells + whole: macro F1 of test images against seconds of training
atlases     the same on an atlas of high and of low penetrance
objectives  cell labels inherited, bags, and both, with each pooling: images and single cells; the best on three seeds
triplets    the triplet loss beside the class loss: macro F1, and MAP@R of its embedding against the plain features
real        trained on the atlas's green channel, scored on real green images (CELLWISE_REAL_DATA, ../shared/real)
step        the training step with the real loader against a batch in memory; prediction against the bare forward pass
gpu         crops a second at 128 px in bfloat16 and the share spent waiting, where there is a GPU

Everything lies below work/bench-classify; a run that was stopped goes on. --tiny runs all of a part in about a minute
and shows only that it runs. Seconds are of this machine; compare them within one table.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score, roc_auc_score

from aggregate.decide import decide
from aggregate.optimum import best_thresholds
from bench.classify_runs import FOLD, FULL, TINY, Job, Size, World, image_probabilities, joined, retrieval, run, score
from classify.augment import Augmentation
from classify.batches import Batch, FoldCrops, TrainingCrops, epoch_loader, read_crops
from classify.config import ClassifySection, Pooling
from classify.evaluate import BATCH, look, pick_device, sigmoid, uses_bfloat16
from classify.fit import clear, fit
from classify.model import Network, new_network
from classify.normalise import measure_statistics
from classify.objective import batch_loss
from classify.optimize import new_optimizer
from classify.sampling import training_batches
from hpa.errors import UserError
from hpa.files import write_json
from hpa.folds import assign_folds
from hpa.vocabulary import HPA28

ROOT: Final = Path("work/bench-classify")
POOLINGS: Final[tuple[Pooling, ...]] = (
    *("max", "top-k", "log-sum-exp", "linear-softmax", "noisy-or", "auto", "attention"),
)


def _world(size: Size, penetrance: float = 1.0) -> World:
    return World(ROOT / f"{size.train}-{penetrance}", size, penetrance)


def _show(rows: Sequence[dict[str, object]], path: Path) -> None:
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    write_json(path, json.loads(table.to_json(orient="records")))


# ---- windows ----------------------------------------------------------------------------------------------------


def _systems(world: World) -> dict[str, Job]:
    """Return the systems that the windows of this version allow, trained as long as their recipe says."""
    size = world.size
    whole_px, part_px = size.image_px, size.image_px // 2
    systems = {}
    cells = (world.work("cells", size.crop_px), "cells")
    systems["cells"] = Job("cells", size.section, cells, cells)
    try:
        whole = (world.work("whole", whole_px), "whole")
        systems["whole"] = Job("whole", size.section.model_copy(update={"batch_size": 16}), whole, whole)
        five = (world.work("five", part_px), "five")
        parts = {"backbone": "densenet121", "batch_size": 16, "random_crop": "crop", "random_crop_px": part_px}
        section = size.section.model_copy(update=parts)
        systems["five"] = Job("five", section, whole, five)
    except UserError as error:
        print(f"left out: {error}")
    return systems


def seconds_per_epoch(job: Job) -> float:
    """Time some training steps and return what an epoch takes, as it was first measured."""
    record = job.scored_on[0].root / "bench" / f"{job.name}-step.json"
    if not record.is_file():
        crops = job.crops()
        timed = _Steps(job.section, crops)
        timed.run(2)
        steps = len(training_batches(crops, job.section, 0, FOLD, 0))
        write_json(record, {"seconds": timed.run(6) / 6 * steps})
    return float(json.loads(record.read_text())["seconds"])


def windows(size: Size, penetrance: float = 1.0) -> None:
    """Compare the windows at fixed budgets of training time."""
    world = _world(size, penetrance)
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
        if "whole" in pooled:
            both = score(world, systems["cells"].scored_on[0], joined([pooled["cells"], pooled["whole"]]))
            rows.append({"budget_s": budget, "system": "cells + whole", **vars(both)})
    _show(rows, world.root / "windows.json")


def atlases(size: Size) -> None:
    """Compare the windows where nearly all cells carry their image's labels, and where few do."""
    for penetrance in (1.6, 0.5):
        print(f"penetrance times {penetrance}")
        windows(replace(size, budgets_s=size.budgets_s[-2:-1]), penetrance)


# ---- objectives -------------------------------------------------------------------------------------------------


def _objective_sections(size: Size) -> dict[str, ClassifySection]:
    base = size.section.model_copy(update={"epochs": size.epochs})
    sections = {"cell": base}
    for objective in ("bag", "dual"):
        for pooling in POOLINGS:
            # As many crops a step as with inherited labels: four images of up to 16 cells.
            sections[f"{objective} {pooling}"] = base.model_copy(update={"objective": objective, "pooling": pooling})
    return sections


def objectives(size: Size) -> None:
    """Compare inherited labels, bags and both; screen on one seed, then the best three and the baseline on more."""
    world = _world(size)
    cells = (world.work("cells", size.crop_px), "cells")
    sections = _objective_sections(size)

    def row(name: str, seed: int) -> dict[str, object]:
        ran = run(Job(name.replace(" ", "-"), sections[name], cells, cells, seed))
        found = score(world, cells[0], image_probabilities(ran), ran.table)
        return {"objective": name, "seed": seed, "seconds": ran.seconds, **vars(found)}

    rows = [row(name, size.seeds[0]) for name in sections]
    _show(rows, world.root / "objectives-screening.json")
    screened = pd.DataFrame(rows).sort_values("held_cell_mean_ap", ascending=False)["objective"]
    finalists = ["cell", *[name for name in screened if name != "cell"][:3]]
    rows = [row(name, seed) for name in finalists for seed in size.seeds]
    _show(rows, world.root / "objectives.json")
    scores = ["image_macro_f1", "image_mean_ap", "cell_macro_f1", "cell_mean_ap", "seconds"]
    print(pd.DataFrame(rows).groupby("objective", sort=False)[scores].mean().round(3).to_string())


def triplets(size: Size) -> None:
    """Compare the class loss alone and with a triplet loss beside it."""
    world = _world(size)
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
    _show(rows, world.root / "triplets.json")


# ---- real images ------------------------------------------------------------------------------------------------


class _Windows:
    """Windows of green planes in memory, as a store would hand them out."""

    def __init__(self, planes: NDArray[np.uint8], kind: str) -> None:
        side = planes.shape[1]
        half = side // 2
        if kind == "whole":
            self.of_image = 1
            small = [cv2.resize(plane, (half, half), interpolation=cv2.INTER_AREA) for plane in planes]
            self._crops = np.stack(small)[:, None]
        else:  # three by three windows of half the side, half overlapping
            corners = [(r * half // 2, c * half // 2) for r in range(3) for c in range(3)]
            self.of_image = len(corners)
            cut = [plane[r : r + half, c : c + half] for plane in planes for r, c in corners]
            self._crops = np.stack(cut)[:, None]

    def __len__(self) -> int:
        return len(self._crops)

    def pixels(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.take(self._crops, rows, axis=0)

    def masks(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.ones((len(rows), *self._crops.shape[2:]), dtype=bool)


def _green(folder: Path, ids: Sequence[str], side_px: int) -> NDArray[np.uint8]:
    planes = [cv2.imread(str(folder / f"{name}_green.png"), cv2.IMREAD_GRAYSCALE) for name in ids]
    sized = [cv2.resize(np.asarray(plane), (side_px, side_px), interpolation=cv2.INTER_AREA) for plane in planes]
    return np.stack(sized).astype(np.uint8)


def _real_images() -> tuple[Path, pd.Series] | None:
    root = Path(os.environ.get("CELLWISE_REAL_DATA", Path(__file__).parents[2] / "shared" / "real"))
    folder, table = root / "single_channel512", root / "kaggle2018" / "train.csv"
    if not folder.is_dir() or not table.is_file():
        print(f"skipped: expected real images in {folder} and their labels in {table}, found none")
        return None
    labels = pd.read_csv(table, dtype=str).set_index("Id")["Target"]
    ids = sorted(path.name.removesuffix("_green.png") for path in folder.glob("*_green.png"))
    return folder, labels.loc[[name for name in ids if name in labels.index]]


def _frame_probabilities(network: Network, source: _Windows, section: ClassifySection) -> NDArray[np.float32]:
    """Return each image's maximum over its windows, shape (N, K)."""
    rows, device = np.arange(len(source)), pick_device("auto")
    logits = np.concatenate([said.logits for said in look(network.to(device), source, rows, section, device)])
    pooled: NDArray[np.float32] = sigmoid(logits).reshape(-1, source.of_image, logits.shape[1]).max(axis=1)
    return pooled


def real(size: Size) -> None:
    """Train on the atlas's protein channel alone, score real images that are never trained on."""
    found = _real_images()
    if found is None:
        return
    folder, texts = found
    world = _world(size)
    work = world.work("cells", size.crop_px)  # only for the atlas and its split
    truth = pd.read_csv(world.atlas / "truth" / "images.csv", dtype=str, keep_default_na=False)
    truth = truth[truth["split"] == "train"].reset_index(drop=True)
    targets = HPA28.multi_hot(HPA28.parse(text) for text in truth["target"])
    groups = pd.factorize(truth["antibody"])[0].astype(np.int32)
    held = assign_folds(targets, groups, 5, 0) == FOLD
    planes = _green(world.atlas / "train", list(truth["image_id"]), size.image_px)
    real_planes = _green(folder, list(texts.index), size.image_px)
    real_targets = HPA28.multi_hot(HPA28.parse(text) for text in texts)
    rows: list[dict[str, object]] = [_by_prevalence(targets[~held], real_targets)]
    details = {}
    for kind in ("whole", "grid"):
        section = size.section.model_copy(update={"epochs": size.epochs, "batch_size": 32})
        source = _Windows(planes, kind)
        images = np.repeat(np.arange(len(truth)), source.of_image)
        crops = FoldCrops(
            source,
            np.flatnonzero(~held[images]),
            np.flatnonzero(held[images]),
            targets[images],
            images,
            truth["image_id"].to_numpy(dtype=object)[images],
            np.arange(len(images)) % source.of_image,
            np.full(len(images), "atlas", dtype=object),
            groups[images].astype(np.int64),
            np.ones(len(images), dtype=np.float32),
        )
        place = work.root / "bench" / f"real-{kind}"
        started = time.monotonic()
        fitted = fit(crops, section, 0, FOLD, place, pick_device("auto"))
        seconds = time.monotonic() - started
        network = Network(section, 1, len(HPA28), fitted.statistics.mean, fitted.statistics.std)
        network.load_state_dict(fitted.state_dict)
        clear(place)
        own = _frame_probabilities(network, _Windows(planes[held], kind), section)
        thresholds = best_thresholds(targets[held], own)
        p = _frame_probabilities(network, _Windows(real_planes, kind), section)
        decided = decide(p, thresholds, "argmax", HPA28)
        auc = _auc(real_targets, p)
        details[kind] = {HPA28.classes[c]: round(value, 3) for c, value in auc.items()}
        rows.append({
            "trained on": f"atlas, {kind}", "images": len(p), "classes": len(auc),
            "mean AUC, real": _mean(auc),
            "micro F1, real": float(f1_score(real_targets, decided, average="micro")),
            "mean AUC, atlas": _mean(_auc(targets[held], own)),
            "seconds": seconds,
        })  # fmt: skip
    _show(rows, world.root / "real.json")
    for kind, of_class in details.items():
        print(f"{kind}, AUC on real images by class: {of_class}")


def _auc(targets: NDArray[np.bool_], p: NDArray[np.float32]) -> dict[int, float]:
    """Return the AUC of each class with at least 3 positives, and a negative."""
    counted = [c for c in range(targets.shape[1]) if 3 <= targets[:, c].sum() < len(targets)]
    return {c: float(roc_auc_score(targets[:, c], p[:, c])) for c in counted}


def _mean(of_class: dict[int, float]) -> float:
    return float(np.mean(list(of_class.values()))) if of_class else float("nan")


def _by_prevalence(trained: NDArray[np.bool_], targets: NDArray[np.bool_]) -> dict[str, object]:
    """Predict the most frequent training classes for every image, as many as score best on the training images."""
    order = np.argsort(-trained.mean(axis=0), kind="stable")

    def constant(n: int, m: int) -> NDArray[np.bool_]:
        predicted = np.zeros((n, trained.shape[1]), dtype=bool)
        predicted[:, order[:m]] = True
        return predicted

    own = [f1_score(trained, constant(len(trained), m), average="micro") for m in range(1, 8)]
    m = int(np.argmax(own)) + 1
    micro = float(f1_score(targets, constant(len(targets), m), average="micro"))
    return {
        "trained on": f"prevalence ({m} classes)",
        "images": len(targets),
        "mean AUC, real": 0.5,
        "micro F1, real": micro,
    }


# ---- speed ------------------------------------------------------------------------------------------------------


class _Steps:
    """Training steps as the trainer makes them, without the trainer: from the loader, or again and again one batch."""

    def __init__(self, section: ClassifySection, crops: FoldCrops, workers: int = 0, device: str = "auto") -> None:
        self._section = section
        self._crops = crops
        self._workers = workers
        self.device = pick_device(device)
        statistics = measure_statistics(
            replace(crops, training=crops.training[:512]), section.neighbours, section.normalise
        )
        frequencies = crops.targets[crops.training].mean(axis=0)
        self.network = new_network(section, 0, statistics.mean, statistics.std, frequencies).to(self.device).train()
        self._optimizer, _ = new_optimizer(self.network.parameters(), section, 100)
        self._batches = self._endless()
        self._one = next(self._batches)

    def _endless(self) -> Iterator[Batch]:
        augmentation = Augmentation(self._section, 0, FOLD)
        for epoch in cycle(range(1000)):
            batches = training_batches(self._crops, self._section, 0, FOLD, epoch)
            crops = TrainingCrops(self._crops, self._section, augmentation, epoch)
            yield from epoch_loader(crops, batches, self._workers, pin=self.device.type == "cuda")

    def run(self, steps: int, *, loader: bool = True) -> float:
        """Make some steps and return the seconds they took."""
        source = islice(self._batches, steps) if loader else [self._one] * steps
        self._wait()
        started = time.perf_counter()
        for batch in source:
            self._step(Batch(*(None if part is None else part.to(self.device, non_blocking=True) for part in batch)))  # type: ignore[arg-type]
        self._wait()
        return time.perf_counter() - started

    def _step(self, batch: Batch) -> None:
        bf16 = uses_bfloat16(self._section.precision, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            outputs = self.network(batch.pixels, batch.levels)
            loss = batch_loss(outputs, batch, self._section, self.network.alpha)
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        self._optimizer.step()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _ratio(one: Callable[[], float], other: Callable[[], float], rounds: int) -> tuple[float, float, float]:
    """Time two things in turn; return the median seconds of each and the median of their ratios."""
    pairs = np.array([(one(), other()) for _ in range(rounds)])
    return float(np.median(pairs[:, 0])), float(np.median(pairs[:, 1])), float(np.median(pairs[:, 0] / pairs[:, 1]))


def step(size: Size) -> None:
    """Compare training and prediction from the store with the same on a batch in memory."""
    world = _world(size)
    rounds, steps = (2, 2) if size is TINY else (9, 8)
    rows: list[dict[str, object]] = []
    for side in (size.crop_px, size.crop_px * 2):
        cells = (world.work("cells", side), "cells")
        crops = Job("step", size.section, cells, cells).crops()
        for workers in (0, 1, 2):
            timed = _Steps(size.section, crops, workers)
            timed.run(2)
            rows.append({"what": f"train, {workers} workers", "px": side, **_training(timed, rounds, steps)})
        rows.append({"what": "predict", "px": side, **_prediction(timed.network, crops, size.section, rounds)})
    _show(rows, world.root / "step.json")


def _training(timed: _Steps, rounds: int, steps: int) -> dict[str, object]:
    times = _ratio(lambda: timed.run(steps), lambda: timed.run(steps, loader=False), rounds)
    return _rate(*times, steps * ClassifySection().batch_size)


def _rate(real_s: float, bare_s: float, ratio: float, crops: int) -> dict[str, object]:
    return {"crops_per_s": crops / real_s, "bare_crops_per_s": crops / bare_s, "ratio": ratio}


def _prediction(network: Network, crops: FoldCrops, section: ClassifySection, rounds: int) -> dict[str, object]:
    device = next(network.parameters()).device
    rows = np.resize(crops.training, 4 * BATCH)
    pixels = torch.from_numpy(read_crops(crops.source, rows[:BATCH], section.neighbours)).to(device)
    network.eval()

    def streamed() -> float:
        started = time.perf_counter()
        for _ in look(network, crops.source, rows, section, device):
            pass
        return time.perf_counter() - started

    def bare() -> float:
        started = time.perf_counter()
        for _ in range(4):
            with (
                torch.inference_mode(),
                torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(section.precision, device)),
            ):
                network(pixels).logits.cpu()
        return time.perf_counter() - started

    streamed(), bare()
    return _rate(*_ratio(streamed, bare, rounds), len(rows))


def gpu(size: Size) -> None:
    """Time crops of 128 px in bfloat16 on a GPU."""
    if not torch.cuda.is_available():
        print("skipped: expected a GPU, found none")
        return
    world = _world(size)
    cells = (world.work("cells", 128), "cells")
    rows: list[dict[str, object]] = []
    for backbone in ("resnet18", "densenet121"):
        section = size.section.model_copy(update={"backbone": backbone, "batch_size": 256, "precision": "bf16"})
        crops = Job("gpu", section, cells, cells).crops()
        timed = _Steps(section, crops, workers=os.cpu_count() or 1, device="cuda")
        timed.run(3)
        timed.run(20, loader=False)
        real_s, bare_s = timed.run(20), timed.run(20, loader=False)
        rates = {"crops_per_s": 20 * 256 / real_s, "bare_crops_per_s": 20 * 256 / bare_s}
        rows.append({"backbone": backbone, **rates, "share_waiting": max(0.0, 1 - bare_s / real_s)})
    _show(rows, world.root / "gpu.json")


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
    """Run one part, or tell which there are."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    part = PARTS.get(words[0]) if words else None
    if part is None:
        print(__doc__)
        return
    part(TINY if "--tiny" in words else FULL)


if __name__ == "__main__":
    main()
