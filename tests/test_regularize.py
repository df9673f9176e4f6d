"""Buildings come out with straight walls and right angles, near their pixels, and neighbours keep their walls."""

from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.features import rasterize, shapes

from geovl.polygonize.regularize import regularize

RECTANGLE = ((-1, -1), (1, -1), (1, 1), (-1, 1))


def trace(labels):
    """Trace regions and their labels; each ring has a vertex wherever three regions meet.

    Every edge is cut into steps of a pixel. A place stays where a ring turns or where more than one border leaves.
    """
    found = shapes(labels.astype(np.int32), mask=labels != 0, connectivity=4)
    pairs = [(shapely.geometry.shape(shape), int(value)) for shape, value in found]
    polygons = shapely.segmentize([polygon for polygon, _ in pairs], 1.0)
    borders = set()
    for polygon in polygons:
        for ring in (polygon.exterior, *polygon.interiors):
            points = [(round(x), round(y)) for x, y in ring.coords]
            borders |= {frozenset(edge) for edge in pairwise(points)}
    degree = {}
    for edge in borders:
        for place in edge:
            degree[place] = degree.get(place, 0) + 1

    def thin(ring):
        points = [(round(x), round(y)) for x, y in ring.coords][:-1]
        turns = [
            points[i - 1][0] != points[(i + 1) % len(points)][0]
            and points[i - 1][1] != points[(i + 1) % len(points)][1]
            for i in range(len(points))
        ]
        return [p for p, turn in zip(points, turns, strict=True) if turn or degree[p] > 2]

    thinned = [shapely.Polygon(thin(p.exterior), [thin(r) for r in p.interiors]) for p in polygons]
    return np.array(thinned, object), np.array([value for _, value in pairs])


def straighten(polygons, tolerance=1.0, chosen=None):
    _, coordinates, (rings, parts) = shapely.to_ragged_array(polygons)
    done = regularize(coordinates, rings, parts, tolerance, chosen)
    kind = shapely.GeometryType.POLYGON
    return shapely.from_ragged_array(kind, done.coordinates, (done.rings, done.polygons)), done


def place(corners, degrees, centre):
    """Turn corners about the origin and move them."""
    turn = np.radians(degrees)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return shapely.Polygon(np.asarray(corners, float) @ matrix + centre)


def draw(*pairs, shape=(96, 96)):
    return rasterize(pairs, shape, dtype="uint8")


def iou(one, two):
    common = shapely.area(shapely.intersection(one, two))
    return common / (shapely.area(one) + shapely.area(two) - common)


def turns(polygon):
    """Angles between the walls of all rings, in degrees, 0 to 180."""
    out = []
    for ring in (polygon.exterior, *polygon.interiors):
        step = np.diff(np.asarray(ring.coords), axis=0)
        before = np.roll(step, 1, axis=0)
        cross = before[:, 0] * step[:, 1] - before[:, 1] * step[:, 0]
        out.extend(np.degrees(np.abs(np.arctan2(cross, (before * step).sum(axis=1)))))
    return np.array(out)


def away(truth, polygon):
    """Largest distance of a true corner from the nearest corner found."""
    found = shapely.multipoints(np.asarray(polygon.exterior.coords))
    return shapely.distance(shapely.points(np.asarray(truth.exterior.coords)), found).max()


angles = st.floats(0, 180)
middles = st.tuples(st.floats(44, 50), st.floats(44, 50))


@settings(max_examples=40, deadline=None)
@given(st.floats(12, 44), st.floats(12, 44), angles, middles)
def test_a_rectangle_has_four_corners_where_it_was_drawn(width, height, degrees, middle):
    truth = place(np.array(RECTANGLE) * (width / 2, height / 2), degrees, middle)
    (pixels,), _ = trace(draw((truth, 1)))
    (found,), done = straighten(np.array([pixels]))
    assert done.regular.tolist() == [True]
    assert len(found.exterior.coords) == 5
    np.testing.assert_allclose(turns(found), 90, atol=1e-6)
    assert away(truth, found) < 1
    assert found.area == pytest.approx(pixels.area, rel=0.05)


@settings(max_examples=40, deadline=None)
@given(st.floats(24, 44), st.floats(24, 44), st.floats(0.35, 0.65), st.floats(0.35, 0.65), angles, middles)
def test_an_l_has_six_corners(width, height, across, along, degrees, middle):
    corners = np.array([(0, 0), (1, 0), (1, along), (across, along), (across, 1), (0, 1)]) - 0.5
    truth = place(corners * (width, height), degrees, middle)
    (pixels,), _ = trace(draw((truth, 1)))
    (found,), done = straighten(np.array([pixels]))
    assert done.regular.all()
    assert len(found.exterior.coords) == 7
    np.testing.assert_allclose(turns(found), 90, atol=1e-6)
    assert away(truth, found) < 1.5
    assert found.area == pytest.approx(pixels.area, rel=0.05)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(10, 18), min_size=2, max_size=4), st.floats(14, 30), angles)
