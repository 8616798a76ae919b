"""Make the atlases of `bench.classify` and their work folders."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import crops.run
import segment.run
from classify.config import ClassifySection
from hpa.atlas import synthesize
from hpa.work.folder import WorkFolder
from pipeline.init import init
from pipeline.recipe import read_recipe

ROOT: Final = Path("work/bench-classify")
"""The folder for all files of the bench."""
FOLDS: Final = 2
"""Folds of every work folder: each system is trained once per fold, so that it scores every train image out of fold."""


@dataclass(frozen=True)
class Size:
    """The size of an experiment.

    Parameters
    ----------
    train, test
        Number of images of the atlas.
    image_px
        Height and width of the images.
    crop_px
        Height and width of the crops of cells.
    epochs
        Number of epochs of the baseline, cells with inherited labels.
    backbone
        Backbone of all systems.
    pretraining
        Number of further images, drawn from another seed, that backbones of the bench's own are trained on.
    """

    train: int
    test: int
    image_px: int
    crop_px: int
    epochs: int
    backbone: str
    pretraining: int

    @property
    def section(self) -> ClassifySection:
        """The settings of all experiments that start from nothing."""
        return ClassifySection(
            backbone=self.backbone, pretrained="none", epochs=self.epochs, batch_size=32, validate_every=1000
        )

    def heads(self, pretrained: str = "atlas") -> ClassifySection:
        """The settings of all experiments with frozen features (recipes/cells_frozen.toml)."""
        return ClassifySection(
            backbone=self.backbone, pretrained=pretrained, trainable="heads", learning_rate=0.01, validate_every=1000
        )


FULL: Final = Size(400, 200, 256, 64, 4, "resnet18_half", 900)
TINY: Final = Size(20, 6, 256, 32, 1, "resnet18_half", 20)


@dataclass(frozen=True)
class World:
    """An atlas with its segmented cells.

    Parameters
    ----------
    root
        The folder with its work folders, one per window.
    size
        Size of the atlas.
    penetrance
        Factor of the share of cells that show a label of their image.
    seed
        Seed of the atlas.
    folds
        Number of folds of every work folder.
    """

    root: Path
    size: Size
    penetrance: float = 1.0
    seed: int = 0
    folds: int = FOLDS

    @classmethod
    def of(cls, size: Size, penetrance: float = 1.0) -> "World":
        """Return the atlas of a size and penetrance, below `ROOT`."""
        return cls(ROOT / f"{size.train}-{penetrance}", size, penetrance)

    @classmethod
    def for_pretraining(cls, size: Size) -> "World":
        """Return an atlas of another seed, nearly all of which is trained on."""
        own = replace(size, train=size.pretraining, test=1)
        return cls(ROOT / f"pretraining-{own.train}", own, seed=1_000_000, folds=10)

    @property
    def atlas(self) -> Path:
        """The folder of the data set with its truth."""
        return self.root / "atlas"

    def work(self, window: str, size_px: int) -> WorkFolder:
        """Return a work folder with the crops of one window; create it if necessary, but segment cells only once.

        Raises
        ------
        UserError
            If there is no such window.
        """
        settings = [f'crops.windows=["{window}"]', f"crops.size_px={size_px}", f"data.folds={self.folds}"]
        recipe = read_recipe(None, settings)
        if not self.atlas.exists():
            unfinished = self.root / "unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            size = self.size
            counts = size.train, size.test
            synthesize(unfinished, *counts, self.seed, size_px=size.image_px, penetrance=self.penetrance)
            unfinished.rename(self.atlas)
        work = WorkFolder(self.root / f"{window}-{size_px}")
        if not work.recipe.exists():
            init(work.root, [self.atlas], recipe)
        segmented = self.root / "segment"
        if segmented.exists() and not (work.root / "segment").exists():
            shutil.copytree(segmented, work.root / "segment")
        segment.run.run(work)
        if not segmented.exists():
            shutil.copytree(work.root / "segment", segmented)
        crops.run.run(work)
        return work
