"""The examples in docstrings, of every module that has any."""

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest

from tests.support.pages import ROOT

PACKAGES = ("hpa", "segment", "crops", "classify", "aggregate", "pipeline", "cellwise")
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if ">>> " in path.read_text()
)


def test_there_are_examples() -> None:
    assert len(MODULES) >= 10


@pytest.mark.parametrize("name", MODULES)
def test_examples_show_what_the_code_does(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with np.printoptions(precision=8):
        failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried > 0
    assert failed == 0
