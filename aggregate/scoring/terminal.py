"""Print metrics as a table in the terminal."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from aggregate.scoring.baselines import NAMES
from hpa.work.folder import WorkFolder

_NAMES = {
    "macro_f1": "macro F1",
    "macro_f1_supported": "macro F1 of classes with images",
    "micro_f1": "micro F1",
    "samples_f1": "samples F1",
    "exact_match": "exact match",
    "thresholded_accuracy": "thresholded accuracy",
    "mean_average_precision": "mean AP over all rows",
    "mean_auc": "mean AUC",
}
_COLUMNS = {
    "support": "images",
    "threshold": "threshold",
    "precision": "prec.",
    "recall": "recall",
    "f1": "F1",
    "average_precision": "AP",
    "auc": "AUC",
    "share_oof": "oof share",
    "share_test": "test share",
}


def print_metrics(work: WorkFolder) -> None:
    """Print ``metrics.json`` of a work folder, if it exists."""
    path = work.root / "aggregate" / "metrics.json"
    if path.exists():
        print_summary(json.loads(path.read_text()), "out of fold, thresholds fitted on the other folds")


def print_summary(metrics: dict[str, Any], title: str, *, rows: str = "images") -> None:
    """Print one line per class, then the metrics over all classes, then warnings; `rows` says what was scored."""
    console = Console(width=118, markup=False)  # names of files may contain brackets
    console.print(_classes(metrics["classes"], title))
    console.print(f"over {metrics['images']} {rows}" + _bootstrap_note(metrics))
    for key, name in _NAMES.items():
        if metrics.get(key) is not None:
            low_high = metrics.get("intervals", {}).get(key)
            interval = f"  ({low_high[0]:.4f} to {low_high[1]:.4f})" if low_high else ""
            console.print(f"  {name:34s} {metrics[key]:.4f}{interval}")
    if "macro_f1_in_sample" in metrics:
        console.print(
            f"  {'macro F1 in sample':34s} {metrics['macro_f1_in_sample']:.4f}  (optimism {metrics['gap']:+.4f})"
        )
    for key, scores in metrics.get("baselines", {}).items():
        console.print(f"  {NAMES[key]:34s} {scores['macro_f1']:.4f}  micro F1 {scores['micro_f1']:.4f}")
    for source, scores in metrics.get("sources", {}).items() if len(metrics.get("sources", {})) > 1 else ():
        console.print(f"  {'macro F1 of ' + source:34s} {scores['macro_f1']:.4f}  over {scores['images']} images")
    for line in _warnings(metrics):
        console.print(f"warning: {line}")


def print_cells_2021(metrics: dict[str, Any], title: str) -> None:
    """Print one line per class of Kaggle 2021, then the mean average precision."""
    console = Console(width=118, markup=False)  # names of files may contain brackets
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("class", no_wrap=True)
    for name in ("cells", "entries", "AP at IoU 0.6"):
        table.add_column(name, justify="right")
    for row in metrics["classes"]:
        table.add_row(row["class"], *(_number(row[key]) for key in ("cells", "entries", "average_precision")))
    console.print(table)
    low_high = metrics.get("interval")
    interval = f"  ({low_high[0]:.4f} to {low_high[1]:.4f}, over images)" if low_high else ""
    console.print(f"over {metrics['cells']} cells of {metrics['images']} images")
    console.print(f"  {'mean AP of the classes with cells':34s} {metrics['mean_average_precision']:.4f}{interval}")


def _classes(rows: list[dict[str, Any]], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("class", no_wrap=True)
    keys = [key for key in _COLUMNS if key in rows[0]]
    for key in keys:
        table.add_column(_COLUMNS[key], justify="right", no_wrap=True)
        if key == "f1" and "f1_interval" in rows[0]:
            table.add_column("95%", justify="right", no_wrap=True)
    for row in rows:
        cells = []
        for key in keys:
            cells.append(_number(row[key]))
            if key == "f1" and "f1_interval" in row:
                low_high = row["f1_interval"]
                cells.append(f"{low_high[0]:.2f}-{low_high[1]:.2f}" if low_high else "-")
        table.add_row(row["class"] + (" *" if row.get("at_chance") else ""), *cells)
    return table


def _number(value: float | int | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _bootstrap_note(metrics: dict[str, Any]) -> str:
    if "bootstrap" not in metrics:
        return ""
    used = metrics["bootstrap"]
    return f", 95% intervals from {used['resamples']} resamples of {used['groups']} {used['over']}"


def _warnings(metrics: dict[str, Any]) -> list[str]:
    lines = []
    differing = [row["class"] for row in metrics["classes"] if row.get("shares_differ")]
    if differing:
        lines.append(f"predicted more or less often on test than out of fold, beyond chance: {', '.join(differing)}")
    at_chance = [row["class"] for row in metrics["classes"] if row.get("at_chance")]
    if at_chance:
        lines.append(
            "not shown to rank better than chance out of fold (*), so predicted as often as labelled in training: "
            + ", ".join(at_chance)
        )
    if metrics.get("checkpoint_chosen_on_scored_rows"):
        lines.append("checkpoints were chosen on the rows scored here, so the scores are slightly optimistic")
    missing = [row["class"] for row in metrics["classes"] if not row["support"]]
    if missing:
        lines.append(f"no labelled images of: {', '.join(missing)}")
    return lines
