"""The typed sections of a recipe: their common base, the shared `[data]` section, reading one of them."""

import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hpa.channels import CHANNELS, Channel
from hpa.errors import UserError
from hpa.vocabulary import VOCABULARIES, Vocabulary

LayoutName = Literal["auto", "table", "kaggle2018", "kaggle2021", "hpa_v18", "jovian", "folder"]

S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """One section of a recipe: closed, typed, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSection(Section):
    """`[data]`: what every stage may read."""

    layout: LayoutName = Field("auto", description="How the data folders are laid out.")
    source_layouts: dict[str, LayoutName] = Field(
        {}, description="Layout of single sources, by name, where they are not all the same or not recognised."
    )
    train_only: tuple[str, ...] = Field(
        (), description="Sources, by name (of the folder, or as in `--data NAME=PATH`), trained on and never scored."
    )
    vocabulary: Literal["hpa28", "hpa19", "jovian10"] = Field("hpa28", description="The classes of the run.")
    channels: tuple[Channel, ...] = Field(CHANNELS, description="The channels that are read and kept, in this order.")
    seed: int = Field(0, ge=0, description="Seeds every random draw of the run.")
    split: Literal["folds", "hold-out", "random"] = Field(
        "folds",
        description="Which train images are scored: all, each in its fold; one part that is held out; or a random part "
        "that tears groups apart, as older systems did (the score is then too good).",
    )
    folds: int = Field(5, ge=2, le=100, description="Number of folds; images of one group share a fold.")
    held_out: float = Field(0.2, gt=0, lt=1, description="Share of the images that `hold-out` and `random` score.")
    near_duplicates: bool = Field(
        False, description="Whether images that look alike are of one group: perceptual hashes of every image."
    )
    duplicate_bits: int = Field(
        12,
        ge=0,
        le=20,
        description="Most bits, of 64, in which the hashes of each colour of two that look alike differ.",
    )
    dedupe: Literal["keep-all", "keep-one"] = Field(
        "keep-all", description="Whether all train images that look alike are kept, or one of them."
    )
    max_failures: int = Field(0, ge=0, description="Images that may fail before a stage ends with exit code 1.")

    @field_validator("channels")
    @classmethod
    def _distinct(cls, channels: tuple[Channel, ...]) -> tuple[Channel, ...]:
        if not channels or len(set(channels)) != len(channels):
            raise ValueError("expected at least one channel and none twice")
        return channels

    @property
    def finds_duplicates(self) -> bool:
        """Whether init hashes every image."""
        return self.near_duplicates or self.dedupe == "keep-one"

    @property
    def classes(self) -> Vocabulary:
        """The run's vocabulary."""
        return VOCABULARIES[self.vocabulary]


def parse_section(model: type[S], name: str, values: Any) -> S:
    """Check the values of one section against its model.

    Parameters
    ----------
    model
        The section's keys, types and defaults.
    name
        What the section is called in a recipe.
    values
        A mapping, as TOML has it.

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
    """Read one section of a recipe; a section that is not there has its defaults.

    Parameters
    ----------
    recipe
        The TOML file.
    name, model
        As for `parse_section`.

    Raises
    ------
    UserError
        If the file is missing or not TOML, a key is unknown or a value is not what the model expects.
    """
    return parse_section(model, name, read_toml(recipe).get(name, {}))
