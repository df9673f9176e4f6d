"""Polygons are exactly the regions of the label raster; areas are those of the ground."""

import numpy as np
import pytest
import shapely
import shapely.affinity
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pyproj import CRS, Geod, Transformer
from rasterio.features import rasterize, shapes

from geovl.polygonize import Ground, polygonize
from geovl.types import GeoBox

rasters = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, 255]))
)
strips = st.sampled_from([1, 2, 3, 5, 1024])


class Found:
    """The batches of one raster put together, with shapely polygons."""

    def __init__(self, batches):
        batches = list(batches)

        def column(name):
            return np.concatenate([np.empty(0), *(getattr(batch, name) for batch in batches)])

        polygon = shapely.GeometryType.POLYGON
        self.geometry = np.concatenate(
            [np.empty(0, object)]
            + [shapely.from_ragged_array(polygon, b.coordinates, (b.rings, b.parts)) for b in batches]
        )
        self.label, self.pixels = column("label").astype(int), column("pixels").astype(int)
        self.score, self.area_m2, self.perimeter_m = column("score"), column("area_m2"), column("perimeter_m")


def trace(labels, scores=None, **options):
    scores = np.full(labels.shape, 254, np.uint8) if scores is None else scores
    box = options.pop("geobox", GeoBox(labels.shape, Affine.identity(), None))
    rows = labels.__getitem__
    return Found(
        polygonize(
            lambda a, b: rows(slice(a, b)), lambda a, b: scores[a:b], box, nodata=255, score_scale=254, **options
        )
    )


def canonical(labels, geometry):
    """Comparable form: label and normalised shape without vertices on straight edges."""
    return sorted(
        (int(v), shapely.normalize(shapely.simplify(g, 0)).wkt) for v, g in zip(labels, geometry, strict=True)
    )


@given(rasters, strips)
def test_regions_are_those_of_gdal_whatever_the_strip(labels, strip):
    found = trace(labels, simplify=0, rows=strip)
    mask = (labels != 0) & (labels != 255)
    oracle = [(v, shapely.geometry.shape(s)) for s, v in shapes(labels, mask=mask, connectivity=4)]
    assert shapely.is_valid(found.geometry).all()
    assert canonical(found.label, found.geometry) == canonical([v for v, _ in oracle], [g for _, g in oracle])


@given(rasters, strips)
def test_every_vertex_and_figure_is_the_same_whatever_the_strip(labels, strip):
    scores = np.random.default_rng(7).integers(0, 255, labels.shape).astype(np.uint8)
    one, other = (trace(labels, scores, simplify=0, rows=rows) for rows in (1024, strip))

    def table(found):
        shapes_ = [shapely.normalize(g).wkt for g in found.geometry]
        return sorted(zip(found.label, shapes_, found.pixels, found.score.round(9), strict=True))

    assert table(one) == table(other)


@given(rasters)
def test_rasterizing_the_polygons_gives_the_labels_back(labels):
    found = trace(labels, simplify=0)
    pairs = list(zip(found.geometry, found.label.tolist(), strict=True))
    back = rasterize(pairs, labels.shape, dtype="uint8") if pairs else np.zeros_like(labels)
    np.testing.assert_array_equal(back, np.where(labels == 255, 0, labels))


@given(rasters, st.integers(0, 2**32 - 1), strips)
def test_score_and_pixels_are_those_of_the_region(labels, seed, strip):
    scores = np.random.default_rng(seed).integers(0, 255, labels.shape).astype(np.uint8)
    found = trace(labels, scores, simplify=0, rows=strip)
    for polygon, score, pixels in zip(found.geometry, found.score, found.pixels, strict=True):
        inside = rasterize([polygon], labels.shape).astype(bool)
        assert inside.sum() == pixels
        assert score == pytest.approx(scores[inside].mean() / 254)


@given(rasters, st.floats(0.1, 4), st.sampled_from([4, 7, 1024]))
def test_neighbours_share_their_edges_also_after_simplifying(labels, tolerance, strip):
    labels = np.kron(labels, np.ones((3, 3), np.uint8))
    found = trace(labels, simplify=0, rows=strip)
    if len(found.geometry):
        assert shapely.coverage_is_valid(found.geometry)
    simple = trace(labels, simplify=tolerance, rows=strip)
    assert shapely.is_valid(simple.geometry).all()
    if len(simple.geometry):
        assert shapely.coverage_is_valid(simple.geometry)
    assert sorted(simple.label) == sorted(found.label)
    assert sorted(simple.pixels) == sorted(found.pixels)


