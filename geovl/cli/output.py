"""All that the command line prints: the answer on stdout, everything else on stderr."""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from geovl import settings
from geovl.errors import GeovlError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

INTERRUPTED = 130


def stderr() -> "Console":
    """Return a console on stderr as it is now (tests replace it)."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def answer(text: str) -> None:
    """Print the answer on stdout."""
    typer.echo(text)


def answer_json(value: Any) -> None:
    """Print the answer on stdout as JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def answer_table(found: "Table") -> None:
    """Print a table on stdout, as wide as the terminal."""
    from rich.console import Console

    Console(highlight=False).print(found)


def note(text: str, *, quiet: bool = False) -> None:
    """Print a remark on stderr."""
    if not quiet:
        stderr().print(text, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    console = stderr()
    console.print("[yellow]warning:[/yellow] ", end="")
    console.print(text, markup=False, soft_wrap=True)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = (), title: str = ""
) -> "Table":
    """Make a plain table; columns named in ``right`` are right-aligned."""
    from rich.table import Table

    out = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(columns):
        # the first column names the row and is what people copy: it is never broken
        out.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=place == 0)
    for row in rows:
        out.add_row(*row)
    return out


def set_verbosity(verbose: int, quiet: bool) -> None:
    """Set the level of logging on stderr."""
    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, stream=sys.stderr, format="%(name)s: %(message)s", force=True)
    # GDAL repeats through logging what the error message says already
    logging.getLogger("rasterio").setLevel(logging.DEBUG if verbose > 1 else logging.CRITICAL)
    logging.getLogger("pyogrio").setLevel(logging.DEBUG if verbose > 1 else logging.CRITICAL)


@contextmanager
def faults(interrupted: str = "nothing was kept.") -> Iterator[None]:
    """Turn a geovl error into one message with a hint and its exit code; Ctrl-C into 130.

    Args:
        interrupted: What Ctrl-C leaves.

    ``GEOVL_DEBUG=1`` lets the traceback through.
    """
    try:
        yield
    except GeovlError as error:
        if settings.debug():
            raise
        console = stderr()
        console.print("[bold red]error:[/bold red] ", end="")
        console.print(error.message, markup=False, soft_wrap=True)
        if error.hint:
            console.print(error.hint, markup=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        note(f"Interrupted; {interrupted}")
        raise typer.Exit(INTERRUPTED) from None
