"""A run as a figure for a report: picture, outlines, legend, scale bar, north, and what it was made from.

The same run gives the same bytes, whenever and wherever the same matplotlib draws it: nothing of the clock is written.
"""

import io
import math
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pyproj import Geod, Transformer

from geovl.errors import SourceError, UsageError
from geovl.export.formats import check_target
from geovl.palette import rgba
from geovl.runs import SEGMENTS, Run
from geovl.types import GeoBox
from geovl.vectors import ROWS, flat, read_batches
from geovl.views.backdrop import backdrop, grid, labels_on, placed
from geovl.views.saving import save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".pdf")
_MM = 1 / 25.4  # inches
_LINE = 4.6  # mm, of the legend
_TALLEST = 1.6  # times the width; a strip of a satellite's path becomes narrower instead
_LEAST = 15  # mm of a picture that has room for bar and north
_NAME = 48  # characters of a name, at most
_OUTLINED = 50_000
"""Polygons, at most, that are drawn as outlines; of more the labels are drawn."""
_QUIET = "#555555"
_WGS84 = Geod(ellps="WGS84")


def figure(
    run: Run, path: Path, *, overwrite: bool = False, width: float = 180, dpi: int = 200, title: str | None = None
) -> tuple[str, ...]:
    """Draw a run.

    Args:
        run: A finished run.
        path: File to write, PNG or PDF by its suffix.
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
        msg = f"{path} does not end in {' or '.join(SUFFIXES)}, as a figure does."
        raise UsageError(msg, f"Give {path.with_suffix('.png')}")
    if not (40 <= width <= 2000 and 30 <= dpi <= 1200):
        msg = f"A figure {width:g} mm wide with {dpi} pixels an inch cannot be drawn."
        raise UsageError(msg, "Give 40 to 2000 mm and 30 to 1200 pixels an inch.")
    check_target(path, overwrite=overwrite)
    with _Plain() as said:
        drawn = _drawn(run, width, dpi, title, said)
        buffer = io.BytesIO()
        nothing: dict[str, None] = {"Software": None}
        if path.suffix.lower() == ".pdf":
            nothing = {"CreationDate": None, "Producer": None, "Creator": None}
        drawn.savefig(buffer, format=path.suffix.lower()[1:], dpi=dpi, metadata=nothing)
    save(path, buffer.getvalue())
    return tuple(said.told)


class _Plain:
    """Draws as geovl does whatever the user's settings of matplotlib, and gathers what fonts cannot show."""

    def __init__(self) -> None:
        import matplotlib as mpl  # noqa: PLC0415 - only who draws waits for it

        self.told: list[str] = []
        self._style = mpl.rc_context({
            **mpl.rcParamsDefault, "font.family": ["DejaVu Sans"], "font.size": 7.5, "pdf.fonttype": 42,
            "text.usetex": False, "backend": mpl.rcParams["backend"],
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
    side = round(width * _MM * dpi * 1.2)
    try:
        under = backdrop(run, side)
        pixels, box = under.pixels, under.box
    except SourceError as error:
        box = grid(run, side)
        pixels = np.zeros((*box.shape, 4), np.uint8)
        said.told.append(f"{error.message} The outlines are drawn alone.")
    height, columns = box.shape
    classes = manifest["classes"]
    legend = _Legend.of(classes, width)
    above = 7.0 if title else 1.0
    tall = min(width * height / columns, _TALLEST * width)
    wide = max(tall * columns / height, 1.0)
    whole = above + tall + legend.height + 12
    drawn = Figure(figsize=(width * _MM, whole * _MM))
    axes = drawn.add_axes((0, 1 - (above + tall) / whole, wide / width, tall / whole))
    axes.set_axis_off()
    axes.imshow(pixels, interpolation="antialiased", aspect="auto")
    _outlines(axes, run, box)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    if min(wide, tall) >= _LEAST:
        _bar(axes, box, wide, manifest["source"]["shape"][1] / columns)
        _north(axes, box)
    if title:
        _text(drawn, 1.5, whole - 2.2, whole, width, shortened(title, 120), size=10, va="top", weight="bold")
    legend.draw(drawn, classes, whole - above - tall - 3, whole, width)
    _text(drawn, 1.5, 2, whole, width, _caption(manifest), size=6, color=_QUIET, va="bottom")
    return drawn


def _text(drawn: "Figure", x: float, y: float, whole: float, width: float, text: str, **how: Any) -> None:
    """Write text at a place in mm from the lower left corner."""
    drawn.text(x / width, y / whole, text, parse_math=False, **how)


def _caption(manifest: dict[str, Any]) -> str:
    source, model = manifest["source"], manifest["model"]
    crs = source["crs"] or "no CRS, in pixels"
    crs = crs if len(crs) < 40 else "its own CRS"
    return (
        f"{shortened(Path(str(source['path'])).name, 60)}, {crs}. {shortened(model['id'], 60)} {model['version']}, "
        f"run {manifest['id']}, {manifest['created'][:10]}, geovl {manifest['geovl']}"
    )


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
    columns: int
    rows: int

    @classmethod
    def of(cls, classes: list[dict[str, Any]], width: float) -> "_Legend":
        columns = max(1, min(len(classes), int(width // 58)))
        return cls(columns, math.ceil(len(classes) / columns))

    @property
    def height(self) -> float:
        """In mm."""
        return self.rows * _LINE

    def draw(self, drawn: "Figure", classes: list[dict[str, Any]], top: float, whole: float, width: float) -> None:
        """Draw it with its upper edge so many mm above the lower edge of the figure."""
        from matplotlib.patches import Rectangle  # noqa: PLC0415 - as above

        each = (width - 3) / self.columns
        room = max(8, int(each / 1.45) - 16)  # letters of a name that fit beside count and area
        for index, entry in enumerate(classes):
            x, y = 1.5 + each * (index // self.rows), top - _LINE * (index % self.rows)
            swatch = Rectangle((x / width, (y - 2.6) / whole), 3.4 / width, 2.6 / whole, transform=drawn.transFigure)
            swatch.set(facecolor=entry["color"] + "99", edgecolor=entry["color"], linewidth=0.6)
            drawn.add_artist(swatch)
            name = shortened(entry["name"], min(_NAME, room))
            _text(drawn, x + 5, y - 1.3, whole, width, f"{name}  {_amount(entry)}", va="center")


def _amount(entry: dict[str, Any]) -> str:
    area = entry["area_m2"]
    if area is None or not entry["polygons"]:
        return f"{entry['polygons']:,}"
    return f"{entry['polygons']:,} · " + (f"{area / 1e6:,.2f} km²" if area >= 1e6 else f"{area:,.0f} m²")


def metres_per_pixel(box: GeoBox) -> float | None:
    """Return how long a pixel of a grid is on the ground, along its rows and at its centre; None without CRS."""
    if not placed(box.crs):
        return None
    to_lonlat = Transformer.from_crs(box.crs, "OGC:CRS84", always_xy=True)
    row, col = box.shape[0] / 2, box.shape[1] / 2
    ends = [to_lonlat.transform(*(box.transform @ (col + step, row))) for step in (-0.5, 0.5)]
    length = _WGS84.inv(*ends[0], *ends[1])[2]
    return float(length) if math.isfinite(length) and length > 0 else None


def _bar(axes: "Axes", box: GeoBox, width: float, each: float) -> None:
    """Draw a scale bar of a round length, about a fifth of the width, into the lower left corner.

    Args:
        axes: Of the picture.
        box: Its grid.
        width: Of the picture, mm.
        each: Pixels of the source that a pixel of the picture has along a row: what the bar counts without CRS.
    """
    metres = metres_per_pixel(box)
    scale = each if metres is None else metres
    length, text = round_length(box.shape[1] * 0.2 * scale)
    pixels = length / scale
    unit = text if metres is not None else f"{length:g} pixels"
    edge = box.shape[1] * 2.5 / width
    y = box.shape[0] - edge - 0.5
    outline = _halo()
    axes.plot([edge, edge + pixels], [y, y], color="white", linewidth=1.6, solid_capstyle="butt", path_effects=outline)
    axes.text(
        edge, y - edge * 0.5, unit, color="white", va="bottom", parse_math=False, path_effects=outline, fontsize=7
    )


def round_length(metres: float) -> tuple[float, str]:
    """Return the longest of 1, 2, 5 times a power of ten that is not over a length, and how it is written."""
    power = 10.0 ** math.floor(math.log10(metres))
    length = next(step for step in (5 * power, 2 * power, power) if step <= metres * (1 + 1e-9))
    return length, f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"


def north(box: GeoBox) -> tuple[float, float] | None:
    """Return which way true north is at the centre of a grid, as columns and rows of length 1; None without CRS."""
    if not placed(box.crs):
        return None
    to_lonlat = Transformer.from_crs(box.crs, "OGC:CRS84", always_xy=True)
    here = box.transform @ (box.shape[1] / 2, box.shape[0] / 2)
    lon, lat = to_lonlat.transform(*here)
    there = to_lonlat.transform(lon, lat + (1e-4 if lat < 89 else -1e-4), direction="INVERSE")
    col, row = (one - other for one, other in zip(~box.transform @ there, ~box.transform @ here, strict=True))
    length = math.hypot(col, row) * (1 if lat < 89 else -1)
    return (col / length, row / length) if math.isfinite(length) and length else None


def _north(axes: "Axes", box: GeoBox) -> None:
    way = north(box)
    if way is None:
        return
    size = min(box.shape) * 0.09
    x, y = box.shape[1] - size, size
    tip = (x + way[0] * size * 0.55, y + way[1] * size * 0.55)
    tail = (x - way[0] * size * 0.35, y - way[1] * size * 0.35)
    arrow = {"arrowstyle": "-|>", "color": "white", "lw": 1.2, "shrinkA": 0, "shrinkB": 0, "path_effects": _halo()}
    axes.annotate("", tip, tail, arrowprops=arrow, annotation_clip=False)
    axes.text(
        x - way[0] * size * 0.6, y - way[1] * size * 0.6, "N", color="white", ha="center", va="center", fontsize=7,
        path_effects=_halo(),
    )  # fmt: skip


def _halo() -> list[Any]:
    """Return what makes white readable on any picture."""
    from matplotlib.patheffects import withStroke  # noqa: PLC0415 - as above

    return [withStroke(linewidth=2.6, foreground="#222222")]
