from pathlib import Path

import pytest

from hpa.config import DataSection
from hpa.errors import UserError
from hpa.pictures import scale_bar
from hpa.work.folder import WorkFolder


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[data]\nsed = 1", r"expected only known keys in \[data\], found 'sed' \(did you mean 'seed'\?\)"),
        ("[data]\nfolds = 1", r"usable \[data\] folds .*found 1"),
        ('[data]\nchannels = ["red", "red"]', "none twice"),
        ('[data]\nchannels = ["cyan"]', "found 'cyan'"),
        ("[data", "expected TOML in"),
        ("data = 3", r"expected a usable \[data\] \(should be a table\), found 3"),
        ('[data]\nchannels = "red"', r"expected a usable \[data\] channels \(should be a list\), found 'red'"),
    ],
)
def test_invalid_section_raises_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        WorkFolder(tmp_path).section("data", DataSection)


def test_missing_section_has_defaults_and_missing_recipe_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("")
    assert WorkFolder(tmp_path).data == DataSection()
    with pytest.raises(UserError, match="found no file"):
        WorkFolder(tmp_path / "none").section("data", DataSection)


def test_scale_bars_are_in_pixels_unless_a_recipe_says_otherwise(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("")
    assert scale_bar(512, WorkFolder(tmp_path).data.pixel_um).text == "100 px"
    (tmp_path / "recipe.toml").write_text("[data]\npixel_um = 0.08")
    assert scale_bar(512, WorkFolder(tmp_path).data.pixel_um).text == "10 µm"
