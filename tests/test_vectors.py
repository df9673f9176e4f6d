"""WKB equals shapely's; the file is GeoParquet 1.1 that others read, and does not depend on how polygons were batched."""

import errno
import json
import resource
import shutil
import signal
from itertools import pairwise
from pathlib import Path

import fiona
import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS

from geovl import vectors
from geovl.errors import RunError
from geovl.types import Polygons
from geovl.vectors import SegmentsWriter, flat, from_wkb, read_batches, read_head, wkb, wkb_array

UTM = CRS.from_epsg(32632)
NAMES, PHRASES = ("building", "água 水 <&>", "road"), ("house, hut", "água 水", "house, hut")


def make_batch(count, seed=0):
    """Polygons of random closed rings far apart, the holes within the bounds of the shell; they need not be valid."""
    rng = np.random.default_rng(seed)
    ring_counts = rng.integers(1, 4, count)
    lengths = rng.integers(4, 12, ring_counts.sum())
    rings, polygons = (np.append(0, np.cumsum(sizes)) for sizes in (lengths, ring_counts))
    owner = np.repeat(np.repeat(np.arange(count), ring_counts), lengths)
    spread = np.where(np.isin(np.arange(len(lengths)), polygons[:-1]), 1.0, 0.01)
    coordinates = rng.normal(0, 1e6, (count, 2))[owner]
    coordinates += (
        rng.uniform(50, 100, coordinates.shape)
        * rng.choice([-1, 1], coordinates.shape)
        * np.repeat(spread, lengths)[:, None]
    )
    for corner, sign in ((0, -1), (1, 1)):  # so that every shell lies around its middle
        coordinates[rings[polygons[:-1]] + corner] += 300 * sign
    coordinates[rings[1:] - 1] = coordinates[rings[:-1]]
    area = np.where(rng.random(count) < 0.2, np.nan, rng.random(count) * 1e4)
    return Polygons(
        coordinates, rings, polygons, rng.integers(1, 4, count), rng.random(count), rng.integers(1, 99, count), area,
        rng.random(count),
    )  # fmt: skip


def geometries(batch):
    return shapely.from_ragged_array(shapely.GeometryType.POLYGON, batch.coordinates, (batch.rings, batch.parts))


def frame(batch, crs=UTM):
    """What the store held before: the oracle for the file."""
    kinds = dict.fromkeys(("class", "prompt", "model", "run"), "str")
    columns = {
        "class": np.array(NAMES, object)[batch.label - 1], "prompt": np.array(PHRASES, object)[batch.label - 1],
        "score": batch.score, "area_m2": batch.area_m2, "perimeter_m": batch.perimeter_m,
        "model": np.full(len(batch), "m", object), "run": np.full(len(batch), "r", object),
    }  # fmt: skip
    return gpd.GeoDataFrame(columns, geometry=geometries(batch), crs=crs).astype(kinds)


def assert_same(one, other):
    """Equal to the last byte; the rings here need not be valid, so that shapely's own equality is of no use."""
    pd.testing.assert_frame_equal(
        pd.DataFrame(one.drop(columns="geometry")), pd.DataFrame(other.drop(columns="geometry"))
    )
    assert list(one.columns) == list(other.columns)
    assert list(one.geometry.to_wkb()) == list(other.geometry.to_wkb())
    assert one.crs == other.crs


def write(path, *batches, crs=UTM):
    with SegmentsWriter(path, crs, NAMES, PHRASES, "m", "r") as writer:
        for batch in batches:
            writer.append(batch)
    return path


rings = st.lists(st.tuples(*[st.floats(allow_nan=False, width=64)] * 2), min_size=3, max_size=6).map(
    lambda points: [*points, points[0]]
)


@given(st.lists(st.lists(rings, min_size=1, max_size=4), max_size=6))
def test_wkb_is_that_of_shapely_and_reads_back(polygons):
    lengths = [len(ring) for polygon in polygons for ring in polygon]
    ring_offsets = np.append(0, np.cumsum(lengths)).astype(np.int64)
    polygon_offsets = np.append(0, np.cumsum([len(p) for p in polygons])).astype(np.int64)
    coordinates = np.array([point for polygon in polygons for ring in polygon for point in ring]).reshape(-1, 2)
    data, offsets = wkb(coordinates, ring_offsets, polygon_offsets)
    made = [data[a:b].tobytes() for a, b in pairwise(offsets)]
    expected = shapely.from_ragged_array(shapely.GeometryType.POLYGON, coordinates, (ring_offsets, polygon_offsets))
    assert made == list(shapely.to_wkb(expected))
    back = from_wkb(data, offsets)
    for one, other in zip(back, (coordinates, ring_offsets, polygon_offsets), strict=True):
        assert one.tobytes() == other.tobytes()


