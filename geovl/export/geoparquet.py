"""GeoParquet 1.1 with a bounding-box column, zstd: the run's own file, with colours where they are asked for."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from geovl.errors import RunError
from geovl.export.formats import Layer


def write(layer: Layer, path: Path) -> tuple[str, ...]:
    """Copy the segments.

    Raises:
        OSError: The file cannot be written.
        RunError: The segments are damaged.
    """
    if layer.colored:
        _paint(layer, path)
    else:
        shutil.copyfile(layer.file, path)
    return ()


def _paint(layer: Layer, path: Path) -> None:
    """Copy the segments row group by row group, each with a column ``color``; errors as in :func:`write`."""
    with _reading(layer):
        file = pq.ParquetFile(layer.file)
        geo = (file.metadata.metadata or {})[b"geo"]
    with file, path.open("wb") as sink:
        schema = file.schema_arrow.append(pa.field("color", pa.string()))
        leaves = [file.metadata.schema.column(index).path for index in range(file.metadata.num_columns)]
        writer = pq.ParquetWriter(
            sink,
            schema,
            compression="zstd",
            use_dictionary=[field.name for field in schema if pa.types.is_string(field.type)],
            write_statistics=[leaf for leaf in (*leaves, "color") if leaf != "geometry"],
            store_schema=False,
        )
        with writer:
            writer.add_key_value_metadata({"geo": geo})
            for group in range(file.num_row_groups):
                with _reading(layer):
                    table = file.read_row_group(group)
                writer.write_table(table.append_column("color", layer.paint(table["class"].combine_chunks())))


@contextmanager
def _reading(layer: Layer) -> Iterator[None]:
    """Tell what is wrong with the segments themselves apart from what is wrong with the target."""
    try:
        yield
    except (OSError, KeyError, ValueError) as error:
        msg = f"{layer.file} is not readable: {error}"
        raise RunError(msg, "See what is wrong with: geovl runs verify") from error
