"""The compact network as Cellpose sees it, and the models a recipe can name."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.measure import perimeter

from hpa.errors import UserError
from hpa.work.files import sha256
from segment.config import SegmentSection
from segment.inference.predict import run_network
from segment.inference.preprocess import NetworkInput
from segment.network.cellpose import flow_loss, flows_from_labels, follow_flows, masks_from_flows
from segment.network.compact import INPUTS, OUTPUTS, CompactNetwork, new_network, save_weights
from segment.network.weights import COMPACT_SHA256, COMPACT_WEIGHTS, check_weights, load_network
from segment.postprocess.decode import decode
from segment.score import average_precision
from tests.segment.shapes import discs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def net() -> CompactNetwork:
    network = new_network(3)
    network.eval()
    return network


def as_input(planes: NDArray[np.float32]) -> NetworkInput:
    return NetworkInput(planes, (planes.shape[1], planes.shape[2]), has_signal=True)


def test_outputs_and_what_is_read(net: CompactNetwork) -> None:
    planes = torch.rand(2, INPUTS, 48, 32)
    with torch.inference_mode():
        answer, style = net(planes)
    assert answer.shape == (2, OUTPUTS, 48, 32)
    assert style.shape == (2, 256)
    for plane in range(INPUTS):
        other = planes.clone()
        other[:, plane] += 1
        with torch.inference_mode():
            assert not torch.equal(net(other)[0], answer), "every plane is read"


def test_weights_depend_on_the_seed_only() -> None:
    first, second = new_network(5).state_dict(), new_network(5).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(value, first[key]) for key, value in new_network(6).state_dict().items())


def test_tiling_leaves_an_image_in_its_place(net: CompactNetwork) -> None:
    """A small image is one tile, padded with nothing around it: what comes out is the network's own answer."""
    image = np.random.default_rng(0).random((INPUTS, 37, 50), dtype=np.float32)
    padded = np.pad(image, [(0, 0), (5, 6), (7, 7)])
    with torch.inference_mode():
        whole = net(torch.from_numpy(padded[np.newaxis]))[0].numpy()[0, :, 5:42, 7:57]
    (answer,) = run_network(net, [as_input(image)])
    whole[-3:-1] /= 5
    assert np.allclose(answer, whole, atol=1e-5)


def test_a_large_image_is_cut_and_joined(net: CompactNetwork) -> None:
    """Far from the seams the tiles of a large image give what the whole image gives."""
    image = np.random.default_rng(0).random((INPUTS, 64, 480), dtype=np.float32)
    with torch.inference_mode():
        whole = net(torch.from_numpy(image[np.newaxis]))[0].numpy()[0]
    whole[-3:-1] /= 5
    (answer,) = run_network(net, [as_input(image)], 2)
    assert answer.shape == (OUTPUTS, 64, 480)
    assert np.allclose(answer[:, :, :60], whole[:, :, :60], atol=0.02 * np.abs(whole).max())


class Recording(torch.nn.Module):
    """Adds one to what it is given, remembers the batches, and has room for a few tiles only."""

    backbone, dtype, device = "compact", torch.float32, CPU

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.batches = room, list[tuple[int, ...]]()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(x) > self.room:
            raise torch.OutOfMemoryError
        self.batches.append(tuple(x.shape))
        return x + 1, torch.zeros(len(x), 256)


def test_tiles_of_images_of_different_sizes_fill_one_batch() -> None:
    draw = np.random.default_rng(0)
    sizes = [(30, 40), (32, 48), (27, 33), (31, 47), (64, 64)]
    images = [draw.random((5, *size), dtype=np.float32) for size in sizes]
    net = Recording(room=8)
    answers = run_network(net, [as_input(image) for image in images])
    assert sorted(net.batches) == [(1, 5, 64, 64), (4, 5, 32, 48)]
    for image, answer in zip(images, answers, strict=True):
        assert np.allclose(answer[0], image[0] + 1)
        assert np.allclose(answer[-2], (image[-2] + 1) / 5)


