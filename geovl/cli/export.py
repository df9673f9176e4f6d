"""``geovl export``: a run's polygons or label raster as a file."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from geovl.cli import options, output
from geovl.errors import UsageError


def export(
    run: Annotated[str | None, typer.Argument(help="Run id. Default: the latest.", show_default=False)] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", "-f",
            help="geojson, gpkg, geoparquet, flatgeobuf, shapefile, kml, csv or cog. Default: by the suffix of -o.",
            show_default=False,
        ),
    ] = None,
    out: options.Output = None,
    overwrite: options.Overwrite = False,
    store: options.Store = None,
    quiet: options.Quiet = False,
) -> None:  # fmt: skip
    """Write a run to a file that other programs open.

    Without -o the file is named after the run, in the working folder. GeoJSON is WGS 84
    (RFC 7946); every other format keeps the raster's CRS, KML excepted.

    Examples:
      geovl export --format gpkg

      geovl export -o runways.geojson

      geovl export --format geojson -o - | jq '.features | length'
    """
    output.set_verbosity(0, quiet)
    with output.faults():
        from geovl import api, settings
        from geovl.export.formats import export as write
        from geovl.export.formats import resolve

        streaming = out is not None and str(out) == "-"
        chosen = resolve(format_ or ("geojson" if out is None or streaming else None), None if streaming else out)
        found = api.open_run(run, store=store or settings.store_dir())
        if streaming and not chosen.stdout:
            msg = f"Format {chosen.name} cannot be written to stdout; geojson can."
            raise UsageError(msg, f"Give a file: -o {found.id}{chosen.suffixes[0]}")
        target = out or Path(f"{found.id}{chosen.suffixes[0]}")
        warnings = write(api.layer(found), sys.stdout.buffer if streaming else target, chosen, overwrite=overwrite)
        for warning in warnings:
            output.warn(warning)
        if not streaming:
            output.answer(str(target))
