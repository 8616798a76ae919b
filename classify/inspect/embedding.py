"""The command `embed`: the features of all crops in one space, and a map of them.

The network is the shipped backbone, whatever the recipe trains, because the networks of a run's folds each have a space
of their own: crops of two folds could not be compared. Written to ``embedding/<window>/``: ``features.npy``, float32
(n, F), whose rows are those of the store; ``map.csv`` (row, image_id, cell_label, map_1, map_2) of all crops or a
sample; ``embedding.json`` (how the map was made); ``figures/map.png``. Where a run trains heads on the same backbone,
the features are those in ``backbone_features/`` instead.

The map is made with UMAP (McInnes et al. 2018, https://arxiv.org/abs/1802.03426) if umap-learn is installed, else it is
the plane of the first two principal components. This is the only module that imports umap.
"""

import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pydantic
from numpy.typing import NDArray

from classify.config import ClassifySection
from classify.inspect.retrieval import normalise_rows
from crops.config import Window
from crops.store import CropStore, open_store, store_folder
from hpa.errors import UserError
from hpa.images import read_images
from hpa.pictures import FigureFormat
from hpa.work.files import read_csv, sha256, write_csv, write_json
from hpa.work.folder import WorkFolder
from hpa.work.records import STRICT, read_record

BACKBONE: Final = "resnet18_half"
"""The shipped backbone that all runs share."""

_RECORD: Final = "embedding.json"
_COMPONENTS: Final = 50
_NEIGHBOURS: Final = 15
_COLORS: Final = 8


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Record:
    """How an embedding was made.

    Parameters
    ----------
    method
        Of the map: ``UMAP`` or ``PCA``.
    crops
        SHA-256 of the table of crops.
    features
        The features, relative to the work folder.
    rows
        Number of crops on the map.
    seed
        Of the sample and of UMAP.
    """

    method: str
    crops: str
    features: str
    rows: int
    seed: int


@dataclass(frozen=True)
class Embedding:
    """Crops in one space.

    Parameters
    ----------
    features
        Shape (n, F), float32, of all crops of the store.
    places
        The map: row (of the store), image_id, cell_label, map_1, map_2.
    method
        How the map was made.
    """

    features: NDArray[np.float32]
    places: pd.DataFrame
    method: str


def embedding_folder(work: WorkFolder, window: Window) -> Path:
    """Return the folder of the embedding of a window's crops."""
    return work.root / "embedding" / window


def embed(
    work: WorkFolder,
    window: Window,
    *,
    max_crops: int = 20_000,
    device: str = "auto",
    threads: int | None = None,
    figure_format: FigureFormat = "png",
) -> Embedding:
    """Run the shipped backbone over all crops of a window, and draw a map of them.

    Parameters
    ----------
    work
        The work folder, with crops.
    window
        The window.
    max_crops
        Crops on the map; of more, a sample is drawn.
    device, threads
        Where the network runs, and its threads on the CPU; None chooses.
    figure_format
        Format of the pictures.

    Raises
    ------
    UserError
        If there are no crops, or the backbone cannot read their channels.
    """
    folder, seed = embedding_folder(work, window), work.data.seed
    store = open_store(work, window)
    path = _compute_features(work, window, device, threads)
    features = np.load(path, mmap_mode="r", allow_pickle=False)
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(store), min(max_crops, len(store)), replace=False))
    method, places = map_vectors(normalise_rows(np.asarray(features[rows], dtype=np.float32)), seed)
    keys = store.table[["image_id", "cell_label"]].iloc[rows]
    table = pd.DataFrame(
        {
            "row": rows,
            "image_id": keys["image_id"].to_numpy(),
            "cell_label": keys["cell_label"].to_numpy(),
            "map_1": places[:, 0].round(4),
            "map_2": places[:, 1].round(4),
        }
    )
    write_csv(folder / "map.csv", table)
    crops = sha256(store_folder(work, window) / "crops.parquet")
    record = Record(method, crops, path.relative_to(work.root).as_posix(), len(rows), seed)
    write_json(folder / _RECORD, record.__dict__)
    _draw(folder / "figures" / f"map.{figure_format}", work, table, method)
    return Embedding(features, table, method)


def read_embedding(work: WorkFolder, window: Window, store: CropStore) -> Embedding:
    """Read what `embed` wrote.

    Parameters
    ----------
    work, window
        As for `embed`.
    store
        The store of the window.

    Raises
    ------
    UserError
        If there is none, or it is of other crops.
    """
    command = f"python -m classify embed {work.root}"
    folder = embedding_folder(work, window)
    if not (folder / _RECORD).is_file():
        raise UserError(f"expected an embedding of the crops (made by `{command}`), found none in {folder}")
    record = read_record(folder / _RECORD, Record, f"rerun `{command}`")
    path = work.root / record.features
    if record.crops != sha256(store_folder(work, window) / "crops.parquet") or not path.is_file():
        raise UserError(f"expected an embedding of the crops of {work.root}, found one of others; rerun `{command}`")
    places = read_csv(folder / "map.csv", ["row", "image_id", "cell_label", "map_1", "map_2"])
    places = places.astype({"row": np.int64, "cell_label": np.int64, "map_1": np.float64, "map_2": np.float64})
    features = np.load(path, mmap_mode="r", allow_pickle=False)
    if len(features) != len(store):
        raise UserError(f"expected features of {len(store)} crops in {path}, found {len(features)}; rerun `{command}`")
    return Embedding(features, places, record.method)


