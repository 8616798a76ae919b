"""The synthetic atlas: biologically modelled images in the layout of the competition, with ground truth per cell.

`hpa.__main__`, `pipeline` and the training of networks import it.
"""

from hpa.atlas.scene import Scene, draw_scene
from hpa.atlas.write import synthesize

__all__ = ["Scene", "draw_scene", "synthesize"]
