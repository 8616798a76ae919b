"""Progress where there is no terminal: lines, not more often than asked for."""

import pytest

from hpa.work.progress import progress


def test_a_line_for_each_step_if_no_time_has_to_pass(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("segment", 5, every_s=0) as advance:
        for steps in (2, 0, 2, 1):
            advance(steps)
    assert capsys.readouterr().err.splitlines() == ["segment: 2 of 5", "segment: 4 of 5"]


def test_nothing_within_the_first_minute(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("segment", 5) as advance:
        advance(1)
    assert capsys.readouterr().err == ""
