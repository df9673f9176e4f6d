"""The label raster as a Cloud Optimized GeoTIFF."""

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
    try:
        with rasterio.open(layer.labels) as labels:
            rasterio.shutil.copy(
                labels, path, driver="COG", compress="DEFLATE", overview_resampling="nearest", copy_src_overviews=False
            )
    except RasterioError as error:
        raise OSError(str(error)) from error
    return ()
