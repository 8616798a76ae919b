"""Count the files a reader must open to follow one step: ``uv run python -m bench.reading [--tiny] [--list]``.

Four paths are run on a small synthetic atlas, and the project files and functions that each one enters are counted:

one image       through the segmenter in memory: read it, run the network, decode the masks
training step   of the classifier: load the batch, forward pass, loss, backward pass, optimizer step
classify train  of one fold, from the crop store to the checkpoint
aggregate run   from the probabilities to thresholds, scores and the submission

Every path runs once before it is measured, so that imports and work done once per process do not count. Functions
include nested functions, lambdas and comprehensions; generated ones (such as the ``__init__`` of a dataclass) do not
count. ``--list`` prints the files of each path, ``--tiny`` makes the atlas smaller.
"""

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import aggregate.run
import classify.run
import classify.training.loop
from bench.measure import split_words
from hpa.atlas import synthesize
from hpa.images import read_images
from hpa.work.device import one_thread
from hpa.work.folder import WorkFolder, open_work
from pipeline.init import init
from pipeline.recipe import read_recipe
from pipeline.stages import run_stages
from segment.config import SegmentSection
from segment.inference.diameter import typical_diameter_px
from segment.inference.predict import cached_network, run_network
from segment.inference.preprocess import channels_to_read, load_input
from segment.network.compact import NUCLEUS_PLANE
from segment.postprocess.decode import decode
from tests.support.pages import ROOT

PACKAGES: Final = ("hpa", "segment", "crops", "classify", "aggregate", "pipeline")
SETTINGS: Final = ("data.folds=2", "crops.size_px=32", "classify.epochs=1", "classify.batch_size=8")
"""Small, and with enough batches per epoch to measure a step in the middle of one."""

_STEP: Final = 2
"""The training step to measure, counted from 1; the first one sets up the optimizer."""


class Trace:
    """Record the functions that run while recording is switched on, in this thread and in threads started then."""

    def __init__(self) -> None:
        self._entered: dict[int, CodeType] = {}

    def start(self) -> None:
        """Switch recording on."""
        threading.setprofile(self._enter)
        sys.setprofile(self._enter)

    def stop(self) -> None:
        """Switch recording off."""
        sys.setprofile(None)
        threading.setprofile(None)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what runs within the context."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    def _enter(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            self._entered[id(frame.f_code)] = frame.f_code

    def functions(self) -> dict[str, set[tuple[int, str]]]:
        """Return the functions (first line, name) entered in each project file, by its path in the repository."""
        found: dict[str, set[tuple[int, str]]] = {}
        for code in self._entered.values():
            path = Path(code.co_filename)
            if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in PACKAGES:
                functions = found.setdefault(str(path.relative_to(ROOT)), set())
                functions.add((code.co_firstlineno, code.co_qualname))
        return found


def trace_second_run(path: Callable[[], object]) -> Trace:
    """Run a path once unobserved, then again with recording on."""
    path()
    trace = Trace()
    with trace.recording():
        path()
    return trace


def segment_one_image(work: WorkFolder) -> Trace:
    """Trace one image through the segmenter, without writing its masks."""
    section = work.section("segment", SegmentSection)
    channels = channels_to_read(section, work.data)
    row = read_images(work.images).iloc[0].to_dict()
    diameter_px = typical_diameter_px(int(row["height_px"]), int(row["width_px"]))
    net = cached_network(section.network, "cpu")

    def path() -> None:
        image = load_input(row, channels, diameter_px)
        output = run_network(net, [image])[0]
        decode(output, image.planes[NUCLEUS_PLANE], section, image.shape)

    with one_thread("cpu"):
        return trace_second_run(path)


def train_one_step(work: WorkFolder) -> Trace:
    """Trace the classifier from the forward pass of one training step to that of the next.

    This covers the forward pass, the loss, the backward pass, the optimizer step and the loading of one batch. The
    step is in the middle of an epoch, and the first step has already run the same functions.

    Raises
    ------
    RuntimeError
        If the epoch has no step after the measured one.
    """
    trace = Trace()
    loop = classify.training.loop
    [module] = [value for value in vars(loop).values() if hasattr(value, "training_step") and _defined_in(value, loop)]
    training_step = module.training_step
    calls = 0

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        trace.stop()
        if calls == _STEP:
            trace.start()
        return training_step(*arguments)

    module.training_step = counted
    try:
        train_one_fold(work)
    finally:
        trace.stop()
        module.training_step = training_step
    if calls <= _STEP:
        raise RuntimeError(f"expected more than {_STEP} training steps, found {calls}")
    return trace


def _defined_in(value: object, module: object) -> bool:
    return getattr(value, "__module__", None) == getattr(module, "__name__", "")


def train_one_fold(work: WorkFolder) -> None:
    """Train the classifier of the first fold."""
    classify.run.train(work, device="cpu", workers=0, overwrite=True, folds=[0])


def measure(work: WorkFolder) -> dict[str, Trace]:
    """Trace every path; the stages of the work folder must be done."""
    return {
        "one image": segment_one_image(work),
        "training step": train_one_step(work),
        "classify train": trace_second_run(lambda: train_one_fold(work)),
        "aggregate run": trace_second_run(lambda: aggregate.run.run(work, overwrite=True)),
    }


def make_work(folder: Path, images: int, size_px: int) -> WorkFolder:
    """Draw a synthetic atlas and run all stages on it."""
    synthesize(folder / "atlas", images, images // 4, 0, size_px=size_px)
    init(folder / "work", [folder / "atlas"], read_recipe(None, SETTINGS))
    work = open_work(folder / "work")
    run_stages(work, device="cpu", workers=1)
    return work


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the number of files and functions of each path."""
    words, tiny = split_words(arguments)
    if unknown := set(words) - {"--list"}:
        raise SystemExit(f"expected --tiny or --list, found {min(unknown)}")
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        traces = measure(make_work(Path(folder), *((8, 128) if tiny else (24, 256))))
    print(f"{'path':16}{'files':>6}{'functions':>11}")
    for name, trace in traces.items():
        functions = trace.functions()
        print(f"{name:16}{len(functions):6}{sum(map(len, functions.values())):11}")
        if "--list" in words:
            for path in sorted(functions):
                print(f"  {len(functions[path]):4}  {path}")


if __name__ == "__main__":
    main()
