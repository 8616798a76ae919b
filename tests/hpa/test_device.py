"""Devices by name."""

import pytest

from hpa.errors import UserError
from hpa.work.device import resolve_device


def test_the_cpu_is_always_there() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cpu", "cuda")


@pytest.mark.parametrize("name", ["quantum", "cuda:99"])
def test_a_missing_device_is_an_error(name: str) -> None:
    with pytest.raises(UserError, match="expected a device that this machine has"):
        resolve_device(name)
