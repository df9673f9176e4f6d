"""Where shapes are laid down, in metres, and turned into pixels all at once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely
from affine import Affine
from rasterio.enums import MergeAlg
from rasterio.features import rasterize

from geovl.scenes import texture
from geovl.scenes.materials import Materials, Paint, materials
from geovl.scenes.scene import BACKGROUND, CLASSES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geovl.scenes.shapes import Ring
    from geovl.scenes.texture import Plane

OVERSAMPLE = 3
"""Each pixel is the mean of 3 x 3 samples; the middle one gives the label."""

_LEVELS = {
    **dict.fromkeys(
        ("unknown", "grass", "bare soil", "sand", "farmland", "water", "sea", "river", "lake", "ground"), 0
    ),
    **dict.fromkeys(("road", "runway", "baseball diamond"), 2),
    **dict.fromkeys(("bridge", "railway"), 3),
    **dict.fromkeys(("car", "ship"), 4),
    "airplane": 5,
    "building": 6,
    "storage tank": 6,
    "greenhouse": 6,
    "solar panel": 7,
    "tree": 8,
    "wind turbine": 9,
}
_TALL = tuple(CLASSES.index(name) for name in ("car", "ship", "airplane", "building", "storage tank", "tree"))
_SHADED = tuple(CLASSES.index(name) for name in ("grass", "ground", "bare soil", "sand", "pavement", "parking lot"))


@dataclass(frozen=True, slots=True)
class _Piece:
    """One painted ring."""

    ring: "NDArray[np.float64]"
    paint: Paint
    thing: int
    level: int
    outline: bool


@dataclass(frozen=True, slots=True)
class Surface:
    """What the pixels of a scene are before light and sensor have their say."""

    rgb: "Plane"
    """float32 (3, h, w), grey levels."""
    labels: "NDArray[np.uint8]"
    objects: "list[tuple[str, shapely.Polygon]]"


class Canvas:
    """Collects shapes in metres and paints them in the order of their level.

    The origin is the middle of the scene; x runs right and y down.

    Args:
        rng: Draws everything that is not told.
        size: Pixels along each side.
        gsd: Metres per pixel.
    """

    def __init__(self, rng: np.random.Generator, size: int, gsd: float) -> None:
        self.rng = rng
        self.size = size
        self.gsd = gsd
        self.half = size * gsd / 2
        self.look: Materials = materials(rng)
        azimuth, height = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(25, 72))
        self.shade = np.array([np.cos(azimuth), np.sin(azimuth)]) / np.tan(height)
        """Where the shadow of a point one metre up falls, metres."""
        self._pieces: list[_Piece] = []
        self._shadows: list[tuple[int, Ring]] = []
        self._stains: list[tuple[Ring, float]] = []
        self._things: list[str] = []

    def sees(self, ring: "Ring", margin: float = 0.0) -> bool:
        """Tell whether any part of the box around a ring, grown by ``margin`` metres, is in the picture."""
        edge = self.half + margin
        (left, top), (right, bottom) = ring.min(0), ring.max(0)
        return bool(left < edge and right > -edge and top < edge and bottom > -edge)

    def near(self, x: float, y: float, margin: float = 0.0) -> bool:
        """Tell whether a place lies in the picture or up to ``margin`` metres outside."""
        return bool(max(abs(x), abs(y)) < self.half + margin)

    def thing(self, name: str) -> int:
        """Begin a new object of a class and return its number for :meth:`draw`."""
        self._things.append(name)
        return len(self._things) - 1

    def draw(
        self,
        thing: int,
        ring: "Ring",
        paint: Paint,
        *,
        height: float = 0.0,
        floats: bool = False,
        mark: bool = False,
        level: int | None = None,
    ) -> None:
        """Lay one ring of an object down.

        Args:
            thing: Number from :meth:`thing`.
            ring: Its points, metres.
            paint: Its surface.
            height: Metres above ground, for its shadow; 0 casts none.
            floats: Only the top casts a shadow, as for wings and crowns; otherwise also the walls below.
            mark: A detail painted onto the object that adds nothing to its outline.
            level: Order of painting; by default that of the class.
        """
        reach = height * float(np.hypot(*self.shade))
        if not self.sees(ring, reach):
            return
        if level is None:
            level = _LEVELS.get(self._things[thing], 1)
        if height > 0:
            self._cast(ring, height, floats=floats)
        self._pieces.append(_Piece(ring, paint, thing, level, not mark))

    def add(self, name: str, ring: "Ring", paint: Paint, *, height: float = 0.0, level: int | None = None) -> int:
        """Lay down a new object of one ring and return its number."""
        number = self.thing(name)
        self.draw(number, ring, paint, height=height, level=level)
        return number

    def stain(self, ring: "Ring", amount: float) -> None:
        """Darken the ground inside a ring by a share, softly; a negative amount brightens. Stains add up."""
        if self.sees(ring):
            self._stains.append((ring, amount))

    def _cast(self, ring: "Ring", height: float, *, floats: bool) -> None:
        owner = len(self._pieces)
        moved = ring + self.shade * height
        self._shadows.append((owner, moved))
        if not floats:
            self._shadows.extend(
                (owner, np.array([ring[i - 1], ring[i], moved[i], moved[i - 1]])) for i in range(len(ring))
            )

    def _burn(self, items: "list[tuple[Ring, float]]", scale: int, merge: MergeAlg, kind: str) -> "NDArray[np.generic]":
        """Rasterize (ring, value) pairs at ``scale`` samples per pixel; zero elsewhere."""
        side = self.size * scale
        if not items:
            return np.zeros((side, side), kind)
        factor = scale / self.gsd
        shapes = []
        for ring, value in items:
            closed = (np.concatenate([ring, ring[:1]]) + self.half) * factor
            shapes.append(({"type": "Polygon", "coordinates": [closed.tolist()]}, value))
        burnt: NDArray[np.generic] = rasterize(
            shapes, (side, side), merge_alg=merge, dtype=kind, transform=Affine.identity(), skip_invalid=False
        )
        return burnt

    def _order(self, items: "list[tuple[Ring, int]]") -> "NDArray[np.int32]":
        """Rasterize the place of each ring in the order of painting, at every sample; the last one wins."""
        burnt = self._burn([(ring, float(place)) for ring, place in items], OVERSAMPLE, MergeAlg.replace, "int32")
        return burnt.astype(np.int32, copy=False)

    def finish(self) -> Surface:
        """Paint everything and return the bare picture with its truth.

        Raises:
            ValueError: Nothing was drawn.
        """
        if not self._pieces:
            raise ValueError("a canvas needs at least one shape")
        order = sorted(range(len(self._pieces)), key=lambda i: self._pieces[i].level)
        rank = {piece: place for place, piece in enumerate(order)}
        pieces = [self._pieces[i] for i in order]
        index = self._order([(p.ring, i) for i, p in enumerate(pieces)])
        casters = sorted(((rank[owner], ring) for owner, ring in self._shadows), key=lambda pair: pair[0])
        cover = self._order([(ring, place) for place, ring in casters])
        dark = _mean((cover > index).astype(np.float32)[..., None])[..., 0]
        middle = index[OVERSAMPLE // 2 :: OVERSAMPLE, OVERSAMPLE // 2 :: OVERSAMPLE]
        names = np.array([CLASSES.index(self._things[p.thing]) for p in pieces], np.uint8)
        labels = names[middle]
        rgb = self._colors(pieces, index, middle)
        if self._stains:
            stain = self._burn(list(self._stains), 1, MergeAlg.add, "float32").astype(np.float32)
            stain = texture.blur(stain, max(0.4, 0.8 / self.gsd))
            stain[np.isin(labels, _TALL)] = 0
            rgb *= np.clip(1 - stain, 0.25, 1.8)
        dark = texture.blur(dark, 0.5)
        depth = np.array(self.rng.uniform(0.45, 0.7) + np.array([0.08, 0.03, -0.06]), np.float32)
        rgb *= 1 - depth[:, None, None] * dark
        # Shade on ground without a shape of its own is a thing to ask for; a shaded road is still a road.
        labels[(dark > 0.6) & np.isin(labels, _SHADED)] = CLASSES.index("shadow")
        return Surface(rgb, labels, self._objects(pieces, middle))

    def _colors(self, pieces: list[_Piece], index: "NDArray[np.int32]", middle: "NDArray[np.int32]") -> "Plane":
        """Return the coloured, textured ground (3, h, w) in full light."""
        table = np.array([p.paint.color for p in pieces], np.float32)
        rgb = np.ascontiguousarray(_mean(np.take(table, index, axis=0)).transpose(2, 0, 1))
        used = [(*p.paint.drift, p.paint.mid, p.paint.fine, p.paint.stripe) for p in pieces]
        amount = np.take(np.array(used, np.float32).T, middle, axis=1)
        coarse = texture.noise(self.rng, self.size, (45 / self.gsd, 15 / self.gsd))
        mid = texture.noise(self.rng, self.size, (6 / self.gsd, 2.2 / self.gsd))
        fine = texture.noise(self.rng, self.size, (1.0, max(1.0, 0.9 / self.gsd)))
        rgb += amount[:3] * coarse
        rgb += amount[3] * mid + amount[4] * fine
        if amount[5].any():
            rgb += amount[5] * self._stripes(pieces, middle)
        return rgb

    def _stripes(self, pieces: list[_Piece], middle: "NDArray[np.int32]") -> "Plane":
        """Return the stripes of every paint, -1..1, (h, w)."""
        waves = []
        for piece in pieces:
            # Stripes narrower than two pixels would alias into false patterns.
            pace = 2 * np.pi / max(piece.paint.period, 2.5 * self.gsd)
            waves.append((pace * np.cos(piece.paint.angle), pace * np.sin(piece.paint.angle)))
        rate = np.take(np.array(waves, np.float32).T, middle, axis=1)
        at = (np.arange(self.size, dtype=np.float32) + 0.5) * np.float32(self.gsd)
        waved: Plane = np.sin(rate[0] * at[None, :] + rate[1] * at[:, None])
        return waved

    def _objects(self, pieces: list[_Piece], middle: "NDArray[np.int32]") -> "list[tuple[str, shapely.Polygon]]":
        """Return the outlines of all objects that are mostly in sight."""
        seen = np.zeros(len(self._things))
        np.add.at(seen, [p.thing for p in pieces], np.bincount(middle.ravel(), minlength=len(pieces)))
        outlines: dict[int, list[Ring]] = {}
        for piece in pieces:
            if piece.outline and seen[piece.thing] > 0 and self._things[piece.thing] not in BACKGROUND:
                outlines.setdefault(piece.thing, []).append((piece.ring + self.half) / self.gsd)
        found: list[tuple[str, shapely.Polygon]] = []
        for number, rings in outlines.items():
            shapes = [shapely.make_valid(shapely.Polygon(ring)) for ring in rings]
            whole = shapes[0] if len(shapes) == 1 else shapely.union_all(shapes)
            whole = shapely.intersection(whole, shapely.box(0, 0, self.size, self.size))
            if seen[number] < 0.5 * whole.area:
                continue
            parts = getattr(whole, "geoms", [whole])
            found += [(self._things[number], part) for part in parts if part.geom_type == "Polygon" and part.area >= 1]
        return found


def _mean(samples: "Plane") -> "Plane":
    """Return the mean of each block of 3 x 3 samples of (h, w, channels)."""
    n = OVERSAMPLE
    total = np.zeros((samples.shape[0] // n, samples.shape[1] // n, samples.shape[2]), np.float32)
    for row in range(n):
        for col in range(n):
            total += samples[row::n, col::n]
    total /= n * n
    return total
