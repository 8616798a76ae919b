"""The Dockerfile cannot be built where the tests run; what it names must exist, and its installation must work."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.pages import ROOT

TEXT = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_and_file_is_copied() -> None:
    copied = [word for line in re.findall(r"^COPY (.+) \S+$", TEXT, re.MULTILINE) for word in line.split()]
    packages = PROJECT["tool"]["uv"]["build-backend"]["module-name"]
    assert set(copied) == {*packages, "pyproject.toml", "uv.lock", *PROJECT["project"]["license-files"], "README.md"}
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == set(copied)


def test_its_extras_are_declared() -> None:
    assert set(re.findall(r"--extra (\w+)", TEXT)) <= set(PROJECT["project"]["optional-dependencies"])


@pytest.mark.slow
def test_the_lock_file_gives_constraints_that_the_installation_can_satisfy(tmp_path: Path) -> None:
    """The commands of the Dockerfile without the choice of torch's variant, which is another index."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("needs uv")
    run = re.search(r"uv export .*?constraints\.txt", TEXT.replace("\\\n", " "), re.DOTALL)
    assert run is not None
    words = run[0].replace("constraints.txt", str(tmp_path / "constraints.txt")).split()
    subprocess.run([uv, *words[1:]], check=True, cwd=ROOT)
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")], check=True)
    install = f"pip install --dry-run --python {tmp_path / 'venv'} --constraints {tmp_path / 'constraints.txt'}"
    what = "--requirements pyproject.toml --extra dask --extra timm"
    done = subprocess.run([uv, *install.split(), *what.split()], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # A package may have a version for each range of Python versions.
    locked = set(re.findall(r"^([\w.-]+)==([\w.+-]+)", (tmp_path / "constraints.txt").read_text(), re.MULTILINE))
    chosen = set(re.findall(r"^ \+ ([\w.-]+)==(\S+)", done.stderr, re.MULTILINE))
    assert len(chosen) > 50
    assert chosen <= locked
