"""Flows, masks and loss of Cellpose, on discs and against formulas."""

import cellpose.train
import numpy as np
import pytest
import torch
from cellpose import models

from segment.network.cellpose import flow_loss, flows_from_labels, load_cellpose, masks_from_flows
from segment.network.compact import OUTPUTS
from segment.score import mask_average_precision
from tests.support.shapes import discs


def test_true_flows_reproduce_the_cells() -> None:
    cells = discs((64, 80), [(20, 20), (20, 43), (46, 50)], 12)
    flows = flows_from_labels(cells)
    lengths = np.hypot(*flows)
    assert np.allclose(lengths[cells > 0], 1, atol=1e-3) or (lengths[cells > 0] > 0.99).mean() > 0.99
    assert not lengths[cells == 0].any()
    logit = np.where(cells > 0, 5, -5).astype(np.float32)
    masks = masks_from_flows(flows, logit, level=0, flow_error=0.4, min_px=10)
    assert mask_average_precision(masks, cells, 0.9) == 1


def test_an_image_without_cells_has_zero_flows() -> None:
    assert flows_from_labels(np.zeros((8, 9), dtype=np.uint16)).shape == (2, 8, 9)


def test_flow_loss_equals_its_formula() -> None:
    """Half the squared error of five times the flows, and the cross entropy of the cell probability."""
    target, output = torch.rand(2, 3, 8, 8).round(), torch.randn(2, OUTPUTS, 8, 8)
    flows = ((output[:, 2:4] - 5 * target[:, 1:]) ** 2).mean() / 2
    p = torch.sigmoid(output[:, 4])
    entropy = -(target[:, 0] * p.log() + (1 - target[:, 0]) * (1 - p).log()).mean()
    assert float(flow_loss(target, output)) == pytest.approx(float(flows + entropy), rel=1e-4)


def test_flow_loss_is_still_that_of_cellpose() -> None:
    theirs = getattr(cellpose.train, "_loss_fn_seg", None)
    if theirs is None:
        pytest.skip("this Cellpose has no _loss_fn_seg to compare with; ours is tested by its formula")
    rng = torch.Generator().manual_seed(1)
    target = torch.randn(2, 3, 8, 8, generator=rng)
    output = torch.randn(2, 5, 8, 8, generator=rng)
    assert float(flow_loss(target, output)) == pytest.approx(float(theirs(target, output, output.device)), rel=1e-6)


@pytest.mark.parametrize(("name", "width"), [("vits", 384), ("vitb", 768), ("vitl", 1024)])
def test_a_cpdino_network_has_the_size_of_its_weights(name: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cellpose's class needs a package that is not on PyPI; this one takes weights of its width only, as that does."""
    widths = {"vits": 384, "vitb": 768, "vitl": 1024}  # of vision transformers (Dosovitskiy et al. 2021, Table 1)

    class Dino(torch.nn.Module):
        def __init__(self, model_name: str, dtype: torch.dtype) -> None:
            super().__init__()
            self.encoder = torch.nn.Module()
            self.encoder.cls_token = torch.nn.Parameter(torch.zeros(1, dtype=dtype))
            self.encoder.patch_embed = torch.nn.Module()
            self.encoder.patch_embed.proj = torch.nn.Conv2d(3, widths[model_name], 1, bias=False, dtype=dtype)
            self.W2 = torch.nn.Parameter(torch.zeros(1, dtype=dtype))

    monkeypatch.setattr(models, "CPDINO", Dino, raising=False)
    state = Dino(name, torch.float32).state_dict()
    if name == "vits":  # not one that Cellpose publishes
        with pytest.raises(ValueError, match="Dino"):
            load_cellpose(state, torch.device("cpu"))
    else:
        net = load_cellpose({f"module.{key}": value for key, value in state.items()}, torch.device("cpu"))
        assert next(p for p in net.parameters() if p.ndim == 4).shape[0] == width
