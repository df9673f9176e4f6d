"""The ``geovl`` command: puts the commands together and nothing else."""

import sys
import warnings
from typing import Annotated

import typer

import geovl
from geovl.cli import catalog, descriptor, doctor, export, runs, segment, view

app = typer.Typer(
    name="geovl",
    help="Ask a GeoTIFF in words, get georeferenced vectors.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's help takes 0.25 s to load
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"geovl {geovl.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Ask a GeoTIFF in words, get georeferenced vectors."""


app.command("segment")(segment.segment)
app.command("export")(export.export)
app.command("view")(view.view)
app.command("doctor")(doctor.doctor)
app.add_typer(catalog.app, name="catalog")
app.add_typer(runs.app, name="runs")
app.add_typer(descriptor.app, name="descriptor")


def main() -> None:
    """Run the command line."""
    if not sys.warnoptions:
        # rasterio's words, with a line of its source, for a raster without georeference: geovl says that itself, once.
        # By message, because rasterio's class of warnings is not to be loaded for --help
        warnings.filterwarnings("ignore", "Dataset has no geotransform|The given matrix is equal to Affine")
    sys.exit(app(prog_name="geovl"))
