"""The trained model: ``checkpoint.pt``, a dictionary of tensors and plain values, never code."""

import pickle
import warnings
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import Tensor

from classify.config import ClassifySection
from classify.data.normalisation import Statistics
from classify.network.model import Network
from hpa.config import parse_section
from hpa.errors import UserError
from hpa.work.files import write_bytes

FORMAT: Final = "cellwise classifier 2"
_OLDER_FORMATS: Final = ("cellwise classifier 1",)


@dataclass(frozen=True)
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
    """

    state_dict: dict[str, Tensor]
    config: dict[str, Any]
    vocabulary: str
    classes: list[str]
    channels: list[str]
    size_px: int
    mean: list[float]
    std: list[float]
    fold: int
    epoch: int
    seed: int
    versions: dict[str, str]
    sources: dict[str, list[list[float]]] = field(default_factory=dict)

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
            If the weights do not fit the network that the other fields describe.
        """
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
        try:
            return cls(**content)
        except TypeError as error:
            raise UserError(f"expected the fields of {FORMAT!r} in {path}, found: {error}") from None


def to_bytes(content: dict[str, Any]) -> bytes:
    """Serialise tensors and plain values, in memory, because torch writes the file name into a file that it saves."""
    buffer = BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load_plain(path: Path) -> Any:
    """Read a file of tensors and plain values onto the CPU; code in it is not executed.

    Raises
    ------
    UserError
        If there is no such file, or it is truncated or contains anything else.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"expected a checkpoint {path} (made by `python -m classify train`), found no such file"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns about pickles that it then rejects
            return torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"expected only tensors and plain values in {path}, found code, which was not run, or damage"
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"expected a complete checkpoint in {path}, found a damaged file ({reason})") from None
