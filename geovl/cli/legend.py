"""The classes of a run as a small table for the terminal: colour, count, area, score and share."""

from typing import TYPE_CHECKING, Any

from geovl.cli import output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_BAR = 14  # characters
_PARTS = " ▏▎▍▌▋▊▉"


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


def legend(manifest: dict[str, Any], console: "Console", title: str = "") -> "Table":
    """Make the table of a run's classes.

    Args:
        manifest: Of the run.
        console: Where it will be printed; colours and bars are for people who look at a terminal.
        title: Above it.
    """
    from rich.text import Text

    classes = manifest["classes"]
    lively = console.is_terminal and console.encoding.lower().startswith("utf")
    columns = ["class", "polygons", "area m²", "score"]
    table = output.table(columns, [], right=columns[1:], title=title)
    if lively:
        table.add_column("share")
    for entry, share in zip(classes, shares(classes), strict=True):
        area, score, color = entry["area_m2"], entry["score"], entry["color"]
        name = Text.assemble(("■ ", color) if lively else "", output.shown(entry["name"]))
        row = [
            str(entry["polygons"]),
            "-" if area is None else f"{area:,.0f}",
            "-" if score is None else f"{score:.2f}",
        ]
        drawn = [Text.assemble((bar(share), color), f" {share:.0%}")] if lively else []
        table.add_row(name, *row, *drawn)
    return table
