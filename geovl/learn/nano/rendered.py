"""Rendered training pictures: labels that the real pictures lack.

:func:`scenes` draws whole places (:mod:`geovl.scenes`), every pixel of which is told.
:func:`airfields` draws runways, taxiways and aprons over real ground, and tells only
those: the ground below is somebody's field or scrub and holds none of the three.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from geovl.learn.nano import concepts
from geovl.learn.nano.data import Sample
from geovl.scenes import CLASSES, render

SIDE = 384
"""Side of a rendered picture, pixels."""
_GROUND = ("agricultural", "chaparral", "golfcourse", "forest", "sparseresidential")
_MIX = {"airport": 0.34, "harbour": 0.22, "town": 0.18, "tank farm": 0.08, "country": 0.18}
"""Share of each kind of scene."""
_BUILT = (
    "building", "road", "pavement", "parking lot", "car", "tree", "water", "sea", "river", "lake", "swimming pool",
    "tennis court", "ship", "dock", "airplane", "runway", "taxiway", "apron", "storage tank", "bridge", "railway",
    "solar panel", "forest", "greenhouse", "overpass", "mobile home", "wind turbine",
)  # fmt: skip
_FEW = 64
"""Scenes that are not worth other processes."""
_CODES = ("runway", "taxiway", "apron")
OBJECTS = tuple(
    CLASSES.index(name)
    for name in ("airplane", "ship", "storage tank", "swimming pool", "tennis court", "car", "building", "solar panel",
                 "greenhouse", "wind turbine")
)  # fmt: skip
"""Codes of :func:`scenes` that are things with an outline, which may be pasted over other pictures."""


def _surface(rng: Generator, shape: tuple[int, int], low: float, high: float) -> NDArray[np.float32]:
    """Make paving: a grey, worn in patches, float32 (h, w, 3)."""
    grain = rng.normal(0, 5, shape).astype(np.float32)
    wear = cv2.resize(rng.normal(0, 7, (7, 7)).astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)
    tint = rng.normal(0, 4, 3).astype(np.float32)
    return np.asarray((rng.uniform(low, high) + grain + wear)[..., None] + tint, np.float32)


def _band(shape: tuple[int, int], width: float, offset: float = 0.0) -> NDArray[np.bool_]:
    """Mark a horizontal band of ``width`` pixels, ``offset`` below the middle."""
    rows = np.abs(np.arange(shape[0]) - shape[0] / 2 - offset) < width / 2
    return np.broadcast_to(rows[:, None], shape)


def _marks(rng: Generator, picture: NDArray[np.float32], width: float, start: int) -> None:
    """Paint centre line, edges, threshold bars and rubber of a runway that begins at column ``start``."""
    middle, half = picture.shape[0] / 2, width / 2
    white = float(rng.uniform(170, 240))
    dash, gap = int(rng.integers(18, 50)), int(rng.integers(14, 50))
    thin = max(1, round(width * 0.03))

    def paint(top: float, left: float, height: float, length: float) -> None:
        cell = picture[max(0, round(top)) : round(top + height), max(0, round(left)) : max(0, round(left + length))]
        cell[:] = 0.25 * cell + 0.75 * white

    for left in range(start + 60, picture.shape[1], dash + gap):
        paint(middle - thin / 2, left, thin, dash)
    if rng.random() < 0.8:
        for edge in (-half * 0.92, half * 0.92 - thin):
            paint(middle + edge, start, thin, picture.shape[1])
    if rng.random() < 0.8:
        count = int(rng.integers(6, 13))
        for bar in np.linspace(-half * 0.85, half * 0.85, count, endpoint=False):
            paint(middle + bar, start + 8, half * 0.9 / count, width * 0.35)
    rubber = np.exp(-(((np.arange(picture.shape[1]) - start - 150) / 90) ** 2)) * float(rng.uniform(0, 30))
    picture[round(middle - half * 0.4) : round(middle + half * 0.4)] -= rubber[None, :, None].astype(np.float32)


def _draw(rng: Generator, ground: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Draw one airfield over ground (h, w, 3): picture and codes."""
    big = (SIDE * 3 // 2, SIDE * 3 // 2)
    layer, codes = np.zeros((*big, 3), np.float32), np.zeros(big, np.uint8)
    width = float(np.exp(rng.uniform(np.log(24), np.log(110))))
    start = int(rng.integers(-200, 250))
    beyond = np.broadcast_to((np.arange(big[1]) >= start)[None], big)
    side = float(rng.choice([-1, 1]) * (width * 0.5 + rng.uniform(40, 150)))
    if rng.random() < 0.6:
        taxi = _band(big, width * 0.4, side) | (_band(big[::-1], width * 0.4, float(rng.uniform(-150, 150))).T)
        layer[taxi], codes[taxi] = _surface(rng, big, 70, 175)[taxi], 2
        line = _band(big, 1.6, side)
        layer[line] = (190, 165, 60)
    if rng.random() < 0.5:
        apron = _band(big, 120, side + np.sign(side) * (60 + width * 0.2))
        layer[apron], codes[apron] = _surface(rng, big, 120, 200)[apron], 3
    shoulder = _band(big, width * float(rng.uniform(1, 1.5))) & beyond
    layer[shoulder], codes[shoulder] = _surface(rng, big, 80, 180)[shoulder], 1
    strip = _band(big, width) & beyond
    layer[strip] = _surface(rng, big, 55, 185)[strip]
    painted = layer.copy()
    _marks(rng, painted, width, max(start, 0))
    layer = np.where(strip[..., None], painted, layer)
    centre = (big[0] / 2, big[1] / 2)
    turn = cv2.getRotationMatrix2D(centre, float(rng.uniform(0, 360)), 1.0)
    turn[:, 2] += rng.uniform(-80, 80, 2) - (big[0] - SIDE) / 2
    layer = cv2.warpAffine(layer, turn, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
    codes = cv2.warpAffine(codes, turn, (SIDE, SIDE), flags=cv2.INTER_NEAREST)
    soft = cv2.GaussianBlur((codes > 0).astype(np.float32), (0, 0), 0.7)[..., None]
    base = cv2.resize(ground, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    mixed = np.where(codes[..., None] > 0, soft * layer + (1 - soft) * base, base)
    return np.clip(mixed, 0, 255).astype(np.uint8), codes.astype(np.uint16)


def airfields(ground: list[Sample], count: int, seed: int) -> Iterator[Sample]:
    """Yield airfields drawn over pictures of open ground.

    Args:
        ground: Real pictures to draw over; those of open scenes are used.
        count: How many.
        seed: Decides everything.
    """
    rng = np.random.default_rng(seed)
    open_ground = [s for s in ground if s.name.removeprefix("ucm/").rstrip("0123456789") in _GROUND]
    table = np.stack([concepts.absent(_CODES), *(concepts.row(name) for name in _CODES)])
    for index in range(count if open_ground else 0):
        below = open_ground[int(rng.integers(len(open_ground)))].pixels
        pixels, codes = _draw(rng, below)
        yield Sample(f"rendered/airfield-{index}", pixels, codes, table)


def scenes(count: int, seed: int) -> list[Sample]:
    """Return whole rendered scenes, every pixel told except shaded ground; drawn by all cores.

    Args:
        count: How many.
        seed: Decides everything.
    """
    rng = np.random.default_rng(seed)
    kinds = [str(rng.choice(list(_MIX), p=list(_MIX.values()))) for _ in range(count)]
    if count < _FEW:
        return [_scene(kind, seed, index) for index, kind in enumerate(kinds)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:  # torch's threads do not survive a fork
        return list(pool.map(_scene, kinds, [seed] * count, range(count), chunksize=16))


def _scene(kind: str, seed: int, index: int) -> Sample:
    # "ground" is some ground, grown over or not: it says what is not there
    table = np.stack([concepts.absent(_BUILT) if name == "ground" else concepts.row(name) for name in CLASSES])
    scene = render(kind, np.random.default_rng((seed, index)), size=SIDE)
    pixels = np.ascontiguousarray(scene.rgb.transpose(1, 2, 0))
    return Sample(f"rendered/{kind}-{index}", pixels, scene.labels.astype(np.uint16), table)
