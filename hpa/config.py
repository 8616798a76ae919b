"""Typed sections of a recipe: their base class, the shared `[data]` section, and reading them from TOML."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hpa.channels import CHANNELS, Channel
from hpa.errors import UserError
from hpa.vocabulary import HPA28, VOCABULARIES, Vocabulary

LayoutName = Literal["auto", "table", "kaggle2018", "kaggle2021", "hpa_v18", "jovian", "pattern", "folder"]

S = TypeVar("S", bound="Section")

_TYPES_IN_TOML: Final = {
    "tuple_type": "should be a list",
    "list_type": "should be a list",
    "dict_type": "should be a table",
    "model_type": "should be a table",
    "model_attributes_type": "should be a table",
    "string_type": "should be a text in quotes",
}
"""What the checking library calls by its Python names, by the kind of problem."""


def number_as_text(value: Any) -> Any:
    """Return a whole number as the text that it is written as, anything else as it is.

    For keys whose texts look like numbers: ``precision = 16`` means ``"16"``.

    Examples
    --------
    >>> number_as_text(16), number_as_text("bf16"), number_as_text(True)
    ('16', 'bf16', True)
    """
    return str(value) if type(value) is int else value


class Section(BaseModel):
    """One section of a recipe: typed, immutable, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    renamed: ClassVar[Mapping[str, str]] = {}
    """Keys of earlier versions, each with its present name."""


class DataSection(Section):
    """`[data]`: settings that every stage may read."""

    layout: LayoutName = Field("auto", description="Layout of the data folders; auto recognises it.")
    source_layouts: dict[str, LayoutName] = Field(
        {}, description="Layouts of single sources, by name, where they differ or are not recognised."
    )
    pattern: str = Field(
        "",
        description="With files named in another way: a path below the data folder with fields in braces, such as"
        " {well}_f{field}_d{channel}.tif. The fields but the channel make the id; plate, well, row and column make the"
        " group.",
    )
    file_channels: dict[str, Channel] = Field(
        {},
        description="With `pattern`: the channel for each text of its field {channel}; without that field, for each"
        " plane of a file, counted from 0.",
    )
    train_only: tuple[str, ...] = Field(
        (),
        description="Sources to train on and never score, by name (of the folder, or as in `--data NAME=PATH`).",
    )
    vocabulary: Literal["auto", "hpa28", "hpa19", "jovian10"] = Field(
        "auto",
        description="Vocabulary of the run: its classes and their order. auto takes that of the competition whose"
        " layout the first scored data folder has, else hpa28; `init` writes the choice into the work folder's recipe.",
    )
    channels: tuple[Channel, ...] = Field(CHANNELS, description="Channels to read and keep, in this order.")
    bit_depth: Literal[0, 8, 10, 12, 14, 16] = Field(
        0,
        description="Bits that the values of 16-bit image files use: a 12-bit camera's go up to 4095. One number for"
        " all images; 0 recognises it at `init` from a sample of them.",
    )
    pixel_um: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="Side of a pixel of the images in micrometres, for scale bars; it changes no result. 0 takes it at"
        " `init` from OME-TIFF or OME-Zarr; where these do not say, bars are in pixels.",
    )
    seed: int = Field(
        0, ge=0, description="Seed of every random draw of the run; classify.seed sets another for training."
    )
    split: Literal["folds", "hold-out", "random"] = Field(
        "folds",
        description="Which train images are scored: folds, all of them, each in its fold; hold-out, one part, with "
        "groups kept together; random, a random part that splits groups, as older systems did (the score is then too "
        "high).",
    )
    folds: int = Field(5, ge=2, le=100, description="Number of folds; the images of a group share a fold.")
    held_out: float = Field(
        0.2, gt=0, lt=1, description="Share of the train images that `hold-out` and `random` score."
    )
    near_duplicates: bool = Field(
        False, description="Put images that look alike into one group; hashes every image at `init`."
    )
    duplicate_bits: int = Field(
        12,
        ge=0,
        le=20,
        description="Images look alike if the 64-bit hashes of each colour differ in at most this many bits.",
    )
    dedupe: Literal["keep-all", "keep-one"] = Field(
        "keep-all", description="Keep all train images that look alike, or one of each set."
    )
    max_failures: int = Field(
        0, ge=0, description="Number of images that may fail before a stage ends with exit code 1."
    )

    @field_validator("channels")
    @classmethod
    def _distinct(cls, channels: tuple[Channel, ...]) -> tuple[Channel, ...]:
        if not channels or len(set(channels)) != len(channels):
            raise ValueError("expected at least one channel and none twice")
        return channels

    def recorded(self) -> dict[str, Any]:
        """Return the settings as a stage records them: all that results depend on, so without the size of a pixel."""
        return self.model_dump(mode="json", exclude={"pixel_um"})

    @property
    def finds_duplicates(self) -> bool:
        """Whether `init` hashes every image."""
        return self.near_duplicates or self.dedupe == "keep-one"

    @property
    def classes(self) -> Vocabulary:
        """The vocabulary of the run, hpa28 while it is still to be chosen."""
        return VOCABULARIES.get(self.vocabulary, HPA28)