def test_a_slice_of_an_arrow_array_is_read_as_it_is():
    batch = make_batch(9)
    array = wkb_array(batch.coordinates, batch.rings, batch.parts)
    part = batch.part(3, 7)
    for chosen in (array[3:7], array.cast(pa.large_binary())[3:7]):
        for one, other in zip(flat(chosen), (part.coordinates, part.rings, part.parts), strict=True):
            assert np.array_equal(one, other)
    assert [len(column) for column in flat(array[2:2])] == [0, 1, 1]


@pytest.mark.parametrize(
    "geometry",
    [
        shapely.to_wkb(shapely.Point(1, 2)),
        shapely.to_wkb(shapely.MultiPolygon([shapely.box(0, 0, 1, 1)])),
        shapely.to_wkb(shapely.box(0, 0, 1, 1), byte_order=0),
        shapely.to_wkb(shapely.box(0, 0, 1, 1), output_dimension=3)[:-1],
        shapely.to_wkb(shapely.force_3d(shapely.box(0, 0, 1, 1), 5)),
        b"",
        b"\x01\x03\x00\x00\x00\xff\xff\xff\xff" + b"\xff" * 40,
    ],
)
def test_anything_but_a_flat_polygon_is_refused(geometry):
    good = shapely.to_wkb(shapely.box(0, 0, 1, 1))
    for values in ([geometry], [good, geometry], [geometry, good]):
        with pytest.raises(RunError, match="not a polygon"):
            flat(pa.array(values, pa.binary()))


def test_more_than_wkb_holds_is_said(monkeypatch):
    monkeypatch.setattr(vectors, "_LARGEST", 500)
    batch = make_batch(20)
    with pytest.raises(RunError, match="2 GiB"):
        wkb_array(batch.coordinates, batch.rings, batch.parts)


@pytest.mark.parametrize("crs", [UTM, None, CRS.from_epsg(4326), CRS.from_proj4("+proj=laea +lat_0=5 +ellps=GRS80")])
@pytest.mark.parametrize("count", [0, 1, 500])
def test_geopandas_reads_the_frame_that_it_wrote_itself(tmp_path, count, crs):
    batch = make_batch(count)
    path = write(tmp_path / "new.parquet", batch, crs=crs)
    frame(batch, crs).to_parquet(
        tmp_path / "old.parquet", compression="zstd", schema_version="1.1.0", write_covering_bbox=True
    )
    new, old = gpd.read_parquet(path), gpd.read_parquet(tmp_path / "old.parquet")
    assert_same(new, old)
    tables = [pq.read_table(tmp_path / f"{name}.parquet").combine_chunks() for name in ("new", "old")]
    assert tables[0].column_names == tables[1].column_names
    assert tables[0]["bbox"].to_pylist() == tables[1]["bbox"].to_pylist()
    assert tables[0]["area_m2"].null_count == tables[1]["area_m2"].null_count
    heads = [json.loads(table.schema.metadata[b"geo"]) for table in tables]
    for head in heads:
        head.pop("creator")
        head["columns"]["geometry"].pop("geometry_types")  # an empty frame knows none
    assert heads[0] == heads[1]


def test_the_metadata_are_those_of_geoparquet_1_1(tmp_path):
    batch = make_batch(50)
    metadata = pq.read_metadata(write(tmp_path / "a.parquet", batch))
    head = json.loads(metadata.metadata[b"geo"])
    assert head["version"] == "1.1.0"
    assert head["primary_column"] == "geometry"
    (column,) = head["columns"].values()
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["Polygon"]
    assert CRS.from_json_dict(column["crs"]) == UTM
    assert column["crs"]["$schema"].startswith("https://proj.org/schemas/")
    assert column["bbox"] == [*batch.coordinates.min(axis=0), *batch.coordinates.max(axis=0)]
    assert column["covering"]["bbox"] == {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}
    group = metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert {entry.compression for entry in columns.values()} == {"ZSTD"}
    assert columns["bbox.xmin"].statistics.min == column["bbox"][0]  # what a reader of a region skips groups by
    assert columns["bbox.ymax"].statistics.max == column["bbox"][3]


def test_crs_without_one_is_null_and_an_absent_one_is_longitude_latitude(tmp_path):
    path = write(tmp_path / "a.parquet", make_batch(3), crs=None)
    assert json.loads(pq.read_metadata(path).metadata[b"geo"])["columns"]["geometry"]["crs"] is None
    assert read_head(path).crs is None
    table = pq.read_table(path)
    head = json.loads(table.schema.metadata[b"geo"])
    del head["columns"]["geometry"]["crs"]
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(head)}), path)
    assert read_head(path).crs == CRS.from_user_input("OGC:CRS84")


