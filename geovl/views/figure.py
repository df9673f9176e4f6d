"""A run as a figure for a report: picture, outlines, legend, scale bar, north, and what it was made from.

The same run gives the same bytes, whenever and wherever the same matplotlib draws it: nothing of the clock is written.
"""

import io
import math
import re
import textwrap
import unicodedata
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import CRSError

from geovl.errors import SourceError, UsageError
from geovl.export.formats import check_target
from geovl.palette import rgba
from geovl.runs import SEGMENTS, Run
from geovl.types import GeoBox
from geovl.vectors import ROWS, flat, read_batches
from geovl.views.backdrop import Backdrop, backdrop, grid, labels_on, placed
from geovl.views.saving import save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".pdf", ".svg")
_MM = 1 / 25.4  # inches
_LINE = 4.6  # mm, of the legend
_TALLEST = 1.6  # times the width; a strip of a satellite's path becomes narrower instead
_LEAST = 15  # mm of a picture that has room for bar and north
_NAME = 48  # characters of a name, at most
_ROWS = 30  # of the legend; where classes are more, it has those that were found most often
_SQUEEZE = 8.0  # a pixel that is longer than this one way is drawn square: its size on the ground is hardly meant
_POLAR = 89.5  # degrees of latitude
_SIZE = 7.5  # points of letters
_CAPTION, _TITLE = 6.0, 10.0
_FINE = 600  # pixels an inch that letters are measured at: at fewer their widths are rounded
_LEADING = 0.45  # mm from line to line, of a point of letters
_OUTLINED = 50_000
"""Polygons, at most, that are drawn as outlines; of more the labels are drawn."""
_LINES = 5_000
"""Polygons, at most, that are lines in a PDF or SVG; more would make it large and slow, and are pixels there."""
_TOLD = {
    "png": ("Software",), "pdf": ("CreationDate", "Producer", "Creator"), "svg": ("Date", "Creator"),
}  # fmt: skip
"""What matplotlib would write of itself and the clock."""
_QUIET = "#555555"
_WGS84 = Geod(ellps="WGS84")


def figure(
    run: Run, path: Path, *, overwrite: bool = False, width: float = 180, dpi: int = 200, title: str | None = None
) -> tuple[str, ...]:
    """Draw a run.

    Args:
        run: A finished run.
        path: File to write, PNG, PDF or SVG by its suffix.
        overwrite: Replace a file that is there.
        width: Of the figure, mm.
        dpi: Pixels an inch.
        title: Above it; none where None.

    Returns:
        Warnings, one sentence each.

    Raises:
        UsageError: Another suffix, or a size that is none.
        RunError: The run is damaged.
        ExportError: The file is there, or cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        msg = f"{path} does not end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, as a figure does."
        raise UsageError(msg, f"Give {path.with_suffix('.png')}")
    if not (40 <= width <= 2000 and 30 <= dpi <= 1200):
        msg = f"A figure {width:g} mm wide with {dpi} pixels an inch cannot be drawn."
        raise UsageError(msg, "Give 40 to 2000 mm and 30 to 1200 pixels an inch.")
    check_target(path, overwrite=overwrite)
    with _Plain() as said:
        drawn = _drawn(run, width, dpi, title, said)
        buffer = io.BytesIO()
        kind = path.suffix.lower()[1:]
        drawn.savefig(buffer, format=kind, dpi=dpi, metadata=dict.fromkeys(_TOLD[kind]))
    save(path, buffer.getvalue())
    return tuple(said.told)


class _Plain:
    """Draws as geovl does whatever the user's settings of matplotlib, and gathers what fonts cannot show."""

    def __init__(self) -> None:
        import matplotlib as mpl  # noqa: PLC0415 - only who draws waits for it

        self.told: list[str] = []
        self._style = mpl.rc_context({
            **mpl.rcParamsDefault, "font.family": ["DejaVu Sans"], "font.size": _SIZE, "pdf.fonttype": 42,
            "svg.hashsalt": "geovl", "text.hinting": "none", "text.usetex": False, "backend": mpl.rcParams["backend"],
        })  # fmt: skip
        self._caught = warnings.catch_warnings(record=True)

    def __enter__(self) -> Self:
        self._style.__enter__()
        self._warnings = self._caught.__enter__()
        warnings.simplefilter("always")
        return self

    def __exit__(self, *error: object) -> None:
        self._caught.__exit__(*error)  # type: ignore[arg-type]
        self._style.__exit__(*error)  # type: ignore[arg-type]
        if any("missing from" in str(one.message) for one in self._warnings or ()):
            self.told.append("Some letters of the names are in no font of the figure, and are boxes there.")


