"""Find, check, save and load weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hpa.errors import UserError
from hpa.work.files import sha256
from segment.config import SegmentSection
from segment.network.compact import CompactNetwork, save_weights
from segment.network.weights import COMPACT_SHA256, COMPACT_WEIGHTS, check_weights, load_network

CPU = torch.device("cpu")


def test_saved_weights_load_here_and_in_cellpose(net: CompactNetwork, tmp_path: Path) -> None:
    path = tmp_path / "own.pt"
    save_weights(net, path)
    loaded = load_network(str(path), CPU)
    cellpose = CompactNetwork()
    cellpose.load_model(path, device=CPU, strict=True)  # Cellpose's own method
    assert check_weights(str(path)) == path
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, cellpose.state_dict()[key])
        assert torch.allclose(value.float(), net.state_dict()[key].float(), atol=1e-3)


def test_shipped_weights_are_small_and_unchanged() -> None:
    assert COMPACT_WEIGHTS.stat().st_size <= 8_000_000
    assert sha256(COMPACT_WEIGHTS) == COMPACT_SHA256


def test_unavailable_and_foreign_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        UserError, match=rf"expected the Cellpose model cpsam_v2, .*{tmp_path}/cpsam_v2.*set CELLPOSE_LOCAL_MODELS_PATH"
    ):
        load_network("cpsam_v2", CPU)
    with pytest.raises(UserError, match=r"expected the name of a network .* found no file cyto3"):
        load_network("cyto3", CPU)
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not a weights file")
    with pytest.raises(UserError, match=r"weights of a compact or a Cellpose 4 network in .*broken\.pt"):
        load_network(str(broken), CPU)
    torch.save({"downsample.weight": torch.zeros(1)}, broken)
    with pytest.raises(UserError, match=r"Cellpose 4 .*segment import"):
        load_network(str(broken), CPU)
    torch.save({"stem.weight": torch.zeros(1)}, broken)
    with pytest.raises(UserError, match="CompactNetwork"):
        load_network(str(broken), CPU)


@pytest.mark.slow
def test_a_cellpose_network_can_be_saved_loaded_and_run(tmp_path: Path) -> None:
    """The weights are random, so only the steps and the shape of the masks are checked."""
    from cellpose.vit import CPSAM

    from segment.inference.predict import segment_images
    from segment.inference.preprocess import prepare_input

    path = tmp_path / "random_cpsam"
    CPSAM().save_model(path)
    net = load_network(str(check_weights(str(path))), CPU)
    image = np.random.default_rng(0).integers(0, 255, size=(2, 256, 300), dtype=np.uint8)
    (masks,) = segment_images(net, [prepare_input(image, 98.0)], SegmentSection())
    assert masks.cells.shape == masks.nuclei.shape == (256, 300)
