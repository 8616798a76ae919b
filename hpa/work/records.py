"""Small typed records: what is read is exactly what was written, or it is refused in one sentence."""

from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from hpa.errors import UserError

R = TypeVar("R")

STRICT: Final = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
"""Configuration of the dataclasses that are records: no unknown keys, no conversions, no infinite numbers."""


def read_record(path: Path, model: type[R], remedy: str) -> R:
    """Read a record from JSON.

    Parameters
    ----------
    path
        The file.
    model
        A dataclass of pydantic with the configuration `STRICT`.
    remedy
        What the user can do if the file is damaged, for the message.

    Raises
    ------
    UserError
        If it is missing, or not such a record.
    """
    try:
        return TypeAdapter(model).validate_json(path.read_bytes())
    except ValidationError as error:
        found = _first_problem(error)
    except OSError as error:
        found = (error.strerror or type(error).__name__).lower()
    raise _damaged(path, found, remedy)


def check_record(path: Path, model: type[R], content: Any, remedy: str) -> R:
    """Check the content of a record that is not JSON.

    Parameters
    ----------
    path
        Its file, for the message.
    model, remedy
        As for `read_record`.
    content
        What was read.

    Raises
    ------
    UserError
        If it is not such a record.
    """
    try:
        return model(**content)
    except ValidationError as error:
        raise _damaged(path, _first_problem(error), remedy) from None
    except TypeError as error:  # no dictionary, or keys that are no names
        raise _damaged(path, str(error), remedy) from None


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in problem["loc"])[:80]
    return f"{place}: {problem['msg'][:200]}" if place else problem["msg"][:200]


def _damaged(path: Path, found: str, remedy: str) -> UserError:
    return UserError(f"expected {path} as it was written, found it damaged ({' '.join(found.split())}); {remedy}")
