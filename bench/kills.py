"""Kill runs and start them again: ``uv run python -m bench.kills [--tiny] [--kills N] [--seed N] [--out FOLDER]``.

Every stage (segment, crops, train, predict, aggregate) runs on a small synthetic atlas, with and without worker
processes. It is killed by SIGKILL, SIGTERM or SIGINT (Ctrl+C, which all of its processes get), at a random time or at
the moment when a temporary file is open, and started again. Counted is how many end with the same data files as an
uninterrupted run, and how many leave a process or a temporary file behind.

The stages run in processes forked from this one, which has imported all that they need, so that a kill takes seconds;
chunks have 4 images instead of 32, and 8 crops instead of thousands, so that there is something to resume. With
``--out``, the work folders and the outcome of every kill are kept there, and an interrupted bench goes on.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Final, Literal

import numpy as np

from hpa.work.files import write_json
from tests.support.processes import data_files, session

STAGES: Final = ("segment", "crops", "train", "predict", "aggregate")
SIGNALS: Final = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SETTINGS: Final = (
    "data.folds=2",
    "crops.size_px=32",
    "classify.backbone=cnn3",
    "classify.epochs=2",
    "classify.batch_size=8",
    "aggregate.bootstrap=10",
)
_PATIENCE_S: Final = 180.0  # workers that are still importing torch notice the end only after that


@dataclass(frozen=True)
class Kill:
    """One kill: which run, how, and when."""

    number: int
    stage: str
    workers: int
    signal: str
    moment: Literal["random time", "open file"]


@dataclass(frozen=True)
class Outcome:
    """What a kill led to, after the run was started again."""

    kill: Kill
    code: int  # of the killed run
    open_files: int  # temporary files that the kill left
    same: bool  # the data files, as an uninterrupted run writes them
    processes: int  # left by the killed run, after some patience
    seconds: float  # until its last process had ended
    temporary: list[str]  # left in the end
    errors: str  # what the killed run said, if it was interrupted by Ctrl+C


def planned(kills: int, seed: int) -> list[Kill]:
    """Return the kills of a bench: all stages, with and without workers, by all signals, at both kinds of moments."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(kills):
        place = number // len(STAGES)
        found.append(
            Kill(
                number,
                STAGES[number % len(STAGES)],
                1 + int(draw.integers(2)),
                SIGNALS[place // 2 % len(SIGNALS)].name,
                ("random time", "open file")[place % 2],
            )
        )
    return found


def prepare(out: Path, train: int, test: int) -> dict[str, float]:
    """Make the atlas, a work folder before and after every stage, and return the seconds of every stage."""
    record = out / "seconds.json"
    if record.exists():
        seconds: dict[str, float] = json.loads(record.read_text())
        return seconds
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    work, atlas = out / "work", out / "atlas"
    size = ["--images", str(train), "--test", str(test), "--size-px", "128", "--workers", "1"]
    _done(_start(out, "hpa.__main__", ["synthesize", str(atlas), *size]))
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    _done(_start(out, "pipeline.__main__", ["init", str(work), "--data", str(atlas), *settings]))
    seconds = {}
    for stage in STAGES:
        shutil.copytree(work, out / f"before-{stage}", symlinks=True)
        started = time.monotonic()
        _done(_start_stage(out, work, stage, 1))
        seconds[stage] = time.monotonic() - started
        shutil.copytree(work, out / f"after-{stage}", symlinks=True)
    write_json(record, seconds)
    return seconds


def kill_and_restart(out: Path, kill: Kill, seconds: float, seed: int) -> Outcome:
    """Kill a run, start it again until it is done, and compare."""
    work = out / "work"
    number = signal.Signals[kill.signal]
    draw = np.random.default_rng([seed, kill.number])
    share = float(draw.uniform())
    code = 0
    while code == 0:
        shutil.rmtree(work)
        shutil.copytree(out / f"before-{kill.stage}", work, symlinks=True)
        leader = _start_stage(out, work, kill.stage, kill.workers)
        files = len(list((out / f"after-{kill.stage}").rglob("*"))) - len(list(work.rglob("*")))
        if kill.moment == "random time":
            time.sleep(share * seconds * (1 if kill.workers == 1 else 2))
        else:
            _wait_for_open_file(work, 1 + int(share * files), leader)
        if number is signal.SIGINT:
            os.killpg(leader, number)  # as a terminal does
        else:
            os.kill(leader, number)
        opened = sum(".partial" in name for name in _temporary(work))
        code = os.waitstatus_to_exitcode(os.waitpid(leader, 0)[1])
        share /= 2  # if it had ended already, an earlier moment is tried
    said = (out / "log.txt").read_text(errors="replace")
    ended = time.monotonic()
    while (left := len(session(leader))) and time.monotonic() < ended + _PATIENCE_S:
        time.sleep(0.05)
    seconds_left = round(time.monotonic() - ended, 2)
    _done(_start_stage(out, work, kill.stage, kill.workers))
    same = data_files(work) == data_files(out / f"after-{kill.stage}")
    errors = said if "Traceback" in said else ""
    return Outcome(kill, code, opened, same, left, seconds_left, _temporary(work), errors)


def _temporary(work: Path) -> list[str]:
    marks = (".partial", ".unfinished", ".new", ".old", "lock.holder")
    return sorted(str(path.relative_to(work)) for path in work.rglob("*") if any(m in path.name for m in marks))


def _wait_for_open_file(work: Path, nth: int, leader: int) -> None:
    """Return when a stage opens its `nth` temporary file, or has ended."""
    seen: set[str] = set()
    while len(seen) < nth:
        found = [name for name in _temporary(work) if ".partial" in name]
        seen |= set(found)
        if not found and not Path(f"/proc/{leader}/cwd").exists():  # a process that has ended has no folder
            return


def _start_stage(out: Path, work: Path, stage: str, workers: int) -> int:
    processes = ["--workers", str(workers)]
    module, arguments = {
        "segment": ("segment.__main__", ["run", str(work), "--device", "cpu", *processes]),
        "crops": ("crops.__main__", ["run", str(work), *processes]),
        "train": ("classify.__main__", ["train", str(work), "--device", "cpu", "--workers", str(workers - 1)]),
        "predict": ("classify.__main__", ["predict", str(work), "--device", "cpu"]),
        "aggregate": ("aggregate.__main__", ["run", str(work)]),
    }[stage]
    return _start(out, module, arguments)


def _start(out: Path, module: str, arguments: Sequence[str]) -> int:
    """Run a command in a process of its own, the leader of a new session, and return its number."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        while os.getsid(process) != process:
            time.sleep(0.0005)
        return process
    code = 70
    try:
        log = os.open(out / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        _make_chunks_small()
        code = import_module(module).main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _done(process: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code:
        raise RuntimeError(f"a run that nobody killed ended with {code}; see log.txt")


def _import_all() -> None:
    """Import what the stages need, once for all forked processes."""
    for name in ("hpa.atlas", "segment.run", "crops.run", "classify.run", "classify.training.fit", "aggregate.run"):
        import_module(name)


def _make_chunks_small() -> None:
    import torch

    import classify.inference.predict
    import hpa.work.mapping

    torch.set_num_threads(1)
    hpa.work.mapping.cut_chunks.__defaults__ = (4,)
    setattr(classify.inference.predict, "CHUNK", 8)  # noqa: B010


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    if out:
        yield out.resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "kills"


def summarise(outcomes: Sequence[Outcome]) -> str:
    """Return a table: kills by stage, signal, workers and moment, and what they led to."""
    lines = [f"{'':24s} kills  same files  left processes  left temporary files  tracebacks"]
    kinds: dict[str, Callable[[Outcome], str]] = {
        "stage": lambda outcome: outcome.kill.stage,
        "signal": lambda outcome: outcome.kill.signal,
        "workers": lambda outcome: f"{outcome.kill.workers} process" + "es" * (outcome.kill.workers > 1),
        "moment": lambda outcome: outcome.kill.moment,
        "all": lambda _: "all",
    }
    for kind in kinds.values():
        for name in Counter(map(kind, outcomes)):
            some = [outcome for outcome in outcomes if kind(outcome) == name]
            same, left = sum(o.same for o in some), sum(o.processes > 0 for o in some)
            files, errors = sum(bool(o.temporary) for o in some), sum(bool(o.errors) for o in some)
            lines.append(f"{name:24s} {len(some):5d} {same:11d} {left:15d} {files:21d} {errors:11d}")
    opened = sum(outcome.open_files > 0 for outcome in outcomes)
    lines.append(f"{opened} kills left temporary files, which the next run removed")
    waits = sorted(outcome.seconds for outcome in outcomes)
    lines.append(f"the last process ended within {waits[len(waits) // 2]} s (median), {waits[-1]} s (all) of the kill")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Kill, start again, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="five kills, only to show that everything runs")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder to keep, for a bench that goes on where it was interrupted")
    options = parser.parse_args(arguments)
    _import_all()
    with _folder(options.out) as out:
        seconds = prepare(out, 14, 2)
        outcomes = []
        for kill in planned(len(STAGES) if options.tiny else options.kills, options.seed):
            path = out / f"kill-{options.seed}-{kill.number:03d}.json"
            if path.exists():
                content = json.loads(path.read_text())
                outcomes.append(Outcome(**content | {"kill": Kill(**content["kill"])}))
                continue
            outcome = kill_and_restart(out, kill, seconds[kill.stage], options.seed)
            write_json(path, asdict(outcome))
            outcomes.append(outcome)
            bad = "" if outcome.same and not (outcome.processes or outcome.temporary or outcome.errors) else "  <--"
            print(f"{kill}: {outcome.code}, {outcome.open_files} open{bad}", flush=True)
        print(summarise(outcomes))


if __name__ == "__main__":
    main()
