"""``geovl view``: a run as a map that opens in any browser, without network."""

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geovl.cli import options, output
from geovl.errors import UsageError

if TYPE_CHECKING:
    from geovl.runs import Run

    _Written = tuple[Path, tuple[str, ...]]


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
    png: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a figure for a report instead, .png, .pdf or .svg: outlines, legend, scale bar, north.",
            show_default=False,
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="Of the figure.", show_default=False)] = "",
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
    """Write a run as a map: one HTML file with everything inside, which needs no network; or as a figure.

    It has the picture, the polygons with class, score and area, a legend that hides classes, a
    table that sorts and zooms, a slider for the least score, and a swipe between picture and
    result. Prints the file's path.

    \b
    Examples:
      geovl view --open
      geovl view -o runways.html
      geovl view --png runways.png --title "Runways, March 2025"
      geovl view 20250301-101500-123-abcd 20260301-101500-456-ef01 -o years.html
      geovl view --basemap 'https://tile.openstreetmap.org/{z}/{x}/{y}.png' --attribution '© OpenStreetMap contributors'
    """  # noqa: D301 - click reads the backspace: what follows keeps its lines
    output.set_verbosity(0, quiet)
    with output.faults():
        from geovl import runs, settings

        keep = runs.RunStore(store or settings.store_dir())
        found = [keep.get(one) for one in dict.fromkeys(run)] if run else [keep.get(None)]
        with output.working("Drawing ...", quiet=quiet):
            if png is not None:
                target, warnings = _figure(found, png, title, overwrite=overwrite, page=out)
            else:
                target, warnings = _page(found, out, basemap, attribution, overwrite=overwrite)
        for warning in warnings:
            output.warn(warning)
        output.answer(str(target))
        if open_ and not webbrowser.open(target.resolve().as_uri()):
            output.warn("No browser could be opened here; open the file yourself.")


def _figure(found: "list[Run]", path: Path, title: str, *, overwrite: bool, page: Path | None) -> "_Written":
    from geovl.views.figure import figure

    if page is not None or len(found) > 1:
        msg = "A figure shows one run, and is written alone."
        raise UsageError(msg, "Leave -o out, and name one run: geovl view RUN --png FILE")
    return path, figure(found[0], path, overwrite=overwrite, title=title or None)


def _page(
    found: "list[Run]", out: Path | None, basemap: str | None, attribution: str, *, overwrite: bool
) -> "_Written":
    from geovl.views.page import Basemap, page

    if out is not None and out.suffix.lower() not in {".html", ".htm"}:
        msg = f"{out} does not end in .html, which a page is."
        raise UsageError(msg, f"Give -o {out.with_suffix('.html')}; for a figure: --png; for other files: geovl export")
    target = out or Path(f"{found[-1].id}.html")
    tiles = None if basemap is None else Basemap(basemap, attribution)
    return target, page(found, target, basemap=tiles, overwrite=overwrite)