@settings(max_examples=25)
@given(st.lists(st.integers(0, 60), max_size=12), st.integers(5, 40), st.integers(20, 400))
def test_any_grouping_gives_the_same_bytes(tmp_path_factory, cuts, most, vertices):
    batch = make_batch(60)
    folder = tmp_path_factory.mktemp("groups")
    places = sorted({0, 60, *cuts})
    parts = [batch.part(a, b) for a, b in pairwise(places)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "GROUP_POLYGONS", most)
        patch.setattr(vectors, "GROUP_VERTICES", vertices)
        one = write(folder / "one.parquet", batch)
        many = write(folder / "many.parquet", Polygons.empty(), *parts)
    assert one.read_bytes() == many.read_bytes()
    metadata = pq.read_metadata(one)
    rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    ends = batch.rings[batch.parts]
    first = 0
    for count in rows:
        size = ends[first + count] - ends[first]
        assert count == 1 or (count <= most and size <= vertices)
        last = first + count == len(batch)
        assert last or count == most or ends[first + count + 1] - ends[first] > vertices  # no group is cut too early
        first += count
    assert_same(gpd.read_parquet(one), frame(batch))
    shutil.rmtree(folder)


def test_any_grouping_gives_the_same_pages(tmp_path):
    batch = make_batch(15_000)  # of more than one page of 1 MB
    parts = [batch.part(first, min(first + 777, 15_000)) for first in range(0, 15_000, 777)]
    assert write(tmp_path / "one.parquet", batch).read_bytes() == write(tmp_path / "many.parquet", *parts).read_bytes()


def test_batches_are_read_in_bounded_numbers(tmp_path):
    batch = make_batch(130)
    path = write(tmp_path / "a.parquet", batch)
    reader = read_batches(path, 40)
    assert reader.schema.names == list(vectors.COLUMNS)
    parts = list(reader)
    assert [len(part) for part in parts] == [40, 40, 40, 10]
    assert all(part.schema.equals(reader.schema) for part in parts)
    coordinates = np.concatenate([flat(part["geometry"])[0] for part in parts])
    assert np.array_equal(coordinates, batch.coordinates)
    assert read_head(path).count == 130
    empty = read_batches(write(tmp_path / "empty.parquet"))
    assert empty.schema.names == list(vectors.COLUMNS)
    assert list(empty) == []


def test_other_readers_open_it(tmp_path):
    batch = make_batch(20)
    path = write(tmp_path / "a.parquet", batch)
    drivers = fiona.supported_drivers
    if "Parquet" in drivers:
        with fiona.open(path) as source:
            assert len(source) == 20
    assert pq.ParquetFile(path).read(["class"])["class"].to_pylist() == frame(batch)["class"].tolist()
    box = batch.part(0, 1).bounds()[:, 0]
    assert 1 <= len(gpd.read_parquet(path, bbox=tuple(box))) < 20


def test_a_file_that_was_changed_or_is_gone_is_said(tmp_path):
    path = tmp_path / "a.parquet"
    for read in (read_head, read_batches):
        with pytest.raises(RunError, match="not readable"):
            read(path)
    path.write_bytes(b"PAR1 and nothing else PAR1")
    for read in (read_head, read_batches):
        with pytest.raises(RunError, match="not readable"):
            read(path)
    pq.write_table(pa.table({"class": ["a"]}), path)
    with pytest.raises(RunError, match=r"no column .*geometry"):
        read_head(path)
    whole = write(path, make_batch(300)).read_bytes()
    path.write_bytes(whole[:500] + bytes(3000) + whole[3500:])
    with pytest.raises(RunError, match="not readable"):
        list(read_batches(path))


def test_what_does_not_fit_together_is_refused():
    good = make_batch(5)
    columns = {name: getattr(good, name) for name in Polygons.__dataclass_fields__}
    for wrong in (
        {"coordinates": good.coordinates[:, :1]}, {"coordinates": good.coordinates[1:]}, {"rings": good.rings + 1},
        {"parts": good.parts[:-1]}, {"parts": np.sort(np.append(good.parts, 0))},
        {"label": good.label[1:]}, {"score": good.score[:, None]}, {"rings": np.empty(0, np.int64)},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"must"):
            Polygons(**columns | wrong)


def test_a_label_beyond_the_classes_is_refused_and_leaves_no_file(tmp_path):
    good = make_batch(5)
    columns = {name: getattr(good, name) for name in Polygons.__dataclass_fields__}
    for label in (0, 4):
        with pytest.raises(IndexError):
            write(tmp_path / "a.parquet", good, Polygons(**columns | {"label": np.full(5, label)}))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_or_vanished_folder_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "nowhere" / "a.parquet", make_batch(2))
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(FileNotFoundError), SegmentsWriter(folder / "a.parquet", UTM, NAMES, PHRASES, "m", "r") as out:
        out.append(make_batch(2))
        shutil.rmtree(folder)


@pytest.mark.parametrize("limit", [2, 300, 20_000, 60_000])
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_an_os_error_and_leaves_no_file(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(vectors, "GROUP_POLYGONS", 200)
    batch = make_batch(1000)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match=r"File too large") as caught:
            write(tmp_path / "a.parquet", batch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert caught.value.errno == errno.EFBIG
    assert list(Path(tmp_path).iterdir()) == []
