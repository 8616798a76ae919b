"""The summary on top of the page: what was done, how good it is, and what to look at, in sentences."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.report.evidence import Evidence, Missing
from pipeline.report.scores import Bar, Scores, Shares


@dataclass(frozen=True)
class Tile:
    """One number of the summary."""

    value: str
    unit: str
    note: str = ""


@dataclass(frozen=True)
class Summary:
    """The part of the page.

    Parameters
    ----------
    tiles
        The most important numbers.
    sentences
        What was done and how good it is.
    attention
        What to look at.
    """

    tiles: tuple[Tile, ...]
    sentences: tuple[str, ...]
    attention: tuple[str, ...]


def summarise(evidence: Evidence, parts: Mapping[str, Any]) -> Summary:
    """Summarise the parts of the page."""
    images, train = evidence.images, evidence.train
    n_test = int((images["split"] == "test").sum())
    outlines, scores, overview, data = parts["outlines"], parts["scores"], parts["overview"], parts["data"]
    tiles = [Tile(f"{len(images):,}", "images", f"{len(train):,} with labels, {n_test:,} to predict")]
    sentences = [f"This run looks for {len(evidence.vocabulary)} classes in {len(images):,} images."]
    if not isinstance(outlines, Missing):
        mean = outlines.n_cells / max(outlines.n_images, 1)
        tiles.append(Tile(f"{outlines.n_cells:,}", "cells", f"{mean:.1f} per image"))
        sentences[0] = (
            f"This run found {outlines.n_cells:,} cells in {outlines.n_images:,} images and looks for"
            f" {len(evidence.vocabulary)} classes in them."
        )
    if isinstance(scores, Scores):
        tiles += _score_tiles(scores)
        sentences += _score_sentences(scores)
    elif not len(train):
        sentences.append("No image has a known label, so the predictions cannot be scored here.")
        if isinstance(parts["shares"], Shares):
            often = [f"{name} ({share:.0%})" for name, _, share, _ in parts["shares"].rows[:3] if share]
            sentences += [f"Predicted for the most images: {_and(often)}."] if often else []
    else:
        sentences.append("Its predictions have not been scored yet.")
    attention = [
        *([f"{_images(overview.n_failures)} failed; “What was run” says why."] if overview.n_failures else []),
        *_unfinished(overview.unfinished),
        *_flagged(outlines),
        *data.warnings,
        *data.intensities.warnings,
        *(scores.warnings if isinstance(scores, Scores) else ()),
    ]
    return Summary(tuple(tiles), tuple(sentences), tuple(attention))


def _score_tiles(scores: Scores) -> list[Tile]:
    macro = scores.metrics[0]
    interval = f"95% interval {macro.interval[0]:.2f} to {macro.interval[1]:.2f}" if macro.interval else ""
    base = _best_baseline(scores)
    return [
        Tile(f"{macro.value:.2f}", "macro F1, out of fold", interval),
        Tile(f"{base.value:.2f}", "macro F1 without looking", base.name),
    ]


def _best_baseline(scores: Scores) -> Bar:
    return max((bar for bar in scores.bars if bar.kind == "base"), key=lambda bar: bar.value)


def _score_sentences(scores: Scores) -> list[str]:
    macro = scores.metrics[0].value
    base = _best_baseline(scores)
    if macro > base.value:
        beside = f"{macro / base.value:.1f} times the {base.value:.2f} of" if base.value else "against 0 of"
    else:
        beside = f"no better than the {base.value:.2f} of"
    sentences = [
        f"On {scores.n_images:,} labelled images, each judged by a model that had not seen it, it reaches a macro F1 of"
        f" {macro:.2f}, {beside} {base.name}."
    ]
    best = [f"{row['class']} ({row['f1']:.2f})" for row in scores.best() if row["f1"] > 0]
    if best:
        worst = [row for row in scores.worst() if row["f1"] < scores.best()[-1]["f1"]]
        text = f"It is best at {_and(best)}"
        if worst:
            text += ", and worst at " + _and([f"{row['class']} ({row['f1']:.2f})" for row in worst])
        sentences.append(text + ".")
    if scores.confused:
        first = scores.confused[0]
        sentences.append(
            f"Its most frequent confusion: {first.instead} where {first.missed} was missed,"
            f" {first.share:.0%} of the images with {first.missed}."
        )
    return sentences


def _unfinished(stages: Any) -> list[str]:
    names = list(dict.fromkeys(stage.name.split(",")[0] for stage in stages))
    if not names:
        return []
    return [f"Not done yet: {_and(names)}. The parts of this page that need them say which command runs them."]


def _flagged(outlines: Any) -> list[str]:
    if isinstance(outlines, Missing):
        return []
    return [
        f"{count} of {outlines.n_images} images {'has' if count == 1 else 'have'} the flag “{flag}”: {why}."
        for flag, why, count in outlines.flags
    ]


def _images(n: int) -> str:
    return "1 image" if n == 1 else f"{n:,} images"


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
