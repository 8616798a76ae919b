"""Compare finished runs on the same images: scores side by side, and each difference to the first with an interval."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from aggregate.cell_labels import read_cells
from aggregate.config import AggregateSection
from aggregate.labels import Labels
from aggregate.scoring.baselines import NAMES, baselines
from aggregate.scoring.comparison import METRICS, Compared, Level, Scored, compare_runs
from classify.probabilities import class_columns
from crops.config import CropsSection
from hpa.errors import UserError
from hpa.images import read_images
from hpa.pictures import check_figure, save_figure
from hpa.pixels import read_label_image
from hpa.splitting.folds import read_folds
from hpa.vocabulary import Vocabulary
from hpa.work.files import read_csv, read_parquet, write_csv
from hpa.work.folder import WorkFolder, open_work
from hpa.work.stage import check_as_written, read_stage_record
from pipeline.truth import join_matched, read_true_cells
from segment.masks import read_mask, read_masks
from segment.score import match_cells

_TITLES: Final = {"macro_f1": "macro F1", "micro_f1": "micro F1", "mean_average_precision": "mean AP"}
_NOT_PARAMETERS: Final = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Parameters
    ----------
    name
        What it is called in tables.
    work
        Its work folder.
    images
        ``aggregate/images.parquet``, by image_id, with the columns target, unknown_classes, antibody and split of the
        image table, and fold, group and scored of the folds (missing for images in no fold).
    """

    name: str
    work: WorkFolder
    images: pd.DataFrame


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Parameters
    ----------
    names
        Name of each run.
    levels
        Images out of fold, and where the truth is known, test images and cells.
    seconds
        Seconds that training and prediction of each run took, joined runs included.
    parameters
        Parameters of one model of each run, summed over its windows and the runs that it joins.
    """

    names: list[str]
    levels: list[Level]
    seconds: list[float]
    parameters: list[int]

    def table(self) -> pd.DataFrame:
        """Return one row per run, and one per baseline.

        Columns: level, run, rows, then each metric with its difference to the first run and the interval of that, then
        seconds and parameters.
        """
        rows: list[dict[str, Any]] = []
        for level in self.levels:
            head = {"level": level.title, "rows": len(level.labels)}
            for r, name in enumerate(self.names):
                own: dict[str, float | None] = {}
                for key, score in level.compared[r].items():
                    own |= {key: score.value, f"{key}_difference": score.difference}
                    own |= {f"{key}_low": score.low, f"{key}_high": score.high}
                rows.append({**head, "run": name, **own, "seconds": self.seconds[r], "parameters": self.parameters[r]})
            for key, scores in baselines(level.labels).items():
                rows.append({**head, "run": NAMES[key], **{metric: scores[metric] for metric in METRICS}})
        return pd.DataFrame(rows).astype({"parameters": "Int64"})


def compare(roots: Sequence[Path], *, truth: Path | None = None, resamples: int = 1000) -> Comparison:
    """Compare finished work folders on the images that all of them scored out of fold.

    Parameters
    ----------
    roots
        The work folders; the others are compared with the first.
    truth
        The folder ``truth`` of the synthetic atlas that they were made from, to score test images and single cells too.
    resamples
        Of the bootstrap.

    Raises
    ------
    UserError
        If a folder is not finished, or the runs have different classes or labels, or no image in common.
    """
    places = [root.resolve() for root in roots]
    if repeated := [root for place, root in zip(places, roots, strict=True) if places.count(place) > 1]:
        raise UserError(f"expected different work folders to compare, found {repeated[0]} twice")
    known = _read_truth(truth) if truth else None
    names = [root.resolve().name for root in roots]
    names = [str(root) if names.count(name) > 1 else name for root, name in zip(roots, names, strict=True)]
    runs = [_read(name, root) for name, root in zip(names, roots, strict=True)]
    vocabulary = runs[0].work.data.classes
    for run in runs[1:]:
        if run.work.data.classes != vocabulary:
            found = run.work.data.classes.name
            raise UserError(f"expected runs with the classes of {vocabulary.name}, found {found} in {run.work.root}")
    scored = _common(runs, vocabulary)
    seed = runs[0].work.data.seed
    levels = [_level("images, out of fold", *_of_images(runs, scored, vocabulary), resamples, seed)]
    if truth and known is not None:
        test = _test_images(runs, known, vocabulary)
        if len(test):
            levels.append(_level("test images", *_of_images(runs, test, vocabulary), resamples, seed))
        cells = _of_cells(runs, truth, pd.concat([scored, test]), vocabulary) if _all_predict_cells(runs) else None
        for title, rows in {"cells, out of fold": scored, "cells of test images": test}.items():
            if cells is not None and cells.table["image_id"].isin(rows.index).any():
                levels.append(_level(title, *cells.of(rows, vocabulary), resamples, seed))
    seconds, parameters = zip(*(_costs(run.work) for run in runs), strict=True)
    return Comparison(names, levels, list(seconds), list(parameters))


def _level(title: str, labels: Labels, scored: list[Scored], resamples: int, seed: int) -> Level:
    return Level(title, labels, compare_runs(labels, scored, resamples, seed))


def _read(name: str, root: Path) -> Run:
    work = open_work(root)
    path = root / "aggregate" / "images.parquet"
    table = read_parquet(path, f"python -m pipeline run {root}")
    if "predicted" not in table:
        raise UserError(
            f"expected a column predicted in {path}, found none; `python -m aggregate run {root} --overwrite`"
        )
    check_as_written(path)
    images = read_images(work.images)[["image_id", "split", "target", "unknown_classes", "antibody"]]
    folds = read_folds(work.folds)
    images = images.merge(table, on="image_id", how="inner").merge(folds, on="image_id", how="left")
    return Run(name, work, images.set_index("image_id"))


def _common(runs: Sequence[Run], vocabulary: Vocabulary) -> pd.DataFrame:
    """Return the images that all runs scored out of fold, as the first has them, and say if some have more."""
    scored = [run.images.index[run.images["scored"].eq(True)] for run in runs]
    ids = scored[0]
    for other in scored[1:]:
        ids = ids[ids.isin(other)]
    if not len(ids):
        raise UserError("expected runs that score the same images, found no image that all of them scored out of fold")
    numbers = ", ".join(f"{run.name} {len(own)}" for run, own in zip(runs, scored, strict=True))
    if any(len(own) > len(ids) for own in scored):
        print(f"compare: the {len(ids)} images that all runs scored ({numbers})")
    first = runs[0].images.loc[ids]
    for run in runs[1:]:
        own = run.images.loc[ids]
        differing = ids[[_labels(a) != _labels(b) for a, b in zip(_pairs(first), _pairs(own), strict=True)]]
        if len(differing):
            raise UserError(
                f"expected the labels of {runs[0].work.root} in {run.work.root}, found others for {len(differing)}"
                f" images, such as {differing[0]}"
            )
        if not first["fold"].equals(own["fold"]):
            print(f"compare: {run.name} has other folds than {runs[0].name}; what they learned from differs too")
    return first


def _pairs(images: pd.DataFrame) -> Iterator[tuple[Any, Any]]:
    return zip(images["target"], images["unknown_classes"], strict=True)


def _labels(pair: tuple[Any, Any]) -> tuple[list[int], list[int]]:
    return sorted(pair[0]), sorted(pair[1])


def _read_truth(truth: Path) -> pd.DataFrame:
    """Return the true labels of the images of the synthetic atlas, by image_id."""
    return read_csv(truth / "images.csv", ("image_id", "target")).set_index("image_id")


def _test_images(runs: Sequence[Run], known: pd.DataFrame, vocabulary: Vocabulary) -> pd.DataFrame:
    """Return the test images that all runs scored, with their true labels, each group an antibody or an image."""
    table = runs[0].images[runs[0].images["split"] == "test"]
    for run in runs[1:]:
        table = table[table.index.isin(run.images.index)]
    table = table[table.index.isin(known.index)]
    names = table["antibody"].where(table["antibody"].notna(), pd.Series(table.index, index=table.index))
    targets = known.loc[table.index, "target"]
    return table.assign(
        target=pd.Series([vocabulary.parse(text) for text in targets], index=table.index, dtype=object),
        unknown_classes=pd.Series([()] * len(table), index=table.index, dtype=object),
        group=-1 - pd.factorize(names)[0],  # apart from the groups of train images
        fold=0,
    )


def _of_images(runs: Sequence[Run], images: pd.DataFrame, vocabulary: Vocabulary) -> tuple[Labels, list[Scored]]:
    targets, unknown = (vocabulary.multi_hot(images[column]) for column in ("target", "unknown_classes"))
    labels = Labels(targets, ~unknown, images["group"].to_numpy(np.int64), images["fold"].to_numpy(np.int64))
    return labels, [_scored(run.images.loc[images.index], vocabulary) for run in runs]


def _scored(table: pd.DataFrame, vocabulary: Vocabulary) -> Scored:
    predictions = vocabulary.multi_hot(vocabulary.parse(text) for text in table["predicted"])
    return Scored(predictions, table[class_columns(vocabulary)].to_numpy(np.float32))


@dataclass(frozen=True)
class _Cells:
    """True cells that every run found and predicted: a table of them, and the predictions of each run, row by row."""

    table: pd.DataFrame
    runs: list[pd.DataFrame]

    def of(self, images: pd.DataFrame, vocabulary: Vocabulary) -> tuple[Labels, list[Scored]]:
        """Return the labels of the cells of some images, and their scores by each run."""
        own = self.table["image_id"].isin(images.index).to_numpy()
        rows = self.table[own]
        targets = vocabulary.multi_hot(vocabulary.parse(text) for text in rows["target"])
        groups = images.loc[rows["image_id"], "group"].to_numpy(np.int64)
        return Labels.all_known(targets, groups), [_scored(table[own], vocabulary) for table in self.runs]


def _all_predict_cells(runs: Sequence[Run]) -> bool:
    return all("cells" in run.work.section("crops", CropsSection).windows for run in runs)


def _of_cells(runs: Sequence[Run], truth: Path, images: pd.DataFrame, vocabulary: Vocabulary) -> _Cells:
    true = read_true_cells(truth)
    true = true[true["image_id"].isin(images.index)]
    table, tables = true, []
    known: dict[tuple[str, int], NDArray[np.int64]] = {}
    for run in runs:
        matched = _matched(run.work, truth, list(images.index), known)
        cells = read_cells(run.work).rename(columns={"cell_label": "predicted_label"})
        own = join_matched(true, matched).merge(cells, on=["image_id", "predicted_label"])
        tables.append(own.set_index(["image_id", "cell_label"]))
        table = table[pd.MultiIndex.from_frame(table[["image_id", "cell_label"]]).isin(tables[-1].index)]
    print(f"compare: {len(table)} of {len(true)} true cells, those that every run found (IoU 0.5)")
    keys = pd.MultiIndex.from_frame(table[["image_id", "cell_label"]])
    return _Cells(table, [own.loc[keys] for own in tables])


def _matched(
    work: WorkFolder, truth: Path, image_ids: Sequence[str], known: dict[tuple[str, int], NDArray[np.int64]]
) -> dict[str, NDArray[np.int64]]:
    """Match segmented with true cells; equal masks of several runs, which `known` collects, are matched once."""
    masks = read_masks(work).set_index("image_id")["crc32"]
    matched = {}
    for image_id in (image_id for image_id in image_ids if image_id in masks.index):
        key = image_id, int(masks[image_id])
        if key not in known:
            reference = read_label_image(truth / "cells" / f"{image_id}.png")
            known[key] = match_cells(read_mask(work, image_id), reference)
        matched[image_id] = known[key]
    return matched


def _costs(work: WorkFolder) -> tuple[float, int]:
    """Return the costs of a run and of those that it joins; runs that those join are not used."""
    joined = [root for root, _ in work.section("aggregate", AggregateSection).joined(work.root)]
    others = [open_work(root) for root in dict.fromkeys(joined) if root != work.root.resolve()]
    seconds, parameters = zip(*(_own_costs(run) for run in [work, *others]), strict=True)
    return sum(seconds), sum(parameters)


def _own_costs(work: WorkFolder) -> tuple[float, int]:
    """Return seconds of training and prediction, and parameters of one model per window."""
    from classify.network.checkpoint import Checkpoint

    section = work.section("crops", CropsSection)
    seconds, parameters = 0.0, 0
    folder = work.root / "classify"
    for record in sorted(folder.glob("*/fold-*/run.json")) + sorted(folder.glob("*/predict/run.json")):
        seconds += read_stage_record(record.parent).seconds
    for window in section.train_windows:
        for path in sorted((folder / window).glob("fold-*/checkpoint.pt"))[:1]:
            weights = Checkpoint.load(path).state_dict
            parameters += sum(w.numel() for name, w in weights.items() if not name.endswith(_NOT_PARAMETERS))
    return seconds, parameters


def report(comparison: Comparison, *, markdown: bool, csv: Path | None, figure: Path | None) -> None:
    """Print a comparison, and write it as a CSV and as a figure where files are named."""
    if markdown:
        print(format_markdown(comparison))
    else:
        print_comparison(comparison)
    if csv:
        write_csv(csv, comparison.table())
    if figure:
        draw(comparison, figure)


def print_comparison(comparison: Comparison) -> None:
    """Print a table per level in the terminal."""
    console = Console(width=118, markup=False)  # names of folders may contain brackets
    for number, level in enumerate(comparison.levels):
        table = Table(title=_title(level), title_justify="left", box=None, pad_edge=False)
        table.add_column("run", overflow="fold")
        for name in _head(number):
            table.add_column(name, justify="right", no_wrap=True)
        for row in _rows(comparison, number, "\n"):
            table.add_row(*row)
        console.print(table)
    console.print(_NOTE.format(first=comparison.names[0]))


def format_markdown(comparison: Comparison) -> str:
    """Return a table per level in Markdown."""
    parts = []
    for number, level in enumerate(comparison.levels):
        head = ["run", *_head(number)]
        lines = [head, ["---"] + ["---:"] * (len(head) - 1), *_rows(comparison, number, " ")]
        text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        parts.append(f"{_title(level)}\n\n{text}")
    return "\n\n".join([*parts, _NOTE.format(first=comparison.names[0])]) + "\n"


_NOTE: Final = (
    "Differences to {first}, with 95% intervals of a paired bootstrap over groups of images; seconds of training and"
    " prediction; parameters of one fold's models."
)


def _title(level: Level) -> str:
    return f"{level.title}: {len(level.labels)} in {len(np.unique(level.labels.groups))} groups"


def _head(number: int) -> list[str]:
    return [_TITLES[metric] for metric in METRICS] + ([] if number else ["seconds", "parameters"])


def _rows(comparison: Comparison, number: int, between: str) -> Iterator[list[str]]:
    level = comparison.levels[number]
    for r, name in enumerate(comparison.names):
        cells = [_cell(level.compared[r][metric], between, first=r == 0) for metric in METRICS]
        costs = [] if number else [f"{comparison.seconds[r]:.0f}", f"{comparison.parameters[r]:,}"]
        yield [name, *cells, *costs]
    for key, scores in baselines(level.labels).items():
        yield [NAMES[key], *(f"{scores[metric]:.3f}" for metric in METRICS), *([] if number else ["", ""])]


def _cell(score: Compared, between: str, *, first: bool) -> str:
    if first:
        return f"{score.value:.3f}"
    interval = "" if score.low is None else f" ({score.low:+.3f} to {score.high:+.3f})"
    return f"{score.value:.3f}{between}{score.difference:+.3f}{interval}"


def draw(comparison: Comparison, path: Path) -> None:
    """Draw scores with the baselines, and differences with their intervals; the suffix of `path` is the format.

    Raises
    ------
    UserError
        If the suffix is none of .png, .pdf and .svg.
    """
    from aggregate.scoring.figures import draw_comparison

    check_figure(path)
    save_figure(draw_comparison(comparison.names, comparison.levels, _TITLES), path)
