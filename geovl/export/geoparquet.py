"""GeoParquet 1.1 with a bounding-box column, zstd."""

from pathlib import Path

from geovl.export.formats import Layer


def write(layer: Layer, path: Path) -> tuple[str, ...]:
    """Write the segments."""
    layer.segments.to_parquet(path, compression="zstd", schema_version="1.1.0", write_covering_bbox=True)
    return ()