def test_simplifying_takes_the_stairs_off_a_slanted_border_and_moves_it_by_less_than_the_tolerance():
    rows, cols = np.mgrid[:200, :300]
    labels = np.where(cols > rows * 0.7 + 40, 2, 1).astype(np.uint8)
    stairs, simple = trace(labels, simplify=0, rows=64), trace(labels, simplify=1.5, rows=64)
    assert shapely.get_num_coordinates(simple.geometry).max() < shapely.get_num_coordinates(stairs.geometry).max() / 5
    for before, after in zip(stairs.geometry, simple.geometry, strict=True):
        assert before.hausdorff_distance(after) < 1.5
    assert simple.geometry[0].union(simple.geometry[1]).equals(shapely.box(0, 0, 300, 200))


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
    assert Ground(box).pixel_area(np.array([10.0]), np.array([10.0]))[0] == pytest.approx(0.25, rel=0.01)
    # so that small regions are never traced to the end: 20 m² are 80 pixels, and no pixel is much larger
    assert 70 <= Ground(box).pixels_of(20) <= 80
    assert Ground(box).pixels_of(0) == Ground(GeoBox((5, 5), Affine.identity(), None)).pixels_of(9) == 0
    assert len(trace(labels, geobox=box, min_area=20).geometry) == 2
    assert len(trace(labels, geobox=box, min_area=30).geometry) == 1
    assert len(trace(labels, geobox=box, min_area=300).geometry) == 0


CRSS = [
    (4326, Affine(1e-4, 0, 20, 0, -1e-4, 70)),
    (32701, Affine(10, 0, 179_800, 0, -10, 8_118_000)),  # across the antimeridian
    (32632, Affine(10, 0, 4e5, 0, -10, 6e6)),
    (3857, Affine(5, 0, 1e6, 0, -5, 8.4e6)),
    (3995, Affine(20, 0, -3e5, 0, -20, 3e5)),  # polar
]


def exact(polygon, crs, *, cut=True):
    """Area and perimeter along geodesics, ring by ring; edges cut short, because they are straight in the CRS."""
    if cut:
        polygon = shapely.segmentize(polygon, max(1e-3, polygon.length / 400) if crs.is_geographic else 50)
    base = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    rings = [polygon.exterior, *polygon.interiors]
    sums = [crs.get_geod().polygon_area_perimeter(*base.transform(*ring.xy)) for ring in rings]
    return abs(sums[0][0]) - sum(abs(area) for area, _ in sums[1:]), sum(length for _, length in sums)


@pytest.mark.parametrize(("epsg", "transform"), CRSS)
def test_ground_area_agrees_with_the_geodesic_area_of_the_pixel(epsg, transform):
    crs = CRS.from_epsg(epsg)
    box = GeoBox((100, 100), transform, crs)
    corners = [transform @ corner for corner in ((50, 50), (51, 50), (51, 51), (50, 51))]
    assert Ground(box).pixel_area(np.array([50.5]), np.array([50.5]))[0] == pytest.approx(
        exact(shapely.Polygon(corners), crs)[0], rel=1e-5
    )


