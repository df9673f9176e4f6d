"""``geovl view``: a run as a map that opens in any browser, without network."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from geovl.cli import options, output
from geovl.errors import UsageError


def view(
    run: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Run ids; several of one place get a slider over their dates. Default: the latest.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="HTML file to write. Default: named after the run.", show_default=False),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    basemap: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Tiles to load beneath it, with {z}, {x} and {y}. Only then the page uses the network.",
            show_default=False,
        ),
    ] = None,
    attribution: Annotated[
        str, typer.Option(metavar="TEXT", help="Whose tiles they are, to be shown on the map.", show_default=False)
    ] = "",
    overwrite: options.Overwrite = False,
    store: options.Store = None,
    quiet: options.Quiet = False,
) -> None:
    """Write a run as a map: one HTML file with everything inside, which needs no network.

    It has the picture, the polygons with class, score and area, a legend that hides classes, a
    table that sorts and zooms, a slider for the least score, and a swipe between picture and
    result. Prints the file's path.

    \b
    Examples:
      geovl view --open
      geovl view -o runways.html
      geovl view 20250301-101500-123-abcd 20260301-101500-456-ef01 -o years.html
      geovl view --basemap 'https://tile.openstreetmap.org/{z}/{x}/{y}.png' --attribution '© OpenStreetMap contributors'
    """  # noqa: D301 - click reads the backspace: what follows keeps its lines
    output.set_verbosity(0, quiet)
    with output.faults():
        from geovl import runs, settings
        from geovl.views.page import Basemap, page

        if out is not None and out.suffix.lower() not in {".html", ".htm"}:
            msg = f"{out} does not end in .html, which a page is."
            raise UsageError(msg, f"Give -o {out.with_suffix('.html')}; for other files: geovl export")
        keep = runs.RunStore(store or settings.store_dir())
        found = [keep.get(one) for one in dict.fromkeys(run)] if run else [keep.get(None)]
        target = out or Path(f"{found[-1].id}.html")
        tiles = None if basemap is None else Basemap(basemap, attribution)
        for warning in page(found, target, basemap=tiles, overwrite=overwrite):
            output.warn(warning)
        output.answer(str(target))
        if open_ and not webbrowser.open(target.resolve().as_uri()):
            output.warn("No browser could be opened here; open the file yourself.")
