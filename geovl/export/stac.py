"""A run as a STAC Item, alone or in a folder with copies of its files.

What the standards leave open, and how it is filled:

- *Where the files are.* An Item alone names the run's files where they lie in the store, relative to itself. A folder
  has copies, the rasters as Cloud Optimized GeoTIFF, names nothing outside itself, and can be moved and published.
- *Time.* ``datetime`` is when the picture was taken, where its own STAC Item said so. Else it is when the run was made,
  which a description then says: no date is taken from a file's name or age.
- *Place.* The convex hull of what had data, read with at most 1024 pixels a side, in WGS 84, cut at the antimeridian.
  A raster without CRS, or in one that is not tied to the Earth, has none: the geometry is null, which STAC allows and
  which forbids a bbox.
- *The model.* MLM's own fields describe a model, and its schema takes no Item that only has some of them. As it asks
  of results, the Item has the processing level L4 and a ``derived_from`` link to the Item of the model, which is
  written beside it where the catalog knows that very model and what MLM requires of it.
- *The source* is linked as ``derived_from`` where it is a file or a URL; in a folder only where it is a URL.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.errors import RasterioError

from geovl import catalog, runs
from geovl.catalog.exports import write as write_record
from geovl.errors import CatalogError, ExportError, RunError
from geovl.export import cog, geojson
from geovl.export.formats import ITEM, Layer
from geovl.runs import LABELS, SCORES, SEGMENTS, UNKNOWN, Run

_EXTENSIONS = "https://stac-extensions.github.io/{}/schema.json"
_USED = ("projection/v2.0.0", "processing/v1.2.0", "file/v2.1.0", "classification/v2.0.0", "raster/v2.0.0")
_TABLE = "table/v1.2.0"
_TIFF = "image/tiff; application=geotiff"
_MODEL = "model.json"
_LEVEL = "L4"  # of the processing extension: what was derived, not measured
_TITLE = 200  # characters of the names of classes in a title, at most
_SIDE = 1024  # pixels that a footprint is read with
_STRAIGHT = 1e-4  # of a footprint's size; what bends less is straight
_PIECES = 32  # straight pieces of an edge of a footprint, which may bend in WGS 84


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an Item stands, and the files that it names."""

    folder: Path
    """Of the Item, in the end."""
    files: Path
    """Folder of the files that it names."""
    published: bool
    """Whether the files are copies in the Item's own folder, and nothing outside it is named."""


def write(layer: Layer, path: Path) -> tuple[str, ...]:
    """Write the Item of a run, and beside it that of its model, where there can be one.

    Args:
        layer: Its files lie in the run's folder.
        path: File to write.

    Returns:
        Warnings, one sentence each.

    Raises:
        OSError: It cannot be written.
        RunError: The run is damaged.
    """
    run = Run(layer.file.parent)
    model = _model(run.manifest["model"])
    stem = re.sub(r"(\.stac)?\.json$", "", path.name, flags=re.IGNORECASE)
    beside = f"{stem}.{_MODEL}"
    place = _Place((layer.target or path).parent, run.path, published=False)
    if model:
        _save(model, path.with_name(beside))
    return _write(layer, run, place, path, [_model_link(model, beside)] if model else [])


def fill(layer: Layer, folder: Path) -> tuple[str, ...]:
    """Fill a folder with the Item of a run, that of its model and copies of its files; errors as in :func:`write`."""
    run = Run(layer.file.parent)
    model = _model(run.manifest["model"])
    for name in _rasters(run):
        cog.copy(run.path / name, folder / name)
    shutil.copyfile(layer.file, folder / SEGMENTS)
    if model:
        _save(model, folder / _MODEL)
    place = _Place(folder, folder, published=True)
    return _write(layer, run, place, folder / ITEM, [_model_link(model, _MODEL)] if model else [])


def _write(layer: Layer, run: Run, place: _Place, path: Path, links: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    manifest = run.manifest
    geometry, warnings = _geometry(layer)
    out = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [_EXTENSIONS.format(name) for name in (*_USED, _TABLE)],
        "id": run.id,
        "geometry": geometry,
        **({"bbox": _bbox(geometry)} if geometry else {}),
        "properties": _properties(layer, manifest),
        "links": [*_source_link(manifest, place), *links],
        "assets": _assets(layer, run, place),
    }
    _save(out, path)
    return warnings


