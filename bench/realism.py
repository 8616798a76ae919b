"""Measure how well synthetic images can be distinguished from real ones: ``uv run python -m bench.realism [IMAGES]``.

``uv run python -m bench.realism montage OUT`` draws channels of real images beside synthetic ones, to look at.

Reads real images from the folder CELLWISE_REAL_DATA, by default ../shared/real: 512 px channels
(``single_channel512``) and cell masks (``cell_masks``). Draws IMAGES synthetic images (120), and prints

- for each channel, the cross-validated AUC of a random forest and of a logistic regression on texture features (0.5:
  indistinguishable, 1: always distinguished), and the features that separate real and synthetic images best. Half of
  the real images, chosen by a hash of the id, steered the drawing; the AUCs against each half stand beside;
- statistics of cell shapes in real and synthetic images; the real masks leave out cells that the frame cuts through the
  nucleus, and so does the last column;
- number and diameter of the nuclei, found in the same way in real and synthetic nucleus planes.
"""

import sys
from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import graycomatrix, graycoprops
from skimage.filters import threshold_otsu
from skimage.measure import regionprops_table
from skimage.segmentation import clear_border
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hpa.atlas.plan import plan_images
from hpa.atlas.scene import Scene
from hpa.atlas.write import planned_scene
from hpa.channels import CHANNELS
from hpa.pictures import Picture, brighten, save_lines
from tests.support.real_images import real_data

QUANTILES = (0.5, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)
SEED = 2018
MIN_NUCLEUS_PX = 150
PROPERTIES = ("label", "equivalent_diameter_area", "eccentricity", "solidity")


def texture_features(plane: NDArray[np.uint8]) -> dict[str, float]:
    """Compute features of a gray image (H, W) from intensities, radial power spectrum and co-occurrence matrix."""
    found = {f"quantile {q}": float(v) for q, v in zip(QUANTILES, np.percentile(plane, QUANTILES), strict=True)}
    found |= {
        "mean": float(plane.mean()),
        "zeros": float((plane == 0).mean()),
        "saturated": float((plane == 255).mean()),
    }
    gray = plane.astype(np.float32)
    window = np.hanning(gray.shape[0])[:, None] * np.hanning(gray.shape[1])
    power = np.abs(np.fft.rfft2((gray - gray.mean()) * window)) ** 2
    rows, columns = np.fft.fftfreq(gray.shape[0])[:, None], np.fft.rfftfreq(gray.shape[1])
    radius = np.hypot(rows, columns)
    edges = np.geomspace(1 / 256, 0.5, 17)
    spectrum = [power[(radius >= low) & (radius < high)].mean() for low, high in pairwise(edges)]
    total = float(np.log(gray.var() + 1))
    found["log variance"] = total
    found |= {f"power at {1 / e:.1f} px": float(np.log(p + 1)) - total for e, p in zip(edges, spectrum, strict=False)}
    levels = np.minimum(np.sqrt(gray), 15.9).astype(np.uint8)
    matrix = graycomatrix(levels, [1, 2, 4, 8], [0, np.pi / 2], levels=16, symmetric=True, normed=True)  # type: ignore[no-untyped-call]
    for name in ("contrast", "homogeneity", "energy", "correlation"):
        values = graycoprops(matrix, name).mean(axis=1)  # type: ignore[no-untyped-call]
        found |= {f"{name} at {d} px": float(v) for d, v in zip((1, 2, 4, 8), values, strict=True)}
    return found


def adversarial_validation(real: pd.DataFrame, drawn: pd.DataFrame) -> tuple[float, float, pd.Series]:
    """Return the cross-validated AUCs of a random forest and a logistic regression, and the AUC of each feature."""
    table = pd.concat([real, drawn], ignore_index=True)
    truth = np.repeat([1, 0], [len(real), len(drawn)])
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    forest = RandomForestClassifier(300, class_weight="balanced", min_samples_leaf=2, random_state=0)
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000))
    auc = [
        float(roc_auc_score(truth, cross_val_predict(model, table, truth, cv=folds, method="predict_proba")[:, 1]))
        for model in (forest, regression)
    ]
    alone = pd.Series({name: roc_auc_score(truth, table[name]) for name in table})
    return auc[0], auc[1], alone


def shape_statistics(masks: list[NDArray[np.uint16]]) -> dict[str, float]:
    """Compute statistics of the cells in square label images, with lengths scaled to a frame of 512 px."""
    cells, counts, coverage = [], [], []
    for mask in masks:
        table = pd.DataFrame(regionprops_table(mask, properties=PROPERTIES))  # type: ignore[no-untyped-call]
        table["diameter"] = table.equivalent_diameter_area * 512 / mask.shape[0]
        rim = np.unique(np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]))
        table["border"] = table.label.isin(rim)
        cells.append(table)
        counts.append(len(table))
        coverage.append((mask > 0).mean())
    every = pd.concat(cells)
    found = {f"cells per image, {q}%": float(np.percentile(counts, q)) for q in (5, 50, 95)}
    found |= {f"diameter px, {q}%": float(np.percentile(every.diameter, q)) for q in (5, 50, 95)}
    found |= {"eccentricity, 50%": float(every.eccentricity.median())}
    found |= {f"solidity, {q}%": float(np.percentile(every.solidity, q)) for q in (5, 50)}
    found["touching the border"] = float(every.border.mean())
    return found | {f"coverage, {q}%": float(np.percentile(coverage, q)) for q in (5, 50, 95)}


def without_cut_nuclei(scene: Scene) -> NDArray[np.uint16]:
    """Return the cells of a scene except those whose nucleus the frame cuts, as the real masks leave them out."""
    whole = np.unique(clear_border(scene.nuclei))  # type: ignore[no-untyped-call]
    return np.where(np.isin(scene.cells, whole), scene.cells, 0).astype(np.uint16)


