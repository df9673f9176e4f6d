"""What flows between the stages: the one vocabulary of values that all of geovl shares.

Shapes are ``(height, width)`` or ``(channels, height, width)``; a ``valid`` mask is True
where a pixel may be used. Nothing here holds its parent: a chip does not know its
raster, scores do not know their model.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import numpy as np

from geovl.errors import PromptError

if TYPE_CHECKING:
    from affine import Affine
    from numpy.typing import NDArray
    from pyproj import CRS

ScoreKind = Literal["probability", "logit", "vote"]


class Window(NamedTuple):
    """A rectangle of pixels: upper-left corner and size, all in whole pixels."""

    row: int
    col: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices that cut this window out of an array."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)


@dataclass(frozen=True, slots=True)
class Axis:
    """The windows along one axis: ``starts[i]`` and the one ``size`` that all share; see :mod:`geovl.windows`."""

    starts: tuple[int, ...]
    size: int
    zones: tuple[tuple[int, int], ...]
    """``zones[i]``: pixels [start, stop) decided by windows i and i + 1 together."""

    def scaled(self, factor: int) -> "Axis":
        """Return the same windows over pixels ``factor`` times as fine."""
        zones = tuple((first * factor, stop * factor) for first, stop in self.zones)
        return Axis(tuple(start * factor for start in self.starts), self.size * factor, zones)

    def zone_before(self, index: int) -> tuple[int, int]:
        """Return the zone shared with the window before, empty for the first."""
        return self.zones[index - 1] if index else (self.starts[0], self.starts[0])

    def zone_after(self, index: int) -> tuple[int, int]:
        """Return the zone shared with the window after, empty for the last."""
        end = self.starts[-1] + self.size
        return self.zones[index] if index < len(self.zones) else (end, end)


@dataclass(frozen=True, slots=True)
class WindowGrid:
    """Windows over a raster, in the order in which they are worked on: row by row."""

    rows: Axis
    cols: Axis

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.cols.starts)

    def scaled(self, factor: int) -> "WindowGrid":
        """Return the same windows over pixels ``factor`` times as fine."""
        return WindowGrid(self.rows.scaled(factor), self.cols.scaled(factor))

    def window(self, row: int, col: int) -> Window:
        """Return the window at grid position (row, col)."""
        return Window(self.rows.starts[row], self.cols.starts[col], self.rows.size, self.cols.size)

    def __iter__(self) -> Iterator[tuple[int, int, Window]]:
        for row in range(len(self.rows.starts)):
            for col in range(len(self.cols.starts)):
                yield row, col, self.window(row, col)


@dataclass(frozen=True, slots=True)
class GeoBox:
    """A pixel grid on the ground: shape, affine transform and CRS."""

    shape: tuple[int, int]
    """Height and width in pixels."""
    transform: "Affine"
    """From (column, row) to (x, y) of the CRS; the corner of pixel (0, 0) is at (0, 0)."""
    crs: "CRS | None"
    """None for a raster in pixel space."""


@dataclass(frozen=True, slots=True)
class Chip:
    """The pixels of one window, ready for a model."""

    pixels: "NDArray[np.uint8]"
    """uint8 (3, height, width): red, green, blue, stretched to 0..255 by whole-raster statistics."""
    valid: "NDArray[np.bool_]"
    """bool (height, width): True where the source has data."""
    window: Window
    """Where the chip lies in its raster."""
    gsd: float | None
    """Ground sample distance in metres per pixel, or None where unknown."""

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[0] != 3 or self.pixels.dtype != np.uint8:
            msg = f"Chip pixels must be uint8 (3, height, width), got {self.pixels.dtype} {self.pixels.shape}"
            raise ValueError(msg)
        if self.valid.shape != self.pixels.shape[1:]:
            msg = f"Chip mask must be {self.pixels.shape[1:]}, got {self.valid.shape}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class ClassPrompt:
    """One class to look for: a name for the output, and the phrases that mean it."""

    name: str
    phrases: tuple[str, ...]
    color: str | None = None
    """``#rrggbb``; chosen by its place where None."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The ordered classes that one call asks for; label ``i + 1`` is ``classes[i]``, 0 is background."""

    classes: tuple[ClassPrompt, ...]

    def __post_init__(self) -> None:
        if not self.classes:
            msg = "No prompt was given."
            raise PromptError(msg, 'Say what to look for: geovl segment tile.tif "building"')
        if len(self.classes) > 65_534:
            msg = f"{len(self.classes)} prompts were given; a label raster holds at most 65534."
            raise PromptError(msg)
        seen: set[str] = set()
        for entry in self.classes:
            if not entry.name.strip() or not entry.phrases or not all(p.strip() for p in entry.phrases):
                msg = f"Prompt {entry.name!r} is empty."
                raise PromptError(msg, 'Say what to look for: geovl segment tile.tif "building"')
            if entry.name.casefold() in seen:
                msg = f"Prompt {entry.name!r} was given twice."
                raise PromptError(msg, "Give each class once.")
            seen.add(entry.name.casefold())

    @classmethod
    def from_prompts(cls, prompts: "list[str] | tuple[str, ...] | str") -> "Vocabulary":
        """Make one class of each prompt, named as it was typed (outer blanks removed).

        Raises:
            PromptError: No prompt, an empty one, or one given twice.
        """
        words = [prompts] if isinstance(prompts, str) else list(prompts)
        cleaned = [" ".join(word.split()) for word in words]
        return cls(tuple(ClassPrompt(word, (word,)) for word in cleaned))

    @property
    def names(self) -> tuple[str, ...]:
        """The class names, in label order from label 1."""
        return tuple(entry.name for entry in self.classes)

    @property
    def own_colors(self) -> dict[str, str]:
        """Name to colour of the classes that have one of their own."""
        return {entry.name: entry.color for entry in self.classes if entry.color is not None}

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True, slots=True)
class Scores:
    """What a segmenter says about one chip."""

    values: "NDArray[np.float32]"
    """float32 (classes, height, width), in the order of the vocabulary."""
    kind: ScoreKind
    """``probability`` and ``vote`` lie in 0..1; ``logit`` is unbounded, 0 means even odds."""
    marks: tuple[str, ...] = ()
    """What was wrong with the answers about this chip, a word or two each ("repaired"); a run counts them."""

    def probabilities(self) -> "NDArray[np.float32]":
        """Return the scores as float32 (classes, height, width) in 0..1."""
        if self.kind != "logit":
            return self.values
        out = np.empty_like(self.values)
        np.exp(-np.abs(self.values), out=out)  # never overflows
        return np.where(self.values >= 0, 1 / (1 + out), out / (1 + out)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class PromptNote:
    """How well a model knows one class of the vocabulary."""

    name: str
    """The class, as the user typed it."""
    status: Literal["known", "experimental", "guess"]
    """``experimental``: taught, but poorly; ``guess``: never taught, only near something that was."""
    nearest: tuple[str, ...]
    """The trained concepts that lie nearest, nearest first."""
    similarity: float
    """Similarity to the nearest concept, in -1..1."""


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """The part of a catalog record that running a model needs."""

    id: str
    """Catalog id, lower case with hyphens."""
    backend: str
    """A name in the registry of segmenters."""
    weights: dict[str, str]
    """File name (relative to the record's weights folder) to sha256 hex digest."""
    version: str
    """Version of the weights."""
    gsd_range: tuple[float, float] | None
    """Metres per pixel that the model was trained for: finest, coarsest."""
    license: str
    """SPDX expression of the weights' licence."""
    source: str = "bundled"
    """Where the weights come from; see :class:`geovl.catalog.records.Run`."""
    revision: str | None = None
    """Commit or tag of the source."""
    mean: tuple[float, ...] | None = None
    """Of pixels in 0..1, one value a band, where the weights do not tell it."""
    std: tuple[float, ...] | None = None
    digest: str = ""
    """sha256 over all weights as they were loaded; none before they are, and for those that ``weights`` names."""
    options: "Mapping[str, str | int | float | bool]" = field(default_factory=dict)
    """What the backend is told beside: decides the result like the weights."""


@dataclass(frozen=True, slots=True)
class Polygons:
    """Polygons as flat columns, as they flow from the raster to files.

    Raises:
        ValueError: The offsets do not fit the columns, or a polygon has no ring or a ring no vertex.
    """

    coordinates: "NDArray[np.float64]"
    """(n, 2): x and y in the raster's CRS. Rings are closed; exteriors run counter-clockwise, holes clockwise."""
    rings: "NDArray[np.int64]"
    """(rings + 1): offsets into ``coordinates``."""
    parts: "NDArray[np.int64]"
    """(polygons + 1): offsets into ``rings``; the first ring of a polygon is its exterior."""
    label: "NDArray[np.int64]"
    """(polygons): i for the i-th class, from 1."""
    score: "NDArray[np.float64]"
    """(polygons): mean score of the region's pixels, 0..1."""
    pixels: "NDArray[np.int64]"
    """(polygons): pixels of the region, before its outline was simplified."""
    area_m2: "NDArray[np.float64]"
    """(polygons): area on the ground; NaN without a CRS."""
    perimeter_m: "NDArray[np.float64]"
    """(polygons): length on the ground of all rings; NaN without a CRS."""

    def __post_init__(self) -> None:
        if self.coordinates.ndim != 2 or self.coordinates.shape[1] != 2:
            msg = f"Coordinates must be (vertices, 2), got {self.coordinates.shape}"
            raise ValueError(msg)
        for name, offsets, end in (
            ("rings", self.rings, len(self.coordinates)),
            ("parts", self.parts, len(self.rings) - 1),
        ):
            if not len(offsets) or offsets[0] != 0 or offsets[-1] != end or (np.diff(offsets) < 1).any():
                msg = f"Offsets of {name} must rise from 0 to {end}"
                raise ValueError(msg)
        for name in ("label", "score", "pixels", "area_m2", "perimeter_m"):
            if getattr(self, name).shape != (len(self),):
                msg = f"Column {name} must be ({len(self)},), got {getattr(self, name).shape}"
                raise ValueError(msg)

    def __len__(self) -> int:
        return len(self.parts) - 1

    @classmethod
    def empty(cls) -> Self:
        """Return no polygons."""
        offsets, whole, real = np.zeros(1, np.int64), np.empty(0, np.int64), np.empty(0)
        return cls(np.empty((0, 2)), offsets, offsets, whole, real, whole, real, real)

    def part(self, first: int, stop: int) -> "Polygons":
        """Return polygons [first, stop); the columns are views."""
        rings = self.rings[self.parts[first] : self.parts[stop] + 1]
        return Polygons(
            self.coordinates[rings[0] : rings[-1]],
            rings - rings[0],
            self.parts[first : stop + 1] - self.parts[first],
            self.label[first:stop],
            self.score[first:stop],
            self.pixels[first:stop],
            self.area_m2[first:stop],
            self.perimeter_m[first:stop],
        )

    def bounds(self) -> "NDArray[np.float64]":
        """Return the bounding boxes, float64 (4, polygons): xmin, ymin, xmax, ymax."""
        if not len(self):
            return np.empty((4, 0))
        x, y = np.ascontiguousarray(self.coordinates.T)
        first = self.rings[self.parts[:-1]]
        low, high = np.minimum.reduceat, np.maximum.reduceat
        return np.stack([low(x, first), low(y, first), high(x, first), high(y, first)])
