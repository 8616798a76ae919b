import gzip
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from hpa.errors import UserError
from hpa.work.files import (
    atomic_write,
    read_csv,
    remove_partials,
    sha256,
    write_bytes,
    write_csv,
    write_json,
    write_parquet,
)


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_bytes(path, b"old")

    def fail_half_way() -> None:
        with atomic_write(path) as partial:
            partial.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_killed_write_leaves_a_partial_file_that_can_be_removed(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from hpa.work.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1]) / 'a.npy') as partial:\n"
        "    partial.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert killed.returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    assert not (tmp_path / "a.npy").exists()
    remove_partials(tmp_path)
    assert not list(tmp_path.iterdir())


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    write_bytes(tmp_path / "abc", b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    table = pd.DataFrame({"image_id": ["b", "a"], "n": [1, 2]})
    for name in ("one", "two"):
        write_parquet(tmp_path / f"{name}.parquet", table)
        write_csv(tmp_path / f"{name}.csv", table)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert (tmp_path / "one.csv").read_bytes() == b"image_id,n\nb,1\na,2\n"
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "one.parquet"), table)


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"f1": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder_raises(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        write_bytes(tmp_path / "a", b"")


def test_files_of_the_user_with_like_names_are_kept(tmp_path: Path) -> None:
    names = [".thesis.partial.docx", "a.1.partial.csv", ".notes.partial"]
    for name in names:
        (tmp_path / name).write_text("mine")
    (tmp_path / "out").mkdir()
    for place in (tmp_path, tmp_path / "out"):
        (place / ".table.4711.partial.csv").write_text("ours")
    remove_partials(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(names)


@pytest.mark.parametrize(
    ("content", "found"),
    [("", "found an empty file"), ("a,b\n1,2\n1,2,3\n", "found: Expected 2 fields in line 3, saw 3")],
)
def test_a_table_that_cannot_be_parsed_is_one_plain_sentence(tmp_path: Path, content: str, found: str) -> None:
    (tmp_path / "table.csv").write_text(content)
    with pytest.raises(UserError, match=f"expected a CSV in .*table.csv, {found}$"):
        read_csv(tmp_path / "table.csv")


@pytest.mark.parametrize("suffix", ["zip", "csv.gz", "csv.xz", "csv.bz2", "tar.gz", "csv.zst"])
def test_a_damaged_compressed_table_is_one_sentence(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table.{suffix}"
    path.write_bytes(b"PK\003\004 broken")
    with pytest.raises(UserError, match="expected a CSV"):
        read_csv(path)
    path.write_bytes(gzip.compress(b"Id,Target\na,0\n")[:-4])
    with pytest.raises(UserError, match="expected a CSV"):
        read_csv(path)
