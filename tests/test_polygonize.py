"""Polygons are exactly the regions of the label raster; areas are those of the ground."""

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pyproj import CRS, Geod, Transformer
from rasterio.features import rasterize, shapes

from geovl import polygonize as module
from geovl.polygonize import geodesic, ground_area, polygonize, share_vertices
from geovl.types import GeoBox

rasters = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, 255]))
)


def trace(labels, scores=None, **options):
    scores = np.full(labels.shape, 254, np.uint8) if scores is None else scores
    box = options.pop("geobox", GeoBox(labels.shape, Affine.identity(), None))
    return polygonize(lambda a, b: labels[a:b], lambda a, b: scores[a:b], box, nodata=255, score_scale=254, **options)


def canonical(labels, geometry):
    """Comparable form: label and normalised shape without vertices on straight edges."""
    return sorted(
        (int(v), shapely.normalize(shapely.simplify(g, 0)).wkt) for v, g in zip(labels, geometry, strict=True)
    )


@given(rasters, st.sampled_from([1, 3, 5, 1024]))
def test_regions_are_those_of_gdal_whatever_the_strip(labels, strip):
    old, module.STRIP = module.STRIP, strip
    try:
        found = trace(labels, simplify=0)
    finally:
        module.STRIP = old
    mask = (labels != 0) & (labels != 255)
    oracle = [(v, shapely.geometry.shape(s)) for s, v in shapes(labels, mask=mask, connectivity=4)]
    assert len(found.geometry) == len(oracle)
    left = list(oracle)
    for label, polygon in zip(found.label, found.geometry, strict=True):
        match = next(i for i, (v, g) in enumerate(left) if v == label and g.equals(polygon))
        left.pop(match)
    assert left == []


@given(rasters)
def test_rasterizing_the_polygons_gives_the_labels_back(labels):
    found = trace(labels, simplify=0)
    pairs = list(zip(found.geometry, found.label.tolist(), strict=True))
    back = rasterize(pairs, labels.shape, dtype="uint8") if pairs else np.zeros_like(labels)
    np.testing.assert_array_equal(back, np.where(labels == 255, 0, labels))


@given(rasters, st.integers(0, 2**32 - 1), st.sampled_from([2, 1024]))
def test_score_and_pixels_are_those_of_the_region(labels, seed, strip):
    scores = np.random.default_rng(seed).integers(0, 255, labels.shape).astype(np.uint8)
    old, module.STRIP = module.STRIP, strip
    try:
        found = trace(labels, scores, simplify=0)
    finally:
        module.STRIP = old
    for polygon, score, pixels in zip(found.geometry, found.score, found.pixels, strict=True):
        inside = rasterize([polygon], labels.shape).astype(bool)
        assert inside.sum() == pixels
        assert score == pytest.approx(scores[inside].mean() / 254)


@given(rasters, st.floats(0.1, 4))
def test_neighbours_share_their_edges_also_after_simplifying(labels, tolerance):
    labels = np.kron(labels, np.ones((3, 3), np.uint8))
    found = trace(labels, simplify=0)
    if len(found.geometry):
        shared = share_vertices(found.geometry, labels.shape[1])
        assert shapely.coverage_is_valid(shared)
        assert shapely.equals(shared, found.geometry).all()
    simple = trace(labels, simplify=tolerance)
    assert shapely.is_valid(simple.geometry).all()
    if len(simple.geometry):
        assert shapely.coverage_is_valid(simple.geometry)
        assert len(simple.geometry) == len(found.geometry)


@given(rasters, st.integers(1, 30))
def test_small_regions_are_dropped_and_only_those(labels, least):
    everything = trace(labels, simplify=0)
    kept = trace(labels, simplify=0, min_pixels=least)
    big = everything.pixels >= least
    assert canonical(kept.label, kept.geometry) == canonical(everything.label[big], everything.geometry[big])


