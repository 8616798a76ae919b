"""Cellwise from Python: the few functions that a notebook needs.

They are thin over the functions that the commands call, so both give the same results. Nothing below imports this
package. Each name is imported when it is first used, so that the command `cellwise` starts quickly.

>>> import cellwise
>>> cellwise.__all__
['Classifier', 'Crops', 'Masks', 'crop', 'image_predictions', 'open_crops', 'read_recipe', 'segment']
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cellwise.cells import Crops, crop, open_crops, segment
    from cellwise.classifier import Classifier
    from cellwise.predictions import image_predictions
    from pipeline.recipe import read_recipe
    from segment.masks import Masks

__all__ = ["Classifier", "Crops", "Masks", "crop", "image_predictions", "open_crops", "read_recipe", "segment"]
__version__ = version("cellwise")

_MODULES: Final = {
    "Classifier": "cellwise.classifier",
    "Crops": "cellwise.cells",
    "Masks": "segment.masks",
    "crop": "cellwise.cells",
    "image_predictions": "cellwise.predictions",
    "open_crops": "cellwise.cells",
    "read_recipe": "pipeline.recipe",
    "segment": "cellwise.cells",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'cellwise' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
