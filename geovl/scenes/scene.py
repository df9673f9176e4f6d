"""What a rendered scene is: the picture, its labels and its objects."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from shapely import Polygon

CLASSES: tuple[str, ...] = (
    "unknown",
    "building",
    "road",
    "pavement",
    "parking lot",
    "car",
    "tree",
    "grass",
    "bare soil",
    "sand",
    "farmland",
    "water",
    "sea",
    "swimming pool",
    "tennis court",
    "ship",
    "dock",
    "airplane",
    "runway",
    "taxiway",
    "apron",
    "storage tank",
    "bridge",
    "railway",
    "solar panel",
    "baseball diamond",
    "shadow",
    "river",
    "lake",
    "ground",
    "greenhouse",
    "wind turbine",
)
"""Concept names; the position of a name is its id in :attr:`Scene.labels`. Id 0 says nothing is known;
"ground" is open ground that is neither clearly grass nor clearly soil."""

BACKGROUND = frozenset({"unknown", "grass", "bare soil", "sand", "pavement", "shadow", "ground"})
"""Classes that are labelled but never listed as objects: surfaces without a shape of their own."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One rendered scene with its truth."""

    rgb: "NDArray[np.uint8]"
    """uint8 (3, height, width): red, green, blue."""
    labels: "NDArray[np.uint8]"
    """uint8 (height, width): position in :data:`CLASSES` of the topmost thing at each pixel.

    Shaded grass, soil and pavement are "shadow"; a shaded road, roof or runway keeps its own class.
    """
    gsd: float
    """Metres per pixel."""
    objects: "list[tuple[str, Polygon]]"
    """Class name and outline of each object in pixel coordinates (column, row), cut to the picture.

    Outlines are whole: an aircraft does not cut a hole into the apron below it. Objects that others
    hide for the greater part are left out.
    """
