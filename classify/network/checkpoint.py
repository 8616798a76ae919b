"""The artefact of training: ``checkpoint.pt``, a dictionary of tensors and plain values, never code."""

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

FORMAT: Final = "cellwise classifier 1"


@dataclass(frozen=True)
class Checkpoint:
    """A trained classifier and what one must know to use it.

    Parameters
    ----------
    state_dict
        Weights of `classify.network.model.Network`, on the CPU.
    config
        The `[classify]` section it was trained with.
    vocabulary
        Name of the run's vocabulary.
    classes
        Class names, in the order of the logits.
    channels
        Channels of the crops; `config` says which of them the network sees.
    size_px
        Side of the crops it was trained on.
    mean, std
        Normalisation per channel, in uint8 units.
    fold
        The fold it never saw.
    epoch
        Epochs behind the weights.
    seed
        The recipe's seed.
    versions
        Packages it was trained with; recorded, not compared.
    sources
        Mean and deviation per channel of each source's part of the training folds, where the recipe asks for them.
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
        """The section it was trained with, checked."""
        return parse_section(ClassifySection, "classify", self.config)

    @property
    def statistics(self) -> Statistics:
        """Grey values of the training folds."""
        return Statistics(self.mean, self.std, self.sources)

    def network(self, device: torch.device) -> Network:
        """Build the network with these weights, ready to evaluate.

        Raises
        ------
        UserError
            If the weights do not fit the network that the rest describes.
        """
        network = Network(self.section, len(self.mean), len(self.classes), self.mean, self.std)
        try:
            network.load_state_dict(self.state_dict)
        except RuntimeError as error:
            raise UserError(f"expected weights that fit the checkpoint's own description, found: {error}") from None
        return network.eval().to(device)

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all; equal checkpoints give equal bytes."""
        write_bytes(path, to_bytes({"format": FORMAT, **asdict(self)}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a checkpoint; code that hides in it is not run.

        Raises
        ------
        UserError
            If there is none, or it is cut short, holds anything but tensors and plain values, or is another file.
        """
        content = load_plain(path)
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise UserError(f"expected a checkpoint of the format {FORMAT!r} in {path}, found another file")
        try:
            return cls(**content)
        except TypeError as error:
            raise UserError(f"expected the fields of {FORMAT!r} in {path}, found: {error}") from None


def to_bytes(content: dict[str, Any]) -> bytes:
    """Serialise tensors and plain values; written through memory, since torch puts a file's name among its bytes."""
    buffer = BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load_plain(path: Path) -> Any:
    """Read a file of tensors and plain values onto the CPU.

    Raises
    ------
    UserError
        If there is none, or it is cut short, or holds anything else.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"expected a checkpoint {path} (made by `python -m classify train`), found no such file"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch muses about pickles that it then refuses
            return torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"expected only tensors and plain values in {path}, found code or damage; it was not run"
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"expected a whole checkpoint in {path}, found a damaged file ({reason})") from None
