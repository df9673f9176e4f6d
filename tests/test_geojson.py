"""The GeoJSON writer against geopandas: places, validity, orientation, the antimeridian, poles, digits, streaming."""

import io
import json
import weakref

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import rasterio.features
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pyproj import CRS, Transformer

from geovl.errors import ExportError
from geovl.export import geojson
from geovl.export.formats import FORMATS, Layer, export
from geovl.export.geojson import Polygons, features, stream

ROUNDING = 0.71e-7  # half a diagonal of seven decimals
LOST = 4e-7  # what is narrower than rounding may go, where the rest stays: some centimetres of length
UTM33 = CRS.from_epsg(32633)


def flat(geometries, **columns):
    kind, coordinates, offsets = shapely.to_ragged_array(geometries)
    assert kind == shapely.GeometryType.POLYGON
    return Polygons(columns, coordinates, *offsets)


def text(geometries, crs, **columns):
    out = io.BytesIO()
    stream([flat(geometries, **columns)], None if crs is None else CRS.from_user_input(crs), out)
    return out.getvalue()


def written(geometries, crs, **columns):
    """Geometries as they are read back; with what every output must satisfy checked."""
    loaded = json.loads(text(geometries, crs, **columns), parse_constant=pytest.fail)
    assert list(loaded) == ["type", "features"]
    out = np.array([shapely.from_geojson(json.dumps(feature["geometry"])) for feature in loaded["features"]])
    assert len(out) == len(geometries)
    assert shapely.is_valid(out).all()
    assert not shapely.is_empty(out).any()
    for part in shapely.get_parts(out):
        assert part.exterior.is_ccw
        assert not any(hole.is_ccw for hole in part.interiors)
    if crs is not None:
        west, south, east, north = shapely.total_bounds(out)
        assert west >= -180
        assert south >= -90
        assert east <= 180
        assert north <= 90
    return out


def traced(labels, transform):
    shapes = rasterio.features.shapes(labels.astype(np.uint8), transform=transform)
    return np.array([shapely.geometry.shape(shape) for shape, _ in shapes])


