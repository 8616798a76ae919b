"""The `[aggregate]` section of a recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from hpa.config import Section

Formula = Literal["max", "mean", "top-k", "quantile", "log-sum-exp", "noisy-or", "linear-softmax"]
KINDS: Final[tuple[Formula, ...]] = ("max", "mean", "top-k", "quantile", "log-sum-exp", "noisy-or", "linear-softmax")
Kind = Literal[Formula, "trained"]
Pooling = Literal[Kind, "per-class"]
Method = Literal["fixed", "global", "per-class", "prevalence", "shrunk", "repeated", "soft-f1", "cyclic"]
Transfer = Literal["none", "shares", "spread"]
Format = Literal["kaggle2018", "jovian", "kaggle2021"]


class AggregateSection(Section):
    """`[aggregate]`: from crop probabilities to labels."""

    renamed: ClassVar[Mapping[str, str]] = {"least_images": "min_images", "least_quality": "min_quality"}

    pooling: Pooling = Field(
        default="max",
        description="How an image's crops become its probabilities: max, mean, top-k (mean of the highest), quantile,"
        " log-sum-exp (smooth maximum), noisy-or, linear-softmax (each crop weighs as much as its probability);"
        " per-class, for every class the one of these with the highest average precision out of fold; or trained, as"
        " the classifier was trained to be pooled (classify.objective bag or dual).",
    )
    top_k: int = Field(default=3, ge=1, description="Crops whose mean `top-k` takes.")
    quantile: float = Field(default=0.9, ge=0, le=1, description="Which quantile over the crops `quantile` takes.")
    sharpness: float = Field(
        default=10.0, gt=0, description="Of `log-sum-exp`: near 0 it is the mean, at large values the maximum."
    )
    quality: str = Field(default="completeness", description="The column of crops.parquet that `min_quality` looks at.")
    min_quality: float = Field(
        default=0.0,
        ge=0,
        description="Crops of lower quality are left out, unless an image has no other; 0 keeps all.",
    )
    join: tuple[str, ...] = Field(
        default=(),
        description="Other work folders, of the same images and folds, whose probabilities are joined with this run's;"
        ' "work/other:five_crop" names a window.',
    )
    join_by: Literal["mean", "rank", "max"] = Field(
        default="mean",
        description="How joined runs become one: weighted mean, weighted mean of the ranks among a fold's images, or"
        " maximum.",
    )
    join_weights: tuple[float, ...] = Field(
        default=(), description="Weights of this run and of the joined ones; empty weighs them alike."
    )
    fit_join_weights: bool = Field(
        default=False, description="Choose the weights by mean average precision out of fold instead."
    )
    calibration: Literal["none", "platt", "isotonic"] = Field(
        default="none", description="How pooled scores are made probabilities again, class by class."
    )
    calibrate_bag_size: bool = Field(
        default=True, description="Let the calibration see the number of crops too: a maximum over many is higher."
    )
    thresholds: Method = Field(
        default="shrunk",
        description="How thresholds are tuned on out-of-fold rows: fixed; global, one for all classes; per-class, the"
        " best F1; prevalence, predicted as often as labelled; shrunk, per-class drawn towards `shrink_to`; repeated,"
        " the mean of per-class over repeated folds; soft-f1, least squares; cyclic, per-class in turns.",
    )
    fixed_threshold: float = Field(default=0.5, ge=0, le=1, description="The threshold of every class with `fixed`.")
    shrink_to: Literal["global", "prevalence"] = Field(
        default="prevalence", description="What `shrunk` draws the thresholds of rare classes towards."
    )
    shrinkage: float = Field(
        default=30.0, ge=0, description="Positives at which a class with `shrunk` keeps half of its own threshold."
    )
    repeats: int = Field(default=10, ge=1, le=1000, description="How often `repeated` splits the rows anew.")
    class_fractions: tuple[float, ...] = Field(
        default=(),
        description="Shares of the images that have each class, in the vocabulary's order, which `prevalence` aims at;"
        " empty takes those of the train images.",
    )
    transfer: Transfer = Field(
        default="spread",
        description="How thresholds tuned on one model's scores are carried to the mean of all models': none, as they"
        " are; shares, so that each class is predicted as often as out of fold; spread, by the mean and deviation of"
        " both on the logit scale over the images decided.",
    )
    min_images: int = Field(
        default=50,
        ge=2,
        description="Thresholds are carried on no fewer images than this. New images take those of the trained run's"
        " test images, unless there are more new ones.",
    )
    empty: str = Field(
        default="argmax", description='What a row without a class gets: "argmax", "blank" or the name of a class.'
    )
    cell_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="A cell has those classes of its image for which its probability is at least this share of the"
        " highest among the image's cells; 0 hands all on to all cells, 1 to the one best.",
    )
    bootstrap: int = Field(
        default=1000, ge=0, le=100_000, description="Resamples of groups behind the 95% intervals; 0 leaves them out."
    )
    submission: Format | Literal["auto"] = Field(
        default="auto",
        description="The form of submission.csv: kaggle2018, jovian (the course's), kaggle2021 (single cells, as this"
        " run's own models score them), or auto, labels of images under the header that belongs to the vocabulary.",
    )

    @model_validator(mode="after")
    def _weights(self) -> Self:
        if self.join_weights and len(self.join_weights) != 1 + len(self.join):
            raise ValueError("join_weights has one weight for this run and one for each of join")
        if any(weight < 0 for weight in self.join_weights) or (self.join_weights and not sum(self.join_weights)):
            raise ValueError("join_weights are at least 0 and not all 0")
        if any(not 0 <= share <= 1 for share in self.class_fractions):
            raise ValueError("class_fractions lie within 0..1")
        return self

    @property
    def joined(self) -> list[tuple[Path, str]]:
        """The work folder and the window of each joined run; an empty window is that of this run."""
        return [(Path(root), window) for root, _, window in (text.partition(":") for text in self.join)]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The poolings that have to be computed."""
        return ("trained",) if self.pooling == "trained" else self.formulas

    @property
    def formulas(self) -> tuple[Formula, ...]:
        """Those of them that the classifier had no part in."""
        if self.pooling == "trained":
            return ()
        return KINDS if self.pooling == "per-class" else (self.pooling,)
