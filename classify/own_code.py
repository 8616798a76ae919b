"""Losses and backbones of the user: functions in Python files, taken only from the folder given as ``--code``.

A recipe names them ``my_module:my_function``. A recipe, a checkpoint or a bundle never brings code along: its file is
``my_module.py`` in the folder that the person at the command line names, a single file that may import installed
packages. Its SHA-256 goes into the record of the training and into the checkpoint, and another file of the same name
is refused.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from classify.config import ClassifySection
from classify.loss_terms import CODE
from hpa.errors import UserError


@dataclass(frozen=True)
class _Folder:
    """The folder of code in force, with the content of the files that were read from it, and the modules made of it."""

    path: Path
    contents: dict[Path, bytes] = field(default_factory=dict)
    modules: dict[Path, ModuleType] = field(default_factory=dict)

    def content(self, path: Path) -> bytes:
        """Return the content of a file as it was first read, so that what is recorded is what is run."""
        if path not in self.contents:
            self.contents[path] = path.read_bytes()
        return self.contents[path]


_IN_FORCE: Final[ContextVar[_Folder | None]] = ContextVar("code", default=None)
_SHOWN: Final = 12  # digits of a SHA-256 in messages


@contextmanager
def code_from(folder: Path | None) -> Iterator[None]:
    """Take the functions that recipes name from the Python files of a folder; None forbids them.

    Raises
    ------
    UserError
        If there is no such folder.
    """
    if folder is not None and not folder.is_dir():
        raise UserError(f"expected a folder of Python files as --code, found no {folder}")
    token = _IN_FORCE.set(None if folder is None else _Folder(folder.resolve()))
    try:
        yield
    finally:
        _IN_FORCE.reset(token)


def folder_in_force() -> Path | None:
    """Return the folder that functions are taken from, for the processes that train together; None if there is none."""
    folder = _IN_FORCE.get()
    return None if folder is None else folder.path


def is_code(name: str) -> bool:
    """Return whether the name of a loss or a backbone is that of a function of the user."""
    return CODE.fullmatch(name) is not None and not name.startswith("timm:")


def code_names(section: ClassifySection) -> tuple[str, ...]:
    """Return the functions of the user that a recipe names."""
    names = (*(term.name for term in section.loss_terms), section.backbone)
    return tuple(name for name in dict.fromkeys(names) if is_code(name))


def code_files(section: ClassifySection) -> dict[str, Path]:
    """Return the files of code that a recipe names, by file name.

    Raises
    ------
    UserError
        If there is no ``--code``, or no such file in it.
    """
    return {path.name: path for path in map(_file, code_names(section))}


def code_sums(section: ClassifySection) -> dict[str, str]:
    """Return the SHA-256 of every file of code that a recipe names, by file name."""
    return {name: _sha256(path) for name, path in code_files(section).items()}


def check_code(name: str, sums: dict[str, str]) -> None:
    """Check that the file of a function is the one that a model was trained with.

    Raises
    ------
    UserError
        If there is no such file, or it is another one.
    """
    path = _file(name)
    found, expected = _sha256(path), sums.get(path.name, "none")
    if found != expected:
        raise UserError(
            f"expected {path} as in training (SHA-256 {expected[:_SHOWN]}...), found another file of that name"
            f" ({found[:_SHOWN]}...)"
        )


def load_function(name: str) -> Callable[..., Any]:
    """Return a function of the user, running its file if that has not been done.

    Parameters
    ----------
    name
        ``my_module:my_function``.

    Raises
    ------
    UserError
        If there is no ``--code``, no such file or function, or the file raises an error.
    """
    path = _file(name)
    function_name, modules = name.partition(":")[2], _folder(name).modules
    if path not in modules:
        modules[path] = _run_file(path, _folder(name).content(path))
    function = getattr(modules[path], function_name, None)
    if not callable(function):
        raise UserError(f"expected a function {function_name} in {path}, found none")
    checked: Callable[..., Any] = function
    return checked


def describe(error: BaseException) -> str:
    """Return the kind and the first line of an error of the user's code."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _folder(name: str) -> _Folder:
    folder = _IN_FORCE.get()
    if folder is None:
        file = f"{name.partition(':')[0]}.py"
        raise UserError(
            f"expected --code FOLDER, the folder of {file}, for {name!r} (a recipe or a bundle brings no code), found"
            " none"
        )
    return folder


def _file(name: str) -> Path:
    path = _folder(name).path / f"{name.partition(':')[0]}.py"
    if not path.is_file():
        raise UserError(f"expected {path.name} in the folder given as --code for {name!r}, found no {path}")
    return path


def _run_file(path: Path, content: bytes) -> ModuleType:
    # Run from the bytes themselves: an import would also look elsewhere, and trust a compiled file beside it.
    module = ModuleType(f"cellwise_code_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses, for one, look their module up
    try:
        exec(compile(content, path, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise UserError(f"expected {path} to run without an error, found {describe(error)}") from None
    return module


def _sha256(path: Path) -> str:
    folder = _IN_FORCE.get()
    assert folder is not None, "a path of code comes from a folder in force"
    return hashlib.sha256(folder.content(path)).hexdigest()
