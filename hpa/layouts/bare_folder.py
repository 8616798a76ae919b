"""A folder of bare ``{Id}_{color}.png`` (or TIFF, JPEG) files without tables: all test images, sorted by Id."""

from pathlib import Path

from hpa.images import check_ids
from hpa.layouts.listing import DatasetListing, Row, channel_files, parts_of, table_of
from hpa.vocabulary import Vocabulary


def matches(data: Path) -> bool:
    """Any folder will do; the other layouts are looked for first."""
    return data.is_dir()


def find(data: Path, vocabulary: Vocabulary) -> DatasetListing:
    """Find the images of a bare folder; other files are ignored and counted.

    Raises
    ------
    UserError
        If an Id cannot be a file name.
    """
    walked = channel_files(parts_of(data), recursive=False)
    ids = sorted(walked.files)
    check_ids(ids, str(data))
    rows = table_of(Row(image_id, "test") for image_id in ids)
    return DatasetListing(
        rows, [walked.files[image_id] for image_id in ids], [data] * len(ids), vocabulary, walked.notice(data)
    )
