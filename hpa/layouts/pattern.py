"""The layout of files named by any pattern, such as those of a plate: ``{well}_f{field}_d{channel}.tif``.

A pattern is a path below the data folder. A name in braces stands for any text without a slash, as short as the rest of
the pattern allows; all other characters stand for themselves. ``{channel}`` tells the stains apart; without it, the
numbers of the channels are those of the planes in each file, as in OME-TIFF and OME-Zarr. ``{plate}``, ``{well}``,
``{row}`` and ``{column}`` make the group, as far as they are there: images of one well share a fold. The id of an image
consists of all its fields but the channel, joined by ``_``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Final

from hpa.channels import Channel
from hpa.errors import UserError
from hpa.images import check_ids
from hpa.layouts.listing import DatasetListing, PlaneFile, Row, files_below, rows_to_table
from hpa.pixels import ONLY_PLANE
from hpa.vocabulary import Vocabulary

CHANNEL: Final = "channel"
_FIELD: Final = re.compile(r"\{(\w*)\}")


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern, with a group for each field.

    Raises
    ------
    UserError
        If it has no field, a field without a name, a field twice, or is not a path below the data folder.

    Examples
    --------
    >>> from hpa.layouts.pattern import compile_pattern
    >>> compile_pattern("{well}_f{field}_d{channel}.tif").fullmatch("B02_f3_d1.tif").groupdict()
    {'well': 'B02', 'field': '3', 'channel': '1'}
    """
    names = _FIELD.findall(pattern)
    if not names or not all(name.isidentifier() for name in names) or len(set(names)) < len(names):
        raise UserError(
            "expected a pattern with fields of different names, such as {well}_f{field}_d{channel}.tif, found"
            f" {pattern!r}"
        )
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise UserError(f"expected a pattern of paths below the data folder, found {pattern!r}")
    parts = _FIELD.split(pattern)  # text and names in turn
    expression = "".join(f"(?P<{part}>[^/]+?)" if i % 2 else re.escape(part) for i, part in enumerate(parts))
    return re.compile(expression)


def list_by_pattern(
    data: Path, pattern: str, channels: Mapping[str, Channel], vocabulary: Vocabulary
) -> DatasetListing:
    """List the images of a folder by the pattern of their files' names: all test images, sorted by id.

    Parameters
    ----------
    data
        The folder.
    pattern
        As described above.
    channels
        The channel for each text of the field ``channel``, or, without that field, for each number of a plane in a
        file, counted from 0. Others are ignored.
    vocabulary
        Vocabulary of the run.

    Raises
    ------
    UserError
        If the pattern or the channels are unusable, no file fits, the fields of two files make the same id, or an id
        cannot be a file name.
    """
    expression = compile_pattern(pattern)
    by_file = CHANNEL in expression.groupindex
    if not channels or len(set(channels.values())) < len(channels):
        raise UserError(f"expected different channels for the files of {pattern!r}, found {dict(channels)}")
    if not by_file and not all(name.isdecimal() for name in channels):
        raise UserError(
            f"expected numbers of planes, since {pattern!r} has no field {{channel}}, found {', '.join(channels)}"
        )
    files: dict[str, dict[Channel, PlaneFile]] = {}
    wells: dict[str, str | None] = {}
    n_ignored, seen = 0, set[str]()
    for path in sorted(files_below(data, recursive="/" in pattern, stores=True)):
        fields = _fields(expression, path.relative_to(data).as_posix())
        if fields is None:
            n_ignored += 1
            continue
        name = fields.pop(CHANNEL, "")
        seen.add(name)
        image_id = "_".join(fields.values())
        own = files.setdefault(image_id, {})
        well = [fields.get("plate"), fields.get("well"), _row_letters(fields.get("row", "")) + fields.get("column", "")]
        wells[image_id] = "_".join(filter(None, well)) or None
        planes = {name: ONLY_PLANE} if by_file else {key: int(key) for key in channels}
        for key, plane in planes.items():
            if (channel := channels.get(key)) is None:
                continue
            if channel in own:
                raise UserError(
                    f"expected one file for {channel} of each image, found {own[channel].path.name} and {path.name},"
                    f" whose fields make the same id {image_id}"
                )
            own[channel] = PlaneFile(path, plane)
    if not files:
        raise UserError(f"expected files named {pattern} in {data}, found none among {n_ignored} files")
    ids = sorted(files)
    check_ids(ids, str(data))
    notices = [f"{n_ignored} files in {data} are not named {pattern} and are ignored"] if n_ignored else []
    unused = sorted(seen - set(channels)) if by_file else []
    if unused:
        notices.append(f"files of the channels {', '.join(unused)} are ignored; --channel names those to read")
    rows = rows_to_table(Row(image_id, "test", well=wells[image_id]) for image_id in ids)
    return DatasetListing(rows, [files[image_id] for image_id in ids], [data] * len(ids), vocabulary, notices)


def _row_letters(row: str) -> str:
    """Return the letters of a numbered row of a plate, A for 1 and AA for 27, so that r1c12 and r11c2 are two wells."""
    letters, number = "", int(row) if row.isdecimal() else 0
    while number:
        number, last = divmod(number - 1, len(ascii_uppercase))
        letters = ascii_uppercase[last] + letters
    return letters or row


def _fields(expression: re.Pattern[str], name: str) -> dict[str, str] | None:
    match = expression.fullmatch(name)
    return match and match.groupdict()
