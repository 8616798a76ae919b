"""The command `find-lr`: the losses of a new network over rising learning rates, as a table and a picture."""

from dataclasses import dataclass
from math import isfinite
from typing import Final

import pandas as pd
import torch

from classify.config import ClassifySection
from classify.models import run_folds, stage_folder, stage_inputs
from classify.preparation import (
    check_network,
    computation_of,
    computing,
    loading_workers,
    prepare_fold,
    start_file,
)
from crops.config import CropsSection
from hpa.errors import UserError
from hpa.pictures import FigureFormat
from hpa.work.device import resolve_device
from hpa.work.files import write_csv
from hpa.work.folder import WorkFolder

FOLDER: Final = "find-lr"


@dataclass(frozen=True)
class RateRange:
    """Learning rates to try.

    Parameters
    ----------
    lowest, highest
        Rates of the first and the last step.
    steps
        Number of steps.
    """

    lowest: float
    highest: float
    steps: int


def find_lr(
    work: WorkFolder,
    rates: RateRange,
    *,
    device: str = "auto",
    threads: int | None = None,
    fold: int = 0,
    phase: int = 0,
    figure_format: FigureFormat = "png",
) -> int:
    """Write and draw the losses of an untrained network over rising learning rates, for each window trained on.

    Parameters
    ----------
    work
        The work folder; the crops stage must be done.
    rates
        Learning rates to try.
    device, threads
        As for `classify.run.train`.
    fold
        The fold whose model would be trained.
    phase
        Number of the phase, from 1; 0 for the last.
    figure_format
        Format of the pictures.

    Returns
    -------
    int
        The exit code 0.

    Raises
    ------
    UserError
        If there are no crops, no such fold, phase or device, or the rates do not rise from above 0.
    """
    from classify.training.find_lr import draw_search, search_rates
    from classify.training.fit import check_enough
    from classify.training.fold_training import FoldTraining

    section, chosen = work.section("classify", ClassifySection), torch.device(resolve_device(device))
    if not (isfinite(rates.highest) and 0 < rates.lowest < rates.highest):
        raise UserError(f"expected rates that rise from above 0, found {rates.lowest:g} to {rates.highest:g}")
    phases, folds = section.training_phases, run_folds(work)
    if fold not in folds:
        raise UserError(f"expected folds among {', '.join(map(str, folds))}, found {fold}")
    if phase > len(phases):
        raise UserError(f"expected a phase from 1 to {len(phases)}, found {phase}")
    computation = computation_of(section, chosen, threads)
    for window in work.section("crops", CropsSection).train_windows:
        stage_inputs(work, window)
        folder = stage_folder(work, window) / FOLDER
        with computing(computation, section) as resolved:
            ready = prepare_fold(work, window, resolved, fold, chosen)
            check_enough(ready.crops, fold)
            check_network(resolved, work.data, ready.size_px, start_file(work, window, resolved, fold))
            training = FoldTraining(
                *(ready.crops, ready.section, ready.seed, fold, folder, chosen),
                *(loading_workers(None, chosen), ready.start),
            )
            number = phase - 1 if phase else len(phases) - 1
            search = search_rates(
                *(training.with_levels(ready.statistics), ready.statistics, number),
                steps=rates.steps,
                lowest=rates.lowest,
                highest=rates.highest,
            )
        table = {"learning_rate": search.rates, "loss": search.losses, "smoothed_loss": search.smoothed}
        write_csv(folder / f"fold-{fold}.csv", pd.DataFrame(table))
        present = phases[number].learning_rate
        picture = folder / f"fold-{fold}.{figure_format}"
        draw_search(picture, search, present)
        print(
            f"{window}, fold {fold}: the loss falls fastest at a learning rate of {search.steepest:.2g} and is lowest"
            f" at {search.lowest:.2g}; the recipe has {present:g}; see {picture}"
        )
    return 0
