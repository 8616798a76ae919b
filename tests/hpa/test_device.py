"""Devices by name, and how a run computes that continues another."""

from dataclasses import replace

import pytest
import torch

from hpa.errors import UserError
from hpa.work.device import (
    Computation,
    computing_threads,
    default_threads,
    has_bf16_instructions,
    resolve_device,
    warn_if_busy,
)
from hpa.work.processes import available_processors

BEGAN = Computation("cpu", "AVX512", threads=4, bfloat16=False)


def test_the_cpu_is_always_there() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cpu", "cuda")


@pytest.mark.parametrize("name", ["quantum", "cuda:99"])
def test_a_missing_device_is_an_error(name: str) -> None:
    with pytest.raises(UserError, match="expected a device that this machine has"):
        resolve_device(name)


def test_threads_are_those_asked_for_or_at_most_the_available_processors() -> None:
    assert Computation.here("cpu", 7, bfloat16=False).threads == 7
    with computing_threads(1000):
        assert default_threads() == available_processors()
    with computing_threads(1):
        assert Computation.here("cpu", None, bfloat16=True) == Computation(
            "cpu", torch.backends.cpu.get_cpu_capability(), threads=1, bfloat16=True
        )


def test_threads_are_restored() -> None:
    before = torch.get_num_threads()
    with computing_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_the_same_computation_continues_silently(capsys: pytest.CaptureFixture[str]) -> None:
    assert BEGAN.resume(BEGAN, "train") == BEGAN
    assert capsys.readouterr().out == ""


def test_a_run_keeps_its_threads_and_precision(capsys: pytest.CaptureFixture[str]) -> None:
    assert BEGAN.resume(replace(BEGAN, threads=2, bfloat16=True), "train") == BEGAN
    assert "continues with 4 threads, with which it began, instead of 2" in capsys.readouterr().out


def test_another_processor_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    here = Computation("cpu", "AVX2", threads=8, bfloat16=False)
    assert BEGAN.resume(here, "train") == replace(here, threads=4)
    assert "began on cpu (AVX512) and continues on cpu (AVX2)" in capsys.readouterr().out


def test_bfloat16_is_not_continued_without_its_instructions() -> None:
    here = Computation("cpu", "AVX2", threads=4, bfloat16=False)
    with pytest.raises(UserError, match=r"expected a processor with bfloat16 .* found AVX2 .*`train --overwrite`"):
        replace(BEGAN, bfloat16=True).resume(here, "train")


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="a torch that does not say")
def test_instructions_for_bfloat16_are_those_that_torch_finds() -> None:
    found = torch.cpu.get_capabilities()
    assert has_bf16_instructions() == bool(found.get("amx_bf16") or found.get("avx512_bf16"))


def test_a_busy_machine_is_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    warn_if_busy.cache_clear()
    for _ in range(2):
        warn_if_busy(1, 1000)
    assert capsys.readouterr().err.count("(see --threads") == 1
    warn_if_busy(10**6, 1)
    assert capsys.readouterr().err == ""
