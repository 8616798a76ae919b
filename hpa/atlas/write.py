"""Write a synthetic data set in the layout of the Kaggle 2018 competition, with its ground truth."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpa.atlas.imaging import ATLAS, Style, style_named
from hpa.atlas.plan import PlannedImage, plan_images
from hpa.atlas.scene import Scene, draw_scene
from hpa.atlas.styles import CELL_LINES
from hpa.channels import CHANNELS
from hpa.errors import UserError
from hpa.vocabulary import HPA28
from hpa.work.processes import available_processors, worker_processes


def synthesize(
    out: Path,
    images: int,
    test: int,
    seed: int,
    *,
    size_px: int = 512,
    penetrance: float = 1.0,
    style: str = "atlas",
    workers: int | None = None,
    on_image: Callable[[], None] | None = None,
) -> None:
    """Write a data set: images, tables and ground truth.

    The same arguments give the same bytes for any number of `workers`.

    Parameters
    ----------
    out
        A folder that is empty or does not exist.
    images, test
        Number of training images and of test images.
    seed
        Seed of all random draws, 0 or more.
    size_px
        Height and width of the images; the field of view is the same at every size.
    penetrance
        Factor on the mean share of an image's cells that carry its classes: 1 is realistic, less is harder.
    style
        A style of `hpa.atlas.imaging.STYLES`: ``other`` has optics, gains and cell lines that `crops.synthesize` never
        draws by default.
    workers
        Number of processes; None uses one per core available to this process.
    on_image
        Called after each image.

    Raises
    ------
    UserError
        If an argument is invalid, or `out` is not empty.
    """
    named = style_named(style)
    planned = plan_images(images, test, seed, named.line_shares())
    if size_px < 64:
        raise UserError(f"expected a size of at least 64 px, found {size_px}")
    if workers is not None and workers < 1:
        raise UserError(f"expected at least 1 worker, found {workers}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"expected an empty or a new folder, found {out}, which is not empty")
    for folder in ("train", "test", "truth/cells", "truth/nuclei"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    draw = partial(_write_image, out, seed, size_px, penetrance, named)
    number = min(workers or available_processors(), len(planned))
    targets: list[list[tuple[int, ...]]] = []
    if number == 1:
        for image in planned:
            targets.append(draw(image))
            if on_image:
                on_image()
    else:
        with worker_processes(number, preload=[__name__]) as pool:
            for found in pool.map(draw, planned, chunksize=2):
                targets.append(found)
                if on_image:
                    on_image()
    _write_tables(out, planned, targets)


def planned_scene(image: PlannedImage, seed: int, size_px: int, penetrance: float = 1.0, style: Style = ATLAS) -> Scene:
    """Draw the scene of one planned image; a near-duplicate shows the field of another one shifted, cropped and
    re-exposed.

    Parameters
    ----------
    image
        The planned image.
    seed
        Seed of the data set.
    size_px
        Height and width in px.
    penetrance
        As for `hpa.atlas.labels.sample_shares`.
    style
        Ranges of optics, camera and editing.
    """
    scene = draw_scene(
        (seed, 4, image.scene),
        size_px=size_px,
        cell_line=image.cell_line,
        target=image.target,
        penetrance=penetrance,
        style=style,
    )
    if image.scene == image.index:
        return scene
    return reimage(np.random.default_rng([seed, 5, image.index]), scene)


def reimage(rng: np.random.Generator, scene: Scene) -> Scene:
    """Image a scene a second time: 82 to 99% of it, enlarged to the frame, with different gains and new noise."""
    height, width = scene.cells.shape
    share = rng.uniform(0.82, 0.99)
    rows, columns = round(height * share), round(width * share)
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    window = np.s_[top : top + rows, left : left + columns]
    gains = rng.uniform(0.7, 1.3, len(CHANNELS))
    channels = np.stack([
        _expose_again(rng, cv2.resize(plane[window], (width, height), interpolation=cv2.INTER_LINEAR), float(gain))
        for plane, gain in zip(scene.channels, gains, strict=True)
    ])  # fmt: skip
    cells = cv2.resize(scene.cells[window], (width, height), interpolation=cv2.INTER_NEAREST)
    nuclei = cv2.resize(scene.nuclei[window], (width, height), interpolation=cv2.INTER_NEAREST)
    kept = np.unique(nuclei[nuclei > 0])
    number = np.zeros(int(scene.cells.max()) + 1, np.uint16)
    number[kept] = np.arange(1, len(kept) + 1)
    return replace(
        scene,
        channels=channels,
        cells=number[cells],
        nuclei=number[nuclei],
        targets=[scene.targets[k - 1] for k in kept],
    )


def _expose_again(rng: np.random.Generator, plane: NDArray[np.uint8], gain: float) -> NDArray[np.uint8]:
    light = plane.astype(np.float32) * np.float32(gain)
    noise = rng.standard_normal(light.shape, dtype=np.float32) * np.sqrt(light) * np.float32(0.5)
    return np.asarray(np.clip(light + noise, 0, 255), dtype=np.uint8)


def _write_image(
    out: Path, seed: int, size_px: int, penetrance: float, style: Style, image: PlannedImage
) -> list[tuple[int, ...]]:
    """Draw and write one image; return the classes of its cells."""
    scene = planned_scene(image, seed, size_px, penetrance, style)
    for channel, plane in zip(CHANNELS, scene.channels, strict=True):
        _write_png(out / image.split / f"{image.image_id}_{channel}.png", plane)
    _write_png(out / "truth" / "cells" / f"{image.image_id}.png", scene.cells)
    _write_png(out / "truth" / "nuclei" / f"{image.image_id}.png", scene.nuclei)
    return scene.targets


def _write_png(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise UserError(f"expected to write {path}, found pixels that do not fit a PNG")
    path.write_bytes(data.tobytes())


def _write_tables(out: Path, planned: list[PlannedImage], targets: list[list[tuple[int, ...]]]) -> None:
    ids = [image.image_id for image in planned]
    text = [HPA28.format(image.target) for image in planned]
    table = pd.DataFrame({"Id": ids, "Target": text, "split": [image.split for image in planned]})
    _write_csv(table[table.split == "train"][["Id", "Target"]], out / "train.csv")
    sample = table[table.split == "test"][["Id"]].assign(Predicted=0)
    _write_csv(sample, out / "sample_submission.csv")
    # The competition kept the antibodies secret; without them a split by antibody would not be possible.
    antibodies = [image.antibody for image in planned]
    _write_csv(pd.DataFrame({"Id": ids, "Antibody": antibodies}), out / "antibodies.csv")
    rows = [
        (image.image_id, label, HPA28.format(target))
        for image, found in zip(planned, targets, strict=True)
        for label, target in enumerate(found, start=1)
    ]
    _write_csv(pd.DataFrame(rows, columns=["image_id", "cell_label", "target"]), out / "truth" / "cells.csv")
    truth = pd.DataFrame({
        "image_id": ids, "split": table.split, "target": text, "antibody": antibodies,
        "plate": [image.plate for image in planned], "well": [image.well for image in planned],
        "cell_line": [CELL_LINES[image.cell_line].name for image in planned],
        "duplicate_of": ["" if image.scene == image.index else ids[image.scene] for image in planned],
    })  # fmt: skip
    _write_csv(truth, out / "truth" / "images.csv")


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=False, lineterminator="\n")
