"""The embedding that all crops of a run share, and its map."""

import importlib.util

import numpy as np
import pandas as pd
import pytest

import classify.config
from classify.__main__ import main
from classify.config import ClassifySection
from classify.inspect.embedding import embed, map_vectors, principal_components, read_embedding
from classify.inspect.retrieval import normalise_rows
from crops.store import open_store
from hpa.errors import UserError
from hpa.work.folder import WorkFolder, open_work
from pipeline.__main__ import main as pipeline_main

WEIGHTS = classify.config.WEIGHTS


@pytest.fixture(autouse=True)
def _shipped_weights(_no_shipped_weights: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give back the shipped weights, which the other tests do without."""
    monkeypatch.setattr("classify.config.WEIGHTS", WEIGHTS)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    """Return a work folder with crops and nothing trained; UMAP, which is slow to start, has too few of them."""
    root = tmp_path_factory.mktemp("embedding")
    from hpa.atlas import synthesize

    synthesize(root / "data", 4, 2, 0, size_px=192)
    init = ["init", str(root / "work"), "--data", str(root / "data"), "--set", "crops.size_px=64"]
    assert pipeline_main([*init, "--set", "data.folds=2", "--set", 'crops.windows=["grid"]']) == 0
    from crops.__main__ import main as crops_main

    assert crops_main(["run", str(root / "work")]) == 0
    assert main(["embed", str(root / "work"), "--crops", "12"]) == 0
    return open_work(root / "work")


def test_features_are_those_of_the_shipped_backbone(work: WorkFolder) -> None:
    """Of every crop, whatever its image's fold, and computed here by the network itself."""
    import torch

    from classify.network.model import new_network
    from classify.network.start import read_start

    store = open_store(work, "grid")
    found = read_embedding(work, "grid", store)
    assert len(found.features) == len(store)
    section = ClassifySection(trainable="heads")
    start = read_start(section, work.data.channels, work.data.classes.classes)
    assert start is not None
    assert start.statistics is not None
    assert section.normalise == "crop"
    mean, std = start.statistics.mean, start.statistics.std
    network = new_network(section, 7, mean, std, np.full(28, 0.5), start).eval()
    from classify.data.crops import CropArrays, CropLabels
    from classify.inference.evaluate import predict_batches

    rows = np.arange(5)
    source = CropArrays(store.pixels(rows), store.masks(rows))
    unlabelled = CropLabels.unlabelled(5, 28)
    from classify.data.normalisation import crop_levels

    levels = crop_levels(source, rows, unlabelled, start.statistics, section.normalise)
    batch = next(iter(predict_batches(network, source, rows, section, torch.device("cpu"), levels)))
    np.testing.assert_allclose(found.features[:5], batch.features, rtol=1e-4, atol=1e-4)


def test_the_map_names_its_crops(work: WorkFolder) -> None:
    store = open_store(work, "grid")
    places = read_embedding(work, "grid", store).places
    assert len(places) == min(12, len(store))
    own = store.table.iloc[places["row"].to_numpy()]
    assert list(own["image_id"]) == list(places["image_id"])
    assert list(own["cell_label"]) == list(places["cell_label"])
    assert (work.root / "embedding" / "grid" / "figures" / "map.png").stat().st_size > 5000
    before = places.copy()
    embed(work, "grid", max_crops=12, figure_format="svg")
    assert "<svg" in (work.root / "embedding" / "grid" / "figures" / "map.svg").read_text()
    pd.testing.assert_frame_equal(read_embedding(work, "grid", store).places, before)


def test_an_embedding_of_other_crops_is_refused(work: WorkFolder) -> None:
    store, path = open_store(work, "grid"), work.root / "embedding" / "grid" / "embedding.json"
    text = path.read_text()
    crops = text.split('"crops": "')[1][:64]
    path.write_text(text.replace(crops, "0" * 64))
    with pytest.raises(UserError, match="found one of others; rerun"):
        read_embedding(work, "grid", store)
    path.write_text(text)
    (tmp := path.with_name("aside")).write_bytes(path.read_bytes())
    path.unlink()
    with pytest.raises(UserError, match="expected an embedding of the crops"):
        read_embedding(work, "grid", store)
    tmp.rename(path)


def test_principal_components_against_a_singular_value_decomposition() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32) @ np.diag(np.arange(12, 0, -1))
    found = principal_components(vectors.astype(np.float32), 3)
    centred = vectors - vectors.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs(left[:, :3] * values[:3]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n", [1, 2, 10])
def test_few_vectors_have_a_map(n: int) -> None:
    method, places = map_vectors(normalise_rows(np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)), 0)
    assert method == "PCA"
    assert places.shape == (n, 2)
    assert np.isfinite(places).all()


@pytest.mark.slow
def test_umap_keeps_groups_together() -> None:
    if importlib.util.find_spec("umap") is None:
        pytest.skip("needs cellwise[umap]")
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(3), 40)
    vectors = normalise_rows((np.eye(16)[group] * 4 + rng.normal(0, 0.5, (120, 16))).astype(np.float32))
    method, places = map_vectors(vectors, 0)
    assert method == "UMAP"
    centres = np.stack([places[group == k].mean(axis=0) for k in range(3)])
    nearest = np.linalg.norm(places[:, None] - centres[None], axis=2).argmin(axis=1)
    assert (nearest == group).mean() > 0.95
    np.testing.assert_array_equal(map_vectors(vectors, 0)[1], places)
