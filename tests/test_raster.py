"""Rasters of every kind open to the right bands, mask, stretch and place, or say why not."""

import struct

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp

from geovl.errors import RasterError, SourceError, UsageError
from geovl.raster import BlockWriter, Raster, coarsen
from geovl.types import Chip, GeoBox, Window
from tests.fakes import UTM, blobs, write_tif


def whole(path, **options):
    with Raster(str(path), **options) as raster:
        height, width = raster.info.geobox.shape
        return raster.read(Window(0, 0, height, width)), raster.info


def test_8_bit_rgb_is_read_as_it_is(tmp_path):
    pixels = blobs(70, 90)
    chip, info = whole(write_tif(tmp_path / "a.tif", pixels))
    np.testing.assert_array_equal(chip.pixels, pixels)
    assert chip.valid.all()
    assert info.gsd == pytest.approx(0.5)
    assert info.bands == (1, 2, 3)
    assert info.warnings == ()


@pytest.mark.parametrize("layout", [{"tiled": True, "blockxsize": 16, "blockysize": 16}, {"blockysize": 3}])
@pytest.mark.parametrize("overviews", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_a_pixel_has_one_value_whatever_window_reads_it(tmp_path, dtype, overviews, layout):
    rng = np.random.default_rng(1)
    pixels = (rng.normal(200, 30, (3, 80, 100)) if dtype == "uint8" else rng.normal(3000, 800, (3, 80, 100))).clip(0)
    path = write_tif(tmp_path / "a.tif", pixels.astype(dtype), photometric="RGB", **layout)
    if overviews:
        with rasterio.open(path, "r+") as dataset:
            dataset.build_overviews([2, 4])
    chip, _ = whole(path)
    with Raster(str(path)) as raster:
        for row in (0, 17, 60):
            for col in (0, 33, 80):
                window = Window(row, col, 20, 20)
                np.testing.assert_array_equal(raster.read(window).pixels, chip.pixels[(slice(None), *window.slices)])
    if dtype != "uint8":
        assert chip.pixels.min() == 0
        assert chip.pixels.max() == 255
        assert 110 < np.median(chip.pixels) < 145


def test_nodata_alpha_and_mask_bands_hide_pixels(tmp_path):
    pixels = blobs(60, 60).clip(1, 255)
    hidden = np.zeros((60, 60), bool)
    hidden[10:30, 20:50] = True
    by_nodata = pixels.copy()
    by_nodata[:, hidden] = 0
    paths = [write_tif(tmp_path / "nodata.tif", by_nodata, nodata=0)]
    alpha = np.concatenate([pixels, np.where(hidden, 0, 255).astype(np.uint8)[None]])
    paths.append(write_tif(tmp_path / "alpha.tif", alpha, photometric="RGB", alpha="YES"))
    paths.append(write_tif(tmp_path / "mask.tif", pixels))
    with rasterio.open(paths[-1], "r+") as dataset:
        dataset.write_mask(~hidden)
    nan = pixels.astype(np.float32)
    nan[:, hidden] = np.nan
    paths.append(write_tif(tmp_path / "nan.tif", nan, photometric="RGB"))
    for path in paths:
        chip, info = whole(path)
        np.testing.assert_array_equal(chip.valid, ~hidden, err_msg=path.name)
        assert info.bands == (1, 2, 3)


@pytest.mark.parametrize("shape", [(20, 2600), (2600, 20)])
def test_a_raster_narrower_than_its_blocks_is_stretched(tmp_path, shape):
    """Too long for one sample, so blocks are sampled, and those are wider than the raster."""
    ramp = np.broadcast_to(np.linspace(1000, 3000, max(shape)).reshape(-1, 1), (max(shape), min(shape)))
    pixels = np.stack([ramp if shape[0] > shape[1] else ramp.T] * 3).astype(np.uint16)
    path = write_tif(
        tmp_path / "a.tif", pixels, nodata=0, photometric="RGB", tiled=True, blockxsize=256, blockysize=256
    )
    chip, _ = whole(path)
    assert chip.pixels.min() == 0
    assert chip.pixels.max() == 255


def test_nodata_takes_no_part_in_the_stretch(tmp_path):
    values = np.random.default_rng(0).integers(1000, 2000, (3, 64, 64)).astype(np.uint16)
    with_hole = values.copy()
    with_hole[:, :32] = 65535
    chip, _ = whole(write_tif(tmp_path / "a.tif", with_hole, photometric="RGB", nodata=65535))
    assert 100 < np.median(chip.pixels[:, 32:]) < 155


def test_bands_are_found_by_interpretation_description_or_bidx(tmp_path):
    pixels = np.concatenate([blobs(40, 40, 1), blobs(40, 40, 2)])[:5]
    path = write_tif(tmp_path / "a.tif", pixels)
    with pytest.raises(UsageError, match="5 bands") as caught:
        Raster(str(path))
    assert "--bidx" in caught.value.hint
    assert whole(path, bidx=(4, 3, 2))[1].bands == (4, 3, 2)
    np.testing.assert_array_equal(whole(path, bidx=(5,))[0].pixels[2], pixels[4])
    with pytest.raises(UsageError, match=r"Band 9 .* bands 1 to 5"):
        Raster(str(path), bidx=(9, 1, 1))
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = ("B02", "B03", "B04", "B08", "B11")
    assert whole(path)[1].bands == (3, 2, 1)
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [ColorInterp.green, ColorInterp.red, ColorInterp.gray, ColorInterp.blue, ColorInterp.gray]
    assert whole(path)[1].bands == (2, 1, 4)


def test_a_grey_band_is_repeated_and_a_palette_is_coloured(tmp_path):
    grey = blobs(30, 30)[:1]
    chip, _ = whole(write_tif(tmp_path / "grey.tif", grey))
    np.testing.assert_array_equal(chip.pixels, np.repeat(grey, 3, axis=0))
    path = write_tif(tmp_path / "palette.tif", grey % 3)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {0: (1, 2, 3), 1: (10, 20, 30), 2: (100, 110, 120)})
    chip, _ = whole(path)
    table = np.array([(1, 2, 3), (10, 20, 30), (100, 110, 120)], np.uint8).T
    np.testing.assert_array_equal(chip.pixels, table[:, grey[0] % 3])


