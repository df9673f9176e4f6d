"""CSV with the geometry as WKT, in the layer's CRS."""

from pathlib import Path

import pandas as pd

from geovl.export.formats import Layer


def write(layer: Layer, path: Path) -> tuple[str, ...]:
    """Write one row per segment; the last column is ``wkt``."""
    frame = layer.segments
    table = pd.DataFrame(frame.drop(columns=frame.geometry.name))
    table["wkt"] = frame.geometry.to_wkt(rounding_precision=7)
    table.to_csv(path, index=False)
    return ()
