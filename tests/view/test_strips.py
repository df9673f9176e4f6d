"""A picture that is read strip by strip is the one that GDAL makes of the whole raster."""

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling

from geovl import raster
from geovl.raster import Raster
from tests.fakes import write_tif

SHAPES = ((300, 500), (517, 263))
SIDES = (500, 211, 64, 1)
KINDS = {
    "tiles": {"tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate"},
    "strips": {"compress": "deflate", "blockysize": 3},
    "one block": {"tiled": True, "blockxsize": 1024, "blockysize": 1024},
    "nodata": {"nodata": 7},
    "floats": {"dtype": "float32", "nodata": float("nan")},
}


def whole(path, shape, how):
    with rasterio.open(path) as file:
        values = file.read(out_shape=(3, *shape), resampling=how)
        return values, file.read_masks(out_shape=(3, *shape)).any(axis=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("overviews", [False, True])
def test_strips_make_the_same_picture(tmp_path, monkeypatch, kind, shape, overviews):
    monkeypatch.setattr(raster, "_CACHE", 400_000)  # so that such small rasters have many strips
    rng = np.random.default_rng(0)
    profile = KINDS[kind]
    pixels = rng.integers(0, 256, (3, *shape)).astype(profile.get("dtype", "uint8"))
    pixels[:, 40:90, 30:120] = profile.get("nodata", 0)
    path = write_tif(tmp_path / "scene.tif", pixels, **{k: v for k, v in profile.items() if k != "dtype"})
    if overviews:
        with rasterio.open(path, "r+") as file:
            file.build_overviews([2, 4], Resampling.average)
    with Raster(str(path), stretch="none") as opened:
        strips = [len(list(opened._strips((side, side)))) for side in SIDES]
        for side in SIDES:
            found, valid = opened.picture(side)
            values, mask = whole(path, valid.shape, Resampling.average)
            if values.dtype.kind == "f":
                mask = mask & np.isfinite(values).all(axis=0)
                values = np.clip(np.nan_to_num(values), 0, 255).astype(np.uint8)
            assert (valid == mask).all()
            assert (found[:, mask] == values[:, mask]).all()
    assert (max(strips) > 2) == (not overviews and kind != "one block")


def test_a_palette_is_read_by_nearest_neighbour_in_strips_too(tmp_path, monkeypatch):
    monkeypatch.setattr(raster, "_CACHE", 100_000)
    pixels = np.random.default_rng(0).integers(0, 4, (1, 611, 423), np.uint8)
    path = write_tif(tmp_path / "scene.tif", pixels, tiled=True, blockxsize=16, blockysize=16)
    table = {value: (value, 10 * value, 255 - value, 255) for value in range(4)}
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, table)
    with Raster(str(path)) as opened:
        found, _ = opened.picture(97)
        assert len(list(opened._strips(found.shape[1:]))) > 3
        with rasterio.open(path) as file:
            values = file.read(1, out_shape=found.shape[1:], resampling=Resampling.nearest)
    assert (found[0] == values).all()
