"""Run the benches and the commands of docs/results.md and docs/architecture.md in small."""

import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.support.pages import ROOT, commands, run_command, shrink, small_atlas

BENCH_ARGUMENTS: dict[str, list[str]] = {
    "bench.aggregate": ["--tiny"],
    "bench.backbone": ["--tiny"],
    "bench.classify": ["triplets", "--tiny"],
    "bench.crops": ["--tiny"],
    "bench.data": ["--tiny"],
    "bench.kept": ["--tiny"],
    "bench.kills": ["--tiny"],
    "bench.reading": ["--tiny"],
    "bench.realism": [],
    "bench.recipes": ["--tiny"],
    "bench.segment": ["--tiny", "accuracy", "brightness", "nuclei", "real", "sizes", "speed", "memory", "gpu"],
    "bench.thresholds": ["1"],
}


def _results_commands() -> list[list[str]]:
    return [*commands(ROOT / "docs" / "results.md"), *commands(ROOT / "docs" / "architecture.md")]


@pytest.mark.slow
@pytest.mark.parametrize("bench", sorted(BENCH_ARGUMENTS))
def test_the_benches_of_the_results_page_run(bench: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run each bench with the same small arguments, whichever of its parts the page names."""
    assert bench in {command[0] for command in _results_commands()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CELLWISE_REAL_DATA", str(tmp_path / "none"))  # benchmarks then report the missing data and end
    if bench == "bench.kills":  # it forks itself, which must not be a process of pytest's
        subprocess.run([sys.executable, "-m", bench, *BENCH_ARGUMENTS[bench]], cwd=ROOT, check=True)
    else:
        import_module(bench).main(BENCH_ARGUMENTS[bench])
    if bench == "bench.recipes":
        import_module(bench).main(["--seconds", *BENCH_ARGUMENTS[bench]])


@pytest.mark.slow
def test_the_commands_of_the_results_page_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data, new = small_atlas(tmp_path)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    (tmp_path / "docs").mkdir()
    shown = _results_commands()
    assert {command[0] for command in shown if command[0].startswith("bench.")} == set(BENCH_ARGUMENTS)
    for command in shown:
        if command[0] in BENCH_ARGUMENTS:
            continue
        small = shrink(command, data, new)
        assert run_command(small) == 0, f"python -m {' '.join(small)}"
    assert {path.name for path in (tmp_path / "docs").iterdir()} == {"atlas.png", "patterns.png", "pipeline.png"}
