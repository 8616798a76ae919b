from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from hpa.channels import CHANNELS, Channel
from hpa.errors import UserError
from hpa.images import check_id, read_images, write_images
from hpa.layouts.hpa_v18 import parse_id
from hpa.layouts.index import index_dataset
from hpa.pixels import ONLY_PLANE, read_channels
from hpa.vocabulary import HPA19, HPA28, JOVIAN10
from tests.support.layouts import noise, write_image, write_jovian, write_kaggle2018


def test_kaggle_2018(tmp_path: Path) -> None:
    data = write_kaggle2018(tmp_path)
    (data / "antibodies.csv").write_text("Id,Antibody\na,HPA1\n")
    images = index_dataset(data, "auto", HPA28, CHANNELS).images
    assert list(images["image_id"]) == ["b", "a", "z", "y"]
    assert list(images["target"]) == [(0, 16), (3,), (), ()]
    assert list(images["split"]) == ["train", "train", "test", "test"]
    assert images["antibody"].iloc[1] == "HPA1"
    assert images["antibody"].isna().tolist() == [True, False, True, True]
    assert set(images["height_px"]) == {6}
    assert set(images["width_px"]) == {8}
    assert Path(images["path_blue"].iloc[2]) == data / "test" / "z_blue.png"
    assert (images["bytes_red"] == (data / "test" / "z_red.png").stat().st_size).all()
    write_images(tmp_path / "images.parquet", images, HPA28, CHANNELS)
    again = read_images(tmp_path / "images.parquet")
    assert list(again["target"]) == list(images["target"])
    assert list(again.columns) == list(images.columns)


def test_windows_line_endings_and_byte_order_mark(tmp_path: Path) -> None:
    data = write_kaggle2018(tmp_path, train="\ufeffId,Target\r\nb,16 0\r\na,3\r\n")
    assert list(index_dataset(data, "auto", HPA28, CHANNELS).images["target"])[:2] == [(0, 16), (3,)]


def test_full_size_tiff_in_sub_folders(tmp_path: Path) -> None:
    data = write_kaggle2018(tmp_path, train="Id,Target\nbig,1\n")
    write_image(data / "train_full_size" / "part-0", "big", ".tif")
    images = index_dataset(data, "auto", HPA28, CHANNELS).images
    assert images["path_red"].iloc[0].endswith("train_full_size/part-0/big_red.tif")


def test_rows_without_files_are_kept_with_a_notice(tmp_path: Path) -> None:
    data = write_kaggle2018(tmp_path, train="Id,Target\nb,1\nwithout,2\n")
    (data / "train" / "b_green.png").unlink()
    found = index_dataset(data, "auto", HPA28, CHANNELS)
    assert list(found.images["image_id"]) == ["b", "without", "z", "y"]
    assert found.images["bytes_green"].iloc[0] == 0
    assert found.images["height_px"].iloc[1] == 0
    assert any("1 images" in notice and "no row" in notice for notice in found.notices)
    assert any("2 images lack" in notice for notice in found.notices)


