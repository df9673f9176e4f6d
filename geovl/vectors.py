"""Polygons on their way from flat arrays to a file: WKB, Arrow, GeoParquet, a batch at a time.

A polygon never becomes an object of its own: its vertices stay in one array per batch, are
turned to WKB together and reach the file, or GDAL, as Arrow columns.
"""

import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS

import geovl
from geovl.errors import RunError
from geovl.types import Polygons

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

ROWS = 10_000
"""Polygons that are read at once."""
GROUP_POLYGONS = 50_000
"""Polygons of a row group of the file, at most."""
GROUP_VERTICES = 2_000_000
"""Vertices of a row group, at most, unless one polygon alone has more: what memory is bounded by."""
COLUMNS = ("class", "prompt", "score", "area_m2", "perimeter_m", "model", "run", "geometry")
"""What the file has of each polygon, beside the bounding box."""

_LARGEST = 2**31 - 1  # bytes of the WKB of a row group: the offsets are int32
_POLYGON = np.dtype([("order", "u1"), ("kind", "<u4"), ("rings", "<u4")])  # head of a polygon in WKB: 9 bytes
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def wkb(coordinates: Floats, rings: Ints, polygons: Ints) -> tuple[Bytes, Ints]:
    """Write polygons as little-endian WKB, one after the other.

    Args:
        coordinates: float64 (vertices, 2).
        rings: int64 (rings + 1), offsets into ``coordinates``.
        polygons: int64 (polygons + 1), offsets into ``rings``.

    Returns:
        The bytes, uint8, and where each polygon begins in them, int64 (polygons + 1).
    """
    count = np.diff(polygons)
    offsets, heads = _places(rings, polygons)
    out = np.empty(int(offsets[-1]), np.uint8)
    polygon_heads = np.empty(len(count), _POLYGON)
    polygon_heads["order"], polygon_heads["kind"], polygon_heads["rings"] = 1, 3, count
    lengths = np.diff(rings)
    _slots(out, 9)[offsets[:-1]] = polygon_heads.view("V9")
    _slots(out, 4)[heads] = lengths.astype("<u4").view("V4")
    _slots(out, 16)[_vertices(rings, heads)] = np.ascontiguousarray(coordinates, "<f8").view("V16")[:, 0]
    return out, offsets


def from_wkb(data: Bytes, offsets: Ints) -> tuple[Floats, Ints, Ints]:
    """Read what :func:`wkb` wrote.

    Args:
        data: Bytes of all polygons, uint8.
        offsets: int64 (polygons + 1), where each begins.

    Returns:
        Coordinates float64 (vertices, 2), rings and polygons as in :class:`Polygons`.

    Raises:
        RunError: Something is not the little-endian WKB of a polygon in two dimensions.
    """
    data = data[offsets[0] : offsets[-1]]
    offsets = offsets - offsets[0]
    polygons, lengths = np.zeros(len(offsets), np.int64), []
    length = struct.Struct("<I").unpack_from
    try:
        heads = _slots(data, 9)[offsets[:-1]].view(_POLYGON)
        np.cumsum(heads["rings"], out=polygons[1:])
        view = memoryview(np.ascontiguousarray(data).data)
        for start, count in zip((offsets[:-1] + 9).tolist(), heads["rings"].tolist(), strict=True):
            place = start
            for _ in range(count):
                (vertices,) = length(view, place)
                lengths.append(vertices)
                place += 4 + 16 * vertices
    except (IndexError, struct.error) as error:
        raise _foreign() from error
    rings = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(np.asarray(lengths, np.int64), out=rings[1:])
    places, ring_heads = _places(rings, polygons)
    if (heads["order"] != 1).any() or (heads["kind"] != 3).any() or not np.array_equal(places, offsets):
        raise _foreign()
    coordinates = _slots(data, 16)[_vertices(rings, ring_heads)].view("<f8").reshape(-1, 2)
    return coordinates, rings, polygons


