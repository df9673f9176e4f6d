"""The classes of a run as a small table for the terminal: colour, count, area, score and share.

Laid out here, because rich's tables drop columns where a name is long. Rich still writes it: it knows which terminals
have 16, 256 or all colours.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from geovl.cli import output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_BAR = 14  # characters
_PARTS = " ▏▎▍▌▋▊▉"
_GAP = 2  # characters between columns
_NAME = 16  # least characters of a name, before a column is left out for it
_HEADS = ("class", "polygons", "area m²", "score")


def bar(share: float, width: int = _BAR) -> str:
    """Return a bar of a share of 0 to 1, in eighths of a character; what is there at all is seen."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    eighths = max(eighths, 1) if share > 0 else 0
    return ("█" * (eighths // 8) + _PARTS[eighths % 8]).strip()


def shares(classes: list[dict[str, Any]]) -> list[float]:
    """Return the share that each class has of all area, or of all polygons where areas are not known."""
    key = "polygons" if any(entry["area_m2"] is None for entry in classes) else "area_m2"
    whole = sum(entry[key] for entry in classes)
    return [entry[key] / whole if whole else 0.0 for entry in classes]


def legend(manifest: dict[str, Any], console: "Console", title: str = "") -> "Text":
    """Make the table of a run's classes.

    In a terminal it has colours and bars, and names are cut where they would break its lines. Elsewhere, and under
    ``NO_COLOR``, it is plain text; only what is no terminal gets long names whole.

    Args:
        manifest: Of the run.
        console: Where it will be printed, with ``soft_wrap=True``.
        title: Above it.
    """
    from rich.text import Text

    classes = manifest["classes"]
    plain = not console.is_terminal or console.is_dumb_terminal or console.no_color
    lively = not plain and console.encoding.lower().startswith("utf")
    parts = shares(classes) if lively else []
    cells = [[_encodable(cell, console.encoding) for cell in row] for row in (_HEADS, *map(_row, classes))]
    sizes = _sizes(cells, console.width if console.is_terminal else None, lively=lively)
    out = Text(style="" if plain else "default", end="")
    if title:
        out.append(_encodable(output.shown(title), console.encoding) + "\n", "" if plain else "italic")
    for place, row in enumerate(cells):
        entry = classes[place - 1] if place else None
        line = _encodable("".join(_laid(row, sizes)).rstrip(), console.encoding)
        if lively:
            out.append("■ " if entry else "  ", entry["color"] if entry else "")
        out.append(line, "" if plain or entry else "bold")
        if lively and len(sizes) > len(_HEADS):
            drawn = f"{' ' * _GAP}{bar(parts[place - 1]):<{_BAR}}" if entry else f"{' ' * _GAP}share"
            out.append(drawn, entry["color"] if entry else "bold")
            out.append(f" {parts[place - 1]:>4.0%}" if entry else "")
        out.append("\n")
    return out


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    area, score = entry["area_m2"], entry["score"]
    return (
        output.shown(entry["name"]),
        str(entry["polygons"]),
        "-" if area is None else f"{area:,.0f}",
        "-" if score is None else f"{score:.2f}",
    )


def _encodable(text: str, encoding: str) -> str:
    """Return text with question marks for what an encoding lacks: a name must not stop the table."""
    return text.encode(encoding, "replace").decode(encoding)


def _sizes(cells: Sequence[Sequence[str]], room: int | None, *, lively: bool) -> list[int]:
    """Return the width of each column that is shown; columns that do not fit are left out, the last first.

    Args:
        cells: Of each row, the heads' first.
        room: Characters of a line; None for as many as it takes.
        lively: Whether swatches stand before the names, and bars after all.
    """
    sizes = [max(map(output.wide, column)) for column in zip(*cells, strict=True)]
    sizes += [_BAR + len(" 100%")] if lively else []
    if room is None:
        return sizes
    room -= len("■ ") if lively else 0
    least = [min(sizes[0], _NAME), *(size + _GAP for size in sizes[1:])]
    kept = max(1, sum(taken <= room for taken in accumulate(least)))
    return [min(sizes[0], max(1, room - sum(least[1:kept]))), *sizes[1:kept]]


def _laid(row: Sequence[str], sizes: Sequence[int]) -> Iterator[str]:
    """Yield the cells of a row, each as wide as its column."""
    for place, (cell, size) in enumerate(zip(row, sizes, strict=False)):  # bars are no cells
        yield " " * _GAP * (place > 0) + output.fitted(cell, size, right=place > 0)