def map_vectors(vectors: NDArray[np.float32], seed: int) -> tuple[str, NDArray[np.float64]]:
    """Lay vectors out in a plane.

    Parameters
    ----------
    vectors
        Shape (N, F), rows of unit length.
    seed
        Of UMAP.

    Returns
    -------
    method, places
        ``UMAP`` or ``PCA``, and an array of shape (N, 2).
    """
    components = principal_components(vectors, min(_COMPONENTS, vectors.shape[1]))
    if len(vectors) <= _NEIGHBOURS or importlib.util.find_spec("umap") is None:
        return "PCA", np.pad(components[:, :2], ((0, 0), (0, max(0, 2 - components.shape[1]))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed makes it use one thread, which is why it has one
        import umap

        made: Any = umap.UMAP(n_neighbors=_NEIGHBOURS, min_dist=0.1, random_state=seed, n_jobs=1)
        return "UMAP", np.asarray(made.fit_transform(components.astype(np.float32)), dtype=np.float64)


def principal_components(vectors: NDArray[np.float32], n: int) -> NDArray[np.float64]:
    """Return the first n principal components, shape (N, n); signs are fixed, so that they are the same again."""
    centred = vectors.astype(np.float64) - (vectors.mean(axis=0) if len(vectors) else 0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    chosen = axes[:, ::-1][:, :n]
    largest = chosen[np.abs(chosen).argmax(axis=0), np.arange(chosen.shape[1])]
    components: NDArray[np.float64] = centred @ (chosen * np.where(largest < 0, -1, 1))
    return components


def _compute_features(work: WorkFolder, window: Window, device_name: str, threads: int | None) -> Path:
    """Return the file of the features, computed if it is not there."""
    # Imported here, because reading an embedding needs no torch.
    import torch

    from classify.data.crops import select_channels
    from classify.data.normalisation import Statistics
    from classify.inference.evaluate import uses_bfloat16
    from classify.inference.features import RECORD, FeatureRun, digest, kept_features
    from classify.models import features_folder, read_labelled_crops
    from classify.network.model import new_network
    from classify.network.start import read_start
    from hpa.work.device import Computation, computing_threads, resolve_device

    data, own = work.data, work.section("classify", ClassifySection)
    # The channels and what is outside the cell are the run's; the rest is what the backbone was trained with.
    section = ClassifySection(
        backbone=BACKBONE,
        pretrained="atlas",
        trainable="heads",
        channels=own.channels,
        outside_cell=own.outside_cell,
    )
    store, labels = read_labelled_crops(work, window, data)
    start = read_start(section, data.channels, data.classes.classes)
    assert start is not None, "the shipped backbone has weights"
    assert start.statistics is not None, "the shipped backbone says how crops were normalised"
    statistics: Statistics = start.statistics
    device = torch.device(resolve_device(device_name))
    bfloat16 = uses_bfloat16(section.precision, device, section.backbone)
    here = Computation.here(str(device), threads, bfloat16=bfloat16)
    section = section.model_copy(update={"precision": "bf16" if bfloat16 else "32"})
    with computing_threads(here.threads):
        network = new_network(
            section, data.seed, statistics.mean, statistics.std, np.full(len(data.classes), 0.5), start
        ).eval()
        crops = sha256(store_folder(work, window) / "crops.parquet")
        kept = features_folder(work, window)
        if (kept / RECORD).is_file() and _are_of(kept / RECORD, digest(network), crops, section):
            return kept / "features.npy"
        folder = embedding_folder(work, window)
        inputs = {"crops": crops, "computation": f"{device.type}, {torch.get_num_threads()} threads"}
        run = FeatureRun(network.to(device), section, statistics, folder / "features", inputs)
        kept_features(run, select_channels(store, section.channels, data.channels), labels, device)
    return folder / "features" / "features.npy"


def _are_of(record: Path, weights: str, crops: str, section: ClassifySection) -> bool:
    """Return whether the features that a run trains heads on are those of the shipped backbone."""
    import json

    from classify.inference.features import KEYS

    try:
        found = json.loads(record.read_text())
        made_from = found["made_from"]
        settings = section.model_dump(mode="json")
        same = {key: settings[key] for key in KEYS if key != "precision"}  # which only rounds differently
        return (
            made_from["weights"] == weights
            and made_from["crops"] == crops
            and all(made_from[key] == value for key, value in same.items())
            and sha256(record.with_name("features.npy")) == found["sha256"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _draw(path: Path, work: WorkFolder, table: pd.DataFrame, method: str) -> None:
    """Draw the map, with the crops of images that have a single label in its colour."""
    from matplotlib.figure import Figure

    from hpa.pictures import save_figure

    images = read_images(work.images).set_index("image_id")["target"]
    targets = [tuple(images[image_id]) for image_id in table["image_id"]]
    single = np.array([target[0] if len(target) == 1 else -1 for target in targets], dtype=np.int64)
    numbers, counts = np.unique(single[single >= 0], return_counts=True)
    shown = numbers[np.argsort(-counts, kind="stable")][:_COLORS].tolist()
    figure = Figure(figsize=(7.4, 5.2), layout="constrained")
    axes = figure.subplots()
    other = ~np.isin(single, shown)
    first, second = table["map_1"].to_numpy(), table["map_2"].to_numpy()
    axes.scatter(first[other], second[other], s=4, color="#c3c8cd", linewidths=0, label="other or several labels")
    for k, number in enumerate(shown):
        own = single == number
        label, marker = f"{work.data.classes.classes[number]} ({own.sum()})", "os^vDPX*"[k]
        axes.scatter(first[own], second[own], s=9, color=f"C{k}", marker=marker, linewidths=0, label=label)
    axes.set(xticks=(), yticks=(), xlabel=f"{method} 1", ylabel=f"{method} 2")
    name = work.root.resolve().name.replace("$", r"\$")
    axes.set_title(f"Crops of {name} in the space of the shipped backbone ({method})", fontsize=11, loc="left")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=1.8)
    save_figure(figure, path)