def parse_section(model: type[S], name: str, values: Any) -> S:
    """Check the values of one section against its model.

    Parameters
    ----------
    model
        Keys, types and defaults of the section.
    name
        Name of the section in a recipe.
    values
        The section as read from TOML.

    Raises
    ------
    UserError
        If a key is unknown or has another name by now, or a value is not what the model expects.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error, model, name)) from None


def _explain(error: ValidationError, model: type[Section], name: str) -> str:
    """Return what is wrong with a section in one sentence: the first key of which something is."""
    problems = error.errors()
    # A value that may be of several kinds has a problem with each: the deepest is of the kind that was meant.
    own = [problem for problem in problems if problem["loc"][:1] == problems[0]["loc"][:1]]
    problem = max(own, key=lambda problem: (len(problem["loc"]), problem["type"] == "extra_forbidden"))
    if problem["type"] != "extra_forbidden":
        key = " ".join([f"[{name}]", ", ".join(_place(model, problem["loc"])[0])]).strip()
        reason = _TYPES_IN_TOML.get(
            problem["type"], problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
        )
        return f"expected a usable {key} ({reason}), found {problem.get('input')!r}"
    words, owner = _place(model, problem["loc"][:-1])
    place, key = " ".join([f"[{name}]", ", ".join(words)]).strip(), str(problem["loc"][-1])
    if key in owner.renamed:
        return f"expected the key {owner.renamed[key]!r} in {place}, found its former name {key!r}"
    similar = get_close_matches(key, owner.model_fields, n=1)
    known = f"did you mean {similar[0]!r}?" if similar else ", ".join(owner.model_fields)
    return f"expected only known keys in {place}, found {key!r} ({known})"


def _place(model: type[Section], location: Sequence[str | int]) -> tuple[list[str], type[Section]]:
    """Return the words for a place in a section, entries of lists counted from 1, and the innermost section there."""
    words: list[str] = []
    annotation: Any = None
    for part in location:
        if isinstance(part, int):
            words.append(f"entry {part + 1}")
        elif part in model.model_fields:
            words.append(part)
            annotation = model.model_fields[part].annotation
            model = next(_sections_in(annotation), model)
        elif get_origin(annotation) is dict and part != "[key]":
            words.append(part)  # others name one of the kinds that a value may be of
    return words, model


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections_in(argument)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    UserError
        If it is missing, cannot be read or is not TOML.
    """
    if path.exists() and not path.is_file():  # opening a named pipe would wait for ever
        raise UserError(f"expected a recipe, found that {path} is not a regular file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"expected a recipe, found no file {path}") from None
    except OSError as error:
        raise UserError(f"expected a recipe in {path}, found: {error.strerror}") from None
    except ValueError as error:  # also for bytes that are not UTF-8, and for thousands of digits
        raise UserError(f"expected TOML in {path}, found: {error}") from None
    except RecursionError:
        raise UserError(f"expected TOML in {path}, found values nested too deeply") from None
