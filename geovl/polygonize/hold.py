"""Hold back polygons until everything near them is known, so that they can be reshaped together."""

import numpy as np
import shapely

from geovl.polygonize.arrays import components
from geovl.polygonize.join import Joiner, joined, select
from geovl.polygonize.trace import Bools, Pieces, nothing


class Holder:
    """Takes finished regions strip by strip and gives back those that nothing unfinished is near.

    Args:
        distance: Pixels; regions this near to each other leave together.
    """

    def __init__(self, distance: float) -> None:
        self._distance = distance
        self._held = nothing()

    def add(self, found: Pieces, joiner: Joiner, bottom: int, *, last: bool) -> Pieces:
        """Take regions.

        Args:
            found: Finished, in raster coordinates.
            joiner: Knows what is unfinished.
            bottom: Row behind the strip's last: what lies below is not known yet.
            last: Nothing lies below.

        Returns:
            The regions that can leave, in the order in which they came.
        """
        every = joined(self._held, found)
        if last or not len(every):
            self._held = nothing()
            return every
        waits = self._near_what_is_open(every, joiner, bottom)
        leave = ~waits
        self._held = select(every, waits)
        return select(every, leave)

    def _near_what_is_open(self, pieces: Pieces, joiner: Joiner, bottom: int) -> Bools:
        polygons = shapely.from_ragged_array(
            shapely.GeometryType.POLYGON, pieces.coordinates.astype(np.float64), (pieces.rings, pieces.parts)
        )
        tree = shapely.STRtree(polygons)
        waits = shapely.bounds(polygons)[:, 3] >= bottom - self._distance
        vertices, offsets = joiner.waiting()
        if len(offsets) > 1:
            lines = shapely.from_ragged_array(shapely.GeometryType.LINESTRING, vertices.astype(np.float64), (offsets,))
            waits[tree.query(lines, predicate="dwithin", distance=self._distance)[1]] = True
        one, two = tree.query(polygons, predicate="dwithin", distance=self._distance)
        root = components(len(pieces), one, two)
        waiting = np.zeros(len(pieces), np.bool_)
        waiting[root[waits]] = True
        return waiting[root]