@pytest.mark.parametrize(("epsg", "transform"), CRSS)
@pytest.mark.parametrize("cell", [7, 90])  # many small regions, few large ones
def test_areas_and_lengths_agree_with_geodesic_sums_for_every_size(epsg, transform, cell):
    rng = np.random.default_rng(epsg)
    side = 60 * cell if cell < 10 else 1000
    small = rng.integers(1, 4, (side // cell + 1, side // cell + 1)).astype(np.uint8)
    labels = np.kron(small, np.ones((cell, cell), np.uint8))[:side, :side]
    crs = CRS.from_epsg(epsg)
    found = trace(labels, simplify=0, geobox=GeoBox(labels.shape, transform, crs))
    for index in range(0, len(found.geometry), max(1, len(found.geometry) // 150)):
        area, length = exact(found.geometry[index], crs)
        assert found.area_m2[index] == pytest.approx(area, rel=2e-5)
        assert found.perimeter_m[index] == pytest.approx(length, rel=2e-4)


def test_a_pixel_on_the_antimeridian_is_as_large_as_its_neighbours():
    transform = dict(CRSS)[32701]
    to_degrees = Transformer.from_crs(32701, 4326, always_xy=True)
    lon = np.array([to_degrees.transform(*(transform @ (col, 50.5)))[0] for col in range(101)])
    (col,) = np.flatnonzero((lon[:-1] > 179) & (lon[1:] < -179))
    areas = Ground(GeoBox((100, 100), transform, CRS.from_epsg(32701))).pixel_area(
        np.array([col - 9.5, col + 0.5, col + 10.5]), np.full(3, 50.5)
    )
    assert areas[1] == pytest.approx((areas[0] + areas[2]) / 2, rel=1e-6)


def test_areas_hold_where_the_ground_differs_much_within_a_raster():
    """From 85° north to 5° south, many small regions: none may take its measure from a node far away."""
    small = np.random.default_rng(0).integers(1, 4, (15_000, 13)).astype(np.uint8)
    labels = np.kron(small, np.ones((3, 3), np.uint8))
    crs = CRS.from_epsg(4326)
    found = trace(labels, simplify=0, geobox=GeoBox(labels.shape, Affine(0.002, 0, 5, 0, -0.002, 85), crs))
    for index in range(0, len(found.geometry), len(found.geometry) // 150):
        assert found.area_m2[index] == pytest.approx(exact(found.geometry[index], crs)[0], rel=5e-5)


def test_large_regions_are_summed_along_geodesics():
    labels = np.kron(np.random.default_rng(0).integers(1, 4, (9, 9)).astype(np.uint8), np.ones((40, 40), np.uint8))
    crs = CRS.from_epsg(4326)
    found = trace(labels, simplify=0, geobox=GeoBox(labels.shape, Affine(0.02, 0, 20, 0, -0.02, 70), crs))
    for index, polygon in enumerate(found.geometry):
        area, length = exact(polygon, crs, cut=False)
        assert found.area_m2[index] == pytest.approx(area, rel=1e-9)
        assert found.perimeter_m[index] == pytest.approx(length, rel=1e-9)


def test_a_house_waits_for_what_it_stands_beside():
    labels = np.zeros((200, 60), np.uint8)
    labels[:, :10] = 1  # goes on through both strips
    labels[10:30, 10:40] = 2  # ends far above the cut, wall to wall with it
    labels[10:30, 50:58] = 2  # near nothing that goes on
    scores = np.full(labels.shape, 254, np.uint8)
    box = GeoBox(labels.shape, Affine.identity(), None)
    batches = polygonize(
        lambda a, b: labels[a:b], lambda a, b: scores[a:b], box, nodata=255, score_scale=254, square=(1, 2), rows=100
    )
    assert [sorted(batch.label) for batch in batches] == [[2], [1, 2]]


def test_scores_of_a_raster_wider_than_32_bits_hold_are_right():
    labels = np.ones((64, 270_000), np.uint8)
    assert trace(labels, simplify=0, rows=64).score[0] == 1


def test_without_a_crs_there_is_no_area():
    found = trace(np.ones((10, 10), np.uint8))
    assert np.isnan(found.area_m2).all()
    assert np.isnan(found.perimeter_m).all()
    assert found.geometry[0].area == 100


def test_a_raster_without_regions_gives_no_polygons():
    found = trace(np.zeros((5, 5), np.uint8))
    assert len(found.geometry) == len(found.label) == len(found.score) == len(found.area_m2) == 0


def houses(rng, side=160, count=25):
    """Slanted houses, some of them wall to wall in two labels."""
    labels = np.zeros((side, side), np.uint8)
    for _ in range(count):
        centre, angle = rng.uniform(15, side - 15, 2), rng.uniform(0, np.pi / 2)
        width, depth = rng.uniform(12, 22), rng.uniform(10, 16)
        box = shapely.affinity.rotate(shapely.box(0, 0, width, depth), angle, use_radians=True, origin=(0, 0))
        box = shapely.affinity.translate(box, *centre)
        if not rasterize([box.buffer(1)], labels.shape)[labels > 0].any():
            near = shapely.affinity.rotate(
                shapely.box(width, 0, 2 * width, depth), angle, use_radians=True, origin=(0, 0)
            )
            near = shapely.affinity.translate(near, *centre)
            rasterize([(near, 2), (box, 1)], out=labels)
    return labels


@pytest.mark.parametrize("seed", range(3))
def test_regular_houses_do_not_depend_on_strips_and_stay_wall_to_wall(seed):
    labels = houses(np.random.default_rng(seed))
    whole = trace(labels, square=(1, 2), simplify=1.5, min_pixels=25)
    assert shapely.is_valid(whole.geometry).all()
    shared = sum(a.intersection(b).area for i, a in enumerate(whole.geometry) for b in whole.geometry[:i])
    assert shared == pytest.approx(0, abs=1e-6)
    assert np.median(shapely.get_num_coordinates(whole.geometry)) <= 9
    for rows in (7, 16, 50):
        other = trace(labels, square=(1, 2), simplify=1.5, min_pixels=25, rows=rows)
        assert len(other.geometry) == len(whole.geometry)
        off = [min(shapely.hausdorff_distance(other.geometry, polygon)) for polygon in whole.geometry]
        assert np.median(off) == pytest.approx(0, abs=1e-6)
        assert max(off) <= 1.5  # what is only simplified depends on the order of the regions, where vertices are equal


def test_only_the_labels_that_are_asked_for_get_right_angles():
    labels = houses(np.random.default_rng(5))
    found = trace(labels, square=(1,), simplify=1.0, min_pixels=25)
    plain = trace(labels, simplify=1.0, min_pixels=25)
    assert len(found.geometry) == len(plain.geometry)
    corners = shapely.get_num_coordinates(found.geometry)
    assert np.median(corners[found.label == 1]) < np.median(corners[found.label == 2])


def test_areas_of_regular_outlines_are_those_of_their_shapes():
    labels = houses(np.random.default_rng(1))
    crs = CRS.from_epsg(32632)
    box = GeoBox(labels.shape, Affine(0.5, 0, 600_000, 0, -0.5, 5_000_000), crs)
    found = trace(labels, square=(1, 2), simplify=1.5, geobox=box)
    for index, polygon in enumerate(found.geometry):
        area, length = exact(polygon, crs)
        assert found.area_m2[index] == pytest.approx(area, rel=2e-5)
        assert found.perimeter_m[index] == pytest.approx(length, rel=2e-4)
