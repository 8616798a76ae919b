"""Measure what the shipped backbone is worth on what it has not seen: ``python -m bench.backbone [PART ...] [--tiny]``.

Pretraining and the atlas draw from one generator, so the gain on the atlas flatters. Parts:

patterns-1, patterns-2, patterns-3
           backbones pretrained on 20 of the 28 patterns, with a tenth of the crops; linear probes and fine-tuning on
           the other 8, three choices of these, by the number of labelled cells: against the same training from
           nothing, and texture features
widths     ResNet18 of widths 32 to 64, each pretrained on 48,000 crops, and of width 32 on 190,000: macro F1 of new
           heads on the atlas of `bench.classify`, and crops a second in a prediction
style      cells drawn in a style outside all that was drawn in pretraining: heads on frozen features against training
           from nothing, by the number of training images; and the same in the style of the atlas
real       real images of the protein (CELLWISE_REAL_DATA, ../shared/real): mean AUC over the classes that at least
           three of them have, of the shipped heads, and of linear probes that leave one image out

Everything is kept below work/bench-backbone.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.measure import split_words
from bench.pretraining.cells import (
    Cells,
    by_image,
    drawn_cells,
    mean_ap,
    network_of,
    of_images,
    outputs,
    probe,
    train_network,
)
from bench.pretraining.real import real
from bench.pretraining.texture import texture_features
from bench.pretraining.widths import widths
from classify.config import ClassifySection, shipped_weights
from classify.network.pretrained import Pretrained
from classify.network.start import read_start
from classify.training.backbone import BackboneTraining, train_backbone
from crops.synthesize import draw_crops
from hpa.channels import CHANNELS
from hpa.vocabulary import HPA28

ROOT: Final = Path("work/bench-backbone")
BACKBONE: Final = "resnet18_half"
SEED: Final = 4_000_000_000
"""First seed of the cells drawn here; training of a shipped backbone uses small ones."""

GREEN: Final = CHANNELS.index("green")
HELD_OUT: Final = 8
_TENTH: Final = 335_000
"""A tenth of the crops that the shipped backbone saw."""


def shipped() -> Pretrained:
    """Return the shipped weights."""
    return Pretrained.load(shipped_weights(BACKBONE))


def choices() -> list[list[int]]:
    """Return three choices of 8 patterns that are held out, no pattern twice."""
    order = np.random.default_rng(2018).permutation(len(HPA28))
    return [sorted(order[k * HELD_OUT : (k + 1) * HELD_OUT].tolist()) for k in range(3)]


def patterns(tiny: bool, number: int) -> None:
    """Compare linear probes and trainings on patterns that a backbone has not seen, by the number of labelled cells."""
    seen, sizes, seconds = (256, (128, 256), 1.0) if tiny else (_TENTH, (250, 500, 1_000, 2_000), 240.0)
    every, held = set(range(len(HPA28))), choices()[number - 1]
    plain = ClassifySection(backbone=BACKBONE, precision="auto")
    train, test = (drawn_cells(ROOT, sizes[-1], SEED + 10 * number + k, "varied", patterns=held) for k in (0, 1))
    unseen = test.targets[:, held]
    without = _pretrained(f"without-{number}", sorted(every - set(held)), seen)
    features: dict[str, list[NDArray[np.float32]]] = {}
    for name, path in (("20 patterns", without), ("28 patterns", _pretrained("all", sorted(every), seen))):
        network, its = network_of(Pretrained.load(path))
        features[name] = [outputs(network, its, part.source)[0] for part in (train, test)]
    features["texture"] = [texture_features(part.source.crops, GREEN) for part in (train, test)]
    # One phase: the time of its first epoch says how many there are, as it does from nothing.
    tuned = plain.model_copy(update={"pretrained": str(without), "phases": ()})
    start = read_start(tuned, CHANNELS, [HPA28.classes[label] for label in held])
    print("held out:", ", ".join(HPA28.classes[label] for label in held), flush=True)
    rows: list[dict[str, object]] = []
    for size in sizes:
        part = train.first_images(int(train.images[size - 1]) + 1)
        truth = part.targets[:, held]
        row: dict[str, object] = {"labelled cells": len(truth)}
        for name, (of_train, of_test) in features.items():
            row[name] = mean_ap(unseen, probe(of_train[: len(truth)], truth, part.fields, of_test))
        for name, section, its_start in (("from nothing", plain, None), ("20 patterns, fine-tuned", tuned, start)):
            folder = ROOT / f"{name.replace(', ', '-').replace(' ', '-')}-{number}-{size}"
            network, taken = train_network(part, truth, section, seconds, folder, its_start)
            row[name] = mean_ap(unseen, outputs(network, section, test.source)[1])
            row[f"seconds {name}"] = taken
        rows.append(row | {"chance": float(unseen.mean(axis=0).mean())})
        _show(f"patterns-{number}", rows)


def _pretrained(name: str, classes: list[int], seen: int, backbone: str = BACKBONE) -> Path:
    """Train a backbone on some patterns unless that is done, and return the file of its weights."""
    settings = BackboneTraining(seen // 2, seen, backbone)
    folder = ROOT / f"{name}-{seen}"
    train_backbone(folder, settings, partial(draw_crops, patterns=classes), threads=1, workers=1, held_out=512)
    return folder / f"{backbone}.safetensors"


def _widths(tiny: bool) -> None:
    """Compare backbones of several widths and equally many crops, and the narrowest with four times as many."""
    backbones = (BACKBONE, "resnet18_w40", "resnet18_w48", "resnet18")[: 2 if tiny else None]
    seen, more = (256, 256) if tiny else (48_000, 190_000)
    every = list(range(len(HPA28)))
    pretrained = [_pretrained(f"width-{name}", every, seen, name) for name in backbones]
    rows: list[dict[str, object]] = []
    for row in widths(tiny, [*pretrained, _pretrained("all", every, more)]):
        rows.append(row)
        _show("widths", rows)


def style(tiny: bool) -> None:
    """Compare heads on frozen features with training from nothing, in the style of the atlas and in another."""
    sizes, per_image, seconds = ((16, 24), 12, 1.0) if tiny else ((100, 300, 1_000, 3_000), 14, 300.0)
    section = ClassifySection(backbone=BACKBONE, precision="auto")
    network, its = network_of(shipped())
    rows: list[dict[str, object]] = []
    for number, name in enumerate(("atlas", "other")):
        train = drawn_cells(ROOT, sizes[-1] * per_image, SEED + 100 + 2 * number, name)
        test = drawn_cells(ROOT, (16 if tiny else 300) * per_image, SEED + 101 + 2 * number, name)
        truth = of_images(test.inherited, test.images)
        features, unseen = outputs(network, its, train.source)[0], outputs(network, its, test.source)[0]
        for size in sizes:
            part = train.first_images(size)
            scores = probe(features[: len(part.images)], part.inherited, part.fields, unseen)
            rows.append(_row(name, size, "frozen", scores, test, truth))
            _show("style", rows)
            fresh, taken = train_network(part, part.inherited, section, seconds, ROOT / f"nothing-{name}-{size}")
            scores = outputs(fresh, section, test.source)[1].astype(np.float64)
            rows.append(_row(name, size, "from nothing", scores, test, truth) | {"seconds": taken})
            _show("style", rows)


def _row(
    style: str, size: int, system: str, scores: NDArray[np.float64], test: Cells, truth: NDArray[np.bool_]
) -> dict[str, object]:
    return {
        "style": style,
        "training images": size,
        "system": system,
        "mean AP, images": mean_ap(truth, by_image(scores, test.images)),
        "mean AP, cells": mean_ap(test.targets, scores),
    }


def _show(part: str, rows: list[dict[str, object]]) -> None:
    ROOT.mkdir(parents=True, exist_ok=True)
    (ROOT / f"{part}.json").write_text(json.dumps(rows, indent=1))
    shown = {key: f"{value:.3f}" if isinstance(value, float) else value for key, value in rows[-1].items()}
    print(", ".join(f"{key} {value}" for key, value in shown.items()), flush=True)


def _real(tiny: bool) -> None:
    network, section = network_of(shipped())
    real(network, section, tiny, ROOT, SEED + 200)


PARTS: Final[dict[str, Callable[[bool], None]]] = {
    **{f"patterns-{number}": partial(patterns, number=number) for number in (1, 2, 3)},
    "widths": _widths,
    "style": style,
    "real": _real,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run some parts, or all."""
    words, tiny = split_words(arguments)
    if unknown := set(words) - set(PARTS):
        raise SystemExit(f"expected some of {', '.join(PARTS)}, found {min(unknown)}")
    for part in words or PARTS:
        PARTS[part](tiny)


if __name__ == "__main__":
    main()
