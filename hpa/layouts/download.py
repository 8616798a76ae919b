"""Download the images of the Human Protein Atlas, version 18, from its site or a mirror.

The image ``10580_1610_C1_1`` is at ``<base>/10580/1610_C1_1_<color>.jpg``. Files are written atomically and existing
files are not fetched again, so that an interrupted download resumes where it stopped.
"""

import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPException, HTTPResponse
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import pandas as pd

from hpa.channels import CHANNELS
from hpa.errors import UserError
from hpa.images import check_ids
from hpa.layouts.hpa_v18 import COLUMNS, parse_id
from hpa.work.files import csv_header, read_csv, remove_partials, write_bytes, write_csv
from hpa.work.progress import progress

_AGENT: Final = "cellwise"
_BATCH: Final = 512  # jobs submitted at a time: a long list needs little memory, and Ctrl-C takes effect soon
_MAX_FIRST_FAILURES: Final = 20  # give up if this many files fail before the first success
_MAX_PAUSE_S: Final = 60.0
_MAX_BYTES: Final = 2**27
_RETRY_CODES: Final = (408, 425, 429, 500, 502, 503, 504)


class Job(NamedTuple):
    """One file to fetch."""

    image_id: str
    url: str
    path: Path


def download(
    table: Path,
    out: Path,
    base_url: str,
    colors: Sequence[str],
    parallel: int,
    retries: int,
    timeout_s: float,
    pause_s: float = 0.5,
) -> int:
    """Download the images of a list.

    Parameters
    ----------
    table
        A CSV with a column Id (and Target, which makes `out` a data folder of the layout hpa_v18), or a text file with
        one Id per line.
    out
        The folder to fill: ``{Id}_{color}.jpg``, the table as ``HPAv18.csv``, and ``failures.csv``.
    base_url
        Address of the images.
    colors
        Channels to download.
    parallel, retries
        Number of files fetched at once, and of further attempts per file, after pauses that double.
    timeout_s
        Seconds without data after which an attempt is abandoned; ten times as many end it in any case.
    pause_s
        Seconds of the first pause.

    Returns
    -------
    int
        0, or 1 if some files could not be fetched.

    Raises
    ------
    UserError
        If the list, an Id, a colour or the address is unusable, or nothing at all can be fetched.
    """
    unknown = [color for color in colors if color not in CHANNELS]
    if unknown:
        raise UserError(f"expected colours among {', '.join(CHANNELS)}, found {unknown[0]!r}")
    _check_url(base_url)
    ids, labels = _read_list(table)
    out.mkdir(parents=True, exist_ok=True)
    if labels is not None:
        _write_labels(out / "HPAv18.csv", labels, table)
    remove_partials(out)
    jobs = [
        job for image_id in ids for color in colors if not (job := _job(image_id, color, base_url, out)).path.exists()
    ]
    total = len(ids) * len(colors)
    failures: list[tuple[str, str]] = []
    fetch = partial(_fetch, retries=retries, timeout_s=timeout_s, pause_s=pause_s)
    done = 0
    with progress("download", total) as advance, ThreadPoolExecutor(parallel) as pool:
        advance(total - len(jobs))
        pending = iter(jobs)
        while batch := list(islice(pending, _BATCH if done else _MAX_FIRST_FAILURES)):
            for job, reason in zip(batch, pool.map(fetch, batch), strict=True):
                done += not reason
                if reason:
                    failures.append((job.image_id, f"{job.path.name}: {reason}"))
                advance(1)
            if not done and len(failures) >= _MAX_FIRST_FAILURES:
                raise UserError(
                    f"expected images at {base_url}, found none of the first {_MAX_FIRST_FAILURES} ({failures[0][1]})"
                )
    write_csv(out / "failures.csv", pd.DataFrame(failures, columns=["image_id", "reason"]))
    print(f"download: {done} files fetched, {total - len(jobs)} already present, {len(failures)} failed (failures.csv)")
    return int(bool(failures))


