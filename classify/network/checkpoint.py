"""The trained model: ``checkpoint.pt``, a dictionary of tensors and plain values, never code."""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, field
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Final, Self

import torch
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from classify.config import ClassifySection
from classify.data.normalisation import Statistics
from classify.network.model import Network
from classify.own_code import check_code, is_code
from hpa.config import parse_section
from hpa.errors import UserError
from hpa.work.files import first_line, write_bytes
from hpa.work.records import STRICT, check_record

FORMAT: Final = "cellwise classifier 3"
_OLDER_FORMATS: Final = ("cellwise classifier 1", "cellwise classifier 2")


Mean = Annotated[list[FiniteFloat], Field(min_length=1)]
Deviation = Annotated[list[PositiveFloat], Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class Checkpoint:
    """A trained classifier with all that is needed to use it.

    Parameters
    ----------
    state_dict
        Weights of `classify.network.model.Network`, on the CPU.
    config
        The `[classify]` section of the recipe.
    vocabulary
        Name of the run's vocabulary.
    classes
        Class names, in the order of the logits.
    channels
        Channels of the crops; `config` selects those that the network sees.
    size_px
        Side of the training crops, in pixels.
    mean, std
        Mean and standard deviation of the training crops per channel, in uint8 units.
    fold
        The fold that was left out of training.
    epoch
        Number of epochs of training behind the weights.
    seed
        The recipe's seed.
    versions
        Package versions in training; recorded, not compared.
    sources
        Mean and standard deviation per channel over the training crops of each source, for
        ``normalise = "sources"``.
    code
        SHA-256 of each file of the user's code that the recipe names (`classify.own_code`), by file name.
    """

    state_dict: dict[str, Tensor]
    config: dict[str, Any]
    vocabulary: str
    classes: list[str]
    channels: list[str]
    size_px: PositiveInt
    mean: Mean
    std: Deviation
    fold: NonNegativeInt
    epoch: NonNegativeInt
    seed: NonNegativeInt
    versions: dict[str, str]
    sources: dict[str, Annotated[list[list[FiniteFloat]], Field(min_length=2, max_length=2)]] = field(
        default_factory=dict
    )
    code: dict[str, str] = field(default_factory=dict)

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        lengths = {len(self.mean), len(self.std), *(len(row) for rows in self.sources.values() for row in rows)}
        if len(lengths) > 1:
            raise ValueError("means and deviations of one number per channel")
        if any(value <= 0 for _, std in self.sources.values() for value in std):
            raise ValueError("a deviation that is not positive")
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError("at least one class and none twice")
        return self

    @property
    def section(self) -> ClassifySection:
        """The validated `[classify]` section."""
        return parse_section(ClassifySection, "classify", self.config)

    @property
    def statistics(self) -> Statistics:
        """Statistics of the training crops."""
        return Statistics(self.mean, self.std, self.sources)

    def network(self, device: torch.device) -> Network:
        """Build the network with these weights, in evaluation mode.

        Raises
        ------
        UserError
            If the weights do not fit the network that the other fields describe, or the backbone is code of the user
            and its file is not that of the training.
        """
        if is_code(self.section.backbone):
            check_code(self.section.backbone, self.code)
        network = Network(self.section, len(self.mean), len(self.classes), self.mean, self.std)
        try:
            network.load_state_dict(self.state_dict)
        except RuntimeError as error:
            raise UserError(f"expected weights that fit the checkpoint's own description, found: {error}") from None
        return network.eval().to(device)

    def save(self, path: Path) -> None:
        """Write the checkpoint atomically; equal checkpoints give equal bytes."""
        write_bytes(path, to_bytes({"format": FORMAT, **asdict(self)}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a checkpoint; code in it is not executed.

        Raises
        ------
        UserError
            If there is no such file, or it is truncated, of an older format, contains anything but tensors and plain
            values, or is no checkpoint.
        """
        content = load_plain(path)
        found = content.pop("format", None) if isinstance(content, dict) else None
        if isinstance(found, str) and found in _OLDER_FORMATS:
            raise UserError(
                f"expected a checkpoint of the format {FORMAT!r} in {path}, found {found!r} of an older version of"
                " Cellwise: train the model again (`python -m classify train`)"
            )
        if found != FORMAT:
            raise UserError(f"expected a checkpoint of the format {FORMAT!r} in {path}, found another file")
        checkpoint = check_record(path, cls, content, "train it again with `python -m classify train --overwrite`")
        try:
            _ = checkpoint.section
        except UserError as error:
            raise UserError(f"expected a checkpoint of a usable recipe in {path}, found damage: {error}") from None
        return checkpoint


def load_checkpoints(paths: Mapping[int, Path]) -> dict[int, Checkpoint]:
    """Read the models of a run.

    Parameters
    ----------
    paths
        Their files, by the fold that each was trained without.

    Raises
    ------
    UserError
        As `Checkpoint.load`, or if one belongs to another fold, or was trained by another recipe than the others.
    """
    checkpoints = {fold: Checkpoint.load(path) for fold, path in paths.items()}
    for fold, checkpoint in checkpoints.items():
        if checkpoint.fold != fold:
            raise UserError(
                f"expected the model of fold {fold} in {paths[fold]}, found that of fold {checkpoint.fold}; put it in"
                " its place or train again with `python -m classify train --overwrite`"
            )
    first, *others = checkpoints
    for fold in others:
        one, other = checkpoints[first].config, checkpoints[fold].config
        if changed := next((key for key in sorted({*one, *other}) if one.get(key) != other.get(key)), None):
            raise UserError(
                f"expected folds trained by one recipe, found classify.{changed} {one.get(changed)!r} in {paths[first]}"
                f" and {other.get(changed)!r} in {paths[fold]}; train one of them again with `--fold` and `--overwrite`"
            )
    return checkpoints


def to_bytes(content: dict[str, Any]) -> bytes:
    """Serialise tensors and plain values, in memory, because torch writes the file name into a file that it saves."""
    buffer = BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def inference_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without those of ArcFace, which only training needs."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith("arcface.")}


def load_plain(path: Path) -> Any:
    """Read a file of tensors and plain values onto the CPU; code in it is not executed.

    Raises
    ------
    UserError
        If there is no such file, or it is truncated, damaged or contains anything else.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        found = "a folder" if path.is_dir() else "no such file"
        raise UserError(f"expected a checkpoint {path} (made by `python -m classify train`), found {found}") from None
    try:
        _check_sums(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns about pickles that it then rejects
            return torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"expected only tensors and plain values in {path}, found code, which was not run, or damage"
        ) from None
    except Exception as error:  # damaged bytes make the reader raise whatever they lead it to
        raise UserError(
            f"expected a complete checkpoint in {path}, found a damaged file ({first_line(error)}); train it again with"
            " `python -m classify train --overwrite`"
        ) from None


def _check_sums(content: bytes) -> None:
    """Check the checksums of a zip file, which torch writes and does not read."""
    if zipfile.is_zipfile(BytesIO(content)):
        with zipfile.ZipFile(BytesIO(content)) as file:
            if broken := file.testzip():
                raise ValueError(f"wrong checksum of {broken}")
