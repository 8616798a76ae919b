"""The typed sections of a recipe: their common base, the shared `[data]` section, reading one of them."""

import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hpa.channels import CHANNELS, Channel
from hpa.errors import UserError
from hpa.vocabulary import VOCABULARIES, Vocabulary

S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """One section of a recipe: closed, typed, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSection(Section):
    """`[data]`: what every stage may read."""

    layout: Literal["auto", "kaggle2018", "folder"] = Field("auto", description="How the data folder is laid out.")
    vocabulary: Literal["hpa28"] = Field("hpa28", description="The classes of the run.")
    channels: tuple[Channel, ...] = Field(CHANNELS, description="The channels that are read and kept, in this order.")
    seed: int = Field(0, ge=0, description="Seeds every random draw of the run.")
    folds: int = Field(5, ge=2, le=100, description="Number of folds; images of one group share a fold.")
    max_failures: int = Field(0, ge=0, description="Images that may fail before a stage ends with exit code 1.")

    @field_validator("channels")
    @classmethod
    def _distinct(cls, channels: tuple[Channel, ...]) -> tuple[Channel, ...]:
        if not channels or len(set(channels)) != len(channels):
            raise ValueError("expected at least one channel and none twice")
        return channels

    @property
    def classes(self) -> Vocabulary:
        """The run's vocabulary."""
        return VOCABULARIES[self.vocabulary]


def parse_section(model: type[S], name: str, values: Any) -> S:
    """Check the values of one section against its model.

    Raises
    ------
    UserError
        If a key is unknown or a value is not what the model expects.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"]) or "its keys"
        if problem["type"] == "extra_forbidden":
            known = ", ".join(model.model_fields)
            raise UserError(f"expected only known keys in [{name}] ({known}), found {key!r}") from None
        raise UserError(
            f"expected a usable [{name}] {key} ({problem['msg']}), found {problem.get('input')!r}"
        ) from None


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    UserError
        If it is missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"expected a recipe, found no file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"expected TOML in {path}, found: {error}") from None


def read_section(recipe: Path, name: str, model: type[S]) -> S:
    """Read one section of a recipe; a section that is not there has its defaults."""
    return parse_section(model, name, read_toml(recipe).get(name, {}))