def _save(item: dict[str, Any], path: Path) -> None:
    # a name from a command line may hold half of a surrogate pair, which UTF-8 has no bytes for
    text = json.dumps(item, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    path.write_bytes(text.encode("utf-8", "replace"))


def _known(**fields: Any) -> dict[str, Any]:
    """Return fields without those that nobody knows; ``proj__code`` stands for ``proj:code``."""
    return {name.replace("__", ":"): value for name, value in fields.items() if value is not None}


# ---------------------------------------------------------------------------------------------
# Properties


def _properties(layer: Layer, manifest: dict[str, Any]) -> dict[str, Any]:
    source, model = manifest["source"], manifest["model"]
    taken, made = _moment(source.get("datetime")), _moment(manifest["created"])
    asked = {entry["name"]: entry["phrases"] for entry in manifest["classes"]}
    expression = {
        "model": {key: model[key] for key in ("id", "backend", "version", "weights") if model.get(key)},
        "prompts": asked,
        "parameters": manifest.get("parameters"),
    }
    unsure = "When the picture was taken is not known: datetime is when the run was made."
    return {
        "title": _title(layer, source),
        **_known(description=None if taken else unsure),
        "datetime": taken or made,
        "created": made,
        **_known(gsd=source.get("gsd")),
        **_projection(layer, source),
        "processing:level": _LEVEL,
        "processing:datetime": made,
        "processing:software": {"geovl": str(manifest["geovl"])},
        "processing:lineage": f"Labelled by {model['id']} from words, by geovl.",
        "processing:expression": {"format": "geovl", "expression": expression},
        "geovl:source": _known(name=_name(source), sha256=source.get("sha256"), bytes=source.get("bytes")),
    }


def _title(layer: Layer, source: dict[str, Any]) -> str:
    names = ", ".join(layer.colors)
    return f"{names if len(names) <= _TITLE else names[: _TITLE - 1] + '…'} in {_name(source)}"


def _moment(text: Any) -> str | None:
    """Return a date and time in UTC as RFC 3339 writes it, None where it is none."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    if found.tzinfo is None:
        return None
    return found.astimezone(UTC).isoformat(timespec="auto").replace("+00:00", "Z")


def _name(source: dict[str, Any]) -> str:
    """Return the last part of a source's path, which says nothing of the machine."""
    return re.split(r"[/\\]", str(source["path"]).rstrip("/\\"))[-1]


def _projection(layer: Layer, source: dict[str, Any]) -> dict[str, Any]:
    crs, (height, width) = layer.crs, source["shape"]
    a, b, c, d, e, f = source["transform"]
    x, y = ([p * col + q * row + r for col in (0, width) for row in (0, height)] for p, q, r in ((a, b, c), (d, e, f)))
    code = None if crs is None else _code(crs)
    return {
        "proj:code": code,
        **_known(proj__wkt2=crs.to_wkt() if crs is not None and code is None else None),
        "proj:shape": [height, width],
        "proj:transform": [a, b, c, d, e, f],
        "proj:bbox": [min(x), min(y), max(x), max(y)],
    }


def _code(crs: CRS) -> str | None:
    found = crs.to_authority()
    return None if found is None else ":".join(found)


# ---------------------------------------------------------------------------------------------
# Place


def _geometry(layer: Layer) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """Return where the run has data, in WGS 84, and what to say where that cannot be told."""
    crs = layer.crs
    if crs is None:
        return None, ("The run has no CRS: the STAC Item has no geometry and no bbox.",)
    _, coordinates, (rings, polygons) = shapely.to_ragged_array([_footprint(layer.labels)])
    try:
        feature = json.loads(geojson.features({}, coordinates, rings, polygons, crs))
    except ExportError as error:
        return None, (f"{error.message} The STAC Item has no geometry and no bbox.",)
    found = shapely.from_geojson(json.dumps(feature["geometry"]))
    if shapely.is_empty(found):
        return None, (
            "The raster is too small to have an outline in WGS 84: the STAC Item has no geometry and no bbox.",
        )
    west, south, east, north = shapely.bounds(found)
    straight = shapely.simplify(found, _STRAIGHT * max(east - west, north - south))
    out: dict[str, Any] = json.loads(shapely.to_geojson(straight))
    return out, ()


def _footprint(labels: Path) -> shapely.Polygon:
    """Return the convex hull of the pixels with data, in the raster's CRS.

    Raises:
        RunError: The raster is damaged.
    """
    try:
        with rasterio.open(labels) as dataset:
            height, width = dataset.shape
            factor = max(1, math.ceil(max(height, width) / _SIDE))
            rows, cols = math.ceil(height / factor), math.ceil(width / factor)
            valid = dataset.read(1, out_shape=(rows, cols)) != dataset.nodata
            transform = dataset.transform
    except RasterioError as error:
        msg = f"{labels} is not readable: {error}"
        raise RunError(msg, "See what is wrong with: geovl runs verify") from error
    hull = _hull(valid, (height, width))
    ring = _divided(np.asarray(hull.exterior.coords))
    x, y = transform @ (ring[:, 0], ring[:, 1])
    return shapely.orient_polygons(shapely.Polygon(np.stack([x, y], axis=1)))


def _hull(valid: NDArray[np.bool_], shape: tuple[int, int]) -> shapely.Polygon:
    """Return the convex hull of the cells that are True, (column, row) in pixels of a raster of a shape."""
    height, width = shape
    rows = np.flatnonzero(valid.any(axis=1))
    if not len(rows) or valid.all():
        return shapely.box(0, 0, width, height)
    first = valid[rows].argmax(axis=1)
    stop = valid.shape[1] - valid[rows, ::-1].argmax(axis=1)
    corners = [np.stack([col, rows + down], axis=1) for col in (first, stop) for down in (0, 1)]
    scale = np.array([width / valid.shape[1], height / valid.shape[0]])
    return shapely.convex_hull(shapely.multipoints(np.concatenate(corners) * scale))


def _divided(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a closed ring with each edge in ``_PIECES``."""
    share = (np.arange(_PIECES) / _PIECES)[None, :, None]
    points = ring[:-1, None] + share * (ring[1:] - ring[:-1])[:, None]  # (edges, pieces, 2)
    return np.concatenate([points.reshape(-1, 2), ring[:1]])


def _bbox(geometry: dict[str, Any]) -> list[float]:
    """Return west, south, east, north; west is more than east where the antimeridian lies between (RFC 7946, 5.2)."""
    shape = shapely.from_geojson(json.dumps(geometry))
    west, south, east, north = shapely.bounds(shape).tolist()
    sides = shapely.bounds(shapely.get_parts(shape))
    beyond = sides[:, 0] == -180
    if beyond.any() and (sides[~beyond, 2] == 180).any():
        west, east = float(sides[~beyond, 0].min()), float(sides[beyond, 2].max())
    return [west, south, east, north]


# ---------------------------------------------------------------------------------------------
# Links


def _href(file: Path, folder: Path) -> str:
    """Return how a folder's Item names a file: relative to itself where that can be."""
    try:
        relative = os.path.relpath(file.resolve(), folder.resolve())
    except ValueError:  # on another drive
        return file.resolve().as_uri()
    path = quote(os.fsencode(Path(relative).as_posix()))
    return path if path.startswith("../") else f"./{path}"


def _source_link(manifest: dict[str, Any], place: _Place) -> Iterator[dict[str, Any]]:
    source = manifest["source"]
    path, local = str(source["path"]), source.get("sha256") is not None
    if path.startswith(("http://", "https://")):
        href = quote(path, safe=":/?&=%~+,;@!$'()*[]")
    elif local and not place.published:
        href = _href(Path(path), place.folder)
    else:
        return
    yield _known(
        rel="derived_from",
        href=href,
        type=_TIFF if source["driver"] in {"GTiff", "COG"} else None,
        title=_name(source),
        file__checksum=_multihash(source["sha256"]) if local else None,
        file__size=source.get("bytes"),
    )


def _multihash(sha256: str) -> str:
    """Return a SHA-256 as the file extension writes it: the kind of hash, its length in bytes, the hash."""
    return f"1220{sha256}"


def _model_link(model: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the link to the Item of a model, as MLM asks for it, given the name of its file."""
    return {
        "rel": "derived_from",
        "href": f"./{quote(os.fsencode(name))}",
        "type": "application/geo+json",
        "title": f"Model: {model['id']}",
        "mlm:name": model["properties"]["mlm:name"],
        "processing:level": _LEVEL,
    }


def _model(model: dict[str, Any]) -> dict[str, Any] | None:
    """Return the Item of the model that made a run, None where the catalog has no such, or MLM requires more of it."""
    try:
        book = catalog.load()
        record = book.models.get(model["id"])
        if record is None or record.run is None or dict(record.run.weights) != model["weights"]:
            return None
        item: dict[str, Any] = json.loads(write_record(book, [record], "stac-mlm"))
    except CatalogError:
        return None
    for asset in item["assets"].values():
        if "://" not in asset["href"]:
            asset["description"] = "Comes with the Python package geovl; the href is relative to where it is installed."
    return item


# ---------------------------------------------------------------------------------------------
# Assets


def _rasters(run: Run) -> list[str]:
    return [name for name in (LABELS, SCORES, UNKNOWN) if name in run.manifest.get("files", {})]


def _assets(layer: Layer, run: Run, place: _Place) -> dict[str, Any]:
    tiff = f"{_TIFF}; profile=cloud-optimized" if place.published else _TIFF
    scale = {"raster:scale": 1 / 254, "raster:offset": 0}
    told: dict[str, dict[str, Any]] = {
        LABELS: {"title": "Class of each pixel", "type": tiff, **_classes(layer)},
        SCORES: {"title": "Score of that class, 0 to 1", "type": tiff, "data_type": "uint8", "nodata": 255, **scale},
        UNKNOWN: {
            "title": "How unlike everything taught, 0 to 1", "type": tiff, "data_type": "uint8", "nodata": 255, **scale
        },
        SEGMENTS: {"title": "Polygons", "type": "application/vnd.apache.parquet", **_table(layer)},
    }  # fmt: skip
    out = {}
    for name in (*_rasters(run), SEGMENTS):
        file = place.files / name
        digest, size = _checked(run, file, copied=place.published)
        out[name.partition(".")[0]] = {
            "href": f"./{name}" if place.published else _href(file, place.folder),
            **told[name],
            "roles": ["data"],
            "file:checksum": _multihash(digest),
            "file:size": size,
        }
    return out


def _checked(run: Run, file: Path, *, copied: bool) -> tuple[str, int]:
    """Return hash and size of a file: a copy's own, else what the manifest says.

    Raises:
        RunError: The run's file is not what the manifest says.
    """
    if copied:
        return runs.sha256(file), file.stat().st_size
    told = run.manifest["files"][file.name]
    if not file.is_file() or file.stat().st_size != told["bytes"]:
        msg = f"{file} is missing, or was changed after the run was made."
        raise RunError(msg, f"See what is wrong with: geovl runs verify {run.id}")
    return told["sha256"], told["bytes"]


def _classes(layer: Layer) -> dict[str, Any]:
    """Return what the values of the labels mean."""
    with rasterio.open(layer.labels) as dataset:
        dtype, nodata = str(dataset.dtypes[0]), int(dataset.nodata)
    out: list[dict[str, Any]] = [{"value": 0, "name": "background", "title": "Nothing that was asked for"}]
    taken = {"background", "nodata"}
    for label, (name, color) in enumerate(layer.colors.items(), 1):
        word = re.sub(r"[^0-9A-Za-z_]+", "-", name).strip("-")[:60]
        word = f"{word or 'class'}-{label}" if not word or word.casefold() in taken else word
        taken.add(word.casefold())
        out.append({"value": label, "name": word, "title": name, "color_hint": color[1:]})
    out.append({"value": nodata, "name": "nodata", "nodata": True})
    return {"data_type": dtype, "nodata": nodata, "classification:classes": out}


def _table(layer: Layer) -> dict[str, Any]:
    schema = layer.batches().schema
    return {
        "table:columns": [{"name": field.name, "type": str(field.type)} for field in schema],
        "table:primary_geometry": "geometry",
        "table:row_count": layer.count,
    }
