"""Fetching the images of the Human Protein Atlas, version 18, from its site or a mirror of it.

An Id ``10580_1610_C1_1`` lies at ``<base>/10580/1610_C1_1_<color>.jpg``. Every file appears whole or not at all; what
is there already is not fetched again, so that a download that was stopped goes on where it was.
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

import pandas as pd

from hpa.channels import CHANNELS
from hpa.errors import UserError
from hpa.images import check_ids
from hpa.layouts.hpa_v18 import COLUMNS, parse_id
from hpa.work.files import remove_partials, write_bytes, write_csv
from hpa.work.progress import progress
from hpa.work.tables import csv_header, read_csv

_AGENT: Final = "cellwise"
_WINDOW: Final = 512  # jobs handed out at a time, so that a long list needs little memory and Ctrl-C is heard
_HOPELESS: Final = 20  # files in a row that could not be fetched before the first one that could
_LONGEST_PAUSE_S: Final = 60.0
_LARGEST: Final = 2**27
_WORTH_RETRYING: Final = (408, 425, 429, 500, 502, 503, 504)


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
    """Fetch the images of a list.

    Parameters
    ----------
    table
        A CSV with a column Id (and Target, which makes `out` a data folder of the layout hpa_v18), or a text with an
        Id in every line.
    out
        The folder to fill: ``{Id}_{color}.jpg``, the table as ``HPAv18.csv``, and ``failures.csv``.
    base_url
        Where the images lie.
    colors
        Which channels.
    parallel, retries
        Files fetched at once, and how often one is tried again, after pauses that double.
    timeout_s
        Seconds of silence after which a try is given up; ten times as many end it in any case.
    pause_s
        The first pause.

    Returns
    -------
    int
        0, or 1 if files could not be fetched.

    Raises
    ------
    UserError
        If the list, an Id, a colour or the address is unusable, or nothing at all can be fetched.
    """
    unknown = [color for color in colors if color not in CHANNELS]
    if unknown:
        raise UserError(f"expected colours among {', '.join(CHANNELS)}, found {unknown[0]!r}")
    if not base_url.startswith(("http://", "https://")):
        raise UserError(f"expected a base URL with http:// or https://, found {base_url!r}")
    ids = _read_list(table, out)
    out.mkdir(parents=True, exist_ok=True)
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
        waiting = iter(jobs)
        while window := list(islice(waiting, _WINDOW if done else _HOPELESS)):
            for job, reason in zip(window, pool.map(fetch, window), strict=True):
                done += not reason
                if reason:
                    failures.append((job.image_id, f"{job.path.name}: {reason}"))
                advance(1)
            if not done and len(failures) >= _HOPELESS:
                raise UserError(
                    f"expected images at {base_url}, found none of the first {_HOPELESS} ({failures[0][1]})"
                )
    write_csv(out / "failures.csv", pd.DataFrame(failures, columns=["image_id", "reason"]))
    print(f"download: {total - len(jobs)} files were there, {done} fetched, {len(failures)} failed (failures.csv)")
    return int(bool(failures))


def _read_list(table: Path, out: Path) -> list[str]:
    if not table.is_file():
        raise UserError(f"expected a list of Ids, found no file {table}")
    if COLUMNS[0] in csv_header(table):
        rows = read_csv(table, COLUMNS[:1])
        ids = list(rows[COLUMNS[0]])
        if COLUMNS[1] in rows:
            write_csv(out / "HPAv18.csv", rows[list(COLUMNS)])
    else:
        try:
            ids = [line.strip() for line in table.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise UserError(f"expected a text of Ids in {table}, found: {error}") from None
    check_ids(ids, table.name)
    for image_id in ids:
        parse_id(image_id)
    if not ids:
        raise UserError(f"expected Ids in {table}, found none")
    return ids


def _job(image_id: str, color: str, base_url: str, out: Path) -> Job:
    antibody, _, rest = image_id.partition("_")
    url = f"{base_url.rstrip('/')}/{antibody}/{rest}_{color}.jpg".replace(" ", "%20")
    return Job(image_id, url, out / f"{image_id}_{color}.jpg")


def _fetch(job: Job, retries: int, timeout_s: float, pause_s: float) -> str:
    """Fetch one file and return why it could not be fetched, or nothing."""
    reason = ""
    for attempt in range(retries + 1):
        wait_s = 0.0
        try:
            write_bytes(job.path, _get(job.url, timeout_s))
            return ""
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code}"
            if error.code not in _WORTH_RETRYING:
                return reason
            wait_s = _asked_for(error)
        except _IncompleteError as error:
            reason = str(error)
        except TimeoutError:
            reason = "no answer in time"
        except (HTTPException, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
        if attempt < retries:
            # Not all at once: clients that were turned away together would come back together.
            drawn = pause_s * 2**attempt * random.uniform(0.5, 1.5)
            time.sleep(min(max(drawn, wait_s), _LONGEST_PAUSE_S))
    return f"{reason}, after {retries + 1} tries"


class _IncompleteError(Exception):
    """An answer that is no whole JPEG."""


def _get(url: str, timeout_s: float) -> bytes:
    deadline = time.monotonic() + 10 * timeout_s
    request = urllib.request.Request(url, headers={"User-Agent": _AGENT})
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        expected = answer.headers.get("Content-Length")
        content = b"".join(_pieces(answer, deadline))
    if expected and expected.isdigit() and len(content) != int(expected):
        raise _IncompleteError(f"cut short: {len(content)} of {expected} bytes")
    if not content.startswith(b"\xff\xd8\xff"):
        raise _IncompleteError("not a JPEG")
    if b"\xff\xd9" not in content[-64:]:
        raise _IncompleteError(f"cut short after {len(content)} bytes")
    return content


def _pieces(answer: HTTPResponse, deadline: float) -> Iterator[bytes]:
    size = 0
    while piece := answer.read1(2**16):
        size += len(piece)
        if size > _LARGEST:
            raise _IncompleteError(f"larger than {_LARGEST} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
        yield piece


def _asked_for(error: urllib.error.HTTPError) -> float:
    """Return the seconds that the server asks to wait, 0 where it does not say."""
    text = error.headers.get("Retry-After", "") if error.headers else ""
    return float(text) if text.isdigit() else 0.0
