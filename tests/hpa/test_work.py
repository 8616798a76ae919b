import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from hpa.config import DataSection, Section
from hpa.errors import UserError
from hpa.work.files import write_parquet
from hpa.work.folder import FORMAT_KEY, WorkFolder, locked, open_work
from hpa.work.stage import begin


class _Knobs(Section):
    size_px: int = 64


def _begin(tmp_path: Path, knobs: _Knobs | None = None, *, overwrite: bool = False, seed: int = 0) -> Path:
    stage = begin(
        tmp_path / "stage",
        "python -m stage run work",
        DataSection(seed=seed),
        knobs or _Knobs(),
        {"table.csv": tmp_path / "table.csv"},
        overwrite=overwrite,
    )
    stage.finish({"images": 3})
    return stage.folder


def test_stage_records_its_inputs(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("abc")
    record = json.loads((_begin(tmp_path) / "run.json").read_text())
    assert record["state"] == "done"
    assert record["made_from"]["inputs"] == {
        "table.csv": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    }
    assert record["made_from"]["section"] == {"size_px": 64}
    assert record["counts"] == {"images": 3}
    _begin(tmp_path)  # unchanged: resumes


def test_changes_are_named_and_overwrite_starts_over(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("abc")
    folder = _begin(tmp_path)
    (folder / "shard").write_text("old")
    with pytest.raises(UserError, match=r"changed: recipe key size_px; rerun with `python -m stage run work --over"):
        _begin(tmp_path, _Knobs(size_px=32))
    with pytest.raises(UserError, match=r"changed: \[data\] seed;"):
        _begin(tmp_path, seed=1)
    (tmp_path / "table.csv").write_text("abcd")
    with pytest.raises(UserError, match=r"changed: table\.csv;"):
        _begin(tmp_path)
    assert (folder / "shard").exists()
    _begin(tmp_path, overwrite=True)
    assert not (folder / "shard").exists()


def test_missing_input_raises_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected table\.csv at .* run the stage that makes it first"):
        _begin(tmp_path)
    assert not (tmp_path / "stage").exists()


def test_folder_that_is_not_a_work_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found none"):
        open_work(tmp_path)


def test_second_run_stops(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from hpa.work.folder import locked; from hpa.errors import UserError\n"
        "try:\n    with locked(Path(sys.argv[1])): print('held')\nexcept UserError as error: print(error)"
    )

    def second() -> str:
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
        return done.stdout

    with locked(tmp_path):
        assert "expected no other run" in second()
    assert second() == "held\n"


def test_work_folder_of_another_format_is_refused_with_its_version(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("")
    pd.DataFrame({"image_id": ["a"], "masked": [[]]}).to_parquet(tmp_path / "images.parquet")
    with pytest.raises(UserError, match=r"expected a work folder of format 2 \(cellwise 0\.2\), found format 1 at .*"):
        open_work(tmp_path)
    write_parquet(tmp_path / "images.parquet", pd.DataFrame({"image_id": ["a"]}), {FORMAT_KEY: b"2"})
    assert open_work(tmp_path).root == tmp_path


def test_recipe_is_read_once_for_each_opened_work_folder(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("[data]\nseed = 3\n")
    work = WorkFolder(tmp_path)
    assert work.data.seed == 3
    (tmp_path / "recipe.toml").write_text("[data]\nseed = 4\n")
    assert work.section("data", DataSection).seed == 3
    assert WorkFolder(tmp_path).data.seed == 4
