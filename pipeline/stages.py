"""Run all stages in sequence."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from aggregate.config import AggregateSection
from aggregate.pooling.sources import open_joined
from crops.config import CropsSection
from hpa.work.folder import WorkFolder


@dataclass(frozen=True)
class StagesRun:
    """The outcome of `run_stages`.

    Parameters
    ----------
    code
        The highest exit code of the stages.
    seconds
        Seconds of each stage.
    """

    code: int
    seconds: dict[str, float]


def run_stages(
    work: WorkFolder,
    *,
    model: WorkFolder | None = None,
    device: str = "auto",
    workers: int = 0,
    dask: str = "",
    threads: int | None = None,
    overwrite: bool = False,
    ends_with: Literal["predict", "aggregate"] = "aggregate",
) -> StagesRun:
    """Run segment, crops, classify (train and predict) and aggregate, resuming what is unfinished.

    A stage with more failures than allowed does not stop the others. Images are segmented only if the recipe cuts
    windows around cells. With a trained model, windows that are only trained on are not cut.

    Parameters
    ----------
    work
        The work folder, locked by the caller.
    model
        A trained work folder; if given, nothing is trained or tuned.
    device
        Where the networks run: "auto", "cpu", "cuda", ...
    workers
        Processes of stages that map over images; 0 lets each stage choose.
    dask
        Address of a Dask scheduler whose workers process the images instead.
    threads
        Threads of the networks on the CPU; None chooses (`hpa.work.device.Computation.here`).
    overwrite
        Discard existing results and start over.
    ends_with
        The last stage to run; a run joined by another one needs no ``aggregate``.

    Raises
    ------
    UserError
        If a stage cannot run.
    """
    import aggregate.run
    import classify.prediction
    import classify.run
    import crops.run

    section = work.section("crops", CropsSection)
    windows = section.windows if model else section.stores
    stages: dict[str, Callable[[], int]] = {
        "crops": lambda: crops.run.run(work, windows, workers=workers, dask=dask, overwrite=overwrite),
        "train": lambda: classify.run.train(work, device=device, threads=threads, overwrite=overwrite),
        "predict": lambda: classify.prediction.predict(
            work, device=device, threads=threads, overwrite=overwrite, model=model
        ),
        "aggregate": lambda: aggregate.run.run(work, model=model, overwrite=overwrite),
    }
    if model:
        del stages["train"]
    if ends_with == "predict":
        del stages["aggregate"]
    else:
        for root, _ in work.section("aggregate", AggregateSection).joined(work.root):
            open_joined(work, root)  # hours before the stage that needs it
    if "cells" in windows:
        import segment.run

        segmenting = partial(segment.run.run, work, device=device, workers=workers, dask=dask, overwrite=overwrite)
        stages = {"segment": segmenting} | stages
    else:
        print("segment: skipped, since no window of the recipe follows cells")
    code, seconds = 0, {}
    for name, stage in stages.items():
        started = time.monotonic()
        code = max(code, stage())
        seconds[name] = round(time.monotonic() - started, 1)
        print(f"{name}: {seconds[name]:.1f} s")
    return StagesRun(code, seconds)