def _foreign() -> RunError:
    msg = "A geometry among the segments is not a polygon as geovl writes them."
    return RunError(msg, "The file was changed: see geovl runs verify")


def _places(rings: Ints, polygons: Ints) -> tuple[Ints, Ints]:
    """Return where polygons begin in their WKB (polygons + 1) and where rings do (rings)."""
    offsets = 9 * np.arange(len(polygons)) + 4 * polygons + 16 * rings[polygons]
    owner = np.repeat(np.arange(1, len(polygons)), np.diff(polygons))
    return offsets, 9 * owner + 4 * np.arange(len(rings) - 1) + 16 * rings[:-1]


def _vertices(rings: Ints, heads: Ints) -> Ints:
    """Return where each vertex lies in the WKB, given where the rings begin."""
    places: Ints = np.repeat(heads + 4 - 16 * rings[:-1], np.diff(rings)) + 16 * np.arange(rings[-1])
    return places


def _slots(data: Bytes, size: int) -> NDArray[np.void]:
    """View bytes as overlapping items of ``size`` bytes, item i beginning at byte i: to move many at once."""
    if len(data) < size:
        return np.empty(0, f"V{size}")
    return np.ndarray((len(data) - size + 1,), f"V{size}", data, 0, data.strides)


def wkb_array(coordinates: Floats, rings: Ints, polygons: Ints) -> "pa.BinaryArray":
    """Return :func:`wkb` as an Arrow array.

    Raises:
        RunError: It would take 2 GiB or more.
    """
    import pyarrow as pa  # noqa: PLC0415 - slow to import: it comes in while the first results exist already

    if 9 * len(polygons) + 4 * len(rings) + 16 * len(coordinates) > _LARGEST:
        msg = f"A polygon has {len(coordinates)} vertices, more than fit into WKB of 2 GiB."
        raise RunError(msg, "Simplify more, with --simplify, or drop small holes and regions with --min-area.")
    data, offsets = wkb(coordinates, rings, polygons)
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), len(polygons) - 1, buffers)


def flat(geometry: "pa.BinaryArray") -> tuple[Floats, Ints, Ints]:
    """Return coordinates, rings and polygons of an Arrow array of WKB; errors as in :func:`from_wkb`."""
    _, where, data = geometry.buffers()
    if not len(geometry) or data is None:
        return np.empty((0, 2)), np.zeros(1, np.int64), np.zeros(1, np.int64)
    size = np.dtype(np.int64 if str(geometry.type).startswith("large") else np.int32)
    offsets = np.frombuffer(where, size, len(geometry) + 1, geometry.offset * size.itemsize)
    return from_wkb(np.frombuffer(data, np.uint8), offsets.astype(np.int64))


def _words(codes: Ints, values: Sequence[str]) -> "pa.DictionaryArray":
    """Return ``values[code]`` for each code, as a dictionary that holds no word twice, as Parquet needs it."""
    import pyarrow as pa  # noqa: PLC0415 - as above

    words = {word: place for place, word in enumerate(dict.fromkeys(values))}
    place = np.array([words[word] for word in values], np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(place[codes]), pa.array(list(words), pa.string()))


@dataclass(frozen=True, slots=True)
class Legend:
    """What the polygons of one run have in common."""

    names: tuple[str, ...]
    """Of the classes, from label 1."""
    phrases: tuple[str, ...]
    """What was asked for each class, as one text."""
    model: str
    run: str

    def table(self, batch: Polygons) -> "pa.RecordBatch":
        """Return a batch as Arrow columns: those of the file, ``COLUMNS``, and ``bbox``.

        Raises:
            RunError: As in :func:`wkb_array`.
            IndexError: A label is no class.
        """
        import pyarrow as pa  # noqa: PLC0415 - as above

        if len(batch) and int(batch.label.min()) < 1:
            msg = f"Labels begin at 1, got {batch.label.min()}"
            raise IndexError(msg)
        same = np.zeros(len(batch), np.int64)
        columns = {
            "class": _words(batch.label - 1, self.names),
            "prompt": _words(batch.label - 1, self.phrases),
            "score": pa.array(batch.score, from_pandas=True),  # NaN is null
            "area_m2": pa.array(batch.area_m2, from_pandas=True),
            "perimeter_m": pa.array(batch.perimeter_m, from_pandas=True),
            "model": _words(same, [self.model]),
            "run": _words(same, [self.run]),
            "geometry": wkb_array(batch.coordinates, batch.rings, batch.parts),
            "bbox": pa.StructArray.from_arrays([pa.array(side) for side in batch.bounds()], _CORNERS),
        }
        return pa.RecordBatch.from_pydict(columns)


