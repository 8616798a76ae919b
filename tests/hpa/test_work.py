import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from hpa.config import DataSection, Section
from hpa.errors import UserError
from hpa.work.files import write_parquet
from hpa.work.folder import FORMAT_KEY, WorkFolder, check_not_written, locked, open_work
from hpa.work.stage import StageRun, begin, is_being_replaced
from tests.support.pages import ROOT


class _Knobs(Section):
    size_px: int = 64


def _start(
    tmp_path: Path,
    knobs: _Knobs | None = None,
    *,
    overwrite: bool = False,
    seed: int = 0,
    check: Callable[[], None] | None = None,
) -> StageRun:
    return begin(
        tmp_path / "stage",
        "python -m stage run work",
        DataSection(seed=seed),
        knobs or _Knobs(),
        {"table.csv": tmp_path / "table.csv"},
        overwrite=overwrite,
        beside=True,
        check=check,
    )


def _begin(tmp_path: Path, knobs: _Knobs | None = None, *, overwrite: bool = False, seed: int = 0) -> Path:
    stage = _start(tmp_path, knobs, overwrite=overwrite, seed=seed)
    stage.finish({"images": 3}, [])
    return stage.final


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


RECORDS = [b"", b"{", b"[]", b"null", b"\xff\x00\x80", b'{"state": "done"}', b"[" * 100_000, b'{"state": NaN}']


