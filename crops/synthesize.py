"""Draw crops of synthetic cells with the true classes of each cell, into a crop store or into memory.

The folder is a crop store (`crops.store`) with two more files. ``labels.parquet`` has a row per crop, in the order of
``crops.parquet``: image_id, cell_label, geometry (number of the field of view, which several proteins share; crops of
one geometry show the same cells), target (the classes of the whole image, as class indices joined by spaces), and a
column per class, true where the cell carries it. ``synthesize.json`` has the settings. While drawing, the folder
``parts`` has the tables of the finished shards, from which the same command resumes.
"""

import json
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crops.config import CropsSection
from crops.cut import ImageCrops
from crops.depth import to_8_bit
from crops.image import Columns, cut_cells
from crops.measure import find_cells
from crops.shards import ShardWriter, open_masks, open_pixels, remove_shard
from crops.table import write_crops
from hpa.atlas.imaging import style_named
from hpa.atlas.mask_errors import disturb_masks
from hpa.atlas.training import MAX_SEED, TrainingScene, draw_training_scenes
from hpa.channels import CHANNELS
from hpa.errors import UserError
from hpa.vocabulary import HPA28
from hpa.work.files import read_parquet, remove_partials, write_json, write_parquet
from hpa.work.folder import locked
from hpa.work.processes import worker_processes

LABELS: Final = "labels.parquet"
SETTINGS: Final = "synthesize.json"
SHARD_CELLS: Final = 2048
"""Crops of a shard, which is drawn from a random sequence of its own."""

_FORMAT: Final = 1
_LOCK: Final = {"lock", "lock.holder"}
_RERUN: Final = "python -m crops synthesize"


@dataclass(frozen=True)
class Drawn:
    """The crops of one drawn image.

    Parameters
    ----------
    image
        The image they are from.
    cut
        Pixels, uint8 (n, 4, S, S), and own pixels, bool (n, S, S).
    targets
        Classes that each crop's cell carries, bool (n, 28); those of both cells where a mask has merged two.
    columns
        Their columns of the crop table, except image_id, shard and row.
    """

    image: TrainingScene
    cut: ImageCrops
    targets: NDArray[np.bool_]
    columns: Columns


@dataclass(frozen=True)
class Settings:
    """What determines the bytes of a store.

    Parameters
    ----------
    cells, seed, size_px, style, patterns, shard_cells
        As for `synthesize_crops`, `patterns` in ascending order.
    format
        Version of what is drawn and of the files.
    """

    cells: int
    seed: int
    size_px: int
    style: str
    patterns: tuple[int, ...]
    shard_cells: int = SHARD_CELLS
    format: int = _FORMAT


def draw_crops(
    seed: int,
    n_cells: int,
    size_px: int = 64,
    *,
    part: int = 0,
    patterns: Collection[int] = range(len(HPA28)),
    style: str = "varied",
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]]:
    """Draw crops of synthetic cells, image by image.

    Masks err like those of the segment stage, and crops are cut like those of the crops stage with the defaults of a
    recipe. Five proteins in a row share a field of view, so shuffle what is drawn.

    Parameters
    ----------
    seed, part
        The same numbers give the same crops; each part of a seed is an independent sequence, 0 to 2**32 - 1.
    n_cells
        Number of crops in all; the last image gives as many as are missing.
    size_px
        Height and width S of a crop.
    patterns
        Classes to draw, 0..27; label sets with others are left out.
    style
        A style of `hpa.atlas.imaging.STYLES`.

    Yields
    ------
    pixels
        Shape (n, 4, S, S), uint8, in the order of `hpa.channels.CHANNELS`.
    own
        Shape (n, S, S), bool: the pixels of each crop's own cell.
    targets
        Shape (n, 28), bool: the classes that the cell carries; none for a negative cell.

    Raises
    ------
    UserError
        If an argument is outside its range.
    """
    for drawn in _draw(_settings(n_cells, seed, size_px, style, patterns), part, n_cells):
        yield drawn.cut.crops, drawn.cut.masks, drawn.targets


