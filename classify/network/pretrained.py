"""Files of pretrained weights: a backbone of named channels, the heads of its classes, and how crops were normalised.

The format is safetensors: tensors and text, never code. Convolutions and heads are stored in bfloat16, norms in
float32.
"""

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Final, Self

import torch
from pydantic import Field, FiniteFloat, PositiveFloat, PositiveInt, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from classify.data.normalisation import Statistics
from hpa.errors import UserError
from hpa.work.files import first_line, write_bytes
from hpa.work.records import STRICT

FORMAT: Final = "cellwise backbone 1"


@dataclass(frozen=True, config=STRICT)
class Description:
    """What a file of pretrained weights says of itself.

    Parameters
    ----------
    backbone
        `classify.config.ClassifySection.backbone`.
    features
        Pooling of its feature map, `classify.config.Features`.
    channels
        Names of the channels of its stem, in their order.
    classes
        Names of the classes of its heads, in their order; empty without heads.
    size_px
        Side of the crops that it was trained on.
    mean, std
        Mean and standard deviation of those crops per channel, in uint8 units.
    normalise
        How they were normalised, `classify.config.Normalise`.
    """

    backbone: str
    features: str
    channels: Annotated[list[str], Field(min_length=1)]
    classes: list[str]
    size_px: PositiveInt
    mean: list[FiniteFloat]
    std: list[PositiveFloat]
    normalise: str = "crop"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not len(self.channels) == len(set(self.channels)) == len(self.mean) == len(self.std):
            raise ValueError("different channels, with a mean and a deviation each")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("no class twice")
        return self


@dataclass(frozen=True, config=STRICT)
class Pretrained:
    """Pretrained weights.

    Parameters
    ----------
    description
        What they are.
    state_dict
        Weights by their names in `classify.network.model.Network`, float32.
    """

    description: Description
    state_dict: dict[str, Tensor]

    def save(self, path: Path) -> None:
        """Write the file atomically; equal weights give equal bytes."""
        stored = {
            name: (tensor.to(torch.bfloat16) if tensor.ndim > 1 else tensor).contiguous()
            for name, tensor in self.state_dict.items()
            if not name.endswith("num_batches_tracked")
        }
        text = TypeAdapter(Description).dump_json(self.description).decode()
        write_bytes(path, save(stored, {FORMAT: text}))  # one entry: the order of several would vary

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file.

        Raises
        ------
        UserError
            If there is no such file, or it is damaged or of another format.
        """
        metadata, state = read_tensors(path)
        if FORMAT not in metadata:
            raise UserError(
                f"expected weights of the format {FORMAT!r} (`python -m classify train-backbone`) in {path}, found"
                " others"
            )
        try:
            description = TypeAdapter(Description).validate_json(metadata[FORMAT])
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise UserError(f"expected a description of the weights in {path}, found damage: {problem}") from None
        damaged = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
        if damaged:
            raise UserError(f"expected finite weights in {path}, found others in {damaged[0]}")
        return cls(description, state)


def read_tensors(path: Path) -> tuple[Mapping[str, str], dict[str, Tensor]]:
    """Read the text and the tensors, as float32, of a safetensors file of any origin.

    Raises
    ------
    UserError
        If there is no such file, or it is damaged.
    """
    if not path.is_file():
        raise UserError(f"expected a file of pretrained weights, found no file {path}")
    try:
        with safe_open(path, "pt") as opened:
            metadata: Mapping[str, str] = opened.metadata() or {}
            return metadata, {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"expected safetensors in {path}, found a damaged file ({first_line(error)})") from None


@dataclass(frozen=True, config=STRICT)
class Start:
    """The weights that a network starts from.

    Parameters
    ----------
    backbone
        Weights by their names in `classify.network.backbones.new_backbone`.
    stem
        The channels of the stem that each channel of the run takes its filters from, as positions; None where the stem
        has those of the run or of RGB, which the recipe extends.
    heads
        Weights by their names in `classify.network.model.Network`: of the pooling of the feature map, and of the class
        head if its classes are those of the run.
    features
        Pooling of the feature map that the heads were trained with; None if unknown.
    normalise
        How its crops were normalised; None if unknown.
    statistics
        Mean and deviation of its crops in the channels of the run; None if unknown.
    """

    backbone: dict[str, Tensor]
    stem: list[list[int]] | None = None
    heads: dict[str, Tensor] = field(default_factory=dict)
    features: str | None = None
    normalise: str | None = None
    statistics: Statistics | None = None