@pytest.mark.parametrize(
    ("epsg", "transform"),
    [
        (32632, Affine(0.5, 0, 600_000, 0, -0.5, 5_000_000)),
        (4326, Affine(5e-6, 0, 9.0, 0, -5e-6, 60.0)),
        (3857, Affine(0.6, 0, 1_000_000, 0, -0.6, 8_400_000)),
        (2227, Affine(1.5, 0, 6_000_000, 0, -1.5, 2_100_000)),  # US survey feet
        (32632, Affine(0.4, 0.3, 600_000, 0.3, -0.4, 5_000_000)),  # rotated
        (32632, Affine(0.5, 0, 600_000, 0, 0.5, 5_000_000)),  # south up
    ],
)
def test_position_and_area_agree_with_an_independent_computation(epsg, transform):
    labels = np.zeros((60, 80), np.uint8)
    labels[10:40, 20:70] = 1
    labels[20:30, 30:40] = 0
    crs = CRS.from_epsg(epsg)
    found = trace(labels, simplify=0, geobox=GeoBox(labels.shape, transform, crs))
    (polygon,) = found.geometry
    corners = [transform @ corner for corner in ((20, 10), (70, 10), (70, 40), (20, 40))]
    hole = [transform @ corner for corner in ((30, 20), (40, 20), (40, 30), (30, 30))]
    assert polygon.equals(shapely.Polygon(corners, [hole]))
    assert polygon.exterior.is_ccw
    # independent: lon/lat through PROJ to WGS 84's ellipsoid, geodesic sums of both rings
    to_wgs84 = Transformer.from_crs(crs, CRS.from_epsg(4326), always_xy=True)
    geod = Geod(ellps="WGS84")
    sums = [geod.polygon_area_perimeter(*to_wgs84.transform(*zip(*ring, strict=True))) for ring in (corners, hole)]
    assert found.area_m2[0] == pytest.approx(abs(sums[0][0]) - abs(sums[1][0]), rel=1e-5)
    assert found.perimeter_m[0] == pytest.approx(sums[0][1] + sums[1][1], rel=1e-5)


def test_min_area_is_in_square_metres_on_the_ground_not_in_units_of_the_map():
    labels = np.zeros((50, 90), np.uint8)
    labels[5:15, 5:15] = 1  # 100 pixels
    labels[5:35, 40:70] = 1  # 900 pixels
    # Web Mercator at 60° north: a 1 m pixel of the map is 0.25 m² on the ground
    box = GeoBox(labels.shape, Affine(1, 0, 0, 0, -1, 8_399_738), CRS.from_epsg(3857))
    assert ground_area(box, np.array([10.0]), np.array([10.0]))[0] == pytest.approx(0.25, rel=0.01)
    assert len(trace(labels, geobox=box, min_area=20).geometry) == 2
    assert len(trace(labels, geobox=box, min_area=30).geometry) == 1
    assert len(trace(labels, geobox=box, min_area=300).geometry) == 0


def test_ground_area_agrees_with_the_geodesic_area_of_the_pixel():
    for epsg, transform in ((4326, Affine(1e-4, 0, 20, 0, -1e-4, 70)), (32632, Affine(10, 0, 4e5, 0, -10, 6e6))):
        crs = CRS.from_epsg(epsg)
        box = GeoBox((100, 100), transform, crs)
        corners = [transform @ corner for corner in ((50, 50), (51, 50), (51, 51), (50, 51))]
        exact, _ = geodesic(np.array([shapely.Polygon(corners)]), crs)
        assert ground_area(box, np.array([50.5]), np.array([50.5]))[0] == pytest.approx(exact[0], rel=1e-5)


def test_without_a_crs_there_is_no_area():
    found = trace(np.ones((10, 10), np.uint8))
    assert np.isnan(found.area_m2).all()
    assert np.isnan(found.perimeter_m).all()
    assert found.geometry[0].area == 100


def test_a_raster_without_regions_gives_no_polygons():
    found = trace(np.zeros((5, 5), np.uint8))
    assert len(found.geometry) == len(found.label) == len(found.score) == len(found.area_m2) == 0
