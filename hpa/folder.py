"""A folder of bare ``{Id}_{color}.png`` (or TIFF, JPEG) files without tables: all test images, sorted by Id."""

from pathlib import Path

from hpa.found import Found, channel_files, table_of
from hpa.images import check_ids
from hpa.vocabulary import Vocabulary


def find(data: Path, vocabulary: Vocabulary) -> Found:
    """Find the images of a bare folder; other files are ignored and counted.

    Raises
    ------
    UserError
        If an Id cannot be a file name.
    """
    files, others = channel_files([data], recursive=False)
    ids = sorted(files)
    check_ids(ids, str(data))
    notices = [f"{others} files in {data} are not named {{Id}}_{{color}} and are ignored"] if others else []
    rows = table_of((image_id, "test", (), None) for image_id in ids)
    return Found(rows, [files[image_id] for image_id in ids], [data] * len(ids), notices)