def _drawn(run: Run, width: float, dpi: int, title: str | None, said: _Plain) -> "Figure":
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    manifest = run.manifest
    under = _under(run, round(width * _MM * dpi * 1.2), said)
    box, (height, columns) = under.box, under.box.shape
    page = Figure(figsize=(width * _MM, width * _MM))
    names = _fitted(shortened(title or "", 300), width - 3, _TITLE, lines=2, weight="bold")
    caption = _fitted(_caption(manifest), width - 3, _CAPTION, lines=6)
    legend = _Legend.of(manifest["classes"], width)
    above = 1.0 + (2.0 + _LEADING * _TITLE * len(names) if names else 0)
    upright = height * _stretch(box) / columns
    tall = min(width * upright, _TALLEST * width)
    wide = max(tall / upright, 1.0)
    whole = above + tall + legend.height + 6.5 + _LEADING * _CAPTION * len(caption)
    page.set_size_inches(width * _MM, whole * _MM)
    axes = page.add_axes((0, 1 - (above + tall) / whole, wide / width, tall / whole))
    axes.set_axis_off()
    axes.imshow(under.pixels, interpolation="antialiased", aspect="auto")
    _outlines(axes, run, box)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    if min(wide, tall) >= _LEAST:
        unit = columns / wide, height / tall
        _bar(axes, box, unit, manifest["source"]["shape"][1] / columns)
        _north(axes, box, unit)
    sheet = _Sheet(page, width, whole)
    for line, text in enumerate(names):
        sheet.write(1.5, whole - 1.8 - _LEADING * _TITLE * line, text, size=_TITLE, va="top", weight="bold")
    legend.draw(sheet, whole - above - tall - 3)
    for line, text in enumerate(reversed(caption)):
        sheet.write(1.5, 1.6 + _LEADING * _CAPTION * line, text, size=_CAPTION, color=_QUIET, va="bottom")
    return page


def _under(run: Run, side: int, said: _Plain) -> Backdrop:
    """Return the picture of a run, or a clear one where it cannot be had."""
    try:
        return backdrop(run, side)
    except SourceError as error:
        said.told.append(f"{error.message} The outlines are drawn alone.")
        box = grid(run, side)
        return Backdrop(np.zeros((*box.shape, 4), np.uint8), box)


@dataclass(frozen=True, slots=True)
class _Sheet:
    """Places in mm from the lower left corner of a figure."""

    page: "Figure"
    width: float
    whole: float

    def write(self, x: float, y: float, text: str, **how: Any) -> None:
        self.page.text(x / self.width, y / self.whole, text, parse_math=False, **how)

    def swatch(self, x: float, y: float, color: str) -> None:
        from matplotlib.patches import Rectangle  # noqa: PLC0415 - as above

        place = (x / self.width, y / self.whole)
        patch = Rectangle(place, 3.4 / self.width, 2.6 / self.whole, transform=self.page.transFigure)
        patch.set(facecolor=color + "99", edgecolor=color, linewidth=0.6)
        self.page.add_artist(patch)


