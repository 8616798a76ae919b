"""The work folder: the paths of its files, its recipe, and the lock that keeps a second run out."""

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as parquet
from filelock import FileLock, Timeout

from hpa.config import DataSection, S, parse_section, read_toml
from hpa.errors import UserError

FORMAT: Final = 2
"""Version of the work folder's files; raised when a column, key or file gets another name or meaning."""

_PARTS_WAIT_S: Final = 5.0  # for other runs on parts, which hold the lock of the whole for a moment

FORMAT_KEY: Final = b"cellwise_format"
"""Where ``images.parquet`` records the version in its metadata."""


@dataclass(frozen=True)
class WorkFolder:
    """A folder that holds one run; its recipe is read once, so open it again after changing the recipe.

    Parameters
    ----------
    root
        The folder.
    """

    root: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.root / "recipe.toml"

    @property
    def images(self) -> Path:
        """The image table (`hpa.images`)."""
        return self.root / "images.parquet"

    @property
    def folds(self) -> Path:
        """The table of groups and folds (`hpa.splitting.folds`)."""
        return self.root / "folds.parquet"

    @cached_property
    def data(self) -> DataSection:
        """The `[data]` section of the recipe."""
        return self.section("data", DataSection)

    def section(self, name: str, model: type[S]) -> S:
        """Return one section of the recipe; a missing section has its defaults.

        Parameters
        ----------
        name, model
            As for `hpa.config.parse_section`.

        Raises
        ------
        UserError
            If the recipe is missing, or a key or value is unusable.
        """
        return parse_section(model, name, self._values.get(name, {}))

    @cached_property
    def _values(self) -> dict[str, Any]:
        return read_toml(self.recipe)


def open_work(root: Path) -> WorkFolder:
    """Return the work folder at `root`.

    Raises
    ------
    UserError
        If nothing was initialised there, or another version of Cellwise made it.
    """
    work = WorkFolder(root)
    if not work.recipe.is_file() or not work.images.is_file():
        raise UserError(f"expected a work folder made by `python -m pipeline init {root} --data ...`, found none")
    check_format(work)
    return work


def check_format(work: WorkFolder) -> None:
    """Check that this version of Cellwise can read a work folder.

    Raises
    ------
    UserError
        If its files have another format; they are not converted.
    """
    try:
        metadata = parquet.read_metadata(work.images).metadata or {}
    except Exception:  # a broken table is reported when it is read
        return
    found = metadata.get(FORMAT_KEY, b"1").decode(errors="replace")
    if found != str(FORMAT):
        raise UserError(
            f"expected a work folder of format {FORMAT} (cellwise 0.2), found format {found} at {work.root}; "
            "make a new one with `python -m pipeline init`"
        )


@contextmanager
def locked(root: Path, wait_s: float = 0, parts: Sequence[str] = ()) -> Iterator[None]:
    """Hold the lock of a work folder, so that a second run on it stops with a message.

    The lock ends with the process, however that ends. The process that has the lock may take it again.

    Parameters
    ----------
    root
        The work folder.
    wait_s
        Seconds to wait for another process.
    parts
        Names of the parts that are written; runs on other parts then go on at the same time. None is the whole folder.

    Raises
    ------
    UserError
        If another process holds it.
    """
    root.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack, ExitStack() as whole:
        # The lock of the whole is held while those of parts are taken, so no run on the whole begins meanwhile.
        whole.enter_context(_hold(root, "lock", max(wait_s, _PARTS_WAIT_S) if parts else wait_s))
        for part in parts:
            stack.enter_context(_hold(root, f"lock.{part}", wait_s))
        if parts:
            whole.close()
        else:
            for path in sorted(root.glob("lock.*")):
                if path.suffix != ".holder":
                    with _hold(root, path.name, wait_s):
                        pass
        yield


@contextmanager
def _hold(root: Path, name: str, wait_s: float) -> Iterator[None]:
    # Of its own, because Windows lets nobody read a file that is locked.
    holder = root / f"{name}.holder"
    lock = FileLock(root / name, is_singleton=True)
    try:
        lock.acquire(timeout=wait_s)
    except Timeout:
        raise UserError(f"expected no other run on {root}, found one ({_read_holder(holder)})") from None
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ELOOP):
            raise
        raise UserError(f"expected a file to lock at {root / name}, found something else; remove it") from None
    try:
        if lock.lock_counter == 1:
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        if lock.lock_counter == 1:
            holder.unlink(missing_ok=True)
        lock.release()


def check_not_written(root: Path) -> None:
    """Check that no other process is changing a work folder that is only read.

    Raises
    ------
    UserError
        If another process has its lock.
    """
    if os.access(root, os.W_OK):  # nobody writes to a folder on a medium that can only be read
        with locked(root, wait_s=1):  # as long as it takes if another one is checking too
            pass


def _read_holder(path: Path) -> str:
    try:
        return path.read_text(errors="replace")[:200] or "unknown"
    except OSError:
        return "unknown"