class SegmentsWriter:
    """Writes polygons to a GeoParquet 1.1 file as they come; the file does not depend on how they were batched.

    A context manager: the file is complete after it, and gone if it was left by an exception.

    Args:
        path: File to write; replaced if there.
        crs: Of the coordinates; None for pixels.
        names: Class names, from label 1.
        phrases: What was asked for each class, as one text: the column ``prompt``.
        model: Id of the model.
        run: Id of the run.

    Raises:
        OSError: The file cannot be written, or its folder is gone.
    """

    def __init__(
        self, path: Path, crs: CRS | None, names: Sequence[str], phrases: Sequence[str], model: str, run: str
    ) -> None:
        self.path = path
        self.count = 0
        """Polygons appended."""
        self._crs = crs
        self._legend = Legend(tuple(names), tuple(phrases), model, run)
        self._pending: list[pa.RecordBatch] = []
        self._polygons = self._vertices = 0  # of what is pending
        self._bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
        self._sink: BufferedWriter
        self._writer: pq.ParquetWriter

    def __enter__(self) -> Self:
        import pyarrow.parquet as pq  # noqa: PLC0415 - as above

        schema = self._legend.table(Polygons.empty()).schema
        self._sink = self.path.open("wb")
        words = [field.name for field in schema if field.name in {"class", "prompt", "model", "run"}]
        self._writer = pq.ParquetWriter(
            self._sink,
            schema,
            compression="zstd",
            use_dictionary=words,
            write_statistics=[*words, "score", "area_m2", "perimeter_m", *(f"bbox.{corner}" for corner in _CORNERS)],
            store_schema=False,  # readers get plain strings, not Arrow's dictionaries
        )
        return self

    def append(self, batch: Polygons) -> None:
        """Add polygons; they are kept in memory until a row group is full.

        Raises:
            OSError: The disk is full.
            RunError: A polygon has too many vertices for WKB.
        """
        ends = batch.rings[batch.parts]
        first = 0
        while first < len(batch):
            room = ends[first] + GROUP_VERTICES - self._vertices
            stop = int(np.searchsorted(ends, room, side="right")) - 1
            stop = min(stop, first + GROUP_POLYGONS - self._polygons)
            if stop <= first and self._polygons:
                self._flush()
                continue
            stop = max(stop, first + 1)  # a polygon larger than a row group has one of its own
            rows = self._legend.table(batch.part(first, stop))
            sides = [side.to_numpy() for side in rows["bbox"].flatten()]
            self._bounds[:2] = np.minimum(self._bounds[:2], [side.min() for side in sides[:2]])
            self._bounds[2:] = np.maximum(self._bounds[2:], [side.max() for side in sides[2:]])
            self._pending.append(rows)
            self._polygons += stop - first
            self._vertices += int(ends[stop] - ends[first])
            first = stop
        self.count += len(batch)

    def _flush(self) -> None:
        """Write what is pending as one row group."""
        import pyarrow as pa  # noqa: PLC0415 - as above

        if self._pending:
            # one chunk a column: where pages end would otherwise depend on the batches
            table = pa.Table.from_batches(self._pending).combine_chunks()
            self._writer.write_table(table, row_group_size=self._polygons)
        self._pending = []
        self._polygons = self._vertices = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._abandon()
            return
        try:
            self._finish()
        except BaseException:
            self._abandon()
            raise
        self.path.stat()  # a folder that was removed meanwhile takes the file along without a word

    def _finish(self) -> None:
        """Write the rest and the metadata."""
        self._flush()
        text = json.dumps(_geo(self._crs, self._bounds), ensure_ascii=False, allow_nan=False)
        self._writer.add_key_value_metadata({"geo": text})
        self._writer.close()
        self._sink.close()

    def _abandon(self) -> None:
        """Remove the file; what is wrong with the disk was told already."""
        for end in (self._writer.close, self._sink.close, partial(self.path.unlink, missing_ok=True)):
            with suppress(OSError):
                end()