@pytest.mark.parametrize("content", RECORDS, ids=lambda content: repr(content[:20]))
def test_a_damaged_record_is_named_with_its_remedy(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("abc")
    folder = _begin(tmp_path)
    (folder / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=r"run\.json as it was written, found it damaged .*; rerun `.* --overwrite`"):
        _begin(tmp_path)
    _begin(tmp_path, overwrite=True)
    assert json.loads((folder / "run.json").read_text())["state"] == "done"


@pytest.mark.parametrize("key", ["state", "made_from", "counts", "versions", "seconds", "outputs"])
@pytest.mark.parametrize("value", [None, 7, "x", [], -1e300])
def test_a_record_with_a_damaged_field_is_refused(key: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("abc")
    folder = _begin(tmp_path)
    record = json.loads((folder / "run.json").read_text())
    record[key] = value
    (folder / "run.json").write_text(json.dumps(record))
    if key == "seconds" and isinstance(value, int | float):
        _begin(tmp_path)  # a number like any other
        return
    with pytest.raises(UserError, match=rf"found it damaged \({key}"):
        _begin(tmp_path)


def test_a_run_that_came_to_nothing_does_not_fix_the_inputs(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("abc")

    def check() -> None:
        raise UserError("expected another backbone, found this one")

    with pytest.raises(UserError, match="another backbone"):
        _start(tmp_path, check=check)
    assert not (tmp_path / "stage").exists(), "the check comes before the record"
    _start(tmp_path)  # begins, and is killed before it writes anything
    assert not _start(tmp_path, _Knobs(size_px=32)).finished
    (tmp_path / "stage" / "part").touch()
    with pytest.raises(UserError, match="recipe key size_px"):
        _start(tmp_path)


def test_an_overwriting_run_keeps_the_old_results_until_it_has_finished(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("abc")
    folder = _begin(tmp_path)
    (folder / "model").write_text("old")
    new = _start(tmp_path, _Knobs(size_px=32), overwrite=True)
    (new.folder / "model").write_text("half")
    assert (folder / "model").read_text() == "old"
    assert is_being_replaced(folder)
    # Killed here, the same recipe resumes the new run, and the old recipe finds its results as they were.
    assert (_start(tmp_path, _Knobs(size_px=32)).folder / "model").read_text() == "half"
    again = _start(tmp_path, _Knobs(size_px=32))
    (again.folder / "model").write_text("new")
    again.finish({}, [])
    assert (folder / "model").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(UserError, match="recipe key size_px"):
        _start(tmp_path)


def test_the_old_recipe_discards_unfinished_new_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "table.csv").write_text("abc")
    folder = _begin(tmp_path)
    (folder / "model").write_text("old")
    (_start(tmp_path, _Knobs(size_px=32), overwrite=True).folder / "model").write_text("half")
    assert _start(tmp_path).finished
    assert (folder / "model").read_text() == "old"
    assert not is_being_replaced(folder)
    assert "found others" in capsys.readouterr().out


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_replacement_that_was_killed_is_completed(
    renames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "table.csv").write_text("abc")
    folder = _begin(tmp_path)
    (folder / "model").write_text("old")
    new = _start(tmp_path, overwrite=True)
    (new.folder / "model").write_text("new")
    rename, done = Path.rename, list[Path]()

    def killed(self: Path, target: Path) -> Path:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(target)
        return rename(self, target)

    def killed_remove(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        patch.setattr("shutil.rmtree", killed_remove)
        with pytest.raises(KeyboardInterrupt):
            new.finish({}, [])
    assert _start(tmp_path).finished
    assert (folder / "model").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stage", "table.csv"]


def test_a_changed_output_is_noticed_by_the_stage_that_reads_it(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("abc")
    stage = _start(tmp_path)
    for name in ("stage/made.csv", "beside.csv"):
        (tmp_path / name).write_text("1234")
    stage.finish({}, [tmp_path / "stage" / "made.csv", tmp_path / "beside.csv"])

    def next_stage(path: Path) -> StageRun:
        return begin(tmp_path / "next", "next", DataSection(), _Knobs(), {"made": path}, overwrite=True)

    for path in (tmp_path / "stage" / "made.csv", tmp_path / "beside.csv"):
        next_stage(path)
        path.write_text("1235")
        with pytest.raises(UserError, match="as its stage wrote it, found it changed since; run that stage again"):
            next_stage(path)


def test_temporary_files_beside_a_stage_are_swept(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("abc")
    folder = _begin(tmp_path)
    for name in (".probabilities.7.partial.parquet", "stage/sub/.x.8.partial.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".keep.partial").mkdir()
    _begin(tmp_path)
    assert not list(tmp_path.rglob("*.partial.*"))
    assert folder.exists()


_HOLD = """
import sys, time
from pathlib import Path
from hpa.errors import UserError
from hpa.work.folder import locked
try:
    with locked(Path(sys.argv[1]), parts=sys.argv[3:]):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
except UserError as error:
    print(error)
"""


def _hold(folder: Path, seconds: float, *parts: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _HOLD, str(folder), str(seconds), *parts]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_second_run_stops_and_names_the_first(tmp_path: Path) -> None:
    with locked(tmp_path):
        with locked(tmp_path / "." / ""):  # the same process may
            pass
        refused = _hold(tmp_path, 0).communicate()[0]
        assert f"found one (process {os.getpid()} on {socket.gethostname()})" in refused
    assert _hold(tmp_path, 0).communicate()[0] == "held\n"
    assert not (tmp_path / "lock.holder").exists()


def test_runs_on_other_parts_go_on_side_by_side(tmp_path: Path) -> None:
    with locked(tmp_path, parts=["fold-0"]):
        assert _hold(tmp_path, 0, "fold-1").communicate()[0] == "held\n"
        for parts in (["fold-1", "fold-0"], []):
            refused = _hold(tmp_path, 0, *parts).communicate()[0]
            assert f"found one (process {os.getpid()} on " in refused, parts
    assert _hold(tmp_path, 0).communicate()[0] == "held\n"
    with locked(tmp_path):
        refused = _hold(tmp_path, 0, "fold-0").communicate()[0]
        assert f"found one (process {os.getpid()} on " in refused


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    holder = _hold(tmp_path, 600)
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {holder.pid} on "), locked(tmp_path):
        pass
    with pytest.raises(UserError, match="expected no other run"):
        check_not_written(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with locked(tmp_path):
        check_not_written(tmp_path)


def test_a_forked_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    script = (
        "import os, sys, time\nfrom pathlib import Path\nfrom hpa.work.folder import locked\n"
        "with locked(Path(sys.argv[1])):\n    if os.fork() == 0:\n        time.sleep(600)\n"
        "    print('left', flush=True)\n    os._exit(0)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"left\n"
        parent.wait()
        try:
            with locked(tmp_path, wait_s=60):  # until the child has come to give it up
                pass
        finally:
            os.killpg(parent.pid, signal.SIGKILL)


def test_something_else_in_the_place_of_the_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / "a" / "lock").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "lock").symlink_to(tmp_path / "nowhere")
    for name in ("a", "b"):
        with pytest.raises(UserError, match=r"expected a file to lock at .*; remove it"), locked(tmp_path / name):
            pass


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
