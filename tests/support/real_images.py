"""Find the real images, which are not part of the repository."""

import os
from pathlib import Path

from tests.support.pages import ROOT


def real_data() -> Path:
    """Return the folder of real images: ``CELLWISE_REAL_DATA``, or ``shared/real`` beside the repository."""
    return Path(os.environ.get("CELLWISE_REAL_DATA", ROOT.parent / "shared" / "real"))
