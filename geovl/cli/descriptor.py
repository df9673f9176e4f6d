"""``geovl descriptor``: masks as text, for looking at what text-as-mask models read and write."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geovl.cli import options, output
from geovl.errors import UsageError

if TYPE_CHECKING:
    from geovl.segmenters.text_as_mask.grammar import Decoded

app = typer.Typer(
    help="Masks as text: what text-as-mask models read and write.", no_args_is_help=True, rich_markup_mode=None
)

Grid = Annotated[str, typer.Option("--grid", help="Rows and columns: 16, or 16x24.")]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", help="Name of label 1, of label 2 ...; once for each.", show_default=False),
]
DialectName = Annotated[str, typer.Option("--dialect", help="text4seg, text4seg-legacy or geoground.")]


@app.command()
def encode(
    raster: Annotated[Path, typer.Argument(help="Raster of labels, such as labels.tif of a run.", show_default=False)],
    grid: Grid = "16",
    label: Labels = None,
    form: Annotated[str, typer.Option("--form", help="rrle, irle or plain.")] = "rrle",
    dialect: DialectName = "text4seg",
    json: options.Json = False,
) -> None:
    """Print a label raster as a descriptor.

    A cell has the label of the pixel at its middle. Labels are called as the raster says
    (labels.tif of a run does), or as --label says.

    \b
    Examples:
      geovl descriptor encode .geovl/runs/ID/labels.tif --grid 32
      geovl descriptor encode classes.tif --label building --label road --form plain
    """  # noqa: D301 - click reads the backspace: what follows keeps its lines
    with output.faults():
        from geovl import descriptors
        from geovl.segmenters.text_as_mask.dialects import dialect_of
        from geovl.segmenters.text_as_mask.grammar import FORMS

        chosen = next((known for known in FORMS if known == form), None)
        if chosen is None:
            msg = f"There is no form {form!r}; there are {', '.join(FORMS)}."
            raise UsageError(msg)
        found = descriptors.describe(raster, descriptors.parse_shape(grid), chosen, dialect_of(dialect), label)
        if json:
            told = {"text": found.text, "labels": list(found.labels), "grid": found.grid.tolist()}
            output.answer_json(told)
        else:
            output.answer(found.text)


@app.command()
def decode(
    text: Annotated[str, typer.Argument(help="File with an answer of a model; - is stdin.")] = "-",
    grid: Grid = "16",
    label: Labels = None,
    referring: Annotated[bool, typer.Option("--referring", help="One thing was asked for.")] = False,
    dialect: DialectName = "text4seg",
    strict: Annotated[bool, typer.Option("--strict", help="Read as the reference implementation does.")] = False,
    like: Annotated[
        Path | None, typer.Option("--like", help="With -o: raster whose pixels the labels are for.", show_default=False)
    ] = None,
    out: options.Output = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:  # fmt: skip
    """Read an answer of a model back into a grid, and say what had to be repaired.

    Prints the grid, a row a line: . is background, 1 the first label and so on. Exits with 1 when
    there is no mask in the answer.

    \b
    Examples:
      geovl descriptor decode answer.txt --grid 16 --label ship
      geovl descriptor decode - --label ship --like tile.tif -o ship.tif < answer.txt
    """  # noqa: D301 - click reads the backspace: what follows keeps its lines
    with output.faults():
        from geovl import descriptors
        from geovl.segmenters.text_as_mask import grammar
        from geovl.segmenters.text_as_mask.dialects import BACKGROUND, dialect_of

        shape, chosen = descriptors.parse_shape(grid), dialect_of(dialect)
        if not label:
            msg = "No label was given."
            raise UsageError(msg, "Say what was asked for: --label building --label road")
        if (out is None) != (like is None):
            msg = "-o and --like go together: the raster that is written has the pixels of another."
            raise UsageError(msg)
        if out is not None and out.exists() and not overwrite:
            msg = f"{out} is there already."
            raise UsageError(msg, "Give --overwrite to replace it.")
        labels = grammar.check_vocabulary([BACKGROUND, *label], chosen)
        answer = _read(text)
        if strict:
            found = _strictly(answer, shape, labels, referring=referring)
        else:
            found = grammar.decode(answer, shape, labels, referring=referring, dialect=chosen)
        if out is not None and like is not None:
            descriptors.paint(found.grid, labels, like, out)
        told = {
            "status": found.status, "exact": found.exact, "filled": found.filled, "unknown": list(found.unknown),
            "labels": list(labels), "grid": found.grid.tolist(),
        }  # fmt: skip
        if json:
            output.answer_json(told)
        else:
            for row in found.grid.tolist():
                output.answer("".join(_sign(cell) for cell in row))
            unknown = f", unknown labels: {', '.join(found.unknown)}" if found.unknown else ""
            exact = "exact" if found.exact else f"repaired, {found.filled} cells filled{unknown}"
            output.note(f"{found.status}: {exact}.")
        if found.status != "ok":
            raise typer.Exit(1)


def _sign(cell: int) -> str:
    signs = ".123456789abcdefghijklmnopqrstuvwxyz"
    return signs[cell] if cell < len(signs) else "#"


def _read(place: str) -> str:
    """Return the text of a file, or of stdin."""
    try:
        return sys.stdin.read() if place == "-" else Path(place).read_text("utf-8")
    except OSError as error:
        msg = f"{place} cannot be read: {error.strerror}."
        raise UsageError(msg, "Give a text file, or - for stdin.") from None
    except UnicodeDecodeError:
        msg = f"{place} is no text in UTF-8."
        raise UsageError(msg) from None


def _strictly(answer: str, shape: tuple[int, int], labels: tuple[str, ...], *, referring: bool) -> "Decoded":
    """Read as the reference does: whatever it cannot read is background."""
    import numpy as np

    from geovl.segmenters.text_as_mask.grammar import Decoded, decode_strict

    try:
        found = decode_strict(answer, shape, labels)
    except (ValueError, IndexError):
        return Decoded(np.zeros(shape, np.int64), "unparsable", exact=False)
    cells = shape[0] * shape[1]
    grid = found.referring if referring else found.semantic
    return Decoded(grid, "ok", exact=found.cells == cells, filled=max(cells - found.cells, 0))
