"""The label raster as a Cloud Optimized GeoTIFF.

Colours stand in its colour table, which a raster of more than 254 classes has no room for. A GeoTIFF has no place for
the names of its values: they stand beside it (:func:`geovl.export.styles.categories`), and in the item ``classes``.
"""

from pathlib import Path

import rasterio
import rasterio.shutil
from rasterio.errors import RasterioError

from geovl.export.formats import Layer


def write(layer: Layer, path: Path) -> tuple[str, ...]:
    """Copy the label raster with overviews; nodata, colour table and class names are kept.

    Raises:
        OSError: It cannot be written.
    """
    copy(layer.labels, path)
    return ()


def copy(source: Path, path: Path) -> None:
    """Copy a raster of whole numbers that are no amounts, with overviews; errors as in :func:`write`."""
    try:
        with rasterio.open(source) as labels:
            rasterio.shutil.copy(
                labels, path, driver="COG", compress="DEFLATE", overview_resampling="nearest", copy_src_overviews=False
            )
    except RasterioError as error:
        raise OSError(str(error)) from error