@cache
def _ruler() -> "FigureCanvasAgg":
    """Return a small canvas, of which only the letters are measured: a large one is slow to make."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - as above
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    return FigureCanvasAgg(Figure(figsize=(0.1, 0.1), dpi=_FINE))


def _length(text: str, size: float, **how: Any) -> float:
    """Return how long text is in a figure, mm."""
    canvas = _ruler()
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    written = canvas.figure.text(0, 0, text, size=size, parse_math=False, **how)
    length = written.get_window_extent(renderer).width / _FINE / _MM
    written.remove()
    return float(length)


def _fitted(text: str, room: float, size: float, *, lines: int, **how: Any) -> list[str]:
    """Return text in one line, or so many, of at most so many mm; what is too long ends in dots."""
    if not text:
        return []
    most = max(2, math.ceil(len(text) * room / max(_length(text, size, **how), 0.1)) + 1)
    while True:  # letters are not of one width
        found = [shortened(text, most)] if lines == 1 else _wrapped(text, most, lines)
        if most <= 2 or all(_length(line, size, **how) <= room for line in found):
            return found
        most = max(2, min(most - 1, int(most * 0.97)))


def _wrapped(text: str, most: int, lines: int) -> list[str]:
    return textwrap.wrap(text, most, max_lines=lines, placeholder="…", break_on_hyphens=False)


def _caption(manifest: dict[str, Any]) -> str:
    source, model = manifest["source"], manifest["model"]
    name, by = isolated(shortened(Path(str(source["path"])).name, 60)), shortened(model["id"], 60)
    pairs = (by, model["version"]), ("run", manifest["id"]), ("geovl", manifest["geovl"])
    made, ran, with_ = ("\N{NO-BREAK SPACE}".join(pair) for pair in pairs)
    return f"{name}, {called(source['crs'])}. {made}, {ran}, {manifest['created'][:10]}, {with_}"


def called(crs: str | None) -> str:
    """Return how a CRS is called: its code where it has one, else its name."""
    if crs is None:
        return "no CRS, in pixels"
    if re.fullmatch(r"\w{2,8}:\w{1,10}", crs):
        return crs
    try:
        name = CRS.from_user_input(crs).name
    except CRSError:
        name = ""
    return "a CRS of its own" if name in {"", "unknown", "unnamed"} else shortened(name)


def isolated(text: str) -> str:
    """Return text that leaves the order of what stands beside it alone, whichever way it is written itself."""
    turned = any(unicodedata.bidirectional(part) in {"R", "AL"} for part in text)
    return f"\u200e{text}\u200e" if turned else text


def shortened(text: str, most: int = _NAME) -> str:
    """Return text in one line, without what steers it, and at most so long."""
    kept = "".join(part for part in re.sub(r"\s+", " ", text) if part.isprintable())
    return kept if len(kept) <= most else kept[: most - 1] + "…"


def _outlines(axes: "Axes", run: Run, box: GeoBox) -> None:
    """Draw the polygons of a run in pixels of a grid, or its labels where there are too many."""
    from matplotlib.collections import PathCollection  # noqa: PLC0415 - as above

    entries = run.manifest["classes"]
    if run.manifest["polygons"] > _OUTLINED:
        table = np.array([(0, 0, 0, 0), *((*rgba(entry["color"])[:3], 130) for entry in entries)], np.uint8)
        axes.imshow(table[labels_on(run, box)], interpolation="nearest", aspect="auto")
        return
    paths = _paths(run, box)
    for entry in entries:
        if found := paths.get(entry["name"]):
            faces = PathCollection(
                found, facecolors=entry["color"] + "66", edgecolors=entry["color"], linewidths=0.6,
                transOffset=None, joinstyle="round",
            )  # fmt: skip
            faces.set_transform(axes.transData)
            faces.set_rasterized(run.manifest["polygons"] > _LINES)
            axes.add_collection(faces, autolim=False)


def _paths(run: Run, box: GeoBox) -> dict[str, list[Any]]:
    """Return the outlines of each class as paths in pixels of a grid, 0 in the middle of the first."""
    from matplotlib.path import Path as Outline  # noqa: PLC0415 - as above

    back = ~box.transform
    out: dict[str, list[Any]] = {}
    for batch in read_batches(run.path / SEGMENTS, ROWS, ("class", "geometry")):
        points, rings, polygons = flat(batch["geometry"])
        col, row = back @ (points[:, 0], points[:, 1])
        pixels = np.stack([col, row], 1) - 0.5
        codes = np.full(len(points), Outline.LINETO, np.uint8)
        codes[rings[:-1]], codes[rings[1:] - 1] = Outline.MOVETO, Outline.CLOSEPOLY
        for name, first, last in zip(batch["class"].to_pylist(), polygons[:-1], polygons[1:], strict=True):
            part = slice(rings[first], rings[last])
            out.setdefault(name, []).append(Outline(pixels[part], codes[part]))
    return out


@dataclass(frozen=True, slots=True)
class _Legend:
    entries: list[dict[str, Any]]
    columns: int
    rows: int
    more: int
    """Classes that have no room in it."""

    @classmethod
    def of(cls, classes: list[dict[str, Any]], width: float) -> "_Legend":
        columns = max(1, min(len(classes), int(width // 58)))
        shown = classes
        if len(classes) > _ROWS * columns:
            most = sorted(classes, key=lambda entry: -entry["polygons"])[: _ROWS * columns]
            shown = [entry for entry in most if entry["polygons"]]
        return cls(shown, columns, math.ceil(len(shown) / columns), len(classes) - len(shown))

    @property
    def height(self) -> float:
        """In mm."""
        return (self.rows + bool(self.more)) * _LINE

    def draw(self, sheet: _Sheet, top: float) -> None:
        """Draw it with its upper edge so many mm above the lower edge of the figure."""
        each = (sheet.width - 3) / self.columns
        for index, entry in enumerate(self.entries):
            x, y = 1.5 + each * (index // self.rows), top - _LINE * (index % self.rows)
            sheet.swatch(x, y - 2.6, entry["color"])
            amount = _amount(entry)
            room = each - 9 - _length(amount, _SIZE)
            text = shortened(entry["name"])
            (name,) = _fitted(text, room, _SIZE, lines=1) or [""]
            sheet.write(x + 5, y - 1.3, name, va="center_baseline", size=_SIZE)
            after = x + 6.6 + _length(name, _SIZE)
            sheet.write(after, y - 1.3, amount, va="center_baseline", size=_SIZE, color=_QUIET)
        if self.more:
            y = top - _LINE * self.rows - 1.3
            sheet.write(1.5, y, f"and {self.more:,} more classes", va="center", size=_SIZE, color=_QUIET)


def _amount(entry: dict[str, Any]) -> str:
    area = entry["area_m2"]
    if area is None or not entry["polygons"]:
        return f"{entry['polygons']:,}"
    return f"{entry['polygons']:,} · " + (f"{area / 1e6:,.2f} km²" if area >= 1e6 else f"{area:,.0f} m²")


def metres_per_pixel(box: GeoBox, across: tuple[float, float] = (1, 0)) -> float | None:
    """Return how long a pixel of a grid is on the ground at its centre; None without CRS.

    Args:
        box: The grid.
        across: One pixel the way that is measured, in columns and rows.
    """
    if not placed(box.crs):
        return None
    to_lonlat = Transformer.from_crs(box.crs, "OGC:CRS84", always_xy=True)
    row, col = box.shape[0] / 2, box.shape[1] / 2
    sides = [box.transform @ (col + step * across[0], row + step * across[1]) for step in (-0.5, 0.5)]
    ends = [to_lonlat.transform(*side) for side in sides]
    length = _WGS84.inv(*ends[0], *ends[1])[2]
    return float(length) if math.isfinite(length) and length > 0 else None


def _stretch(box: GeoBox) -> float:
    """Return how much taller than wide a pixel is on the ground, so that the figure is true to shape."""
    across, down = metres_per_pixel(box), metres_per_pixel(box, (0, 1))
    if across is None or down is None:
        across, down = (math.hypot(*pair) for pair in zip(*(box.transform[:2], box.transform[3:5]), strict=True))
    ratio = down / across if across else 1.0
    return ratio if 1 / _SQUEEZE <= ratio <= _SQUEEZE else 1.0


def _bar(axes: "Axes", box: GeoBox, unit: tuple[float, float], each: float) -> None:
    """Draw a scale bar of a round length, about a fifth of the width, into the lower left corner.

    Args:
        axes: Of the picture.
        box: Its grid.
        unit: Columns and rows in a mm of the figure.
        each: Pixels of the source that a pixel of the picture has along a row: what the bar counts without CRS.
    """
    metres = metres_per_pixel(box)
    scale = each if metres is None else metres
    length, text = round_length(box.shape[1] * 0.2 * scale)
    pixels = length / scale
    written = text if metres is not None else f"{length:g} pixels"
    x, y = 2.5 * unit[0] - 0.5, box.shape[0] - 0.5 - 2.5 * unit[1]
    outline = _halo()
    axes.plot([x, x + pixels], [y, y], color="white", linewidth=1.6, solid_capstyle="butt", path_effects=outline)
    how: dict[str, Any] = {"va": "bottom", "parse_math": False, "path_effects": outline, "fontsize": 7}
    axes.text(x, y - 1.25 * unit[1], written, color="white", **how)


def round_length(metres: float) -> tuple[float, str]:
    """Return the longest of 1, 2, 5 times a power of ten that is not over a length, and how it is written."""
    power = 10.0 ** math.floor(math.log10(metres))
    length = next(step for step in (5 * power, 2 * power, power) if step <= metres * (1 + 1e-9))
    return length, f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"


def north(box: GeoBox) -> tuple[float, float] | None:
    """Return which way true north is at the centre of a grid, as columns and rows of length 1.

    None without CRS, and beside a pole, around which north is every way.
    """
    if not placed(box.crs):
        return None
    to_lonlat = Transformer.from_crs(box.crs, "OGC:CRS84", always_xy=True)
    here = box.transform @ (box.shape[1] / 2, box.shape[0] / 2)
    lon, lat = to_lonlat.transform(*here)
    if not abs(lat) < _POLAR:
        return None
    there = to_lonlat.transform(lon, lat + 1e-4, direction="INVERSE")
    col, row = (one - other for one, other in zip(~box.transform @ there, ~box.transform @ here, strict=True))
    length = math.hypot(col, row)
    return (col / length, row / length) if math.isfinite(length) and length else None


def _north(axes: "Axes", box: GeoBox, unit: tuple[float, float]) -> None:
    """Draw an arrow to true north into the upper right corner.

    Args:
        axes: Of the picture.
        box: Its grid.
        unit: Columns and rows in a mm of the figure.
    """
    way = north(box)
    if way is None:
        return
    across, down = way[0] / unit[0], way[1] / unit[1]  # as it is on paper
    length = math.hypot(across, down)
    across, down = across / length, down / length
    size = min(max(0.09 * min(box.shape[1] / unit[0], box.shape[0] / unit[1]), 4.5), 11.0)

    def at(along: float) -> tuple[float, float]:
        """Return columns and rows of a place so far along the arrow, in parts of its size."""
        x, y = along * across * size - size, along * down * size + size
        return box.shape[1] - 0.5 + x * unit[0], y * unit[1] - 0.5

    arrow = {"arrowstyle": "-|>", "color": "white", "lw": 1.2, "shrinkA": 0, "shrinkB": 0, "path_effects": _halo()}
    axes.annotate("", at(0.3), at(-0.55), arrowprops=arrow, annotation_clip=False)
    how: dict[str, Any] = {"ha": "center", "va": "center", "path_effects": _halo(), "fontsize": 7}
    axes.text(*at(0.6), "N", color="white", **how)


def _halo() -> list[Any]:
    """Return what makes white readable on any picture."""
    from matplotlib.patheffects import withStroke  # noqa: PLC0415 - as above

    return [withStroke(linewidth=2.6, foreground="#222222")]
