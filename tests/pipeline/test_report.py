"""The report: complete and partial runs, escaping, and in a real browser what a reader does with it."""

import datetime
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import pandas as pd
import pytest

import hpa.images
from aggregate.scoring.curves import calibration_bins, confusion, f1_by_threshold, precision_recall_curve
from classify.__main__ import main as classify_main
from hpa.channels import CHANNELS
from hpa.metrics import average_precision, f1_per_class
from hpa.vocabulary import HPA28, VOCABULARIES, Vocabulary
from hpa.work.folder import open_work
from pipeline.__main__ import main
from pipeline.report.evidence import Evidence, Missing, Scored
from pipeline.report.page import MAX_BYTES, render, write_report
from tests.support.simulation.probabilities import draw_images

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE_ID = "x\"'><img src=x onerror=hacked(1)>"
HOSTILE_CLASS = "<img src=x onerror=hacked(2)>Cytosol & co"
HOSTILE_WORK = "run <img src=x onerror=hacked(3)> {{ 7 * 7 }}"


class _Tags(HTMLParser):
    """Collect the elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a finished run whose ids, classes, file names and folder try to run scripts.

    Such ids are refused by `init`, so the rule is lifted for this run: the page must hold by itself.
    """
    root = tmp_path_factory.mktemp("hostile")
    data, work = root / "data", root / HOSTILE_WORK
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hpa.images, "check_id", lambda image_id: image_id)
        classes = tuple(HOSTILE_CLASS if name == "Cytosol" else name for name in HPA28.classes)
        patch.setitem(VOCABULARIES, "hpa28", Vocabulary("hpa28", classes))
        from hpa.atlas import synthesize

        synthesize(data, 10, 4, 0, size_px=192)
        table = pd.read_csv(data / "train.csv", dtype=str)
        renamed, damaged = table["Id"].iloc[0], table["Id"].iloc[1]
        for path in (data / "train").glob(f"{renamed}_*"):
            path.rename(path.with_name(path.name.replace(renamed, HOSTILE_ID)))
        table.replace(renamed, HOSTILE_ID).to_csv(data / "train.csv", index=False)
        shutil.rmtree(data / "truth")
        (data / "antibodies.csv").unlink()
        (data / "train" / f"{damaged}_blue.png").write_bytes(b"no picture")
        settings = ["classify.epochs=2", "classify.trainable=heads", "crops.size_px=32", "data.folds=2"]
        options = [part for setting in settings for part in ("--set", setting)]
        assert main(["init", str(work), "--data", str(data), *options]) == 0
        assert main(["run", str(work)]) == 1  # one image failed
        assert classify_main(["embed", str(work)]) == 0
        assert main(["report", str(work)]) == 0
        yield work


def test_hostile_texts_are_shown_and_not_obeyed(hostile: Path) -> None:
    page = (hostile / "report.html").read_text()
    found = _Tags(page)
    assert not [attributes for _, attributes in found.tags if any(name.startswith("on") for name in attributes)]
    assert [tag for tag, _ in found.tags].count("script") == 1
    sources = [attributes["src"] or "" for tag, attributes in found.tags if tag == "img" and "src" in attributes]
    assert len(sources) > 20
    assert all(source.startswith("data:image/") for source in sources)
    for text in (HOSTILE_ID, HOSTILE_CLASS, HOSTILE_WORK):
        assert text in found.text
    assert "_blue.png" in found.text  # the file of the image that failed


def test_the_page_needs_nothing_else(hostile: Path) -> None:
    page = (hostile / "report.html").read_text()
    assert len(page.encode()) < MAX_BYTES
    for tag, attributes in _Tags(page).tags:
        assert tag not in ("iframe", "object", "embed", "base", "form") or attributes == {"method": "dialog"}
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith(("data:", "#"))
    assert "@import" not in page
    assert "url(" not in page


