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
    """`[aggregate]`: crop probabilities to image labels."""

    renamed: ClassVar[Mapping[str, str]] = {"least_images": "min_images", "least_quality": "min_quality"}

    pooling: Pooling = Field(
        default="max",
        description="How the probabilities of crops are pooled to those of their image: max, mean, top-k (mean of the"
        " k highest), quantile, log-sum-exp (smooth maximum), noisy-or, linear-softmax (mean weighted by the"
        " probabilities themselves); per-class, for every class the one of these with the highest average precision"
        " out of fold; or trained, the pooling that the classifier was trained with (classify.objective bag or dual).",
    )
    top_k: int = Field(default=3, ge=1, description="Number of crops that `top-k` averages.")
    quantile: float = Field(default=0.9, ge=0, le=1, description="Quantile over the crops that `quantile` takes.")
    sharpness: float = Field(
        default=10.0,
        gt=0,
        description="Sharpness of `log-sum-exp`: near 0 it is the mean, at large values the maximum.",
    )
    quality: str = Field(default="completeness", description="Column of crops.parquet that `min_quality` applies to.")
    min_quality: float = Field(
        default=0.0,
        ge=0,
        description="Crops of lower quality are skipped, unless an image has no other; 0 keeps all.",
    )
    join: tuple[str, ...] = Field(
        default=(),
        description="Other work folders with the same images and folds whose probabilities are joined with those of"
        ' this run, by their paths relative to this work folder, such as "../other"; "../other:five_crop" selects a'
        " window.",
    )
    join_by: Literal["mean", "rank", "max"] = Field(
        default="mean",
        description="How runs, and the windows of a run, are joined: mean (weighted), rank (weighted mean of the ranks"
        " among the images of a fold), or max.",
    )
    join_weights: tuple[float, ...] = Field(
        default=(), description="Weights of this run and of the joined runs; empty weighs them alike."
    )
    fit_join_weights: bool = Field(
        default=False, description="Fit the weights to the mean average precision out of fold instead."
    )
    calibration: Literal["none", "platt", "isotonic"] = Field(
        default="none", description="How pooled scores are calibrated into probabilities, class by class."
    )
    calibrate_bag_size: bool = Field(
        default=True, description="Use the number of crops in the calibration too: a maximum over more crops is higher."
    )
    thresholds: Method = Field(
        default="shrunk",
        description="How thresholds are tuned on out-of-fold rows: fixed; global, one for all classes; per-class, best"
        " F1 of each class; prevalence, predicted as often as labelled; shrunk, per-class shrunk towards `shrink_to`;"
        " repeated, mean of per-class over repeated folds; soft-f1, least squares on a smooth F1; cyclic, one class"
        " after another until none changes.",
    )
    fixed_threshold: float = Field(default=0.5, ge=0, le=1, description="Threshold of every class with `fixed`.")
    shrink_to: Literal["global", "prevalence"] = Field(
        default="prevalence", description="Thresholds that `shrunk` shrinks those of rare classes towards."
    )
    shrinkage: float = Field(
        default=30.0, ge=0, description="Number of positives at which `shrunk` keeps half of a class's own threshold."
    )
    repeats: int = Field(default=10, ge=1, le=1000, description="Number of random splits with `repeated`.")
    class_fractions: tuple[float, ...] = Field(
        default=(),
        description="Shares of images per class that `prevalence` aims at, in the order of the vocabulary; empty uses"
        " those of the train images.",
    )
    transfer: Transfer = Field(
        default="spread",
        description="How thresholds tuned on scores of single models are transferred to the mean of all models: none,"
        " kept as they are; shares, so that each class is predicted as often as out of fold; spread, by the mean and"
        " standard deviation of both on the logit scale, over the images to decide on.",
    )
    limit_shares: bool = Field(
        default=True,
        description="Predict no class at more than twice its share of the train images unless its precision out of fold"
        " supports it; a class not shown to rank them better than chance gets the threshold that predicts just that"
        " share. Not with `fixed` and `prevalence`.",
    )
    min_images: int = Field(
        default=50,
        ge=2,
        description="Minimum number of images to transfer thresholds on. New images use the thresholds transferred on"
        " the test images of the trained run, unless there are at least as many new images.",
    )
    empty: str = Field(
        default="argmax", description='What a row without a class gets: "argmax", "blank" or the name of a class.'
    )
    cell_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="A cell gets those classes of its image for which its probability is at least this share of the"
        " highest among the cells of the image; 0 gives every cell all classes, 1 only the best cell.",
    )
    bootstrap: int = Field(
        default=1000, ge=0, le=100_000, description="Number of resamples of groups for the 95% intervals; 0 omits them."
    )
    submission: Format | Literal["auto"] = Field(
        default="auto",
        description="Format of submission.csv: kaggle2018, jovian (Jovian course), kaggle2021 (single cells, scored by"
        " the models of this run only), or auto, labels of images under the header that belongs to the vocabulary.",
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

    def joined(self, work: Path) -> list[tuple[Path, str]]:
        """Return folder and window of each joined run; an empty window stands for the first window of this run.

        Parameters
        ----------
        work
            The work folder of this run, which the names of the others are relative to.
        """
        named = (text.partition(":") for text in self.join)
        return [((work.resolve() / root).resolve(), window) for root, _, window in named]

    @property
    def applied_transfer(self) -> Transfer:
        """How thresholds are transferred to the mean of the models: fixed ones never are."""
        return "none" if self.thresholds == "fixed" else self.transfer

    @property
    def limits_shares(self) -> bool:
        """Whether shares are limited: fixed thresholds stay as they are, and `prevalence` sets the shares itself."""
        return self.limit_shares and self.thresholds not in ("fixed", "prevalence")

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The poolings to compute."""
        return ("trained",) if self.pooling == "trained" else self.formulas

    @property
    def formulas(self) -> tuple[Formula, ...]:
        """The poolings to compute that are formulas, which excludes ``trained``."""
        if self.pooling == "trained":
            return ()
        return KINDS if self.pooling == "per-class" else (self.pooling,)
