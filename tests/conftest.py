"""One thread per test process, no limit of time per example, tests shared out, those that need real images counted."""

import os
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from tests.support.real_images import real_data as find_real_data

# Set before torch is imported. OpenMP threads that share a processor spend ten times as long waiting as working.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says how busy the machine is.
settings.register_profile("any time", deadline=None)
settings.load_profile("any time")

# Minutes long, and their tests share nothing that is slow to make: each goes to the next free process.
SPREAD = frozenset({"tests/test_benches.py", "tests/test_recipes.py"})


class FilesAndSpreadTests(LoadFileScheduling):  # type: ignore[misc]
    """The tests of a file go to one process, which makes what they share once; those of some files are spread."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return nodeid if file in SPREAD else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> FilesAndSpreadTests | None:
    """Share out the tests unless `--dist` asks for something else."""
    return FilesAndSpreadTests(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip each test marked `real_data` if one of the paths that the marker names is missing."""
    for item in items:
        for marker in item.iter_markers("real_data"):
            missing = [path for path in marker.args if not (find_real_data() / path).exists()]
            if missing:
                reason = f"needs real images, found no {find_real_data() / missing[0]} (set CELLWISE_REAL_DATA)"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def real_data(request: pytest.FixtureRequest) -> Path:
    """Return the folder of real images, to tests that are marked as needing it."""
    if request.node.get_closest_marker("real_data") is None:
        pytest.fail("expected the marker real_data(path, ...) on a test that reads real images")
    return find_real_data()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how many tests needed real images, and whether they ran."""
    # Reports, not items, because with several processes only the workers collect.
    counts = {
        outcome: sum("real_data" in report.keywords for report in terminalreporter.getreports(outcome))
        for outcome in ("passed", "failed", "skipped")
    }
    ran, skipped = counts["passed"] + counts["failed"], counts["skipped"]
    if skipped:
        terminalreporter.write_line(
            f"tests that need real images: {skipped} skipped, {ran} ran (CELLWISE_REAL_DATA names their folder)"
        )
    elif ran:
        terminalreporter.write_line(f"tests that need real images: {ran} ran")
