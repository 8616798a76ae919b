"""The command lines: help that keeps its line breaks, and the same application under both spellings."""

import tomllib
from importlib import import_module

import pytest

from cellwise.__main__ import main as cellwise
from tests.support.pages import ROOT

PACKAGES = ("hpa", "segment", "crops", "classify", "aggregate", "pipeline")


@pytest.mark.parametrize("package", [*PACKAGES, "cellwise"])
def test_help_shows_the_runbook_line_by_line(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = import_module(f"{package}.__main__")
    assert module.main(["--help"]) == 0
    shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for line in filter(None, map(str.strip, (module.__doc__ or "").splitlines())):
        assert line in shown


@pytest.mark.parametrize("package", PACKAGES)
def test_cellwise_offers_the_verbs_of_every_package(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    app = import_module(f"{package}.__main__").app
    verbs = [command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands]
    assert cellwise([package, "--help"]) == 0
    shown = capsys.readouterr().out
    assert verbs
    for verb in verbs:
        assert f"\n  {verb} " in shown
        if package == "pipeline":
            assert cellwise([verb, "--help"]) == 0
            assert f"Usage: cellwise {verb} " in capsys.readouterr().out


def test_the_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cellwise(["--version"]) == 0
    assert capsys.readouterr().out == f"cellwise {project['version']}\n"


def test_unusable_input_is_one_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cellwise(["run", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("cellwise: expected a work folder made by")
