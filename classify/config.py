"""The `[classify]` section of a recipe."""

from typing import Literal, Self

from pydantic import Field, model_validator

from crops.config import Neighbours
from hpa.config import Section

Normalise = Literal["crop", "folds"]
Preset = Literal["none", "light", "standard"]
Precision = Literal["32", "bf16", "auto"]


class ClassifySection(Section):
    """`[classify]`: how a classifier of crops is made and trained."""

    backbone: Literal["resnet18"] = Field(
        default="resnet18", description="The torchvision network that turns a crop into features."
    )
    pretrained: bool = Field(
        default=False,
        description="Start from ImageNet weights, on the disk or downloadable; false draws them at random.",
    )
    neighbours: Neighbours = Field(
        default="keep",
        description="What a crop shows outside its own cell: the image, a quarter of its brightness, or black.",
    )
    normalise: Normalise = Field(
        default="crop",
        description="What each channel is brought to mean 0 and deviation 1 over: every crop by itself, which leaves"
        " patterns and takes brightness away, or all crops of the training folds.",
    )
    epochs: int = Field(default=20, ge=1, description="Times that every training crop is seen.")
    batch_size: int = Field(default=64, ge=2, description="Crops per training step.")
    learning_rate: float = Field(default=2e-3, gt=0, description="Highest learning rate of AdamW.")
    weight_decay: float = Field(
        default=0.05, ge=0, description="Decoupled weight decay of AdamW, per unit of learning rate."
    )
    schedule: Literal["one-cycle", "constant"] = Field(
        default="one-cycle",
        description="Learning rate over the steps: up for a quarter and down to nothing, or always the same.",
    )
    focal_gamma: float = Field(
        default=2.0, ge=0, description="Focusing exponent of the focal loss; 0 is binary cross-entropy."
    )
    focal_alpha: float = Field(
        default=-1.0,
        le=1,
        description="Weight of positives in the focal loss, 0..1, negatives have 1 - alpha; -1 weighs neither.",
    )
    embedding_dim: int = Field(
        default=0, ge=0, description="Length of the embedding that the triplet loss trains; 0 leaves it out."
    )
    triplet_weight: float = Field(default=0.1, ge=0, description="Factor of the triplet loss beside the focal loss.")
    triplet_margin: float = Field(
        default=0.2, gt=0, description="Distance on the unit sphere by which negatives must be farther."
    )
    triplet_jaccard: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Crops whose targets overlap at least so much (Jaccard index) are positives.",
    )
    augment: Preset = Field(default="standard", description="How training crops are varied.")
    validate_every: int = Field(
        default=5,
        ge=1,
        description="Epochs between two looks at the fold's validation images; the last epoch always has one.",
    )
    checkpoint: Literal["last", "best"] = Field(
        default="last",
        description="Which weights are kept: of the last epoch, or of the validated epoch with the highest mean average"
        " precision on the fold's own images (its out-of-fold probabilities are then a little too good).",
    )
    precision: Precision = Field(
        default="32",
        description="Arithmetic: float32; bfloat16 where it is safe (twice as fast where the processor has instructions"
        " for it, many times slower elsewhere); or auto, bfloat16 where there are such instructions.",
    )

    @model_validator(mode="after")
    def _alpha(self) -> Self:
        if self.focal_alpha < 0 and self.focal_alpha != -1:
            raise ValueError("focal_alpha is -1 or within 0..1")
        return self
