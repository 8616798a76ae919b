"""Download from a server that sometimes fails, truncates responses and stalls."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from hpa.channels import CHANNELS
from hpa.errors import UserError
from hpa.layouts.download import download
from hpa.layouts.index import index_dataset
from hpa.vocabulary import HPA28
from tests.support.server import JPEG, BadServer, bad_server

IDS = [f"{n}_1610_C1_{n}" for n in range(1, 9)]


@pytest.fixture
def server() -> Iterator[BadServer]:
    """Return a server that works unless a test sets `troubles`."""
    with bad_server() as server:
        yield server


def _fetch(server: BadServer, table: Path, out: Path, retries: int = 3, timeout_s: float = 0.3) -> int:
    base = f"http://127.0.0.1:{server.server_port}/images/"
    return download(table, out, base, CHANNELS, 3, retries, timeout_s, pause_s=0.01)


def _table(root: Path) -> Path:
    path = root / "list.csv"
    path.write_text("Id,Target\n" + "".join(f"{image_id},{n}\n" for n, image_id in enumerate(IDS)))
    return path


def test_download_recovers_from_every_failure_and_makes_a_data_folder(server: BadServer, tmp_path: Path) -> None:
    server.troubles = {
        "/1/1610_C1_1_red.jpg": ["500", "503"],
        "/2/1610_C1_2_red.jpg": ["cut"],
        "/3/1610_C1_3_red.jpg": ["cut without a length", "cut"],
        "/4/1610_C1_4_red.jpg": ["stall"],
        "/5/1610_C1_5_red.jpg": ["429"],
        "/6/1610_C1_6_red.jpg": ["page"],
        "/7/1610_C1_7_red.jpg": ["drip"],
    }
    out = tmp_path / "v18"
    assert _fetch(server, _table(tmp_path), out) == 0
    files = sorted(out.glob("*.jpg"))
    assert len(files) == len(IDS) * 4
    assert all(path.read_bytes() == JPEG for path in files)
    assert server.requests["/images/1/1610_C1_1_red.jpg"] == 3
    assert server.requests["/images/8/1610_C1_8_red.jpg"] == 1
    assert server.max_at_once <= 3 + 2  # two responses that the client abandoned may still be running
    found = index_dataset(out, "auto", HPA28, CHANNELS)
    assert list(found.images["image_id"]) == IDS
    assert found.notices == ()
    assert len(pd.read_csv(out / "failures.csv")) == 0


def test_existing_files_are_not_fetched_again(server: BadServer, tmp_path: Path) -> None:
    out = tmp_path / "v18"
    server.troubles = {"_blue.jpg": ["404"] * 9}
    assert _fetch(server, _table(tmp_path), out) == 1
    failures = pd.read_csv(out / "failures.csv")
    assert list(failures["image_id"]) == IDS
    assert failures["reason"][0] == "1_1610_C1_1_blue.jpg: the server returned status 404"
    before = dict(server.requests)
    assert all(count == 1 for count in before.values())  # a missing file is not requested again
    server.troubles = {}
    (out / ".x.123.partial.jpg").write_bytes(b"left by a killed run")
    assert _fetch(server, _table(tmp_path), out) == 0
    again = {path: count - before.get(path, 0) for path, count in server.requests.items()}
    assert {path for path, count in again.items() if count} == {path for path in again if path.endswith("_blue.jpg")}
    assert not list(out.glob(".*"))


def test_file_that_always_fails_is_listed_with_the_reason(server: BadServer, tmp_path: Path) -> None:
    server.troubles = {"/2/1610_C1_2_green.jpg": ["cut"] * 9, "/3/1610_C1_3_green.jpg": ["stall"] * 9}
    (tmp_path / "ids.txt").write_text("\n".join(IDS[:4]) + "\n")
    assert _fetch(server, tmp_path / "ids.txt", tmp_path / "out", retries=1) == 1
    reasons = pd.read_csv(tmp_path / "out" / "failures.csv").set_index("image_id")["reason"]
    assert set(reasons.index) == set(IDS[1:3])
    assert "after 2 attempts" in reasons[IDS[1]]
    assert "timed out, after 2 attempts" in reasons[IDS[2]]
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 14
    assert not (tmp_path / "out" / f"{IDS[1]}_green.jpg").exists()


def test_server_without_images_is_an_error(server: BadServer, tmp_path: Path) -> None:
    server.troubles = {".jpg": ["404"]}
    with pytest.raises(UserError, match="found none of the first 20"):
        _fetch(server, _table(tmp_path), tmp_path / "out")
    assert sum(server.requests.values()) == 20


def test_invalid_arguments_raise(tmp_path: Path) -> None:
    def run(text: str, base: str = "http://127.0.0.1:1", colors: tuple[str, ...] = CHANNELS) -> None:
        (tmp_path / "list").write_text(text)
        download(tmp_path / "list", tmp_path / "out", base, colors, 1, 0, 0.1)

    cases = [
        (("../../etc\n",), "expected image ids"),
        (("a_b\n",), "expected Ids antibody_plate_well_field"),
        (("",), "found none"),
        (("1_2_A1_1\n1_2_A1_1\n",), "twice"),
        (("1_2_A1_1\n", "file:///etc"), "expected a base URL with http"),
        (("1_2_A1_1\n", "http://x", ("pink",)), "expected colours among .* found 'pink'"),
    ]
    for arguments, sentence in cases:
        with pytest.raises(UserError, match=sentence):
            run(*arguments)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="found no file"):
        download(tmp_path / "none", tmp_path / "out", "http://x", CHANNELS, 1, 0, 0.1)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/größe", "http://[::1", "ftp://example.org", "http://"])
def test_unusable_addresses_are_refused_before_anything_is_written(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="expected a base URL"):
        download(_table(tmp_path), tmp_path / "out", url, CHANNELS, 1, 0, 1.0)
    assert not (tmp_path / "out").exists()


def test_labels_of_several_lists_are_kept(server: BadServer, tmp_path: Path) -> None:
    out = tmp_path / "v18"
    first, second, bad = (tmp_path / name for name in ("first.csv", "second.csv", "bad.csv"))
    first.write_text(f"Id,Target\n{IDS[0]},1\n{IDS[1]},2\n")
    second.write_text(f"Id,Target\n{IDS[1]},3\n{IDS[2]},4\n")
    bad.write_text("Id,Target\nbad id!,0\n")
    for table in (first, second):
        assert _fetch(server, table, out) == 0
    with pytest.raises(UserError):
        _fetch(server, bad, out)
    labels = pd.read_csv(out / "HPAv18.csv", dtype=str).set_index("Id")["Target"]
    assert labels.to_dict() == {IDS[0]: "1", IDS[1]: "3", IDS[2]: "4"}
    own = out / "HPAv18.csv"
    own.write_text(f"Id,Target,Gene\n{IDS[0]},1,ABC\n")
    _fetch(server, own, out)
    assert "ABC" in own.read_text(), "the list that is read is not written"