def _geo(crs: CRS | None, bounds: Floats) -> dict[str, Any]:
    """Return the metadata of GeoParquet 1.1."""
    column: dict[str, Any] = {
        "encoding": "WKB",
        "crs": None if crs is None else _without_member_ids(crs.to_json_dict()),
        "geometry_types": ["Polygon"],
        "covering": {"bbox": {corner: ["bbox", corner] for corner in _CORNERS}},
    }
    if np.isfinite(bounds).all():
        column["bbox"] = bounds.tolist()
    return {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {"geometry": column},
        "creator": {"library": "geovl", "version": geovl.__version__},
    }


def _without_member_ids(value: Any) -> Any:
    """Drop the ids of the members of datum ensembles: PROJ before 9.1 refuses those that it does not know."""
    if isinstance(value, dict):
        return {
            key: [{k: v for k, v in member.items() if k != "id"} for member in part]
            if key == "members" and isinstance(part, list)
            else _without_member_ids(part)
            for key, part in value.items()
        }
    return [_without_member_ids(part) for part in value] if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class Segments:
    """What the head of a file of segments says."""

    count: int
    """Polygons."""
    crs: CRS | None
    """None for pixels."""


@contextmanager
def _opened(path: Path) -> "Iterator[pq.ParquetFile]":
    """Open a file of segments.

    Raises:
        RunError: It is missing, damaged, or not a file of segments.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    try:
        with pq.ParquetFile(path, buffer_size=1 << 20) as file:
            missing = set(COLUMNS) - set(file.schema_arrow.names)
            if missing:
                msg = f"{path} has no column {', '.join(sorted(missing))}."
                raise RunError(msg, "The file was changed: see geovl runs verify")
            yield file
    except (OSError, ValueError) as error:
        msg = f"{path} is not readable: {error}"
        raise RunError(msg, "See what is wrong with: geovl runs verify") from error


def read_head(path: Path) -> Segments:
    """Return how many polygons a file of segments has, and in which CRS.

    Raises:
        RunError: As in :func:`read_batches`.
    """
    with _opened(path) as file:
        column = json.loads((file.metadata.metadata or {}).get(b"geo", b"{}")).get("columns", {}).get("geometry", {})
        crs = column.get("crs", "OGC:CRS84")  # what GeoParquet means by none at all
        return Segments(file.metadata.num_rows, None if crs is None else CRS.from_user_input(crs))


def read_batches(path: Path, rows: int = ROWS, columns: Sequence[str] = COLUMNS) -> "pa.RecordBatchReader":
    """Read a file of segments a batch at a time.

    Args:
        path: GeoParquet, from :class:`SegmentsWriter` or an earlier geovl.
        rows: Polygons of a batch, at most.
        columns: What to read.

    Returns:
        An iterator of record batches that also hands them to GDAL; ``schema`` is that of each.

    Raises:
        RunError: The file is missing, damaged, or not a file of segments; also while it is read.
    """
    import pyarrow as pa  # noqa: PLC0415 - as above

    with _opened(path) as file:
        schema = pa.schema([file.schema_arrow.field(name).remove_metadata() for name in columns])

    def batches() -> "Iterator[pa.RecordBatch]":
        with _opened(path) as file:
            for batch in file.iter_batches(rows, columns=list(columns)):
                yield pa.RecordBatch.from_arrays([batch[name] for name in columns], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())
