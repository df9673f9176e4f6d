"""Label rasters as descriptors, the text that Text4Seg models read and write, and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import rasterio.windows
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from geovl.errors import RasterError, SourceError, UsageError
from geovl.raster import BlockWriter
from geovl.segmenters.text_as_mask.dialects import BACKGROUND, CLOSE, OPEN, Dialect
from geovl.segmenters.text_as_mask.grammar import Form, encode
from geovl.segmenters.text_as_mask.grid import to_pixels
from geovl.types import GeoBox, Window

_STRIP = 1024  # rows of a raster that are written at once
_MOST_CELLS = 4096


@dataclass(frozen=True, slots=True)
class Described:
    """A label raster as text."""

    text: str
    """With its tags."""
    labels: tuple[str, ...]
    """The background, then the names of labels 1, 2 and so on."""
    grid: NDArray[np.int64]
    """int64 (h, w)."""


def parse_shape(text: str) -> tuple[int, int]:
    """Read the shape of a grid: ``16``, or ``16x24`` for rows and columns.

    Raises:
        UsageError: It is none.
    """
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.strip().isdecimal() for part in parts) or not all(int(part) for part in parts):
        msg = f"{text!r} is no shape of a grid."
        raise UsageError(msg, "Give one number, 16, or rows and columns, 16x24.")
    rows, cols = int(parts[0]), int(parts[-1])
    if rows * cols > _MOST_CELLS:
        msg = f"A grid of {rows} x {cols} has more than {_MOST_CELLS} cells; no model writes that many."
        raise UsageError(msg)
    return rows, cols


def describe(
    path: Path, shape: tuple[int, int], form: Form, dialect: Dialect, names: Sequence[str] | None = None
) -> Described:
    """Write a label raster as a descriptor; only the rows that a cell is taken from are read.

    Args:
        path: A raster of one band of integers, 0 and nodata being background.
        shape: Rows and columns of the grid.
        form: How it is written.
        dialect: How it is spelled.
        names: Of labels 1, 2 and so on; None: those that the raster tells, as ``labels.tif`` of a run does.

    Raises:
        SourceError: It cannot be read.
        RasterError: It is no raster of labels, or holds a label without name.
        PromptError: A name could not be read back.
    """
    try:
        with rasterio.open(path) as dataset:
            if not np.issubdtype(np.dtype(dataset.dtypes[0]), np.integer):
                msg = f"{path} holds {dataset.dtypes[0]}; labels are integers."
                raise RasterError(msg, "Give labels.tif of a run, or another raster of classes.")
            told = dataset.tags().get("classes")
            cells = _cells(dataset, shape)
            cells = np.where(cells == dataset.nodata, 0, cells) if dataset.nodata is not None else cells
    except RasterioError as error:
        msg = f"{path} cannot be read: {error}"
        raise SourceError(msg) from None
    grid = cells.astype(np.int64)
    names = list(names or (told.split("\n") if told else [f"class {n}" for n in range(1, max(int(grid.max()), 1) + 1)]))
    if int(grid.min()) < 0 or int(grid.max()) > len(names):
        wrong = int(grid.min()) if int(grid.min()) < 0 else int(grid.max())
        msg = f"{path} holds the label {wrong}; names were given for 1 to {len(names)}."
        raise RasterError(msg, "Give a --label for each, in order.")
    labels = (BACKGROUND, *names)
    return Described(f"{OPEN}{encode(grid, labels, form, dialect)}{CLOSE}", labels, grid)


def _cells(dataset: "rasterio.DatasetReader", shape: tuple[int, int]) -> NDArray[np.integer]:
    """Read the middle of each cell, as :func:`~geovl.segmenters.text_as_mask.grid.to_grid` would."""
    rows, cols = (
        (2 * np.arange(cells) + 1) * side // (2 * cells)
        for cells, side in zip(shape, (dataset.height, dataset.width), strict=True)
    )
    lines = [dataset.read(1, window=rasterio.windows.Window(0, int(row), dataset.width, 1))[0, cols] for row in rows]
    return np.stack(lines)


def paint(grid: NDArray[np.int64], labels: Sequence[str], like: Path, out: Path) -> None:
    """Write a grid as a label raster on the pixels of another raster.

    Args:
        grid: int64 (h, w).
        labels: The background, then the names of labels 1, 2 and so on.
        like: A raster that gives size, transform and CRS.
        out: GeoTIFF to write.

    Raises:
        SourceError: ``like`` cannot be read.
        OSError: ``out`` cannot be written.
    """
    try:
        with rasterio.open(like) as dataset:
            size, transform, crs = dataset.shape, dataset.transform, dataset.crs
    except RasterioError as error:
        msg = f"{like} cannot be read: {error}"
        raise SourceError(msg) from None
    from pyproj import CRS  # noqa: PLC0415 - only here

    box = GeoBox(size, transform, CRS.from_wkt(crs.to_wkt()) if crs else None)
    dtype, nodata = ("uint8", 255) if len(labels) < 255 else ("uint16", 65535)
    columns = to_pixels(grid, (grid.shape[0], size[1]))
    rows = np.arange(size[0]) * grid.shape[0] // size[0]
    with BlockWriter(out, box, dtype, nodata, {"classes": "\n".join(labels[1:])}) as writer:
        for top in range(0, size[0], _STRIP):
            some = columns[rows[top : top + _STRIP]]
            writer.write(some.astype(dtype), Window(top, 0, *some.shape))