def _check_url(base_url: str) -> None:
    try:
        usable = urlsplit(base_url).scheme in ("http", "https") and bool(urlsplit(base_url).netloc)
    except ValueError:  # as for http://[
        usable = False
    if not usable or not base_url.isascii() or not base_url.isprintable():
        raise UserError(f"expected a base URL with http:// or https:// in ASCII, found {base_url!r}")


def _write_labels(path: Path, labels: pd.DataFrame, table: Path) -> None:
    """Write the labels of a list beside the images, together with those of earlier lists."""
    if path.exists():
        if path.samefile(table):
            return
        earlier = read_csv(path, COLUMNS)
        labels = pd.concat([earlier[~earlier[COLUMNS[0]].isin(labels[COLUMNS[0]])], labels], ignore_index=True)
    write_csv(path, labels)


def _read_list(table: Path) -> tuple[list[str], pd.DataFrame | None]:
    """Return the ids of a list, and their labels if it has them."""
    labels = None
    if not table.is_file():
        raise UserError(f"expected a list of Ids, found no file {table}")
    if COLUMNS[0] in csv_header(table):
        rows = read_csv(table, COLUMNS[:1])
        ids = list(rows[COLUMNS[0]])
        if COLUMNS[1] in rows:
            labels = rows[list(COLUMNS)]
    else:
        try:
            ids = [line.strip() for line in table.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise UserError(f"expected a text file of Ids in {table}, found: {error}") from None
    check_ids(ids, table.name)
    for image_id in ids:
        parse_id(image_id)
    if not ids:
        raise UserError(f"expected Ids in {table}, found none")
    return ids, labels


def _job(image_id: str, color: str, base_url: str, out: Path) -> Job:
    antibody, _, rest = image_id.partition("_")
    url = f"{base_url.rstrip('/')}/{antibody}/{rest}_{color}.jpg".replace(" ", "%20")
    return Job(image_id, url, out / f"{image_id}_{color}.jpg")


def _fetch(job: Job, retries: int, timeout_s: float, pause_s: float) -> str:
    """Fetch one file; return the reason if it could not be fetched, else an empty text."""
    reason = ""
    for attempt in range(retries + 1):
        wait_s = 0.0
        try:
            write_bytes(job.path, _get(job.url, timeout_s))
            return ""
        except urllib.error.HTTPError as error:
            reason = f"the server returned status {error.code}"
            if error.code not in _RETRY_CODES:
                return reason
            wait_s = _requested_wait_s(error)
        except _IncompleteError as error:
            reason = str(error)
        except TimeoutError:
            reason = "timed out"
        except (HTTPException, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
        if attempt < retries:
            # Random pauses, so that clients that were rejected together do not return together.
            drawn = pause_s * 2**attempt * random.uniform(0.5, 1.5)
            time.sleep(min(max(drawn, wait_s), _MAX_PAUSE_S))
    return f"{reason}, after {retries + 1} attempts"


class _IncompleteError(Exception):
    """A response that is not a complete JPEG."""


def _get(url: str, timeout_s: float) -> bytes:
    deadline = time.monotonic() + 10 * timeout_s
    request = urllib.request.Request(url, headers={"User-Agent": _AGENT})
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        expected = response.headers.get("Content-Length")
        content = b"".join(_read_pieces(response, deadline))
    if expected and expected.isdigit() and len(content) != int(expected):
        raise _IncompleteError(f"truncated: {len(content)} of {expected} bytes")
    if not content.startswith(b"\xff\xd8\xff"):
        raise _IncompleteError("not a JPEG")
    if b"\xff\xd9" not in content[-64:]:
        raise _IncompleteError(f"truncated after {len(content)} bytes")
    return content


def _read_pieces(response: HTTPResponse, deadline: float) -> Iterator[bytes]:
    size = 0
    while piece := response.read1(2**16):
        size += len(piece)
        if size > _MAX_BYTES:
            raise _IncompleteError(f"larger than {_MAX_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
        yield piece


def _requested_wait_s(error: urllib.error.HTTPError) -> float:
    """Return the seconds that the server asks to wait, 0 if it does not say."""
    text = error.headers.get("Retry-After", "") if error.headers else ""
    return float(text) if text.isdigit() else 0.0