def test_row_houses_share_their_walls(widths, depth, degrees):
    ends = np.concatenate([[0], np.cumsum(widths)]) - sum(widths) / 2
    houses = [
        place(np.array([(a, -1), (b, -1), (b, 1), (a, 1)]) * (1, depth / 2), degrees, (48, 48))
        for a, b in pairwise(ends)
    ]
    polygons, labels = trace(draw(*((house, i + 1) for i, house in enumerate(houses))))
    assume(len(polygons) == len(houses))
    found, done = straighten(polygons)
    assert shapely.coverage_is_valid(found)
    whole = shapely.union_all(found)
    assert whole.geom_type == "Polygon"
    assert len(whole.interiors) == 0
    assert whole.area == pytest.approx(shapely.area(found).sum(), abs=1e-6)
    assert done.regular.all()
    for polygon in shapely.simplify(found, 1e-9):
        assert len(polygon.exterior.coords) == 5
        np.testing.assert_allclose(turns(polygon), 90, atol=1e-6)
    for source, polygon in zip(done.source, found, strict=True):
        assert iou(houses[labels[source] - 1], polygon) > 0.8


@settings(max_examples=40, deadline=None)
@given(st.floats(30, 44), st.floats(30, 44), st.floats(10, 16), angles)
def test_a_courtyard_follows_its_building(width, height, side, degrees):
    shell = place(np.array(RECTANGLE) * (width / 2, height / 2), degrees, (48, 48))
    court = place(np.array(RECTANGLE) * (side / 2, side / 2), degrees, (48, 48))
    (found,), done = straighten(trace(draw((shell - court, 1)))[0])
    assert done.regular.all()
    assert len(found.interiors) == 1
    assert len(found.interiors[0].coords) == 5
    np.testing.assert_allclose(turns(found), 90, atol=1e-6)
    assert iou(found, shell - court) > 0.85


def test_what_fills_a_courtyard_keeps_its_border():
    shell = place(np.array(RECTANGLE) * (20, 17), 25, (48, 48))
    court = place(np.array(RECTANGLE) * (8, 6), 25, (48, 48))
    polygons, _ = trace(draw((shell, 1), (court, 2)))
    for chosen in (None, np.array([True, False]), np.array([False, True])):
        found, _done = straighten(polygons, chosen=chosen)
        assert shapely.coverage_is_valid(found)
        assert iou(shapely.union_all(found), shell) > 0.9


@settings(max_examples=40, deadline=None)
@given(st.floats(6, 30), st.floats(0.7, 1), angles, middles)
def test_round_things_stay_round(radius, flat, degrees, middle):
    circle = shapely.Point(0, 0).buffer(radius, 32).exterior.coords
    polygons, _ = trace(draw((place(np.asarray(circle) * (1, flat), degrees, middle), 1)))
    (found,), done = straighten(polygons)
    assert not done.regular.any()
    assert found.equals(shapely.coverage_simplify(polygons, 1.0)[0])


def test_tiny_things_are_only_simplified():
    labels = np.zeros((20, 20), np.uint8)
    labels[2, 2] = labels[5, 5:9] = labels[10:13, 3:6] = labels[15:17, 15:18] = 1
    polygons, _ = trace(labels)
    found, done = straighten(polygons)
    assert len(found) == 4
    assert not done.regular.any()
    assert shapely.equals(found, shapely.coverage_simplify(polygons, 1.0)).all()


def test_a_wall_at_45_degrees_stays():
    corners = [(-20, -15), (20, -15), (20, 3), (8, 15), (-20, 15)]
    truth = place(corners, 17, (48, 48))
    (found,), done = straighten(trace(draw((truth, 1)))[0])
    assert done.regular.all()
    assert len(found.exterior.coords) == 6
    assert away(truth, found) < 1.5
    np.testing.assert_allclose(np.sort(turns(found)), [45, 45, 90, 90, 90], atol=4)


def test_a_chamfer_of_a_pixel_or_two_goes():
    labels = np.zeros((40, 40), np.uint8)
    labels[5:30, 5:35] = 1
    labels[5, 5:7] = labels[6, 5] = labels[29, 34] = 0
    (found,), _ = straighten(trace(labels)[0])
    assert len(found.exterior.coords) == 5
    assert iou(found, shapely.box(5, 5, 35, 30)) > 0.98


