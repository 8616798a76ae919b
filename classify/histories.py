"""The tables ``history.csv`` of trained folds, read without torch: columns in `classify.training.history.History`."""

from pathlib import Path
from typing import Final

import pandas as pd

from hpa.work.folder import WorkFolder

HISTORY: Final = "history.csv"


def trained_folders(work: WorkFolder) -> list[Path]:
    """Return the folders ``classify/<window>`` that have a history."""
    return sorted({path.parent.parent for path in (work.root / "classify").glob(f"*/fold-*/{HISTORY}")})


def read_histories(folder: Path) -> dict[int, pd.DataFrame]:
    """Read ``history.csv`` of every trained fold in ``classify/<window>``, by fold."""
    paths = {int(path.parent.name.removeprefix("fold-")): path for path in folder.glob(f"fold-*/{HISTORY}")}
    return {fold: pd.read_csv(paths[fold]) for fold in sorted(paths)}


def summarise_history(history: pd.DataFrame) -> str:
    """Summarise the last epoch and the last validation of a fold's ``history.csv`` in one line."""
    last = history.iloc[-1]
    summary = f"epoch {int(last['epoch'])}, train loss {last['train_loss']:.4f}"
    validated = history.dropna(subset=["validation_loss"])
    if len(validated):
        scores = validated.iloc[-1]
        summary += (
            f"; at epoch {int(scores['epoch'])} validation loss {scores['validation_loss']:.4f},"
            f" macro F1 at 0.5 {scores['validation_macro_f1']:.3f},"
            f" mean AP over the fold's classes {scores['validation_mean_ap']:.3f}"
        )
    return summary