def random_labels(side=60, seed=0):
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.integers(0, 3, (side // 4, side // 4)), np.ones((4, 4), int))
    return np.where(rng.random((side, side)) < 0.1, rng.integers(0, 3, (side, side)), coarse)


def projected(geometries, crs):
    return gpd.GeoSeries(geometries, crs=crs).to_crs(4326).to_numpy()


PLACES = {
    "UTM, 10 m": (32633, Affine(10, 0, 500_000, 0, -10, 5_500_000)),
    "UTM south, west of Greenwich, 0.5 m": (32719, Affine(0.5, 0, 400_000, 0, -0.5, 6_300_000)),
    "UTM, 1 cm, where rounding moves vertices by a whole pixel": (32633, Affine(0.01, 0, 5e5, 0, -0.01, 5.5e6)),
    "UTM, turned raster": (32633, Affine(10, 0, 5e5, 0, -10, 5.5e6) @ Affine.rotation(30)),
    "Mercator": (3857, Affine(1.2, 0, -20, 0, -1.2, 30)),
    "degrees": (4326, Affine(1e-4, 0, 36.0, 0, -1e-4, -1.0)),
    "degrees, across the whole Earth": (4326, Affine(6, 0, -180, 0, -3, 90)),
    "Lambert azimuthal, another datum": (3035, Affine(30, 0, 4e6, 0, -30, 3e6)),
    "Swiss, oblique": (2056, Affine(2, 0, 2_600_000, 0, -2, 1_200_000)),
    "south and west are positive": (2048, Affine(5, 0, 30_000, 0, -5, 3_700_000)),
}


@pytest.mark.parametrize("name", PLACES)
def test_polygons_of_a_raster_come_back_where_proj_puts_them(name):
    crs, transform = PLACES[name]
    source = traced(random_labels(), transform)
    wanted = projected(source, crs)
    out = written(source, crs)
    assert shapely.hausdorff_distance(out, wanted).max() <= (LOST if "1 cm" in name else ROUNDING)
    if "1 cm" not in name:
        np.testing.assert_array_equal(shapely.get_num_coordinates(out), shapely.get_num_coordinates(source))
        np.testing.assert_array_equal(shapely.get_num_interior_rings(out), shapely.get_num_interior_rings(source))


def test_parts_and_batches_do_not_change_the_text(monkeypatch):
    source = traced(random_labels(), PLACES["UTM, 10 m"][1])
    numbers = np.arange(len(source))
    whole = text(source, UTM33, number=numbers)
    monkeypatch.setattr(geojson, "_PART", 50)
    assert text(source, UTM33, number=numbers) == whole
    out = io.BytesIO()
    step = 7
    stream((flat(source[i : i + step], number=numbers[i : i + step]) for i in range(0, len(source), step)), UTM33, out)
    assert out.getvalue() == whole


def test_geopandas_reads_geometry_and_properties(tmp_path):
    source = traced(random_labels(), PLACES["UTM, 10 m"][1])
    score = np.linspace(0, 1, len(source))
    (tmp_path / "a.geojson").write_bytes(text(source, UTM33, score=score, number=np.arange(len(source))))
    frame = gpd.read_file(tmp_path / "a.geojson")
    assert frame.crs == 4326
    assert frame["number"].tolist() == list(range(len(source)))
    np.testing.assert_allclose(frame["score"], score, atol=0.5e-4 + 1e-12)
    assert shapely.hausdorff_distance(frame.geometry.to_numpy(), projected(source, UTM33)).max() <= ROUNDING


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.uint8, (5, 6), elements=st.integers(0, 2)),
    st.sampled_from([0.004, 0.02, 0.05, 0.3, 10, 5000]),
    st.sampled_from([0, 1e-3, 0.4]),
    st.randoms(use_true_random=False),
)
def test_rings_turn_right_and_polygons_are_valid_whatever_comes_in(labels, pixel, jitter, random):
    source = traced(labels, Affine(pixel, 0, 500_000, 0, -pixel, 5_500_000))
    if jitter:  # the same for a vertex of two polygons
        source = shapely.transform(
            source,
            lambda points: (
                points + jitter * pixel * np.stack([np.sin(points[:, 1] * 97), np.cos(points[:, 0] * 89)], 1)
            ),
        )
        source = source[shapely.is_valid(source)]
    source = np.array([
        shapely.Polygon(*(
            [ring.coords[::-1] if random.random() < 0.5 else ring.coords for ring in rings] if index else rings[0].coords
            for index, rings in enumerate([[polygon.exterior], polygon.interiors])
        ))
        if random.random() < 0.5 else shapely.orient_polygons(polygon)
        for polygon in source
    ])  # fmt: skip
    if len(source):
        out = written(source, UTM33)
        assert shapely.hausdorff_distance(out, projected(source, UTM33)).max() <= (ROUNDING if pixel > 0.1 else LOST)


def test_an_ordinary_raster_needs_no_look_at_single_polygons(monkeypatch):
    monkeypatch.setattr(shapely, "is_valid", pytest.fail)
    monkeypatch.setattr(geojson, "_repaired", pytest.fail)
    text(traced(random_labels(), PLACES["UTM, 10 m"][1]), UTM33)


def test_an_edge_that_bends_across_a_hole_is_repaired():
    """A straight edge of 40 km in UTM passes 10 m beside its chord in degrees: over the hole one pixel away."""
    frame = shapely.Polygon(shapely.box(400_000, 6_600_000, 440_000, 6_640_000).exterior)
    holes = [
        shapely.box(420_000 + 2 * i, 6_600_000 + dy, 420_001 + 2 * i, 6_600_001 + dy).exterior.coords
        for i in range(3)
        for dy in (1, 39_998)
    ]
    source = np.array([shapely.Polygon(frame.exterior, holes)])
    assert source[0].is_valid
    assert not shapely.is_valid(projected(source, UTM33)).all()
    (out,) = written(source, UTM33)
    assert out.area == pytest.approx(projected(source, UTM33)[0].area, rel=1e-6)


