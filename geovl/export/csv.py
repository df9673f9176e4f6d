"""CSV with the geometry as WKT, in the layer's CRS."""

from pathlib import Path

import shapely

from geovl.export.formats import Layer


def write(layer: Layer, path: Path) -> tuple[str, ...]:
    """Write one row per segment; the last column is ``wkt``."""
    batches = layer.batches()
    columns = [name for name in batches.schema.names if name != "geometry"]
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join([*columns, "wkt"]) + "\n")
        for batch in batches:
            table = batch.select(columns).to_pandas()
            geometry = shapely.from_wkb(batch["geometry"].to_numpy(zero_copy_only=False))
            table["wkt"] = shapely.to_wkt(geometry, rounding_precision=7)
            table.to_csv(file, index=False, header=False, lineterminator="\n")
    return ()
