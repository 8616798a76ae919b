"""Features of crops by a network that is not trained, computed once and kept for all heads on it."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from classify.config import ClassifySection
from classify.data.crops import CropLabels, CropSource, blocks
from classify.data.normalisation import Statistics, crop_levels
from classify.inference.evaluate import BATCH, predict_batches
from classify.network.model import Network
from hpa.work.files import atomic_write, sha256, write_json
from hpa.work.progress import progress

RECORD: Final = "features.json"
_FEATURES: Final = "features.npy"
_CHUNK: Final = 64 * BATCH  # crops between two points to resume from
KEYS: Final = (
    *("backbone", "channels", "outside_cell", "normalise", "input_px", "features", "feature_stages", "stem"),
    "precision",
)
"""Keys of the recipe that the features depend on, beside the weights."""


@dataclass(frozen=True)
class FeatureRun:
    """What the features of a store depend on, and where they are kept.

    Parameters
    ----------
    network
        The network, with its normalisation; its heads do not matter.
    section
        Recipe section, with the precision that is used.
    statistics
        Statistics that crops are normalised by.
    folder
        Folder of the features.
    inputs
        Other things that they depend on, by name: the crops, and how this machine computes.
    """

    network: Network
    section: ClassifySection
    statistics: Statistics
    folder: Path
    inputs: Mapping[str, Any]

    @property
    def made_from(self) -> dict[str, Any]:
        """All that the features depend on, as plain values."""
        settings = {key: self.section.model_dump(mode="json")[key] for key in KEYS}
        return {"weights": digest(self.network), **settings, **self.inputs}


def digest(network: Network) -> str:
    """Return the SHA-256 of all weights that lead to the features, and of the normalisation."""
    found = hashlib.sha256()
    state: dict[str, Tensor] = {"mean": network.mean, "std": network.std, **network.state_dict()}
    for name, tensor in sorted(state.items()):
        if name.startswith(("mean", "std", "backbone.", "features.", "adapter.")) and "num_batches" not in name:
            found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def kept_features(run: FeatureRun, source: CropSource, labels: CropLabels, device: torch.device) -> NDArray[np.float32]:
    """Return the features of all crops of a store, from the disk if they are there.

    An interrupted computation goes on after its last part. Features of other weights, crops or settings are removed,
    and so are damaged ones.

    Parameters
    ----------
    run
        What they depend on.
    source, labels
        The crops.
    device
        Device to run on.

    Returns
    -------
    ndarray
        Shape (len(source), F), float32, mapped from the file.
    """
    record, path, made_from = run.folder / RECORD, run.folder / _FEATURES, run.made_from
    found = _read(record)
    if found and found.get("made_from") != made_from:
        changed = [key for key, value in made_from.items() if found.get("made_from", {}).get(key) != value]
        print(f"backbone features: computed again, since they are of other {', '.join(changed) or 'settings'}")
        shutil.rmtree(run.folder)
    elif found.get("sha256") and path.is_file() and sha256(path) == found["sha256"]:
        return _mapped(path)
    elif found.get("sha256"):
        print(f"backbone features: computed again, since {path} is damaged or missing")
        shutil.rmtree(run.folder)
    write_json(record, {"made_from": made_from})
    rows = np.arange(len(source))
    chunks = list(blocks(rows, _CHUNK))
    parts = [run.folder / f"part-{k:05d}.npy" for k in range(len(chunks))]
    levels = crop_levels(source, rows, labels, run.statistics, run.section.normalise)
    section = run.section.model_copy(update={"test_views": "one"})
    with progress("backbone features", len(rows)) as advance:
        for chunk, part in zip(chunks, parts, strict=True):
            if not part.is_file():
                batches = predict_batches(run.network, source, chunk, section, device, levels)
                features = np.concatenate([batch.features for batch in batches])
                with atomic_write(part) as partial, partial.open("wb") as file:
                    np.save(file, features)
            advance(len(chunk))
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.save(file, np.concatenate([np.load(part, allow_pickle=False) for part in parts]))
    write_json(record, {"made_from": made_from, "sha256": sha256(path)})
    for part in parts:
        part.unlink()
    return _mapped(path)


def _mapped(path: Path) -> NDArray[np.float32]:
    features: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    return features


def _read(record: Path) -> dict[str, Any]:
    try:
        content = json.loads(record.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