def test_a_hole_that_touches_a_slanted_edge_stays_valid():
    """Its corner lies on the edge, and off it after rounding, although all vertices are those of a raster."""
    corner = np.array([500_000, 5_500_000])
    triangle, hole = np.array([[0, 0], [300, 100], [100, 300]]), np.array([[0, 0], [150, 120], [130, 130]])
    touching = [
        shapely.Polygon(corner + triangle, [corner + np.maximum(hole, [[3 * i, i], [0, 0], [0, 0]])])
        for i in range(1, 40)
    ]
    source = np.array([*touching, shapely.box(*(corner - 1), *corner)])  # the last one makes the lattice one of 1 m
    assert shapely.is_valid(source).all()
    rounded = shapely.transform(projected(source, UTM33), lambda points: np.round(points, 7))
    assert not shapely.is_valid(rounded).all()
    written(source, UTM33)


def unrolled(polygon):
    """Parts west of the antimeridian moved on by 360 degrees and joined."""
    parts = [
        shapely.transform(part, lambda points: points + np.array([360, 0])) if part.bounds[0] < 0 else part
        for part in shapely.get_parts(polygon)
    ]
    return shapely.union_all(parts)


def same(polygon, wanted):
    return shapely.symmetric_difference(polygon, wanted).area <= 2e-7 * wanted.length


@pytest.mark.parametrize("turn", [0, -360])
def test_fiji_in_degrees_is_cut_at_the_antimeridian(turn):
    source = traced(random_labels(), Affine(0.1, 0, 177 + turn, 0, -0.1, -15))
    out = written(source, 4326)
    crossing = (shapely.bounds(source)[:, 0] < 180 + turn) & (shapely.bounds(source)[:, 2] > 180 + turn)
    assert crossing.any()
    for polygon, wanted, crosses in zip(out, source, crossing, strict=True):
        assert same(unrolled(polygon), shapely.transform(wanted, lambda points: points - [turn, 0.0]))
        assert (polygon.geom_type == "MultiPolygon") == crosses


@pytest.mark.parametrize(("crs", "west"), [(32760, 800_000), (32701, 160_000)])
def test_fiji_in_utm_is_cut_at_the_antimeridian(crs, west):
    source = traced(random_labels(), Affine(1000, 0, west, 0, -1000, 8_200_000))
    transformer = Transformer.from_crs(crs, 4326, always_xy=True)

    def project(points):
        longitude, latitude = transformer.transform(points[:, 0], points[:, 1])
        return np.stack([np.where(longitude < 0, longitude + 360, longitude), latitude], axis=1)

    wanted = shapely.transform(source, project)
    assert len({side > 180 for side in shapely.bounds(wanted)[:, 0]}) == 2
    out = written(source, crs)
    assert {polygon.geom_type for polygon in out} == {"Polygon", "MultiPolygon"}
    for polygon, oracle in zip(out, wanted, strict=True):
        assert same(unrolled(polygon), oracle)


@pytest.mark.parametrize(
    ("crs", "box"),
    [
        (4326, shapely.box(-180, -80, 180, 80)),
        (4326, shapely.box(0, -80, 360, 80)),
        (3857, shapely.box(-20037508.342789244, -2e7, 20037508.342789244, 2e7)),
    ],
)
def test_a_polygon_all_round_the_earth_stays_one(crs, box):
    (out,) = written(np.array([box]), crs)
    assert out.geom_type == "Polygon"
    assert (out.bounds[0], out.bounds[2]) == (-180, 180)
    assert out.area == pytest.approx(360 * (out.bounds[3] - out.bounds[1]))


@pytest.mark.parametrize(("crs", "pole"), [(3031, -90), (3413, 90)])
@pytest.mark.parametrize("flip", [False, True])
def test_a_polygon_around_a_pole_ends_there(crs, pole, flip):
    square = shapely.segmentize(shapely.box(-1e6, -1.3e6, 1.2e6, 1e6), 20_000)
    hole = shapely.segmentize(shapely.box(-3e5, -3e5, 3e5, 4e5), 20_000)
    holes = [hole.exterior.coords[:: -1 if flip else 1]]
    full, ring = written(np.array([square, shapely.Polygon(square.exterior, holes)]), crs)
    assert [full.bounds[0], full.bounds[2]] == [-180, 180]
    assert pole in full.bounds
    inverse = Transformer.from_crs(4326, crs, always_xy=True)
    rng = np.random.default_rng(0)
    longitude, latitude = rng.uniform(-180, 180, 500), np.sign(pole) * rng.uniform(70, 90, 500)
    points = shapely.points(*inverse.transform(longitude, latitude))
    sure = shapely.distance(points, shapely.union(square.exterior, hole.exterior)) > 1000  # chords bend
    for polygon, wanted in ((full, square), (ring, square.difference(hole))):
        inside = shapely.contains_xy(polygon, longitude, latitude)
        np.testing.assert_array_equal(inside[sure], shapely.contains(wanted, points)[sure])
        assert 0.1 < inside.mean() < 0.9


