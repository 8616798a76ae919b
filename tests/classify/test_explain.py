"""Grad-CAM against its closed form, and the command `explain` on crops whose bright square is the class."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from classify.__main__ import main
from classify.config import ClassifySection
from classify.inspect.explain import ScoredImage, heated, paste_maps, score_images, worst_images
from classify.inspect.gradcam import class_maps
from classify.models import read_labelled_crops
from classify.network.checkpoint import Checkpoint
from classify.network.model import new_network
from classify.prediction import predict
from classify.probabilities import class_columns, read_probabilities
from classify.run import train
from hpa.channels import CHANNELS
from hpa.images import read_images, write_images
from hpa.vocabulary import HPA28
from hpa.work.folder import WorkFolder
from tests.support.bright_crops import SIZE, bright_crops, make_work

CROPS = np.tile(bright_crops(np.random.default_rng(0).random((5, 3)) < 0.5).crops, (1, 1, 1, 4))
CROPS = np.concatenate([CROPS, *[np.zeros_like(CROPS)] * 3], axis=2)  # 64 px: three halvings leave 8 x 8 places


@pytest.mark.parametrize("keys", [{}, {"trainable": "heads"}, {"normalise": "sources"}, {"stem": "adapter"}])
def test_grad_cam_of_average_pooling_is_the_class_activation_map(keys: dict[str, str]) -> None:
    """With average pooling the weight of a channel is that of the head over the number of places (Zhou et al. 2016).

    The map is then the head's row times the feature map, cut at 0, stretched to 0..1 and enlarged by OpenCV.
    """
    section = ClassifySection.model_validate({"backbone": "cnn3", **keys})
    network = new_network(section, 0, np.full(4, 60.0), np.full(4, 50.0), [0.5, 0.5, 0.5]).eval()
    levels = np.stack([np.full((5, 4), 50.0), np.full((5, 4), 40.0)], axis=1).astype(np.float32)
    own = levels if keys.get("normalise") == "sources" else None
    found = class_maps(network, CROPS, own, 2)
    with torch.no_grad():
        x = network.prepare(torch.from_numpy(CROPS), None if own is None else torch.from_numpy(own))
        maps = network.backbone(x if network.adapter is None else network.adapter(x))
        expected = torch.einsum("f,nfhw->nhw", network.head.weight[2], maps).clamp(min=0).numpy()
    assert expected.max() > 0
    for one, raw in zip(found, expected, strict=True):
        scaled = raw - raw.min()
        scaled = cv2.resize(scaled / (scaled.max() + 1e-7), (64, 64))
        scaled = (scaled - scaled.min()) / (scaled.max() - scaled.min() + 1e-7)
        np.testing.assert_allclose(one, scaled, atol=1e-3)


def test_small_crops_are_explained_by_the_deepest_map_of_seven_places() -> None:
    """Of a crop of 64 px a ResNet's second stage has 8 x 8 places: its gradients by autograd, without hooks."""
    network = new_network(ClassifySection(backbone="resnet18_half"), 0, [60.0] * 4, [50.0] * 4, [0.5, 0.5]).eval()
    found = class_maps(network, CROPS, None, 1)
    x = network.prepare(torch.from_numpy(CROPS))
    stage_2 = network.backbone[:6](x)
    logits = network.outputs(network.pooled([network.backbone[6:](stage_2)])).logits
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), stage_2)
    assert stage_2.shape[2:] == (8, 8)
    expected = (gradient.mean((2, 3), keepdim=True) * stage_2).sum(1).clamp(min=0).detach().numpy()
    for one, raw in zip(found, expected, strict=True):
        scaled = cv2.resize((raw - raw.min()) / (np.ptp(raw) + 1e-7), (64, 64))
        np.testing.assert_allclose(one, (scaled - scaled.min()) / (np.ptp(scaled) + 1e-7), atol=2e-3)


def test_grad_cam_works_on_joined_stages() -> None:
    section = ClassifySection(backbone="resnet18_half", feature_stages=(3, 4))
    network = new_network(section, 0, np.full(4, 60.0), np.full(4, 50.0), [0.5, 0.5]).eval()
    crops = np.random.default_rng(0).integers(0, 256, (3, 4, 64, 64), dtype=np.uint8)
    maps = class_maps(network, crops, None, 1)
    assert maps.shape == (3, 64, 64)
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert class_maps(network, crops[:0], None, 1).shape == (0, 64, 64)


