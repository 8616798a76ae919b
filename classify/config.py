"""The `[classify]` section of a recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat, field_validator, model_validator

from classify.augment_steps import Augment
from classify.loss_terms import ClassWeights, Loss, LossName, LossTerm
from classify.phases import Phase, Schedule, TrainingPhase, check_phases, resolve_phases, with_epochs
from crops.config import OutsideCell
from hpa.channels import parse_mixture
from hpa.config import DataSection, Section, number_as_text

Stem = Literal["average", "copy", "adapter"]
Features = Literal["average", "maximum", "both", "gem"]
Normalise = Literal["crop", "folds", "sources", "imagenet", "percentiles", "stack"]
Objective = Literal["cell", "bag", "dual"]
Pooling = Literal["max", "top-k", "log-sum-exp", "linear-softmax", "noisy-or", "auto", "attention"]
Positives = Literal["labels", "antibody"]
Mining = Literal["all", "semi-hard", "batch-hard"]
RandomCrop = Literal["none", "crop", "resized"]
Views = Literal["one", "mean", "maximum"]
ViewKind = Literal["dihedral", "flips", "scales", "five_crops"]
Precision = Annotated[Literal["32", "bf16", "16", "auto"], BeforeValidator(number_as_text)]
Monitor = Literal["mean_ap", "macro_f1", "loss", LossName]

WEIGHTS: Final = Path(__file__).parent / "weights"
"""Folder of the weights that Cellwise ships, a file ``<backbone>.safetensors`` each."""


class ClassifySection(Section):
    """`[classify]`: the network that classifies crops, and its training."""

    renamed: ClassVar[Mapping[str, str]] = {
        "neighbours": "outside_cell",
        "weights_file": "pretrained",
        "freeze_epochs": "phases",
    }

    seed: int = Field(
        default=-1,
        ge=-1,
        description="Seed of training: new weights, the order of the crops and their augmentation; -1 takes data.seed."
        " Other seeds train other models on the same folds.",
    )
    channels: tuple[str, ...] = Field(
        default=(),
        description='Channels that the network sees, in this order; empty means all. "red+yellow" is the mean of two,'
        ' and "red|yellow" the maximum after each is scaled in its crop (1st to 99th percentile).',
    )
    outside_cell: OutsideCell = Field(
        default="keep",
        description="Pixels of a crop outside its own cell: kept, dimmed to a quarter of their brightness, or zero.",
    )
    normalise: Normalise = Field(
        default="crop",
        description="Normalisation of each channel: every crop on its own to mean 0 and standard deviation 1, which"
        " keeps patterns and removes brightness; by the mean and standard deviation of the training folds,"
        " or of the crop's source among them; by ImageNet's; by two percentiles over the image's crops; or all channels"
        " of a crop together, by their minimum and maximum.",
    )
    input_px: int = Field(
        default=0, ge=0, description="Side to which crops are resized before the network; 0 keeps their size."
    )
    backbone: str = Field(
        default="resnet18_half",
        description="Network that turns a crop into a feature map: `resnet18_half`, a ResNet18 of half the width with"
        " weights that Cellwise ships; `resnet18_w40` or `resnet18_w48`, of other widths; the name of a torchvision"
        " classification model; `timm:NAME` for a model of timm, transformers too; `subcell` for SubCell's vision"
        " transformer, whose weights you bring; `cnn3` for three convolutions; or `my_module:build`, a function of"
        " yours, in the folder given as --code.",
    )
    pretrained: str = Field(
        default="auto",
        description="Weights to start from: atlas, those shipped with the backbone, trained on drawn cells; imagenet,"
        " the library's, on the disk or downloaded; none, random ones; auto, atlas if the backbone has such"
        " weights and else none; or a path: a file of weights, or a trained work folder with the same folds, whose"
        " model of each fold is taken.",
    )
    trainable: Literal["all", "heads"] = Field(
        default="all",
        description="What is trained: the whole network; or linear heads on the features of the pretrained network,"
        " which are computed once, without augmentation, and kept (backbone_features/).",
    )
    heads: Literal["new", "pretrained"] = Field(
        default="new",
        description="Class heads: new ones, which know no more than the labels of the run; or the pretrained ones, for"
        " the same classes, held near their start.",
    )
    hold: float = Field(
        default=0.1,
        ge=0,
        description="With pretrained heads: weight of the squared distance of the heads from their start in the loss.",
    )
    stem: Stem = Field(
        default="average",
        description="How pretrained RGB filters are extended to more than three channels: further channels get the mean"
        " of the filters, or copies in turn; or a 1x1 convolution reduces the channels to three before an"
        " unchanged stem.",
    )
    feature_stages: tuple[int, ...] = Field(
        default=(),
        description="Stages of the backbone (counted from 1) whose pooled features are joined, as in GapNet-PL; empty"
        " for the last feature map alone.",
    )
    attention: Literal["none", "cbam"] = Field(
        default="none", description="Channel and spatial attention after each stage of the backbone."
    )
    features: Features = Field(
        default="average",
        description="Pooling of the feature map: average, maximum, both concatenated, or the generalised mean with a"
        " learned exponent.",
    )
    objective: Objective = Field(
        default="cell",
        description="What the class loss is computed on: crops with the labels of their image, images pooled over their"
        " crops, or images and, with a small weight, crops.",
    )
    labels: Literal["images", "cells"] = Field(
        default="images",
        description="Labels that crops are trained on: those of their image; or those of single cells, where"
        " cell_labels.parquet has other ones (made by `pipeline relabel`).",
    )
    bag_size: int = Field(
        default=16, ge=1, description="Maximum number of crops per image in a training step, if images are pooled."
    )
    pooling: Pooling = Field(
        default="max", description="Formula that pools the crops of an image, if images are pooled in training."
    )
    top_k: int = Field(default=3, ge=1, description="With `top-k`: number of crops that are averaged.")
    sharpness: float = Field(
        default=5.0, gt=0, description="With `log-sum-exp`: 0 would give the mean, infinity the maximum."
    )
    cell_weight: float = Field(default=0.1, ge=0, description="With `dual`: factor of the loss of crops.")
    completeness_power: float = Field(
        default=0.0,
        ge=0,
        description="Crops are weighted by their cell's completeness to this power; 0 weighs all equally, 1 weighs a"
        " half visible cell by one half.",
    )
    loss: Loss = Field(
        default="focal",
        description='Class loss, a name or a list such as [{name = "focal"}, {name = "soft-f1-macro", weight = 0.5}],'
        " whose losses are added. Of single crops and classes: focal, bce (binary cross-entropy) and asymmetric. Of a"
        " whole batch: soft-f1-macro and soft-f1-samples (1 - F1 of probabilities, of classes or of crops),"
        " log-soft-f1-macro and log-soft-f1-samples (its negative logarithm), lovasz (symmetric Lovasz hinge of"
        " each class) and hard-bce (cross-entropy of positives and the hardest negatives). my_module:my_loss is a"
        " function of yours, in the folder given as --code.",
    )
    class_weights: ClassWeights = Field(
        default="none",
        description="Weights of the classes in the loss: none; inverse, of the number of training images with the"
        " class; effective, of the effective number of those images; or a list of numbers, one per class.",
    )
    effective_beta: float = Field(
        default=0.999,
        ge=0,
        lt=1,
        description="With `effective`: n images count as (1 - beta^n) / (1 - beta); 0 weighs all classes equally.",
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Targets 0 and 1 become s / 2 and 1 - s / 2 in losses of single crops and in hard-bce.",
    )
    asymmetric_gammas: tuple[NonNegativeFloat, NonNegativeFloat] = Field(
        default=(0.0, 4.0),
        description="With `asymmetric`: focusing exponents of positives and of negatives.",
    )
    asymmetric_margin: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="With `asymmetric`: probability that is subtracted from that of negatives, at most to 0.",
    )
    focal_gamma: float = Field(
        default=2.0, ge=0, description="Focusing exponent of the focal loss; 0 gives binary cross-entropy."
    )
    focal_alpha: float = Field(
        default=-1.0,
        le=1,
        description="Weight of positives in the focal loss, 0..1, with 1 - alpha for negatives; -1 weighs both 1.",
    )
    embedding_dim: int = Field(
        default=0,
        ge=0,
        description="Length of the embedding that the triplet and ArcFace losses train; 0 for no embedding and neither"
        " loss.",
    )
    triplet_weight: float = Field(default=0.1, ge=0, description="Factor of the triplet loss beside the class loss.")
    triplet_margin: float = Field(
        default=0.2, gt=0, description="Distance on the unit sphere by which negatives must be farther than positives."
    )
    triplet_positives: Positives = Field(
        default="labels",
        description="Crops that are positives: those whose targets overlap, or those of the same antibody.",
    )
    triplet_jaccard: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Minimum overlap (Jaccard index) of the targets of positives.",
    )
    triplet_mining: Mining = Field(
        default="all",
        description="Triplets that count: all within the margin; those whose negative is farther than the positive yet"
        " within the margin; or each anchor's farthest positive with its nearest negative.",
    )
    arcface_weight: float = Field(
        default=0.0,
        ge=0,
        description="Factor of the ArcFace loss beside the class loss: a second head tells the antibodies apart in the"
        " embedding; 0 for none.",
    )
    arcface_margin: float = Field(
        default=28.6,
        ge=0,
        lt=90,
        description="Angle, in degrees, by which a crop must be nearer to its own antibody than to the others.",
    )
    arcface_scale: float = Field(
        default=64.0, gt=0, description="Factor of the cosines before the softmax over antibodies."
    )
    epochs: int = Field(
        default=20, ge=1, description="Number of passes over the training crops; with bags, over the images."
    )
    batch_size: int = Field(default=64, ge=2, description="Crops per training step; with bags, the maximum.")
    accumulate: int = Field(
        default=1, ge=1, description="Number of batches whose gradients are accumulated before the weights are updated."
    )
    sampling: Literal["crops", "classes"] = Field(
        default="crops",
        description="What an epoch draws: every crop (with bags, every image) once; or as many draws, each of a"
        " uniformly drawn class and then an image of that class.",
    )
    optimizer: Literal["adamw", "adam", "sgd"] = Field(
        default="adamw", description="AdamW, Adam, or stochastic gradient descent with momentum."
    )
    learning_rate: float = Field(default=2e-3, gt=0, description="Highest learning rate.")
    backbone_rate: float = Field(
        default=0.1,
        gt=0,
        description="Factor on the learning rate of a backbone that starts from pretrained weights; those that start"
        " from random ones, and the heads, have the full rate.",
    )
    layer_rates: PositiveFloat | tuple[PositiveFloat, ...] = Field(
        default=1.0,
        description="Factors on the learning rate within the backbone: one of each stage to the next earlier one, below"
        " 1 for slower early stages; or a list of one for the stem and one for each stage.",
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="With `sgd`: Nesterov momentum.")
    weight_decay: float = Field(
        default=0.05,
        ge=0,
        description="Weight decay: decoupled, times the learning rate, with AdamW, an L2 penalty otherwise; norms and"
        " biases have none.",
    )
    schedule: Schedule = Field(
        default="one-cycle",
        description="Learning rate: up for a part of the steps (`rise`), then down to 0; down to 0; divided by ten"
        " after more than `plateau_patience` validations without progress of `monitor`; or constant.",
    )
    rise: float = Field(
        default=0.25, gt=0, lt=1, description="With `one-cycle`: fraction of the steps in which the rate rises."
    )
    plateau_patience: int = Field(
        default=2, ge=0, description="With `plateau`: validations without progress that leave the rate as it is."
    )
    clip_norm: float = Field(
        default=0.0, ge=0, description="Maximum norm of the gradient, longer gradients are scaled down; 0 for no limit."
    )
    phases: tuple[Phase, ...] = Field(
        default=(Phase(epochs=2, trainable=("new",)), Phase(schedule="continue")),
        description="Phases of the training, in order, each with its epochs (0 in the last: what the others leave of"
        " `epochs`), the parts that are trained (all; new, what has no pretrained weights; heads; stem; stages; stage1,"
        " stage2, ...), the highest learning rate (0: `learning_rate`), the schedule (same: `schedule`; continue: that"
        " of the phase before goes on) and the side of training crops (-1: `input_px`, the side that is validated and"
        " predicted with). [] is one phase, in which all is trained.",
    )
    augment: Augment = Field(
        default="standard",
        description="Augmentation of training crops: none; light, the eight dihedral views; standard, those and small"
        " changes of scale, position, angle, brightness, contrast, blur and noise; strong, larger changes with"
        " elastic deformation and missing blocks; or a list of steps, each with a name of albumentations and its"
        ' parameters, such as [{name = "Rotate", limit = 30, p = 0.5}], or DimProtein, which dims the protein'
        " channel alone.",
    )
    random_crop: RandomCrop = Field(
        default="none",
        description="Cut training crops at random: a square of a fixed side, or one of random side resized to it.",
    )
    random_crop_px: int = Field(default=64, ge=8, description="With `random_crop`: side of the square.")
    mixup: float = Field(
        default=0.0,
        ge=0,
        description="Mix every crop with another of its batch, in a proportion drawn from the beta distribution with"
        " this parameter; 0 for no mixing.",
    )
    cutmix: float = Field(
        default=0.0,
        ge=0,
        description="Replace a rectangle of every crop by that of another of its batch, of a size drawn likewise; with"
        " `mixup`, each batch gets one of the two.",
    )
    validate_every: int = Field(
        default=5,
        ge=1,
        description="Number of epochs from one validation on the fold's images to the next; the last epoch is always"
        " validated.",
    )
    log_samples: bool = Field(
        default=False,
        description="At every validation, write probabilities, truth and loss of each training and validation crop to"
        " samples/ beside history.csv; `classify curves` draws them.",
    )
    checkpoint: Literal["last", "best"] = Field(
        default="last",
        description="Weights that are kept: of the last epoch, or of the validated epoch that is best by `monitor` on"
        " the fold's own images (its out-of-fold probabilities are then slightly optimistic).",
    )
    monitor: Monitor = Field(
        default="mean_ap",
        description="Score of the fold's own images that decides which epoch is best, and whether there is progress:"
        " mean average precision or macro F1 at 0.5, the higher the better; or the loss, or another one by its name,"
        " the lower the better.",
    )
    patience: int = Field(
        default=0,
        ge=0,
        description="Epochs without progress of `monitor` after which a phase of the training ends; 0 for no such end.",
    )
    keep_epochs: bool = Field(
        default=False, description="Keep a checkpoint of every epoch (fold-<k>/epochs/), as large as the model each."
    )
    ema_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Decay per step of an exponential moving average of the weights, which is validated and kept in"
        " place of them; 0 for none.",
    )
    swa_epochs: int = Field(
        default=0,
        ge=0,
        description="Last epochs whose weights are averaged (stochastic weight averaging), validated and kept; 0 for"
        " none.",
    )
    test_views: Views = Field(
        default="one",
        description="Views that are scored: each crop as it is, or several views of it, by their mean or maximum"
        " probability.",
    )
    view_kinds: tuple[ViewKind, ...] = Field(
        default=("dihedral",),
        min_length=1,
        description="With several test_views, which: the eight dihedral ones; flips, as it is and mirrored in both"
        " directions; scales, as it is and by view_scales; five_crops, its corners and its centre. Several kinds are"
        " combined.",
    )
    view_scales: tuple[Annotated[float, Field(ge=0.25, le=4)], ...] = Field(
        default=(0.8, 1.25), min_length=1, description="With `scales`: factors by which crops are enlarged."
    )
    view_side: float = Field(
        default=0.75, gt=0, le=1, description="With `five_crops`: their side, as a fraction of the crop's."
    )
    nearest_crops: int = Field(
        default=0,
        ge=0,
        description="Number of nearest training crops, in the embedding (without one, by the features), whose labels"
        " are transferred to a crop: scores of their own, in classify/<window>/neighbours, which aggregate.join ="
        ' [".:cells/neighbours"] joins; 0 for none.',
    )
    precision: Precision = Field(
        default="auto",
        description="Arithmetic: float32; bfloat16 where it is safe (twice as fast on processors with instructions for"
        " it, many times slower on others); 16, which is float16 where it is safe, for GPUs; or auto, which uses"
        " bfloat16 where there are such instructions and the backbone has no depthwise convolutions, which it would"
        " slow down.",
    )

    @field_validator("pretrained", mode="before")
    @classmethod
    def _was_a_switch(cls, pretrained: Any) -> Any:
        if isinstance(pretrained, bool):
            raise ValueError('"imagenet" is what true was, "none" what false was')
        return pretrained

    @model_validator(mode="before")
    @classmethod
    def _count_epochs(cls, values: Any) -> Any:
        return with_epochs(values)

    @model_validator(mode="after")
    def _fits_phases(self) -> Self:
        check_phases(self.phases)
        if self.trainable == "heads":
            for phase in self.phases:
                if not {"all", "new", "heads"} & set(phase.trainable) or phase.input_px >= 0:
                    raise ValueError(
                        'expected phases of heads, without input_px, with trainable = "heads"; set phases = [] or'
                        ' trainable = "all"'
                    )
        if list(self.feature_stages) != sorted(set(self.feature_stages)) or min(self.feature_stages, default=1) < 1:
            raise ValueError(f"expected feature_stages in rising order from 1, found {list(self.feature_stages)}")
        return self

    @model_validator(mode="after")
    def _fits_averages_and_mixing(self) -> Self:
        if self.swa_epochs:
            for key, value in {"ema_decay": 0, "patience": 0, "checkpoint": "last"}.items():
                if getattr(self, key) != value:
                    raise ValueError(f"expected {key} = {value!r} with swa_epochs, found {getattr(self, key)!r}")
            if self.swa_epochs > sum(phase.epochs for phase in self.training_phases):
                raise ValueError(f"expected at most as many swa_epochs as epochs, found {self.swa_epochs}")
        if self.mixup or self.cutmix:
            for key, value in {"objective": "cell", "embedding_dim": 0, "trainable": "all"}.items():
                if getattr(self, key) != value:
                    raise ValueError(f"expected {key} = {value!r} with mixup or cutmix, found {getattr(self, key)!r}")
        return self

    @property
    def training_phases(self) -> list[TrainingPhase]:
        """The phases with nothing left open."""
        return resolve_phases(self.phases, self.epochs, self.learning_rate, self.schedule, self.input_px)

    @model_validator(mode="after")
    def _fits_frozen_features(self) -> Self:
        if self.trainable == "heads":
            for key, value in {"attention": "none", "random_crop": "none"}.items():
                if getattr(self, key) != value:
                    raise ValueError(f'expected {key} = "{value}" with trainable = "heads"')
            if not isinstance(self.augment, str):
                raise ValueError(
                    'expected no list of steps in augment with trainable = "heads": features are not varied'
                )
        return self

    @model_validator(mode="after")
    def _has_embedding(self) -> Self:
        if self.arcface_weight and not self.embedding_dim:
            raise ValueError("expected an embedding_dim above 0 with an arcface_weight above 0, found 0")
        return self

    @model_validator(mode="after")
    def _labels_single_crops(self) -> Self:
        if self.labels == "cells" and self.objective != "cell":
            raise ValueError(f'expected objective = "cell" with labels = "cells", found "{self.objective}"')
        return self

    @model_validator(mode="after")
    def _fits_subcell(self) -> Self:
        if self.backbone != "subcell":
            return self
        orders = {("red", "yellow", "blue", "green"), ("red", "blue", "green"), ("yellow", "blue", "green")}
        if self.channels not in {*orders, ("blue", "green")}:
            raise ValueError(
                'expected channels = ["red", "yellow", "blue", "green"] with backbone = "subcell", or those of the'
                f" published models without red, without yellow or without both, found {list(self.channels)}"
            )
        for key, value in {"normalise": "stack", "input_px": 448, "features": "average"}.items():
            if getattr(self, key) != value:
                raise ValueError(f'expected {key} = {value!r} with backbone = "subcell", found {getattr(self, key)!r}')
        return self

    def training_seed(self, data: DataSection) -> int:
        """Return the seed of training, which is that of the data unless the section has its own."""
        return data.seed if self.seed < 0 else self.seed

    @field_validator("view_kinds")
    @classmethod
    def _distinct_kinds(cls, kinds: tuple[ViewKind, ...]) -> tuple[ViewKind, ...]:
        if len(set(kinds)) < len(kinds) or {"dihedral", "flips"} <= set(kinds):
            raise ValueError("expected no kind of view twice; flips are among the dihedral views")
        return kinds

    @property
    def loss_terms(self) -> tuple[LossTerm, ...]:
        """The losses that are added to the class loss, with their weights."""
        return (LossTerm(name=self.loss),) if isinstance(self.loss, str) else self.loss

    @property
    def starts_from(self) -> str:
        """What `pretrained` means for the backbone: ``"atlas"``, ``"imagenet"``, ``"none"`` or a path."""
        if self.pretrained == "auto":
            return "atlas" if shipped_weights(self.backbone).is_file() else "none"
        return self.pretrained

    @model_validator(mode="after")
    def _alpha(self) -> Self:
        if self.focal_alpha < 0 and self.focal_alpha != -1:
            raise ValueError(f"expected focal_alpha of -1 or within 0..1, found {self.focal_alpha}")
        return self

    @model_validator(mode="after")
    def _channels(self) -> Self:
        for name in self.channels:
            parse_mixture(name)
        if len(self.channels) > 5:
            raise ValueError(f"expected at most 5 channels, found {len(self.channels)}")
        return self


def shipped_weights(backbone: str) -> Path:
    """Return where the weights that Cellwise ships for a backbone are, if it ships any."""
    return WEIGHTS / f"{Path(backbone).name}.safetensors"