def test_a_chip_is_extended_to_the_models_multiple_with_pixels_that_do_not_count(tmp_path):
    with Raster(str(write_tif(tmp_path / "a.tif", blobs(50, 70)))) as raster:
        chip = raster.read(Window(0, 0, 50, 70), 32)
    assert chip.pixels.shape == (3, 64, 96)
    assert chip.valid.sum() == 50 * 70
    np.testing.assert_array_equal(chip.pixels[:, 63, :70], chip.pixels[:, 49, :70])


@pytest.mark.parametrize(
    ("crs", "transform", "gsd"),
    [
        ("EPSG:32632", UTM, 0.5),
        ("EPSG:4326", Affine(1e-5, 0, 10, 0, -1e-5, 60), (1.11412e0 * 0.5576) ** 0.5),  # 1e-5° at 60° north
        ("EPSG:2227", Affine(3, 0, 6e6, 0, -3, 2e6), 3 * 1200 / 3937),
        (None, Affine.identity(), None),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_gsd_is_metres_on_the_ground(tmp_path, crs, transform, gsd):
    _, info = whole(write_tif(tmp_path / "a.tif", blobs(20, 20), crs, transform))
    assert info.gsd == (None if gsd is None else pytest.approx(gsd, rel=5e-3))
    assert bool(info.warnings) == (crs is None)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_ground_control_points_place_a_raster(tmp_path):
    path = write_tif(tmp_path / "a.tif", blobs(40, 60), None, Affine.identity())
    points = [GroundControlPoint(r, c, *(UTM @ (c, r))) for r, c in ((0, 0), (0, 60), (40, 0), (40, 60))]
    with rasterio.open(path, "r+") as dataset:
        dataset.gcps = (points, rasterio.crs.CRS.from_epsg(32632))
    _, info = whole(path)
    assert info.geobox.transform.almost_equals(UTM, 1e-3)
    assert info.geobox.crs.to_epsg() == 32632
    assert "4 ground control points" in info.warnings[0]


def test_what_is_no_usable_raster_is_refused_by_name(tmp_path):
    text = tmp_path / "text.tif"
    text.write_text("not a raster")
    with pytest.raises(SourceError, match=r"text\.tif"):
        Raster(str(text))
    complex_ = write_tif(tmp_path / "complex.tif", np.ones((1, 8, 8), np.complex64))
    with pytest.raises(RasterError, match="complex"):
        Raster(str(complex_))
    good = write_tif(tmp_path / "good.tif", blobs(300, 300), compress="deflate")
    cut = tmp_path / "cut.tif"
    cut.write_bytes(good.read_bytes()[:-1200])
    with pytest.raises(SourceError, match=r"cut\.tif"):
        whole(cut)
    bare = tmp_path / "bare.vrt"
    bare.write_text('<VRTDataset rasterXSize="10" rasterYSize="10"></VRTDataset>')
    with pytest.raises(SourceError, match=r"bare\.vrt"):
        Raster(str(bare))
    empty = write_tif(tmp_path / "empty.tif", np.full((3, 20, 20), 7, np.uint16), nodata=7)
    with pytest.raises(RasterError, match="nodata"):
        Raster(str(empty), bidx=(1, 2, 3))


@pytest.mark.parametrize("shape", [(400_000, 400_000), (2**31 - 1, 1), (1, 2**31 - 1)])
def test_a_header_that_claims_more_than_the_file_can_hold_is_refused(tmp_path, shape):
    """A TIFF of a few bytes, one strip, written by hand."""
    height, width = shape
    entries = ((256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 5), (262, 3, 1), (273, 4, 8), (277, 3, 1),
               (278, 4, height), (279, 4, 2))  # fmt: skip
    listed = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    huge = tmp_path / "huge.tif"
    huge.write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + listed + bytes(4))
    with pytest.raises((RasterError, SourceError), match=r"huge\.tif"):
        Raster(str(huge))


def test_a_sparse_giant_is_refused_with_its_size(tmp_path):
    huge = tmp_path / "huge.tif"
    with rasterio.open(
        huge, "w", driver="GTiff", width=400_000, height=400_000, count=1, dtype="uint8", sparse_ok=True,
        tiled=True, blockxsize=4096, blockysize=4096, bigtiff="YES",
    ):  # fmt: skip
        pass
    with pytest.raises(RasterError, match="claims 400000 x 400000"):
        Raster(str(huge))


@pytest.mark.parametrize("stretch", ["2", "98,2", "a,b", "", "0,101"])
def test_a_stretch_that_means_nothing_is_refused(tmp_path, stretch):
    with pytest.raises(UsageError, match="Stretch"):
        Raster(str(write_tif(tmp_path / "a.tif", blobs(10, 10))), stretch=stretch)


def test_a_raster_that_is_nearly_empty_is_stretched_by_what_it_holds(tmp_path):
    pixels = np.zeros((3, 3000, 3000), np.uint16)
    pixels[:, 1400:1450, 300:350] = np.arange(1, 2501).reshape(50, 50)
    path = write_tif(tmp_path / "sparse.tif", pixels, nodata=0, tiled=True, compress="deflate", photometric="RGB")
    with Raster(str(path)) as raster:
        assert raster.stretch is not None
        assert 1 <= raster.stretch.low[0] < raster.stretch.high[0] <= 2500


def test_blocks_written_one_by_one_are_the_raster(tmp_path):
    values = np.random.default_rng(0).integers(0, 3, (700, 900)).astype(np.uint8)
    box = GeoBox(values.shape, UTM, None)
    with BlockWriter(tmp_path / "out.tif", box, "uint8", 255, {"classes": "a\nb"}, {1: (255, 0, 0, 255)}) as writer:
        for row in range(0, 700, 256):
            block = values[row : row + 256]
            writer.write(block, Window(row, 0, *block.shape))
    with rasterio.open(tmp_path / "out.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), values)
        assert dataset.nodata == 255
        assert dataset.colormap(1)[1] == (255, 0, 0, 255)
        assert dataset.tags()["classes"] == "a\nb"


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 5), st.integers(1, 8))
def test_a_coarser_chip_holds_the_means_of_valid_pixels(height, width, factor, multiple):
    rng = np.random.default_rng(height * 100 + width)
    pixels = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
    valid = rng.random((height, width)) < 0.6
    coarse = coarsen(Chip(pixels, valid, Window(5, 6, height, width), 0.02), factor, multiple)
    rows, cols = -(-height // factor), -(-width // factor)
    assert coarse.pixels.shape == (3, -(-rows // multiple) * multiple, -(-cols // multiple) * multiple)
    assert coarse.gsd == pytest.approx(0.02 * factor)
    assert not coarse.valid[rows:].any()
    assert not coarse.valid[:, cols:].any()
    for row in range(rows):
        for col in range(cols):
            block = np.s_[row * factor : (row + 1) * factor, col * factor : (col + 1) * factor]
            there = valid[block]
            assert coarse.valid[row, col] == there.any()
            if there.any():
                expected = pixels[(slice(None), *block)][:, there].mean(axis=1)
                assert np.abs(coarse.pixels[:, row, col] - expected).max() <= 0.5
