"""Draw the screenshots of the documentation: the report in a browser, and an image in napari.

    xvfb-run --auto-servernum --server-args="-screen 0 1600x1000x24" \
        uv run --extra napari python .ci/pictures.py work/demo docs --id fac105c9-44ff-41e3-a041-23b371ccd91a

It reads a finished work folder with its report.html, and writes ``report.png`` and ``napari.png``. The report needs an
installed Chromium (the variable CHROMIUM names another), and napari a display, which xvfb-run (package xvfb) gives it.
"""

import argparse
import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hpa.work.files import write_bytes
from hpa.work.folder import open_work
from pipeline.view import CELLS, add_layers, layers

REPORT_PX = (1180, 660)
SECOND_SCREEN = "examples"
NAPARI_PX = (1280, 760)
COLORS = 192  # of a picture: enough for the eye, and a third of the bytes


def save(pixels: NDArray[np.uint8], out: Path) -> None:
    """Write a picture as a small PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., :3]).quantize(COLORS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    write_bytes(out, buffer.getvalue())
    print(f"{out}: {len(buffer.getvalue()) / 1000:.0f} kB")


def draw_report(work: Path, out: Path) -> None:
    """Draw two screens of the report: what a reader sees first, and cells of images with their probabilities."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        browser = tool.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": REPORT_PX[0], "height": REPORT_PX[1]}, color_scheme="light")
        page.goto((work / "report.html").resolve().as_uri())
        screens = [page.screenshot()]
        page.locator(f"#{SECOND_SCREEN}").evaluate("element => element.scrollIntoView({behavior: 'instant'})")
        page.evaluate("Promise.all([...document.images].map(image => image.decode().catch(() => null)))")
        page.wait_for_timeout(500)  # until what is decoded is painted
        screens.append(page.screenshot())
        browser.close()
    shown = [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in screens]
    seam = np.full((3, REPORT_PX[0], 3), 128, np.uint8)
    save(np.concatenate([shown[0], seam, shown[1]]), out)


def draw_napari(work: Path, image_id: str, out: Path) -> None:
    """Draw the window that `pipeline view` opens, with the cells as outlines."""
    import napari
    from qtpy.QtWidgets import QApplication

    folder = open_work(work)
    viewer = napari.Viewer(title=f"{image_id} of {folder.root.name}")
    viewer.window.resize(*NAPARI_PX)
    added = add_layers(viewer, layers(folder, image_id))
    added[CELLS].contour = 2
    viewer.layers.selection.active = added[CELLS]
    for _ in range(20):  # until the window has its size and the canvas is drawn
        QApplication.processEvents()
    viewer.reset_view()
    QApplication.processEvents()
    pixels = viewer.screenshot(canvas_only=False, flash=False)
    viewer.close()
    save(np.asarray(pixels), out)


def main() -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="A finished work folder.")
    parser.add_argument("out", type=Path, help="Folder of the pictures.")
    parser.add_argument("--id", required=True, help="The image to open in napari.")
    arguments = parser.parse_args()
    draw_report(arguments.work, arguments.out / "report.png")
    draw_napari(arguments.work, arguments.id, arguments.out / "napari.png")


if __name__ == "__main__":
    main()
