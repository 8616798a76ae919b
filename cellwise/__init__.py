"""Cellwise from Python: the few functions that a notebook needs.

They are thin over the functions that the commands call, so both give the same results. Nothing below imports this
package. Importing it is quick; torch is imported by the first function that needs it.

>>> import cellwise
>>> sorted(cellwise.__all__)  # doctest: +NORMALIZE_WHITESPACE
['Classifier', 'Crops', 'Masks', 'crop', 'image_predictions', 'open_crops', 'read_recipe', 'segment']
"""

from importlib.metadata import version

from cellwise.cells import Crops, crop, open_crops, segment
from cellwise.classifier import Classifier
from cellwise.predictions import image_predictions
from pipeline.recipe import read_recipe
from segment.masks import Masks

__all__ = ["Classifier", "Crops", "Masks", "crop", "image_predictions", "open_crops", "read_recipe", "segment"]
__version__ = version("cellwise")