def test_maps_are_pasted_where_their_crops_were_cut() -> None:
    """By a loop over pixels, at the scale of the image; what reaches beyond the frame is left out."""
    rng = np.random.default_rng(0)
    maps = rng.random((3, 4, 4), dtype=np.float32)
    boxes = np.array([[2, 3, 6, 7], [-2, 5, 2, 9], [5, -1, 9, 3]])
    expected = np.zeros((8, 8), dtype=np.float32)
    for one, (top, left, _, _) in zip(maps, boxes, strict=True):
        for row in range(4):
            for col in range(4):
                if 0 <= top + row < 8 and 0 <= left + col < 8:
                    expected[top + row, left + col] = max(expected[top + row, left + col], one[row, col])
    np.testing.assert_allclose(paste_maps(maps, boxes, (8, 8)), expected, atol=1e-6)
    large = paste_maps(np.ones((1, 4, 4), dtype=np.float32), np.array([[10, 20, 30, 40]]), (20, 30), 0.5)
    assert large[5:15, 10:20].min() == 1
    assert large.sum() == 100


def test_heat_keeps_the_picture_where_there_is_none() -> None:
    picture = np.full((4, 4, 3), (10, 200, 30), dtype=np.uint8)
    heat = np.zeros((4, 4), dtype=np.float32)
    heat[0, 0] = 1
    drawn = heated(picture, heat)
    assert (drawn[1:] == 200).all(), "gray, of the brightest colour"
    assert (drawn[0, 0] != 200).any()


def _image(name: str, p: list[float], targets: list[int], known: list[int]) -> ScoredImage:
    cells = np.array([p])
    return ScoredImage(
        name, 0, np.array([1]), cells, cells[0], np.array(targets, dtype=bool), np.array(known, dtype=bool)
    )


def test_the_worst_images_have_the_highest_cross_entropy_over_known_classes() -> None:
    images = [
        _image("right", [0.9, 0.1], [1, 0], [1, 1]),
        _image("wrong", [0.1, 0.9], [1, 0], [1, 1]),
        _image("unknown", [0.1, 0.9], [0, 0], [0, 0]),
        _image("half", [0.01, 0.9], [1, 1], [0, 1]),
    ]
    scored = {image.image_id: image for image in images}
    assert [image.image_id for image in worst_images(scored, 5)] == ["wrong", "half", "right"], "ties by name"
    assert [image.image_id for image in worst_images(scored, 1)] == ["wrong"]
    losses = {name: image.loss for name, image in scored.items()}
    assert losses["right"] == pytest.approx(-np.log(0.9))
    assert losses["wrong"] == pytest.approx(-np.log(0.1))
    assert losses["half"] == pytest.approx(-np.log(0.9))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    """Return a work folder with predictions, of images that show the first of their crops."""
    keys = {"epochs": 20, "batch_size": 4, "learning_rate": 0.02, "backbone": "cnn3", "augment": "none"}
    work = make_work(tmp_path_factory.mktemp("explain") / "work", [0, 1] * 6, recipe={"classify": keys})
    train(work)
    predict(work)
    images = read_images(work.images)
    store, labels = read_labelled_crops(work, "cells", work.data)
    for place, image_id in enumerate(images["image_id"]):
        rows = np.flatnonzero(labels.image_ids == image_id)
        for channel, plane in zip(CHANNELS, store.pixels(rows)[0], strict=True):
            path = work.root / f"{image_id}_{channel}.png"
            cv2.imwrite(str(path), plane)
            images.loc[place, f"path_{channel}"] = str(path)
            images.loc[place, f"bytes_{channel}"] = path.stat().st_size
    write_images(work.images, images, HPA28, CHANNELS)
    return work