def test_polygons_smaller_than_a_centimetre_keep_their_shape_and_holes_of_that_size_go():
    tiny = shapely.box(500_000, 5_500_000, 500_000.002, 5_500_000.001)
    sliver = shapely.box(500_000, 5_500_000, 500_100, 5_500_000.001)
    holed = shapely.Polygon(shapely.box(500_000, 5_500_000, 500_010, 5_500_010).exterior, [tiny.exterior.coords])
    holed = shapely.Polygon(
        holed.exterior, [shapely.transform(tiny, lambda points: points + 5).exterior.coords]
    )  # off the corner
    source = np.array([tiny, sliver, holed])
    out = written(source, UTM33)
    wanted = projected(source, UTM33)
    np.testing.assert_allclose(shapely.area(out[:2]), shapely.area(wanted[:2]), rtol=1e-3)
    assert not out[2].interiors
    assert shapely.get_num_coordinates(out).tolist() == [5, 5, 5]


def test_repeated_vertices_are_dropped():
    ring = [(0, 0), (0, 0), (1, 0), (1, 1), (1, 1), (1, 1), (0, 1), (0, 0), (0, 0)]
    (out,) = written(np.array([shapely.Polygon(ring)]), 4326)
    assert len(out.exterior.coords) == 5


def test_pixel_coordinates_keep_their_numbers():
    ring = [(-1.5, 5_400_000.25), (123456.125, 5_400_000.25), (123456.125, 5_400_001), (0.0000001, 5_400_001)]
    source = np.array([shapely.Polygon(ring), shapely.box(0, 0, 10, 20)])
    lines = text(source, None).decode().splitlines()
    assert "[-1.5,5400000.25]" in lines[1]
    assert "[0.0000001,5400001]" in lines[1]
    assert lines[2].endswith('"coordinates":[[[10,0],[10,20],[0,20],[0,0],[10,0]]]}}')


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-180, 180), st.floats(-90, 90)), min_size=1, max_size=20))
def test_every_number_has_seven_decimals_without_trailing_zeros(points):
    x, y = np.rint(np.array(points).T * 1e7)
    for record, *numbers in zip(geojson._records(x, y), x, y, strict=True):
        shown = record.tobytes().replace(b"\0", b"").decode()
        wanted = [f"{int(v) / 1e7:.7f}".rstrip("0").rstrip(".").replace("-0", "-0") for v in numbers]
        assert shown == f",[{wanted[0]},{wanted[1]}]"


def properties(**columns):
    count = len(next(iter(columns.values())))
    loaded = json.loads(text(np.array([shapely.box(0, 0, 1, 1)] * count), 4326, **columns), parse_constant=pytest.fail)
    return [feature["properties"] for feature in loaded["features"]]


def test_properties_are_json_whatever_they_hold():
    names = ['say "runway"', "back\\slash", "Straße\n東京\t\u2028 🛬", "", None]
    got = properties(**{
        "class": names,
        'a "column"': pd.Series(names, dtype="category"),
        "arrow": pa.chunked_array([pa.array(names).dictionary_encode()]),
        "score": [0.12344, 0.98766, float("nan"), float("inf"), 1e-9],
        "area_m2": np.array([1234.567, 1e22, -0.5, 1e308, np.nan]),
        "single": np.array([0.1, 1, 2, 3, 4], np.float32),
        "count": np.array([1, 2, 2**53, -4, 0]),
        "flag": [True, False, None, True, False],
        "mixed": [1, "1", None, float("nan"), 2.5],
    })  # fmt: skip
    assert [row["class"] for row in got] == names
    assert [row['a "column"'] for row in got] == names
    assert [row["arrow"] for row in got] == names
    assert [row["score"] for row in got] == [0.1234, 0.9877, None, None, 0]
    assert [row["area_m2"] for row in got] == [1234.57, 1e22, -0.5, 1e308, None]
    assert [row["single"] for row in got] == [0.1, 1, 2, 3, 4]
    assert [row["count"] for row in got] == [1, 2, 2**53, -4, 0]
    assert [row["flag"] for row in got] == [True, False, None, True, False]
    assert [row["mixed"] for row in got] == [1, "1", None, None, 2.5]


