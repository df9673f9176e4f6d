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
            help="geojson, gpkg, geoparquet, flatgeobuf, shapefile, kml, csv, cog or stac. "
            "Default: by the suffix of -o.",
            show_default=False,
        ),
    ] = None,
    out: options.Output = None,
    style: Annotated[
        bool, typer.Option("--style/--no-style", help="Write styles beside the file, where the table above has any.")
    ] = True,
    colors: Annotated[
        bool,
        typer.Option(
            "--colors", help="Give each polygon its colour: fill, stroke and fill-opacity in GeoJSON, else color."
        ),
    ] = False,
    overwrite: options.Overwrite = False,
    store: options.Store = None,
    quiet: options.Quiet = False,
) -> None:  # fmt: skip
    """Write a run to a file that other programs open.

    \b
    format      suffix      what                                      beside it
    geojson     .geojson    RFC 7946: WGS 84, for the web             .qml .sld
    gpkg        .gpkg       GeoPackage with its style inside          -
    geoparquet  .parquet    GeoParquet 1.1, for large results         .qml .sld
    flatgeobuf  .fgb        FlatGeobuf, indexed                       .qml .sld
    shapefile   .shp        ESRI Shapefile; names of 10 characters    .qml .sld
    kml         .kml        KML: WGS 84, for Google Earth             -
    csv         .csv        CSV with WKT geometry                     -
    cog         .tif        label raster, Cloud Optimized GeoTIFF     .qml .sld .aux.xml
    stac        .stac.json  STAC Item; -o FOLDER: with its files      -

    Without -o the file is named after the run, in the working folder. GeoJSON is WGS 84
    (RFC 7946); every other format keeps the raster's CRS, KML excepted.

    QGIS takes the colours of the classes from .qml, map servers from .sld, and GDAL the names of the
    classes from .aux.xml. They are written with the file or not at all. A .qml or .sld that is there
    already is kept; with --overwrite one that geovl wrote is replaced, never one that you made.

    A STAC Item links to the run's files where they lie in the store, relative to itself. A folder
    (-o FOLDER) has copies of them, the rasters as COG, and can be moved and published.

    \b
    Examples:
      geovl export --format gpkg
      geovl export -o runways.geojson --colors
      geovl export --format geojson -o - | jq '.features | length'
      geovl export --format stac -o runways
    """  # noqa: D301 - click reads the backspace: what follows keeps its lines
    output.set_verbosity(0, quiet)
    with output.faults():
        from dataclasses import replace

        from geovl import api, settings
        from geovl.export.formats import export as write
        from geovl.export.formats import resolve

        streaming = out is not None and str(out) == "-"
        chosen = resolve(format_ or ("geojson" if out is None or streaming else None), None if streaming else out)
        found = api.open_run(run, store=store or settings.store_dir())
        if streaming and not chosen.stdout:
            msg = f"Format {chosen.name} cannot be written to stdout; geojson can."
            raise UsageError(msg, f"Give a file: -o {found.id}{chosen.suffixes[0]}")
        target = out or Path(f"{found.id}{chosen.usual}{chosen.suffixes[0]}")
        layer = replace(api.layer(found), colored=colors)
        stream = sys.stdout.buffer if streaming else target
        warnings = write(layer, stream, chosen, overwrite=overwrite, style=style)
        for warning in warnings:
            output.warn(warning)
        if not streaming:
            output.answer(str(target))