def test_nothing_gives_nothing():
    done = regularize(np.empty((0, 2)), np.zeros(1, np.int64), np.zeros(1, np.int64), 1.0)
    assert len(done.coordinates) == len(done.source) == len(done.regular) == 0
    assert done.rings.tolist() == done.polygons.tolist() == [0]


patches = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 1, 2]))
)
boxes = st.tuples(st.floats(0, 96), st.floats(0, 96), st.floats(4, 40), st.floats(4, 40), angles, st.integers(0, 3))


def check(polygons, tolerance, chosen=None):
    """Whatever was given: as many come out, valid and without overlaps, and regular ones are like their pixels."""
    found, done = straighten(polygons, tolerance, chosen)
    assert done.source.tolist() == list(range(len(polygons)))
    assert shapely.is_valid(found).all()
    assert shapely.coverage_is_valid(found)
    assert (iou(polygons, found)[done.regular] >= 0.8).all()
    again, _ = straighten(polygons, tolerance, chosen)
    assert shapely.equals_exact(found, again, 0).all()
    return found, done


@settings(max_examples=40, deadline=None)
@given(patches, st.sampled_from([0.5, 1.0, 2.0]))
def test_noise_stays_a_coverage(labels, tolerance):
    polygons, _ = trace(labels)
    assume(len(polygons))
    check(polygons, tolerance)


@settings(max_examples=40, deadline=None)
@given(st.lists(boxes, min_size=1, max_size=12), st.sampled_from([1.0, 1.5, 2.0, 4.0]), st.data())
def test_buildings_in_a_heap_stay_a_coverage(heap, tolerance, data):
    pairs = [
        (place(np.array(RECTANGLE) * (width / 2, height / 2), degrees, (x, y)), label)
        for x, y, width, height, degrees, label in heap
    ]
    polygons, labels = trace(draw(*pairs))
    assume(len(polygons))
    chosen = np.isin(labels, data.draw(st.sets(st.sampled_from([1, 2, 3]))))
    check(polygons, tolerance)
    _, done = check(polygons, tolerance, chosen)
    assert not done.regular[~chosen].any()


@pytest.mark.parametrize("tolerance", [1.0, 2.0])
def test_corners_do_not_reach_into_neighbours(tolerance):
    """Heaps so dense that in one of thirty something would overlap if nothing were taken back."""
    for seed in range(80):
        rng = np.random.default_rng(seed)
        heap = [
            (
                place(np.array(RECTANGLE) * rng.uniform(3, 14, 2), rng.uniform(0, 90), rng.uniform(5, 45, 2)),
                int(rng.integers(1, 4)),
            )
            for _ in range(rng.integers(4, 9))
        ]
        polygons, labels = trace(draw(*heap, shape=(50, 50)))
        check(polygons, tolerance)
        check(polygons, tolerance, labels == 1)


def test_what_strays_from_its_pixels_is_only_simplified():
    """A house cut by the raster's edge: turned to its longest walls it would have an IoU of 0.76."""
    stairs = [
        (96, 31), (98, 31), (98, 32), (100, 32), (100, 54), (97, 54), (97, 53), (94, 53), (94, 52), (91, 52), (91, 51),
        (90, 51), (90, 49), (91, 49), (91, 45), (92, 45), (92, 42), (93, 42), (93, 39), (94, 39), (94, 36), (95, 36),
        (95, 33), (96, 33),
    ]  # fmt: skip
    _, done = check(np.array([shapely.Polygon(stairs)]), 2.0)
    assert not done.regular.any()


def test_the_result_does_not_depend_on_other_places():
    """Each building of a town comes out as it does alone, moved by whole pixels."""
    rng = np.random.default_rng(5)
    town = np.zeros((300, 300), np.uint8)
    for row in range(3):
        for column in range(3):
            size = rng.uniform(12, 40, 2)
            house = place(np.array(RECTANGLE) * size / 2, rng.uniform(0, 90), (50 + 100 * column, 50 + 100 * row))
            town |= draw((house, 1), shape=town.shape)
    polygons, _ = trace(town)
    found, done = straighten(polygons)
    assert done.regular.all()
    for polygon, inside in zip(polygons, found, strict=True):
        corner = np.floor(shapely.bounds(polygon)[:2])
        (alone,), _ = straighten(np.array([shapely.transform(polygon, lambda xy, c=corner: xy - c)], object))
        moved = shapely.transform(alone, lambda xy, c=corner: xy + c)
        assert shapely.normalize(moved).equals_exact(shapely.normalize(inside), 1e-9)