def test_probabilities_are_arranged_by_image(trained: WorkFolder) -> None:
    """Test images are scored by two models: cells by their mean, the image by the mean of the models' maxima."""
    _, labels = read_labelled_crops(trained, "cells", trained.data)
    table = read_probabilities(trained.root / "classify/cells/probabilities.parquet", HPA28)
    scored = score_images(table, labels, HPA28)
    assert set(scored) == {f"train{i}" for i in range(12)} | {"test0", "test1"}
    column = class_columns(HPA28)[1]
    for image_id, image in scored.items():
        rows = table[table["image_id"] == image_id]
        for label, p in zip(image.cell_labels, image.cells[:, 1], strict=True):
            assert p == pytest.approx(rows.loc[rows["cell_label"] == label, column].mean())
        maxima = [rows.loc[rows["fold"] == fold, column].max() for fold in sorted(set(rows["fold"]))]
        assert image.image[1] == pytest.approx(np.mean(maxima))
        assert image.known.all() == image_id.startswith("train")
    assert np.flatnonzero(scored["train4"].targets).tolist() == [1]


def test_the_maps_of_a_trained_network_point_at_what_makes_the_class(trained: WorkFolder) -> None:
    """A crop with the class is laid into each corner of noise without it."""
    store, labels = read_labelled_crops(trained, "cells", trained.data)
    network = Checkpoint.load(trained.root / "classify/cells/fold-0/checkpoint.pt").network(torch.device("cpu"))
    shown = store.pixels(np.flatnonzero(labels.targets[:, 1] & (labels.folds == 0))[:1])[0]
    pixels = np.random.default_rng(0).integers(0, 60, (4, 4, 48, 48), dtype=np.uint8)
    corners = [(0, 0), (0, 32), (32, 0), (32, 32)]
    for crop, (row, col) in zip(pixels, corners, strict=True):
        crop[:, row : row + SIZE, col : col + SIZE] = shown
    for heat, (row, col) in zip(class_maps(network, pixels, None, 1), corners, strict=True):
        assert heat[row : row + SIZE, col : col + SIZE].mean() > 1.5 * heat.mean()


def test_explain_draws_images_and_lists_their_cells(trained: WorkFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(trained.root), "train3", "test0", "--worst", "4"]) == 0
    folder = trained.root / "classify" / "cells" / "explain"
    for name in ("train3", "test0", "worst"):
        picture = cv2.imread(str(folder / f"{name}.png"))
        assert picture is not None
        assert picture.std() > 10
    cells = pd.read_csv(folder / "cells.csv")
    assert set(cells["image_id"]) == {"train3", "test0"}
    for _, rows in cells.groupby(["image_id", "class"]):
        assert rows["rank"].tolist() == [1, 2, 3]
        assert rows["probability"].is_monotonic_decreasing
    assert "Nucleoplasm" in set(cells.loc[cells["image_id"] == "train3", "class"])
    worst = pd.read_csv(folder / "worst.csv")
    assert len(worst) == 4
    assert worst["loss"].is_monotonic_decreasing
    assert "most in cell" in capsys.readouterr().out
    assert main(["explain", str(trained.root), "train1", "--class", "Nucleoli", "--figure-format", "pdf"]) == 0
    assert (folder / "train1.pdf").read_bytes().startswith(b"%PDF")
    assert set(pd.read_csv(folder / "cells.csv")["class"]) == {"Nucleoli"}


def test_an_image_that_is_gone_is_drawn_from_its_crops(trained: WorkFolder, capsys: pytest.CaptureFixture[str]) -> None:
    (trained.root / "train5_red.png").unlink()
    assert main(["explain", str(trained.root), "train5"]) == 0
    assert "train5: drawn without its image" in capsys.readouterr().out
    picture = cv2.imread(str(trained.root / "classify/cells/explain/train5.png"))
    assert picture is not None
    assert picture.std() > 10


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "expected Ids of images, or --worst with their number, found neither"),
        (["nothing"], "expected an image with predictions in"),
        (["train1", "--class", "Nucleus"], "'Nucleus'"),
    ],
)
def test_mistakes_are_explained_in_one_sentence(
    arguments: list[str], sentence: str, trained: WorkFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(trained.root), *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_explain_needs_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = make_work(tmp_path / "work", [0, 1])
    assert main(["explain", str(work.root), "train0"]) == 2
    assert "expected predictions (`python -m classify predict" in capsys.readouterr().err
