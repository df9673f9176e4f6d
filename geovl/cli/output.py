"""All that the command line prints: the answer on stdout, everything else on stderr."""

import errno
import json
import logging
import os
import re
import shutil
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


def stdout() -> "Console":
    """Return a console on stdout as it is now."""
    from rich.console import Console

    return Console(highlight=False)


def shown(text: str) -> str:
    """Return text as it may go to a terminal: what a record or raster says must not steer it."""
    if text.isascii() and text.isprintable():
        return text
    kept = (" " if part in "\t\r\n" else part for part in text)
    return "".join(part for part in kept if part.isprintable() or part in _JOINERS)


def _lines(text: str) -> str:
    """Return lines as they may go to a terminal; bold type of our own stays."""
    if text.isascii() and text.isprintable():
        return text
    parts = re.split(r"(\x1b\[[01]m|\n)", text)
    return "".join(part if at % 2 else shown(part) for at, part in enumerate(parts))


_JOINERS = "\u200c\u200d"  # within words of several scripts, and emoji


def wide(text: str) -> int:
    """Return how many columns of a terminal text takes."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(part) or part in _JOINERS else 1 + (unicodedata.east_asian_width(part) in "WF")
        for part in text
    )


def fitted(text: str, columns: int, *, right: bool = False) -> str:
    """Return text filled up or cut to so many columns; what is cut ends with an ellipsis."""
    if wide(text) > columns:
        while text and wide(text) > columns - 1:
            text = text[:-1]
        text += "…"
    blanks = " " * (columns - wide(text))
    return blanks + text if right else text + blanks


def answer(text: str) -> None:
    """Print the answer on stdout."""
    typer.echo(_lines(text))


def answer_raw(text: str) -> None:
    """Print a document on stdout as it is, line ends and all."""
    stream = typer.get_text_stream("stdout")
    stream.flush()
    typer.get_binary_stream("stdout").write(text.encode("utf-8"))


def answer_json(value: Any) -> None:
    """Print the answer on stdout as JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def answer_table(found: "Table") -> None:
    """Print a table on stdout, as wide as the terminal."""
    stdout().print(found)


def note(text: str, *, quiet: bool = False) -> None:
    """Print a remark on stderr."""
    if not quiet:
        typer.echo(_lines(text), err=True)  # rich would take longer to load than a list to be made


@contextmanager
def working(text: str, *, quiet: bool = False) -> Iterator[None]:
    """Show on stderr that work goes on, where somebody looks at it."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    with stderr().status(text):
        yield


def warn(text: str) -> None:
    """Print a warning on stderr."""
    console = stderr()
    console.print("[yellow]warning:[/yellow] ", end="")
    console.print(text, markup=False, soft_wrap=True)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = (), title: str = ""
) -> "Table":
    """Make a plain table; columns named in ``right`` are right-aligned. What cells say is text, never rich's markup."""
    from rich.table import Table
    from rich.text import Text

    out = Table(
        title=Text(shown(title)) if title else None, title_justify="left", box=None, pad_edge=False, header_style="bold"
    )
    for place, name in enumerate(columns):
        # the first column names the row and is what people copy: it is never broken
        out.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=place == 0)
    for row in rows:
        out.add_row(*(Text(shown(cell)) for cell in row))
    return out


def width() -> int:
    """Return how many characters fit into a line of stdout; 120 where nobody looks at it and COLUMNS is not set."""
    return shutil.get_terminal_size((120, 24)).columns


def columns(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, grow: str = "", right: Sequence[str] = (), indent: int = 0
) -> Iterator[str]:
    """Lay out a table as lines of the terminal's width, the leftmost columns first.

    Columns that do not fit are left out, but for the first; the one named ``grow`` takes what is left and is cut with
    an ellipsis. Done here, as rich takes longer to load than the catalog to answer.

    Args:
        heads: Name of each column, most important first.
        rows: As many cells each.
        grow: Column that may be cut to 24 characters.
        right: Columns that are right-aligned.
        indent: Characters that the caller puts before each line.

    Yields:
        Lines, the heads first.
    """
    cells = [[shown(cell) for cell in row] for row in rows]
    full = [max(map(wide, column)) for column in zip(heads, *cells, strict=True)]
    least = [min(size, 24) if name == grow else size for name, size in zip(heads, full, strict=True)]
    room = width() - indent
    taken, used = [0], least[0]
    for place in range(1, len(heads)):
        if used + 2 + least[place] <= room:
            taken.append(place)
            used += 2 + least[place]
    spare = max(room - used, 0)
    sizes = {place: least[place] + (spare if heads[place] == grow else 0) for place in taken}
    sizes = {place: min(size, full[place]) for place, size in sizes.items()}
    bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for row in (heads, *cells):
        parts = [fitted(row[place], sizes[place], right=heads[place] in right) for place in taken]
        line = "  ".join(parts).rstrip()
        yield f"\033[1m{line}\033[0m" if bold and row is heads else line


def set_verbosity(verbose: int, quiet: bool) -> None:
    """Set the level of logging on stderr."""
    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, stream=sys.stderr, format="%(name)s: %(message)s", force=True)
    # GDAL repeats through logging what the error message says already
    # huggingface_hub sets its own level when it is loaded, and tells of every try
    os.environ.setdefault("HF_HUB_VERBOSITY", "debug" if verbose > 1 else "error")
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
    except OSError as error:
        if settings.debug() or error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
            raise
        note(f"error: the answer cannot be written: {error.strerror}.")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        note(f"Interrupted; {interrupted}")
        raise typer.Exit(INTERRUPTED) from None