def nucleus_statistics(planes: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
    """Count the nuclei in nucleus planes of 512 px, and measure those that the frame does not cut."""
    counts, diameters = [], []
    for plane in planes:
        light = np.sqrt(ndimage.gaussian_filter(plane.astype(np.float64), 1.5))
        pieces, _ = ndimage.label(ndimage.binary_fill_holes(light > threshold_otsu(light)))  # type: ignore[no-untyped-call]
        area = np.bincount(pieces.ravel())[1:]
        whole = np.bincount(clear_border(pieces).ravel(), minlength=len(area) + 1)[1:] > 0  # type: ignore[no-untyped-call]
        counts.append(int((area >= MIN_NUCLEUS_PX).sum()))
        diameters.append(np.sqrt(4 / np.pi * area[whole & (area >= MIN_NUCLEUS_PX)]))
    every = np.concatenate(diameters)
    found = {f"nuclei per image, {q}%": float(np.percentile(counts, q)) for q in (5, 50, 95)}
    return found | {f"nucleus diameter px, {q}%": float(np.percentile(every, q)) for q in (5, 50, 95)}


def steered(path: Path) -> bool:
    """Return whether a real image belongs to the half that steers the drawing; the other half only checks it."""
    image_id = path.stem.rpartition("_")[0]
    return int(sha256(image_id.encode()).hexdigest(), 16) % 2 == 0


def draw_montage(folder: Path, out: Path, columns: int = 6, tile_px: int = 256) -> None:
    """Draw planes of real images of the steering half, where there are some, above synthetic ones, by channel."""
    planned = plan_images(columns, 0, SEED)
    scenes = [planned_scene(image, SEED, 512) for image in planned]
    lines = {}
    for position, channel in enumerate(CHANNELS):
        paths = [path for path in sorted((folder / "single_channel512").glob(f"*_{channel}.png")) if steered(path)]
        real = [_tile(read_gray(path), tile_px) for path in paths[:: max(len(paths) // columns, 1)][:columns]]
        if real:
            lines[f"{channel}, real"] = real
        lines[f"{channel}, drawn"] = [_tile(scene.channels[position], tile_px) for scene in scenes]
    save_lines(lines, columns, out)


def _tile(plane: NDArray[np.uint8], side_px: int) -> Picture:
    """Reduce a plane and brighten it."""
    bright = np.clip(brighten(plane[None])[0], 0, 255).astype(np.uint8)
    small = cv2.resize(bright, (side_px, side_px), interpolation=cv2.INTER_AREA)
    return np.asarray(np.repeat(small[..., None], 3, axis=2), dtype=np.uint8)


def read_gray(path: Path) -> NDArray[np.uint8]:
    """Read an 8-bit gray image."""
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), dtype=np.uint8)


def read_mask(path: Path) -> NDArray[np.uint16]:
    """Read a label image at a quarter of its height and width."""
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), dtype=np.uint16)[2::4, 2::4]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the comparison."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    folder = real_data()
    if words[:1] == ["montage"]:
        if len(words) != 2:
            sys.exit("expected montage OUT, the PNG to write")
        draw_montage(folder, Path(words[1]))
        return
    if not (folder / "single_channel512").is_dir():
        print(f"skipped: expected real images in {folder / 'single_channel512'}, found no such folder")
        return
    images = int(words[0]) if words else 120
    scenes: list[Scene] = [planned_scene(image, SEED, 512) for image in plan_images(images, 0, SEED)]
    means: list[float] = []
    for position, channel in enumerate(CHANNELS):
        paths = sorted((folder / "single_channel512").glob(f"*_{channel}.png"))
        real = pd.DataFrame([texture_features(read_gray(path)) for path in paths])
        drawn = pd.DataFrame([texture_features(scene.channels[position]) for scene in scenes])
        half = np.array([steered(path) for path in paths])
        forest, regression, alone = adversarial_validation(real, drawn)
        halves = [adversarial_validation(real[part], drawn)[:2] for part in (half, ~half)]
        means.append((forest + regression) / 2)
        print(
            f"{channel:7s} {len(real)} real, {len(drawn)} drawn: AUC {forest:.2f} forest, {regression:.2f} regression; "
            f"steering half {halves[0][0]:.2f}, {halves[0][1]:.2f}; other half {halves[1][0]:.2f}, {halves[1][1]:.2f}"
        )
        for name in (alone - 0.5).abs().nlargest(6).index:
            spread = [
                f"{t[name].quantile(0.25):.2f} .. {t[name].median():.2f} .. {t[name].quantile(0.75):.2f}"
                for t in (real, drawn)
            ]
            print(f"    {name:22s} real {spread[0]:28s} drawn {spread[1]:28s} AUC {alone[name]:.2f}")
    print(f"mean AUC {np.mean(means):.2f}")
    masks = [read_mask(path) for path in sorted((folder / "cell_masks").glob("*.png"))]
    whole = [cells for scene in scenes if (cells := without_cut_nuclei(scene)).any()]
    drawn_cells = {"drawn": [scene.cells for scene in scenes], "drawn, nuclei whole": whole}
    table = pd.DataFrame({name: shape_statistics(each) for name, each in ({"real": masks} | drawn_cells).items()})
    print(table.round(2).to_string())
    blue = [read_gray(path) for path in sorted((folder / "single_channel512").glob("*_blue.png"))]
    drawn_blue = [scene.channels[CHANNELS.index("blue")] for scene in scenes]
    print(
        pd.DataFrame({"real": nucleus_statistics(blue), "drawn": nucleus_statistics(drawn_blue)}).round(1).to_string()
    )


if __name__ == "__main__":
    main()
