"""What a recipe's precision means on a device."""

import pytest
import torch

from classify.inference.evaluate import uses_bfloat16


@pytest.mark.parametrize(("precision", "expected"), [("32", False), ("bf16", True)])
def test_what_is_said_is_done(precision: str, expected: bool) -> None:
    assert uses_bfloat16(precision, torch.device("cpu")) is expected  # type: ignore[arg-type]


def test_auto_asks_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"amx_bf16": has})
        assert uses_bfloat16("auto", torch.device("cpu")) is has
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert not uses_bfloat16("auto", torch.device("cpu"))
