"""The scores as a table in the terminal."""

import json

from rich.console import Console
from rich.table import Table

from hpa.work import WorkFolder


def print_metrics(work: WorkFolder) -> None:
    """Print ``metrics.json`` of a work folder: one line a class, then the macro F1 and what to be wary of."""
    path = work.root / "aggregate" / "metrics.json"
    if not path.exists():
        return
    metrics = json.loads(path.read_text())
    has_test = "share_test" in metrics["classes"][0]
    table = Table(title="out of fold, thresholds cross-fitted", title_justify="left", box=None, pad_edge=False)
    table.add_column("class")
    for heading in ("images", "threshold", "precision", "recall", "F1", "predicted oof", "predicted test"):
        table.add_column(heading, justify="right")
    for row in metrics["classes"]:
        numbers = [f"{row[key]:.3f}" for key in ("threshold", "precision", "recall", "f1", "share_oof")]
        test = f"{row['share_test']:.3f}" if has_test else "-"
        table.add_row(row["class"], str(row["support"]), *numbers, test)
    console = Console(width=110)
    console.print(table)
    console.print(
        f"macro F1 {metrics['macro_f1']:.4f} over {metrics['images']} images "
        f"({metrics['macro_f1_in_sample']:.4f} with thresholds tuned on the scored rows themselves)"
    )
    differing = [row["class"] for row in metrics["classes"] if row.get("shares_differ")]
    if differing:
        console.print(f"warning: predicted much more or less often on test than out of fold: {', '.join(differing)}")