def synthesize_crops(
    folder: Path,
    n_cells: int,
    *,
    seed: int,
    size_px: int = 64,
    workers: int = 1,
    patterns: Collection[int] = range(len(HPA28)),
    style: str = "varied",
    shard_cells: int = SHARD_CELLS,
    on_cells: Callable[[int], None] | None = None,
) -> None:
    """Draw crops into a store. The same arguments give the same bytes for any number of workers.

    A drawing that was interrupted is resumed by the same call.

    Parameters
    ----------
    folder
        The store: a folder that is new or empty, or was made by the same arguments.
    n_cells
        Number of crops.
    seed
        Seed, 0 to 2**32 - 1; it draws nothing that any seed of `hpa synthesize` draws.
    size_px
        Height and width of a crop.
    workers
        Number of processes.
    patterns
        Classes to draw, 0..27; label sets with others are left out.
    style
        A style of `hpa.atlas.imaging.STYLES`.
    shard_cells
        Number of crops of a shard, each of which is a part of `draw_crops`.
    on_cells
        Called with the number of crops that were added.

    Raises
    ------
    UserError
        If an argument is outside its range, the folder has something else, or the disk has too little free space.
    """
    settings = _settings(n_cells, seed, size_px, style, patterns)
    settings = replace(settings, shard_cells=shard_cells)
    if shard_cells < 1:
        raise UserError(f"expected at least 1 crop in a shard, found {shard_cells}")
    if workers < 1:
        raise UserError(f"expected at least 1 worker, found {workers}")
    _check_folder(folder, settings)
    with locked(folder):
        _check_folder(folder, settings)  # another process may have begun
        _synthesize(folder, settings, workers, on_cells or (lambda _: None))