def test_where_memory_runs_out_the_batch_is_halved() -> None:
    images = [np.full((5, 16, 16), value, dtype=np.float32) for value in range(11)]
    net = Recording(room=2)
    answers = run_network(net, [as_input(image) for image in images])
    assert [batch[0] for batch in net.batches] == [2, 2, 2, 2, 2, 1]
    assert [answer[0, 0, 0] for answer in answers] == [value + 1 for value in range(11)]
    with pytest.raises(torch.OutOfMemoryError):
        run_network(Recording(room=0), [as_input(image) for image in images])


def test_weights_survive_saving_and_cellpose_takes_them_for_its_own(net: CompactNetwork, tmp_path: Path) -> None:
    path = tmp_path / "own.pt"
    save_weights(net, path)
    loaded = load_network(str(path), CPU)
    again = CompactNetwork()
    again.load_model(path, device=CPU, strict=True)  # Cellpose's own method
    assert check_weights(str(path)) == path
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
        assert torch.allclose(value.float(), net.state_dict()[key].float(), atol=1e-3)


def test_shipped_weights_are_small() -> None:
    assert COMPACT_WEIGHTS.stat().st_size <= 8_000_000
    assert sha256(COMPACT_WEIGHTS) == COMPACT_SHA256


def test_a_model_that_cannot_be_had_is_told_and_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        UserError, match=rf"expected the Cellpose model cpsam_v2, .*{tmp_path}/cpsam_v2.*set CELLPOSE_LOCAL_MODELS_PATH"
    ):
        load_network("cpsam_v2", CPU)
    with pytest.raises(UserError, match=r"expected the name of a network .* found no file cyto3"):
        load_network("cyto3", CPU)
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"weights of a compact or a Cellpose 4 network in .*broken\.pt"):
        load_network(str(broken), CPU)
    torch.save({"downsample.weight": torch.zeros(1)}, broken)
    with pytest.raises(UserError, match=r"Cellpose 4 .*segment import"):
        load_network(str(broken), CPU)
    torch.save({"stem.weight": torch.zeros(1)}, broken)
    with pytest.raises(UserError, match="CompactNetwork"):
        load_network(str(broken), CPU)


def test_true_flows_give_back_the_cells() -> None:
    cells = discs((64, 80), [(20, 20), (20, 43), (46, 50)], 12)
    flows = flows_from_labels(cells)
    lengths = np.hypot(*flows)
    assert np.allclose(lengths[cells > 0], 1, atol=1e-3) or (lengths[cells > 0] > 0.99).mean() > 0.99
    assert not lengths[cells == 0].any()
    logit = np.where(cells > 0, 5, -5).astype(np.float32)
    masks = masks_from_flows(flows, logit, level=0, flow_error=0.4, min_px=10)
    assert average_precision(masks, cells, 0.9) == 1
    ends = follow_flows(flows, cells > 0, 60)
    assert (cells[tuple(ends)] == cells[cells > 0]).mean() > 0.99


@pytest.mark.parametrize(("postprocess", "shown"), [("nuclei", 14), ("auto", 14), ("cellpose", 18)])
def test_outlines_lie_at_the_probability_of_the_way_masks_are_made(
    postprocess: Literal["nuclei", "auto", "cellpose"], shown: int
) -> None:
    """A cell of radius 14 px within a ring, to 18 px, of probability 0.55."""
    inner, outer, nucleus = (discs((64, 64), [(32, 32)], radius) for radius in (14, 18, 6))
    cell = np.where(inner > 0, 5, np.where(outer > 0, 0.2, -5))
    nuclei = np.where(nucleus > 0, 5, -5)
    answer = np.stack([nuclei, nuclei, *flows_from_labels(outer), cell]).astype(np.float32)
    found = decode(answer, nuclei.astype(np.float32), SegmentSection(postprocess=postprocess), (64, 64))
    assert average_precision(found.cells, discs((64, 64), [(32, 32)], shown), 0.9) == 1


