"""The `[classify]` section of a recipe."""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from crops.config import OutsideCell
from hpa.channels import CHANNELS
from hpa.config import Section

Stem = Literal["average", "copy", "adapter"]
Features = Literal["average", "maximum", "both", "gem"]
Normalise = Literal["crop", "folds", "sources", "imagenet", "percentiles"]
Objective = Literal["cell", "bag", "dual"]
Pooling = Literal["max", "top-k", "log-sum-exp", "linear-softmax", "noisy-or", "auto", "attention"]
Positives = Literal["labels", "antibody"]
Mining = Literal["all", "semi-hard", "batch-hard"]
Preset = Literal["none", "light", "standard", "strong"]
RandomCrop = Literal["none", "crop", "resized"]
Views = Literal["one", "mean", "maximum"]
Precision = Literal["32", "bf16", "auto"]


class ClassifySection(Section):
    """`[classify]`: how a classifier of crops is made and trained."""

    renamed: ClassVar[Mapping[str, str]] = {"neighbours": "outside_cell"}

    channels: tuple[str, ...] = Field(
        default=(),
        description='Channels of the run that the network sees, in this order; "red+yellow" is the mean of two. Empty'
        " takes all.",
    )
    outside_cell: OutsideCell = Field(
        default="keep",
        description="What a crop shows outside its own cell: the image, a quarter of its brightness, or black.",
    )
    normalise: Normalise = Field(
        default="crop",
        description="How each channel is brought to a common scale: every crop by itself to mean 0 and deviation 1,"
        " which leaves patterns and takes brightness away; by the mean and deviation of the training folds, or of each"
        " source's part of them; by ImageNet's; or by two percentiles of the image's crops.",
    )
    input_px: int = Field(
        default=0, ge=0, description="Side to which crops are resized before the network; 0 leaves them as they are."
    )
    backbone: str = Field(
        default="resnet18",
        description="The network that turns a crop into features: a torchvision classification model by name, a"
        " convolutional model of timm as `timm:NAME`, or `cnn3`, three convolutions.",
    )
    pretrained: bool = Field(
        default=False,
        description="Start from the library's ImageNet weights, on the disk or downloadable; false draws them at"
        " random.",
    )
    weights_file: str = Field(
        default="",
        description="Start from this file of weights instead: the library's, or a backbone's of one's own; empty for"
        " none.",
    )
    stem: Stem = Field(
        default="average",
        description="How pretrained RGB filters see more channels than three: the others get the mean of the filters,"
        " or copies in turn; or a 1x1 convolution turns the channels into three before an untouched stem.",
    )
    attention: Literal["none", "cbam"] = Field(
        default="none", description="Channel and spatial attention after the stages of the backbone."
    )
    features: Features = Field(
        default="average",
        description="How a feature map becomes features: its average, its maximum, both one after the other, or the"
        " generalised mean with a learned exponent.",
    )
    objective: Objective = Field(
        default="cell",
        description="What the class loss looks at: crops with the labels of their image, images pooled over their"
        " crops, or images and, with a small weight, crops.",
    )
    bag_size: int = Field(
        default=16, ge=1, description="Most crops of an image in a training step, where images are pooled."
    )
    pooling: Pooling = Field(
        default="max", description="How crops become their image's probability, where images are pooled in training."
    )
    top_k: int = Field(default=3, ge=1, description="With `top-k`: how many crops are averaged.")
    sharpness: float = Field(
        default=5.0, gt=0, description="With `log-sum-exp`: 0 would be the mean, infinity the maximum."
    )
    cell_weight: float = Field(default=0.1, ge=0, description="With `dual`: factor of the loss of crops.")
    completeness_power: float = Field(
        default=0.0,
        ge=0,
        description="A crop weighs its cell's completeness to this power; 0 weighs all alike, 1 a half seen cell half.",
    )
    loss: Literal["focal", "bce"] = Field(
        default="focal", description="The class loss: focal loss or binary cross-entropy."
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
    triplet_weight: float = Field(default=0.1, ge=0, description="Factor of the triplet loss beside the class loss.")
    triplet_margin: float = Field(
        default=0.2, gt=0, description="Distance on the unit sphere by which negatives must be farther."
    )
    triplet_positives: Positives = Field(
        default="labels",
        description="Which crops are positives: those whose targets overlap, or those of the same antibody.",
    )
    triplet_jaccard: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Crops whose targets overlap at least so much (Jaccard index) are positives.",
    )
    triplet_mining: Mining = Field(
        default="all",
        description="Which triplets count: all within the margin, those whose negative is farther than the positive"
        " yet within the margin, or each anchor's farthest positive with its nearest negative.",
    )
    epochs: int = Field(default=20, ge=1, description="Times that every training crop is seen; with bags, every image.")
    batch_size: int = Field(default=64, ge=2, description="Crops per training step; with bags, at most.")
    accumulate: int = Field(default=1, ge=1, description="Steps whose gradients are put together before one move.")
    sampling: Literal["crops", "classes"] = Field(
        default="crops",
        description="What an epoch draws: every crop (with bags, every image) once; or as many, each of a class drawn"
        " evenly, then an image of that class.",
    )
    optimizer: Literal["adamw", "adam", "sgd"] = Field(
        default="adamw", description="AdamW, Adam, or stochastic gradient descent with momentum."
    )
    learning_rate: float = Field(default=2e-3, gt=0, description="Highest learning rate.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="With `sgd`: Nesterov momentum.")
    weight_decay: float = Field(
        default=0.05,
        ge=0,
        description="Weight decay, per unit of learning rate with AdamW, as a penalty otherwise; norms and biases have"
        " none.",
    )
    schedule: Literal["one-cycle", "cosine", "plateau", "constant"] = Field(
        default="one-cycle",
        description="Learning rate: over the steps up for a quarter and down to nothing; down to nothing; divided by"
        " ten when the validation loss has not fallen for three looks; or always the same.",
    )
    clip_norm: float = Field(default=0.0, ge=0, description="Longest gradient, longer ones are shortened; 0 for none.")
    freeze_epochs: int = Field(
        default=0, ge=0, description="First epochs in which only stem, attention and heads are trained."
    )
    augment: Preset = Field(
        default="standard",
        description="How training crops are varied: not at all; by the eight dihedral views; by those and small"
        " changes of scale, angle, brightness, contrast, blur and noise; or by stronger ones with elastic deformation"
        " and blocks left out.",
    )
    random_crop: RandomCrop = Field(
        default="none",
        description="Cut training crops at random: a square of a fixed side, or one of random side resized to it.",
    )
    random_crop_px: int = Field(default=64, ge=8, description="With `random_crop`: side of the square.")
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
    test_views: Views = Field(
        default="one",
        description="What is scored: each crop as it is, or its eight dihedral views, their mean or maximum"
        " probability.",
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

    @model_validator(mode="after")
    def _channels(self) -> Self:
        for name in self.channels:
            unknown = set(name.split("+")) - set(CHANNELS)
            if unknown:
                raise ValueError(f"channels are of {', '.join(CHANNELS)}, or some joined by +, not {min(unknown)!r}")
        if len(self.channels) > 5:
            raise ValueError("a stem takes 1 to 5 channels")
        return self