def _synthesize(folder: Path, settings: Settings, workers: int, report: Callable[[int], None]) -> None:
    remove_partials(folder)
    if (folder / "crops.parquet").exists():
        shutil.rmtree(folder / "parts", ignore_errors=True)
        report(settings.cells)
        return
    write_json(folder / SETTINGS, asdict(settings))
    parts = range(-(-settings.cells // settings.shard_cells))
    todo = [number for number in parts if not _is_complete(folder, number, _cells_of(settings, number))]
    report(settings.cells - sum(_cells_of(settings, number) for number in todo))
    write = partial(_write_part, folder, settings)
    if workers == 1 or len(todo) < 2:
        for number in todo:
            report(write(number))
    else:
        with worker_processes(min(workers, len(todo)), preload=[__name__]) as pool:
            for cells in pool.map(write, todo):
                report(cells)
    _finish(folder, [read_parquet(_part(folder, number), _RERUN) for number in parts])


def read_labels(folder: Path) -> pd.DataFrame:
    """Read ``labels.parquet`` of a store that was drawn (see above).

    Raises
    ------
    UserError
        If it is missing or damaged, or lacks columns.
    """
    table = read_parquet(folder / LABELS, _RERUN)
    missing = [name for name in ("image_id", "cell_label", "geometry", "target", *HPA28.classes) if name not in table]
    if missing:
        raise UserError(f"expected the columns {', '.join(missing)} in {folder / LABELS}, found none; draw it again")
    return table


def read_targets(folder: Path) -> NDArray[np.bool_]:
    """Return the true classes of the crops of a store that was drawn, bool (N, 28), in the order of its table."""
    return read_labels(folder)[list(HPA28.classes)].to_numpy(bool)


def _settings(n_cells: int, seed: int, size_px: int, style: str, patterns: Collection[int]) -> Settings:
    if n_cells < 1:
        raise UserError(f"expected at least 1 cell, found {n_cells}")
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"expected a seed between 0 and {MAX_SEED}, found {seed}")
    if not 8 <= size_px <= 1024:
        raise UserError(f"expected crops of 8 to 1024 px, found {size_px}")
    style_named(style)
    unknown = sorted(label for label in patterns if not 0 <= label < len(HPA28))
    if unknown or not patterns:
        raise UserError(f"expected patterns between 0 and {len(HPA28) - 1}, found {unknown or 'none'}")
    return Settings(n_cells, seed, size_px, style, tuple(sorted(set(patterns))))


def _draw(settings: Settings, part: int, n_cells: int) -> Iterator[Drawn]:
    """Draw images until they have given `n_cells` crops."""
    section, missing = CropsSection(size_px=settings.size_px), n_cells
    images = draw_training_scenes(settings.seed, part, classes=settings.patterns, style=style_named(settings.style))
    for image in images:
        rng = np.random.default_rng([settings.seed, part, image.geometry, image.protein])
        drawn = _cut(image, rng, section)
        if drawn is None:
            continue
        count = min(len(drawn.targets), missing)
        yield _first(drawn, count) if count < len(drawn.targets) else drawn
        missing -= count
        if not missing:
            return


def _cut(image: TrainingScene, rng: np.random.Generator, section: CropsSection) -> Drawn | None:
    """Cut the cells of an image along masks that err; None if it has no cell."""
    scene = image.scene
    cells, nuclei, sources = disturb_masks(rng, scene.cells, scene.nuclei)
    if not sources:
        return None
    cut, columns, _ = cut_cells(to_8_bit(scene.channels, section), find_cells(cells), nuclei, section, CHANNELS)
    targets = np.zeros((len(columns["cell_label"]), len(HPA28)), bool)
    for row, label in enumerate(columns["cell_label"].tolist()):
        for source in sources[label - 1]:
            targets[row, list(scene.targets[source - 1])] = True
    return Drawn(image, cut, targets, columns)


def _first(drawn: Drawn, count: int) -> Drawn:
    return Drawn(
        drawn.image,
        ImageCrops(drawn.cut.crops[:count], drawn.cut.masks[:count]),
        drawn.targets[:count],
        {name: column[:count] for name, column in drawn.columns.items()},
    )


def _check_folder(folder: Path, settings: Settings) -> None:
    """Check that the folder is free or has the same settings, and that there is room."""
    path = folder / SETTINGS
    wanted = json.loads(json.dumps(asdict(settings)))
    if path.is_file():
        try:
            found: Any = json.loads(path.read_text())
        except ValueError:
            found = None
        if found != wanted:
            raise UserError(f"expected a new folder, or crops drawn with the same settings, found others in {folder}")
    elif folder.exists() and (not folder.is_dir() or {file.name for file in folder.iterdir()} - _LOCK):
        raise UserError(f"expected an empty or a new folder, found {folder}, which is not empty")
    each = len(CHANNELS) * settings.size_px**2 + -(-(settings.size_px**2) // 8)
    need = settings.cells * each - sum(file.stat().st_size for file in folder.glob("shard-*"))
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if need > (free := shutil.disk_usage(there).free):
        raise UserError(f"expected room for {need:,} bytes of crops at {folder}, found {free:,} free")


def _cells_of(settings: Settings, part: int) -> int:
    return min(settings.shard_cells, settings.cells - part * settings.shard_cells)


def _part(folder: Path, number: int) -> Path:
    return folder / "parts" / f"{number:05d}.parquet"


def _is_complete(folder: Path, number: int, cells: int) -> bool:
    if not _part(folder, number).exists():
        return False
    try:
        rows = {opener(folder, number).rows for opener in (open_pixels, open_masks)}
        return rows == {cells} and len(read_parquet(_part(folder, number))) == cells
    except UserError:
        return False


def _write_part(folder: Path, settings: Settings, number: int) -> int:
    """Draw one shard and then its table, which marks it as complete; return the number of crops."""
    remove_shard(folder, number)
    tables = []
    cells = _cells_of(settings, number)
    with ShardWriter(folder, number) as shard:
        for drawn in _draw(settings, number, cells):
            count = len(drawn.targets)
            rows = np.arange(shard.n, shard.n + count, dtype=np.int32)
            shard.add(drawn.cut.crops, drawn.cut.masks)
            geometry = number << 32 | drawn.image.geometry
            names = dict(zip(HPA28.classes, drawn.targets.T, strict=True))
            tables.append(
                pd.DataFrame(
                    {"image_id": f"drawn-{number:05d}-{drawn.image.geometry:05d}-{drawn.image.protein}"}
                    | drawn.columns
                    | {"shard": np.full_like(rows, number), "row": rows}
                    | {"geometry": np.full(count, geometry), "target": HPA28.format(drawn.image.target)}
                    | names
                )
            )
    write_parquet(_part(folder, number), pd.concat(tables, ignore_index=True))
    return cells


def _finish(folder: Path, parts: list[pd.DataFrame]) -> None:
    """Write the tables; that of the crops, which makes the folder a store, comes last."""
    table = pd.concat(parts, ignore_index=True)
    own = ["geometry", "target", *HPA28.classes]
    write_parquet(folder / LABELS, table[["image_id", "cell_label", *own]])
    dropped = pd.DataFrame({"image_id": [], "cell_label": np.empty(0, np.int32), "reason": []}, dtype=object)
    write_crops(folder, table.drop(columns=own), dropped)
    shutil.rmtree(folder / "parts")