def test_no_cells_no_flows() -> None:
    assert flows_from_labels(np.zeros((8, 9), dtype=np.uint16)).shape == (2, 8, 9)


def test_loss_is_cellposes() -> None:
    """Half the squared error of five times the flows, and the cross entropy of the cell probability."""
    target, output = torch.rand(2, 3, 8, 8).round(), torch.randn(2, OUTPUTS, 8, 8)
    flows = ((output[:, 2:4] - 5 * target[:, 1:]) ** 2).mean() / 2
    p = torch.sigmoid(output[:, 4])
    entropy = -(target[:, 0] * p.log() + (1 - target[:, 0]) * (1 - p).log()).mean()
    assert float(flow_loss(target, output)) == pytest.approx(float(flows + entropy), rel=1e-4)


@pytest.mark.slow
def test_a_big_cellpose_network_runs_through_the_same_code(tmp_path: Path) -> None:
    """Random weights of the real architecture, saved and loaded: no masks worth having, but every step of the way."""
    from cellpose.vit import CPSAM

    from segment.inference.predict import segment_images
    from segment.inference.preprocess import prepare_input

    path = tmp_path / "random_cpsam"
    CPSAM().save_model(path)
    net = load_network(str(check_weights(str(path))), CPU)
    image = np.random.default_rng(0).integers(0, 255, size=(2, 256, 300), dtype=np.uint8)
    (masks,) = segment_images(net, [prepare_input(image, 98.0)], SegmentSection())
    assert masks.cells.shape == masks.nuclei.shape == (256, 300)


def test_the_line_to_a_cell_whose_nucleus_is_not_in_the_frame_is_smooth() -> None:
    """Two touching discs, the second cut by the edge of the frame; the first is found as if drawn at source size."""
    small, large = (discs((16 * k, 16 * k), [(7 * k, 6 * k), (9 * k, 14 * k)], 4.6 * k) for k in (4, 16))
    nucleus = discs(small.shape, [(28, 24)], 6)
    flows = flows_from_labels(np.pad(small, ((0, 0), (0, 40)), mode="edge"))[:, :, :64]
    nuclei = np.where(nucleus > 0, 5, -5)
    answer = np.stack([nuclei, nuclei, *flows, np.where(small > 0, 5, -5)]).astype(np.float32)
    found = decode(answer, nuclei.astype(np.float32), SegmentSection(), large.shape)
    assert found.cells.max() == found.nuclei.max() == 1
    assert perimeter(found.cells == 1) < 1.06 * perimeter(large == 1)  # type: ignore[no-untyped-call]
    assert (found.cells[large == 1] == 1).mean() > 0.98


def test_an_unsure_answer_has_no_ragged_outline() -> None:
    """Around a disc, to twice its radius, a chequerboard that goes just over and under the threshold."""
    inner, outer, nucleus = (discs((64, 64), [(32, 32)], radius) for radius in (12, 24, 6))
    rows, columns = np.mgrid[:64, :64]
    squares = np.where((rows % 2 == 0) & (columns % 2 == 0), 0.2, 0.6)  # the threshold is 0.4
    cell = np.where(inner > 0, 5, np.where(outer > 0, squares, -5))
    nuclei = np.where(nucleus > 0, 5, -5)
    answer = np.stack([nuclei, nuclei, *flows_from_labels(outer), cell]).astype(np.float32)
    found = decode(answer, nuclei.astype(np.float32), SegmentSection(), (256, 256))
    area, outline = (found.cells > 0).sum(), perimeter(found.cells > 0)  # type: ignore[no-untyped-call]
    assert 0.9 * np.pi * 96**2 < area < 1.1 * np.pi * 96**2
    assert outline < 1.2 * 2 * np.sqrt(np.pi * area)
