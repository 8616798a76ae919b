"""The stages in sequence, for a person who does not want to type them one by one."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from crops.config import CropsSection
from hpa.work.folder import WorkFolder


@dataclass(frozen=True)
class Ran:
    """What `run_stages` says of its run.

    Parameters
    ----------
    code
        The highest exit code of the stages.
    seconds
        Of each stage.
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
    overwrite: bool = False,
    ends_with: Literal["predict", "aggregate"] = "aggregate",
) -> Ran:
    """Run segment, crops, classify (train and predict) and aggregate, resuming what is unfinished.

    A stage that had more failures than allowed does not stop the others. Cells are segmented only where a window that
    is cut follows them; a trained run cuts no windows that are only trained on.

    Parameters
    ----------
    work
        The work folder, held by the caller.
    model
        A trained work folder; then nothing is trained or tuned.
    device
        Where the networks run: "auto", "cpu", "cuda", ...
    workers
        Processes where work is mapped over images; 0 lets each stage choose.
    dask
        Address of a Dask scheduler to whose workers the work over images goes.
    overwrite
        Begin every stage anew.
    ends_with
        The last stage; a run that another one joins needs no ``aggregate``.

    Raises
    ------
    UserError
        If a stage cannot run.
    """
    import aggregate.run
    import classify.run
    import crops.run

    section = work.section("crops", CropsSection)
    windows = section.windows if model else section.stores
    stages: dict[str, Callable[[], int]] = {
        "crops": lambda: crops.run.run(work, windows, workers=workers, dask=dask, overwrite=overwrite),
        "train": lambda: classify.run.train(work, device=device, overwrite=overwrite),
        "predict": lambda: classify.run.predict(work, device=device, overwrite=overwrite, model=model),
        "aggregate": lambda: aggregate.run.run(work, model=model, overwrite=overwrite),
    }
    if model:
        del stages["train"]
    if ends_with == "predict":
        del stages["aggregate"]
    if "cells" in windows:
        import segment.run

        segmenting = partial(segment.run.run, work, device=device, workers=workers, dask=dask, overwrite=overwrite)
        stages = {"segment": segmenting} | stages
    else:
        print("segment: left out, no window that is cut follows cells")
    code, seconds = 0, {}
    for name, stage in stages.items():
        started = time.monotonic()
        code = max(code, stage())
        seconds[name] = round(time.monotonic() - started, 1)
        print(f"{name}: {seconds[name]:.1f} s")
    return Ran(code, seconds)