def test_features_without_columns_and_a_column_of_another_length():
    batch = flat(np.array([shapely.box(0, 0, 1, 1)] * 2))
    lines = features({}, batch.coordinates, batch.rings, batch.polygons, CRS.from_epsg(4326)).split(b",\n")
    assert [json.loads(line)["properties"] for line in lines] == [{}, {}]
    with pytest.raises(ValueError, match="'class' has 1 values for 2"):
        features({"class": ["a"]}, batch.coordinates, batch.rings, batch.polygons, None)


def test_a_place_that_is_not_on_the_earth_is_refused():
    with pytest.raises(ExportError, match="no longitude") as caught:
        text(np.array([shapely.box(0, 0, 1.8e7, 9e6)]), "ESRI:54009")  # the corner of Mollweide's oval
    assert "gpkg" in caught.value.hint


def test_a_crs_of_a_building_site_is_refused():
    site = CRS.from_wkt(
        'ENGCRS["site",EDATUM["stone"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]'
    )
    with pytest.raises(ExportError, match="'site' is not tied to the Earth"):
        text(np.array([shapely.box(0, 0, 1, 1)]), site)


def test_a_batch_is_written_and_forgotten_before_the_next_is_asked_for():
    """What a country needs: neither the batches nor their text pile up."""
    out, seen, alive = io.BytesIO(), [], []

    def batches():
        for index in range(4):
            batch = flat(np.array([shapely.box(index, 0, index + 1, 1)]), number=[index])
            seen.append(out.getvalue().count(b'"Feature"'))
            alive.append(weakref.ref(batch.coordinates))
            yield batch
            del batch
            assert sum(reference() is not None for reference in alive) <= 1

    stream(batches(), UTM33, out)
    assert seen == [0, 1, 2, 3]


def test_a_run_is_written_to_a_file_as_to_a_stream(tmp_path):
    source = traced(random_labels(), PLACES["UTM, 10 m"][1])
    frame = gpd.GeoDataFrame(
        {
            "class": "runway", "prompt": "runways", "score": np.linspace(0, 1, len(source)), "area_m2": 1.0,
            "perimeter_m": np.nan, "model": "m", "run": "r",
        },
        geometry=source, crs=UTM33,
    )  # fmt: skip
    frame.to_parquet(tmp_path / "segments.parquet")
    layer = Layer(tmp_path / "segments.parquet", tmp_path / "labels.tif", {}, "r")
    out = io.BytesIO()
    assert export(layer, out, FORMATS["geojson"]) == ()
    export(layer, tmp_path / "a.geojson", FORMATS["geojson"])
    assert (tmp_path / "a.geojson").read_bytes() == out.getvalue()
    loaded = json.loads(out.getvalue())
    assert len(loaded["features"]) == len(source)
    assert loaded["features"][0]["properties"]["perimeter_m"] is None


@pytest.mark.parametrize(
    "batches", [[], [Polygons({"class": []}, np.empty((0, 2)), np.zeros(1, int), np.zeros(1, int))]]
)
def test_nothing_is_an_empty_collection(batches):
    out = io.BytesIO()
    stream(batches, None, out)
    assert json.loads(out.getvalue()) == {"type": "FeatureCollection", "features": []}


def test_a_polygon_without_rings_stays_in_its_row():
    loaded = json.loads(text(np.array([shapely.box(0, 0, 1, 1), shapely.Polygon(), shapely.box(2, 0, 3, 1)]), 4326))
    shapes = [feature["geometry"]["coordinates"] for feature in loaded["features"]]
    assert [len(shape) for shape in shapes] == [1, 0, 1]
    assert shapes[2][0][0][0] in {2, 3}