def test_the_same_run_gives_the_same_page(hostile: Path, tmp_path: Path) -> None:
    write_report(open_work(hostile), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == (hostile / "report.html").read_bytes()


def test_what_the_page_says_is_what_the_run_did(hostile: Path) -> None:
    text = " ".join(_Tags((hostile / "report.html").read_text()).text.split())
    images = pd.read_csv(hostile / "aggregate" / "images.csv", dtype=str, keep_default_na=False)
    cells = pd.read_csv(hostile / "aggregate" / "cells.csv")
    assert f"found {int(images['n_cells'].replace('', '0').astype(int).sum()):,} cells in 13 images" in text
    assert "1 image failed" in text
    assert "classify.trainable" in text
    assert "classify.batch_size" not in text  # as by default
    assert f"{len(cells):,} crops" in text
    last = (hostile / "aggregate" / "run.json").stat().st_mtime
    assert datetime.datetime.fromtimestamp(last, datetime.UTC).date().isoformat() in text


@pytest.mark.parametrize(
    ("removed", "said"),
    [
        (["aggregate"], "nothing has been scored here"),
        (["aggregate", "classify"], "no fold has been trained here"),
        (["aggregate", "classify", "crops"], "made by `python -m crops run`"),
        (["aggregate", "classify", "crops", "segment"], "made by `python -m segment run"),
    ],
)
def test_stages_may_be_missing(hostile: Path, tmp_path: Path, removed: list[str], said: str) -> None:
    work = tmp_path / "work"
    shutil.copytree(hostile, work)
    for name in removed:
        shutil.rmtree(work / name)
    assert main(["report", str(work), "--output", str(tmp_path / "page.html")]) == 0
    text = " ".join(_Tags((tmp_path / "page.html").read_text()).text.split())
    assert said in text
    assert "Not done yet: " in text


def test_without_labels_no_command_is_named_that_needs_a_model_of_its_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for image_id in range(10):
            for channel in CHANNELS:
                plane = rng.integers(0, 256, (20, 20), dtype=np.uint8)
                cv2.imwrite(str(tmp_path / split / f"{image_id}_{channel}.png"), plane)
        if split == "train":
            rows = "".join(f"{image_id},3\n" for image_id in range(10))
            (tmp_path / split / "train.csv").write_text(f"Id,Target\n{rows}")
        assert main(["init", str(tmp_path / f"work-{split}"), "--data", str(tmp_path / split)]) == 0
    named = {split: _Tags(render(Evidence(open_work(tmp_path / f"work-{split}")))).text for split in ("train", "test")}
    for command in ("classify train", "classify predict", "aggregate run"):
        assert f"python -m {command}" in named["train"]
        assert f"python -m {command}" not in named["test"]
    assert "python -m pipeline apply TRAINED --data DATA --out OUT" in named["test"]
    assert "pipeline apply" not in named["train"]


def test_an_explained_image_has_its_grad_cam(hostile: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(hostile, work)
    assert "Grad-CAM" not in render(Evidence(open_work(work)))
    folder = work / "classify" / "cells" / "explain"
    folder.mkdir()
    images = pd.read_csv(work / "aggregate" / "images.csv", dtype=str, keep_default_na=False)
    for number, image_id in enumerate(images.loc[images["origin"] == "oof", "image_id"]):
        if number == 0:
            (folder / f"{image_id}.png").write_bytes(b"damaged")
        else:
            assert cv2.imwrite(str(folder / f"{image_id}.png"), np.full((700, 3000, 3), 90, np.uint8))
    pictures = [attributes for tag, attributes in _Tags(render(Evidence(open_work(work)))).tags if tag == "img"]
    drawn = [attributes for attributes in pictures if "Grad-CAM of" in (attributes.get("alt") or "")]
    assert len(drawn) > 3
    assert {attributes["width"] for attributes in drawn} == {"1280"}


def test_a_damaged_file_costs_its_part_only(hostile: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(hostile, work)
    (work / "aggregate" / "metrics.json").write_text("[")
    (work / "segment" / "masks.parquet").write_bytes(b"damaged")
    page = render(Evidence(open_work(work)))
    assert "expected" in page
    assert "metrics.json as its stage wrote it, found it damaged" in page
    assert "Training images of each class" in page


def test_no_work_folder_and_no_place_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "expected a work folder made by" in capsys.readouterr().err


@pytest.fixture
def scored() -> Scored:
    """Return scored images with some unknown classes."""
    rng = np.random.default_rng(0)
    drawn = draw_images(120, 0.8, rng)
    from aggregate.labels import Labels

    known = rng.random(drawn.targets.shape) > 0.05
    labels = Labels(drawn.targets, known, np.arange(120), np.zeros(120, dtype=np.int64))
    scores = (0.4 * drawn.targets + 0.6 * rng.random(drawn.targets.shape)).astype(np.float32).round(2)
    return Scored([f"i{k}" for k in range(120)], labels, scores, scores > 0.6)


def test_confusion_against_a_loop(scored: Scored) -> None:
    expected = np.zeros((28, 29))
    for target, known, row in zip(scored.labels.targets, scored.labels.known, scored.predictions, strict=True):
        wrong = [c for c in range(28) if row[c] and known[c] and not target[c]]
        for c in np.flatnonzero(target):
            if row[c]:
                expected[c, c] += 1
            elif wrong:
                for other in wrong:
                    expected[c, other] += 1 / len(wrong)
            else:
                expected[c, 28] += 1
    found = confusion(scored.labels, scored.predictions)
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(found.sum(axis=1), scored.labels.support)


def test_curves_agree_with_the_metrics(scored: Scored) -> None:
    for c in range(28):
        positive, scores = scored.of_class(c)
        if not positive.any():
            continue
        recall, precision = precision_recall_curve(positive, scores)
        assert float(np.diff(recall, prepend=0) @ precision) == pytest.approx(average_precision(positive, scores))
        tried, f1 = f1_by_threshold(positive, scores)
        for threshold, value in list(zip(tried, f1, strict=True))[::17]:
            assert value == pytest.approx(f1_per_class(positive[:, None], scores[:, None] > threshold)[0])


def test_calibration_bins_hold_enough_and_lose_nothing(scored: Scored) -> None:
    for c in range(28):
        positive, scores = scored.of_class(c)
        bins = calibration_bins(positive, scores)
        assert bins.images.sum() == len(scores)
        assert bins.positives.sum() == positive.sum()
        assert float(bins.mean @ bins.images) == pytest.approx(float(scores.sum()), rel=1e-4)
        assert len(bins.images) == 1 or (bins.mean * bins.images > 5 - scores.max() - 1e-6).all()
        assert ((bins.low - 1e-9 <= bins.observed) & (bins.observed <= bins.high + 1e-9)).all()


def test_a_part_that_cannot_be_made_says_why() -> None:
    from hpa.errors import UserError
    from pipeline.report.evidence import attempt

    def fail() -> str:
        raise UserError("expected a table, found none")

    assert attempt(fail, "make it") == Missing("expected a table, found none", "make it")


CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Return a headless Chromium; the tests in a browser are skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    if not CHROMIUM:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        # The sandbox of Chromium does not start as root, as in most containers.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser: "Browser", hostile: Path) -> Iterator["Page"]:
    """Return the page in a browser; whatever it logs, asks the network for, or fails at, fails the test."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: _note_request(request.url, problems))
    page.add_init_script("window.hacks = []; window.hacked = (number) => window.hacks.push(number);")
    page.goto((hostile / "report.html").as_uri())
    yield page
    assert page.evaluate("window.hacks") == []
    assert page.locator('img[src="x"]').count() == 0
    page.close()
    assert problems == []


def _note_request(url: str, problems: list[str]) -> None:
    if not url.startswith(("data:", "file:")):
        problems.append(f"asked for {url}")


def _column(page: "Page", number: int) -> list[str]:
    cells = page.locator(f"#class-table tbody tr > :nth-child({number})")
    values: list[str] = cells.evaluate_all("cells => cells.map(cell => cell.dataset.value ?? cell.textContent.trim())")
    return values


def test_hostile_ids_run_no_script(opened: "Page") -> None:
    """The checks are those of the fixture; what is hostile is on the page."""
    assert opened.get_by_text(HOSTILE_CLASS).count() > 0
    assert opened.get_by_text(HOSTILE_ID).count() > 0


def test_the_table_of_classes_sorts(opened: "Page") -> None:
    head = opened.locator("#class-table thead th")
    images, name = head.nth(1), head.nth(0)
    images.get_by_role("button").click()
    assert images.get_attribute("aria-sort") == "descending"
    values = [int(value) for value in _column(opened, 2)]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]
    images.get_by_role("button").click()
    assert images.get_attribute("aria-sort") == "ascending"
    assert [int(value) for value in _column(opened, 2)] == values[::-1] or sorted(values) == [
        int(value) for value in _column(opened, 2)
    ]
    name.get_by_role("button").click()
    assert images.get_attribute("aria-sort") is None
    names = _column(opened, 1)
    assert names == opened.evaluate("names => [...names].sort((a, b) => a.localeCompare(b))", names)
    head.nth(7).get_by_role("button").click()  # average precision, undefined for classes without images
    scores = _column(opened, 8)
    defined = [float(value) for value in scores if value]
    assert defined == sorted(defined, reverse=True)
    assert "" not in scores[: len(defined)]
    assert len(defined) < len(scores)


def test_a_picture_opens_large_and_closes(opened: "Page") -> None:
    small = opened.locator("#outlines button.open").first
    dialog = opened.locator("dialog")
    assert not dialog.is_visible()
    small.click()
    assert dialog.is_visible()
    width, shown = (element.bounding_box() for element in (dialog.locator("img"), small.locator("img")))
    assert width is not None
    assert shown is not None
    assert width["width"] > 1.5 * shown["width"]
    assert dialog.locator("img").evaluate("image => image.complete && image.naturalWidth > 100")
    assert "Outlines of" in (dialog.locator("p").text_content() or "")
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


def test_everything_works_by_keyboard(opened: "Page") -> None:
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "skip"
    picture = opened.locator("#examples button.open").first
    picture.focus()
    opened.keyboard.press("Enter")
    assert opened.locator("dialog").is_visible()
    opened.keyboard.press("Escape")
    assert not opened.locator("dialog").is_visible()
    assert picture.evaluate("element => element === document.activeElement")
    head = opened.locator("#class-table thead button").nth(3)
    head.focus()
    opened.keyboard.press("Space")
    assert opened.locator("#class-table thead th").nth(3).get_attribute("aria-sort") == "descending"
    details = opened.locator("#scores details").nth(1)
    details.locator("summary").focus()
    opened.keyboard.press("Enter")
    assert details.evaluate("element => element.open")
    assert details.locator("svg").first.is_visible()


def test_a_class_can_be_seen_alone_on_the_map(opened: "Page") -> None:
    button = opened.locator(".legend button").first
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    paths = opened.locator("svg.map path")
    assert opened.locator("svg.map path.off").count() == paths.count() - 1
    button.click()
    assert opened.locator("svg.map path.off").count() == 0


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_no_width_scrolls_sideways(opened: "Page", width: int) -> None:
    opened.set_viewport_size({"width": width, "height": 844})
    opened.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert opened.evaluate("document.documentElement.scrollWidth") <= width


def test_dark_mode_is_dark_and_legible(opened: "Page") -> None:
    def luminance(color: Any) -> float:
        channels = np.array([float(part) for part in color[color.index("(") + 1 : -1].split(",")[:3]]) / 255
        linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    pages = {}
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        opened.emulate_media(color_scheme=scheme)
        back = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        pages[scheme] = luminance(back)
        for selector in ("main p", "nav a", "figcaption span", "th", ".outcome", "h2", ".tiles small"):
            text = opened.locator(selector).first.evaluate("element => getComputedStyle(element).color")
            low, high = sorted([luminance(text), luminance(back)])
            assert (high + 0.05) / (low + 0.05) > 4.5, f"{selector} in {scheme}"  # WCAG 2.2, level AA
    assert pages["dark"] < 0.1 < 0.8 < pages["light"]


def test_the_cells_as_anndata(hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        import anndata  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        assert main(["export", str(hostile), str(tmp_path / "cells.h5ad"), "--to", "anndata"]) == 2
        assert "install cellwise[anndata]" in capsys.readouterr().err
        return
    assert main(["export", str(hostile), str(tmp_path / "cells.h5ad"), "--to", "anndata"]) == 0
    data, cells = anndata.read_h5ad(tmp_path / "cells.h5ad"), pd.read_csv(hostile / "aggregate" / "cells.csv")
    numbers = pd.read_parquet(hostile / "aggregate" / "cells.parquet")
    np.testing.assert_array_equal(data.X, numbers[[f"p_{name}" for name in data.var_names]].to_numpy())
    assert list(data.obs["image_id"]) == list(cells["image_id"])
    np.testing.assert_array_equal(data.obsm["spatial"], cells[["col_px", "row_px"]].to_numpy(np.float32))
    places = pd.read_csv(hostile / "embedding" / "cells" / "map.csv")
    on_map = cells[["image_id", "cell_label"]].merge(places, how="left")[["map_1", "map_2"]]
    found = data.obsm["X_umap" if "X_umap" in data.obsm else "X_pca"]
    np.testing.assert_allclose(found, on_map.to_numpy(), atol=1e-3)
    assert data.obsm["X_embedding"].shape[0] == len(cells)