def test_bare_folder(tmp_path: Path) -> None:
    for image_id in ("b_2", "a"):
        write_image(tmp_path, image_id)
    (tmp_path / "labels.csv").write_text("x")
    (tmp_path / "overview.png").write_text("x")
    found = index_dataset(tmp_path, "auto", HPA28, CHANNELS)
    assert list(found.images["image_id"]) == ["a", "b_2"]
    assert set(found.images["split"]) == {"test"}
    assert found.notices == (
        f"2 files in {tmp_path} are not named {{Id}}_{{color}} and are ignored, for example overview.png",
    )


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        ("Id,Target\na,28\n", r"expected labels 0\.\.27, found '28' in '28' \(image a\)"),
        ("Id,Target\na,nucleus\n", "found 'nucleus'"),
        ("Id,Target\na,\n", "at least one label for the train image a"),
        ("Id,Target\na,1\na,2\n", "found 'a' twice"),
        ("Id,Target\nz,1\n", "found 'z' twice"),
        ("ID,target\na,1\n", "expected the columns Id, Target in .*, found ID, target"),
        ("", "expected a CSV with the columns Id, Target"),
        ("Id,Target\n../../etc/passwd,1\n", "found '../../etc/passwd'"),
        ("Id,Target\na/b,1\n", "found 'a/b'"),
    ],
)
def test_invalid_train_table_raises_one_sentence(tmp_path: Path, train: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        index_dataset(write_kaggle2018(tmp_path, train), "kaggle2018", HPA28, CHANNELS)


def test_sample_without_rows_lists_no_test_image(tmp_path: Path) -> None:
    found = index_dataset(write_kaggle2018(tmp_path, sample="Id,Predicted\n"), "kaggle2018", HPA28, CHANNELS)
    assert list(found.images["split"]) == ["train", "train"]
    assert found.notices == (f"2 images in {tmp_path} have no row in its tables and are ignored",)


@pytest.mark.parametrize(
    ("sample", "sentence"),
    [
        ("", "expected a CSV with the columns Id, Predicted"),
        ("Id,Predicted\nz,0\nz,0\n", "found 'z' twice"),
        ("Id,Label\nz,0\n", "expected the columns Id, Predicted in .*, found Id, Label"),
    ],
)
def test_invalid_sample_raises_one_sentence(tmp_path: Path, sample: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        index_dataset(write_kaggle2018(tmp_path, sample=sample), "kaggle2018", HPA28, CHANNELS)


def test_missing_folder_images_and_tables(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found no folder"):
        index_dataset(tmp_path / "none", "auto", HPA28, CHANNELS)
    with pytest.raises(UserError, match="found none"):
        index_dataset(tmp_path, "auto", HPA28, CHANNELS)
    with pytest.raises(UserError, match=r"expected train\.csv or sample_submission\.csv"):
        index_dataset(tmp_path, "kaggle2018", HPA28, CHANNELS)


@pytest.mark.parametrize("image_id", ["", "..", ".hidden", "a/b", "a\\b", "a\0", "a\n", "-rf", "x" * 201])
def test_ids_that_could_escape_the_work_folder_are_rejected(image_id: str) -> None:
    with pytest.raises(UserError, match="expected image ids"):
        check_id(image_id)


def test_kaggle_2021_in_both_vocabularies(tmp_path: Path) -> None:
    data = write_kaggle2018(
        tmp_path, "ID,Label\nb,9|0\na,18\n", "ID,ImageWidth,ImageHeight,PredictionString\nz,8,6,0 1 eNo\n"
    )
    images = index_dataset(data, "auto", HPA19, CHANNELS).images
    assert list(images["image_id"]) == ["b", "a", "z"]
    assert list(images["target"]) == [(0, 9), (18,), ()]
    assert list(images["unknown_classes"]) == [(), (), ()]
    old = index_dataset(data, "auto", HPA28, CHANNELS).images
    assert list(old["target"]) == [(0,), (), ()]
    assert list(old["unknown_classes"]) == [(12, 13, 15, 16, 27), (15, 16, 27), ()]


def test_hpa_v18_reads_coloured_and_gray_jpegs(tmp_path: Path) -> None:
    """Each stain is drawn in its colour, so the plane with the intensity differs; a gray file has only one plane."""
    plane = cv2.GaussianBlur(noise(1, (64, 64)), (0, 0), 6)  # JPEG keeps what is smooth
    colours = {"red": (0, 0, 1), "green": (0, 1, 0), "blue": (1, 0, 0), "yellow": (0, 1, 1)}
    for color, bgr in colours.items():
        cv2.imwrite(str(tmp_path / f"7_1610_C1_2_{color}.jpg"), plane[..., None] * np.array(bgr, np.uint8))
        cv2.imwrite(str(tmp_path / f"8_si35_H11_1_{color}.jpg"), plane)
    (tmp_path / "HPAv18RBGY_wodpl.csv").write_text("Id,Target\n7_1610_C1_2,13 25\n8_si35_H11_1,0\n")
    images = index_dataset(tmp_path, "auto", HPA28, CHANNELS).images
    assert list(images["split"]) == ["train", "train"]
    assert list(images["target"]) == [(13, 25), (0,)]
    assert list(images["antibody"]) == ["7", "8"]
    assert list(images["well"]) == ["1610_C1", "si35_H11"]
    for row in images.to_dict("records"):
        read = read_channels(row, CHANNELS)
        assert np.abs(read.astype(int) - plane).max() < 12
    (tmp_path / "HPAv18RBGY_wodpl.csv").write_text("Id,Target\na,1\n")
    with pytest.raises(UserError, match="expected Ids antibody_plate_well_field of HPA v18, found 'a'"):
        index_dataset(tmp_path, "hpa_v18", HPA28, CHANNELS)


@pytest.mark.real_data("hpa_v18")
def test_ids_of_the_real_v18_table(real_data: Path) -> None:
    table = pd.read_csv(real_data / "hpa_v18" / "HPAv18RBGY_wodpl.csv")
    parts = [parse_id(image_id) for image_id in table["Id"]]
    assert len({part.antibody for part in parts}) == 12_815
    assert len(parts) == 74_606


@pytest.mark.parametrize("inner", [False, True])
def test_jovian_reads_planes_of_one_rgb_file(tmp_path: Path, inner: bool) -> None:
    data = write_jovian(tmp_path)
    channels: tuple[Channel, ...] = ("red", "green", "blue")
    if inner:
        data = tmp_path / "Human protein atlas"
    (tmp_path / "Human protein atlas" / "train" / "stray.png").write_bytes(b"")
    found = index_dataset(data, "auto", JOVIAN10, channels)
    expected = ["8", "7"] if inner else ["8", "7", "9"]  # the sample is next to the inner folder
    assert list(found.images["image_id"]) == expected
    assert list(found.images["target"])[:2] == [(4,), (0, 7)]
    read = read_channels(found.images.iloc[0].to_dict(), channels)
    assert read[:, 0, 0].tolist() == [10, 20, 30]
    assert found.images["height_px"].iloc[0] == 5
    assert f"{2 if inner else 1} images" in found.notices[0]
    in28 = index_dataset(data, "jovian", HPA28, channels).images
    assert in28["target"].iloc[0] == (0,)
    assert len(in28["unknown_classes"].iloc[0]) == 18


def test_jovian_sample_in_the_inner_folder(tmp_path: Path) -> None:
    inner = write_jovian(tmp_path) / "Human protein atlas"
    (tmp_path / "submission.csv").rename(inner / "submission.csv")
    images = index_dataset(inner, "auto", JOVIAN10, ("red",)).images
    assert list(images["split"]) == ["train", "train", "test"]


def _plates(root: Path) -> pd.DataFrame:
    """Write a stack of pages, an RGB file and a gray file, and return a table of them."""
    root.mkdir(exist_ok=True)
    cv2.imwritemulti(str(root / "stack.tif"), [noise(i) for i in range(5)])
    cv2.imwrite(str(root / "rgb.png"), np.stack([noise(12), noise(11), noise(10)], axis=2))
    cv2.imwrite(str(root / "gray.tif"), noise(20))
    return pd.DataFrame(
        {
            "image_id": ["s1", "s2", "s3"],
            "path_blue": ["stack.tif", "rgb.png", str(root / "gray.tif")],
            "plane_blue": ["4", "2", ""],
            "path_yellow": ["stack.tif", "rgb.png", "gray.tif"],
            "plane_yellow": ["0", "1", "0"],
            "target": ["", "3 1", "27"],
            "group": ["w1", "w1", ""],
            "antibody": ["", "A", ""],
        }
    )


@pytest.mark.parametrize("kind", ["csv", "parquet", "file"])
def test_table_of_planes(tmp_path: Path, kind: str) -> None:
    table = _plates(tmp_path / "plates")
    path = tmp_path / "plates" / ("images.parquet" if kind == "parquet" else "images.csv")
    if kind == "parquet":  # with numbers and gaps, as pandas makes them
        numbers = pd.DataFrame({"plane_blue": [4, 2, None], "plane_yellow": [0, 1, 0], "group": ["w1", "w1", None]})
        table[numbers.columns] = numbers
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False)
    images = index_dataset(path if kind == "file" else path.parent, "auto", HPA28, ("blue", "yellow")).images
    assert list(images["image_id"]) == ["s2", "s3", "s1"]
    assert list(images["split"]) == ["train", "train", "test"]
    assert list(images["target"]) == [(1, 3), (27,), ()]
    assert images["well"].tolist() == ["w1", None, "w1"]
    assert images["antibody"].tolist() == ["A", None, None]
    expected = {"s1": (4, 0), "s2": (12, 11), "s3": (20, 20)}
    for row in images.to_dict("records"):
        read = read_channels(row, ("blue", "yellow"))
        np.testing.assert_array_equal(read, [noise(seed) for seed in expected[row["image_id"]]])
    assert images["plane_blue"].tolist() == [2, ONLY_PLANE, 4]


def test_blanks_around_the_cells_of_a_table_make_no_other_groups(tmp_path: Path) -> None:
    table = _plates(tmp_path).assign(
        group=["w1 ", " w1", ""], antibody=["", "A\t", ""], split=["test", "train ", "train"]
    )
    table["path_blue"] += " "
    table.to_csv(tmp_path / "images.csv", index=False)
    images = index_dataset(tmp_path, "auto", HPA28, ("blue",)).images.set_index("image_id")
    assert images.loc[["s1", "s2"], "well"].tolist() == ["w1", "w1"]
    assert images.loc["s2", "antibody"] == "A"
    assert (images["bytes_blue"] > 0).all()


def test_train_row_without_target_has_no_known_class(tmp_path: Path) -> None:
    _plates(tmp_path).assign(split=["train", "test", "train"]).to_csv(tmp_path / "images.csv", index=False)
    images = index_dataset(tmp_path, "auto", HPA28, ("blue",)).images.set_index("image_id")
    assert images.loc["s1", "unknown_classes"] == tuple(range(28))
    assert images.loc["s2", "target"] == ()
    assert images.loc["s2", "unknown_classes"] == ()


def test_upper_case_names_and_unrecognised_names(tmp_path: Path) -> None:
    data = write_kaggle2018(tmp_path)
    (data / "train" / "a_red.png").rename(data / "train" / "a_RED.PNG")
    assert (index_dataset(data, "auto", HPA28, ("red",)).images["bytes_red"] > 0).all()
    for path in data.rglob("*_*.*"):
        path.rename(path.with_name(path.name.replace("_", "-")))
    notices = index_dataset(data, "auto", HPA28, ("red",)).notices
    assert any("are not named {Id}_{color}" in notice and "for example a-RED.PNG" in notice for notice in notices)


def test_links_to_files_are_read_and_links_to_sub_folders_ignored(tmp_path: Path) -> None:
    data = write_kaggle2018(tmp_path / "data")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (data / "train" / "a_red.png").rename(elsewhere / "x.png")
    (data / "train" / "a_red.png").symlink_to(elsewhere / "x.png")
    (data / "train" / "b_red.png").unlink()
    (data / "train" / "b_red.png").symlink_to(elsewhere / "gone.png")
    (data / "train" / "round").symlink_to(data / "train")
    images = index_dataset(data, "auto", HPA28, ("red", "green")).images.set_index("image_id")
    assert (images["bytes_red"] > 0).to_dict() == {"b": False, "a": True, "z": True, "y": True}
    (data / "test").rename(tmp_path / "test")
    (data / "test").symlink_to(tmp_path / "test")  # the folder itself may be a link
    assert index_dataset(data, "auto", HPA28, ("red",)).images["bytes_red"].iloc[-1] > 0


def test_missing_files_are_named_as_the_layout_names_them(tmp_path: Path) -> None:
    v18 = tmp_path / "v18"
    write_image(v18, "1_2_A1_1", ".jpg", ("red",))
    (v18 / "HPAv18.csv").write_text("Id,Target\n1_2_A1_1,0\n3_4_B2_1,5\n")
    images = index_dataset(v18, "auto", HPA28, CHANNELS).images
    assert images["path_green"].tolist() == [str(v18 / f"{i}_green.jpg") for i in ("1_2_A1_1", "3_4_B2_1")]
    assert images["plane_green"].tolist() == [1, 1]  # where it is read if the file arrives later
    assert images["bytes_green"].tolist() == [0, 0]
    jovian = write_jovian(tmp_path / "jovian")
    inner = jovian / "Human protein atlas"
    (inner / "train" / "7.png").unlink()
    images = index_dataset(jovian, "auto", JOVIAN10, CHANNELS[:3]).images.set_index("image_id")
    assert images.loc["7", "path_blue"] == str(inner / "train" / "7.png")
    assert images["plane_blue"].tolist() == [2, 2, 2]


def test_ids_as_on_the_site_are_refused_with_the_layout_that_reads_them(tmp_path: Path) -> None:
    write_image(tmp_path, "89_B5_1", ".jpg")
    (tmp_path / "HPAv18.csv").write_text("Id,Target\n89_B5_1,0\n")
    with pytest.raises(UserError, match=r"found '89_B5_1'; .*data\.layout = \"folder\""):
        index_dataset(tmp_path, "auto", HPA28, CHANNELS)
    assert list(index_dataset(tmp_path, "folder", HPA28, CHANNELS).images["image_id"]) == ["89_B5_1"]
