"""What surfaces look like: colour, how it varies, and the colours that one place shares."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

RGB = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Paint:
    """One surface. Colours and amplitudes are in grey levels of 0..255."""

    color: RGB
    drift: RGB = (0.0, 0.0, 0.0)
    """Colour added where the coarse noise (tens of metres) is one standard deviation up."""
    mid: float = 0.0
    """Amplitude of noise of a few metres."""
    fine: float = 2.0
    """Amplitude of noise of a pixel."""
    stripe: float = 0.0
    """Amplitude of straight stripes."""
    period: float = 4.0
    """Width of one stripe and its gap, metres."""
    angle: float = 0.0
    """Direction that crosses the stripes, radians."""

    def lit(self, gain: float) -> "Paint":
        """Return the same surface brighter (gain above 1) or darker."""
        red, green, blue = self.color
        return replace(self, color=(red * gain, green * gain, blue * gain))

    def striped(self, stripe: float, period: float, angle: float) -> "Paint":
        """Return the same surface with stripes."""
        return replace(self, stripe=stripe, period=period, angle=angle)


def flat(red: float, green: float, blue: float, fine: float = 2.0) -> Paint:
    """Return a nearly even paint."""
    return Paint((red, green, blue), (2.0, 2.0, 2.0), 1.0, fine)


def vary(rng: np.random.Generator, color: "Sequence[float]", spread: float) -> RGB:
    """Return a colour near another: brightness moves by ``spread`` levels, each channel by a third of it."""
    moved = np.asarray(color) + rng.normal(0, spread) + rng.normal(0, spread / 3, 3)
    red, green, blue = np.clip(moved, 4, 252).tolist()
    return red, green, blue


def grass(rng: np.random.Generator, dryness: float) -> Paint:
    """Return grass; ``dryness`` runs from 0 (lush) over 0.6 (straw) to 1 (desert scrub)."""
    stops = np.array([(62, 92, 48), (88, 108, 64), (132, 126, 86), (172, 146, 112)], float)
    color = [float(np.interp(dryness, (0, 0.3, 0.65, 1), stops[:, c])) for c in range(3)]
    drift = rng.uniform(3, 11) * np.array([1.1, 0.6, 0.5])
    return Paint(vary(rng, color, 12), tuple(drift), rng.uniform(2, 8), rng.uniform(3, 8))


def soil(rng: np.random.Generator) -> Paint:
    """Return bare soil, from dark loam to pale sandy ground."""
    stops = ((104, 82, 64), (150, 118, 88), (184, 156, 124), (166, 108, 80), (196, 182, 158))
    color = stops[rng.integers(len(stops))]
    return Paint(vary(rng, color, 12), (7.0, 7.0, 6.0), rng.uniform(3, 8), rng.uniform(3, 7))


def asphalt(rng: np.random.Generator) -> Paint:
    """Return asphalt, dark to worn grey."""
    grey = rng.uniform(58, 150)
    return Paint(vary(rng, (grey + 2, grey, grey - 2), 6), (3.0, 3.0, 3.0), rng.uniform(1, 4), rng.uniform(1.5, 4))


def concrete(rng: np.random.Generator) -> Paint:
    """Return concrete, grey to nearly white, sometimes warm."""
    grey, warm = rng.uniform(135, 212), rng.uniform(0, 14)
    color = vary(rng, (grey + warm, grey + warm / 3, grey - warm), 5)
    return Paint(color, (4.0, 4.0, 4.0), rng.uniform(1, 4), rng.uniform(1.5, 3.5))


def hard(rng: np.random.Generator) -> Paint:
    """Return asphalt or concrete."""
    return asphalt(rng) if rng.random() < 0.55 else concrete(rng)


def water(rng: np.random.Generator) -> Paint:
    """Return open water: green, blue, brown or nearly black."""
    stops = ((36, 66, 62), (32, 58, 84), (84, 84, 62), (24, 32, 36), (58, 92, 92), (18, 74, 62), (70, 78, 84))
    color = stops[rng.integers(len(stops))]
    drift = rng.uniform(0.5, 5)
    return Paint(vary(rng, color, 8), (drift, drift, drift * 0.8), rng.uniform(0.3, 2), rng.uniform(0.8, 4))


ROOFS = (
    (150, 84, 62), (172, 108, 84), (126, 116, 108), (92, 90, 92), (148, 144, 138), (110, 86, 70),
    (196, 192, 184), (228, 228, 226), (104, 110, 118), (168, 150, 128), (84, 72, 66), (134, 66, 56),
)  # fmt: skip
"""Usual roof colours."""


def roof(rng: np.random.Generator) -> Paint:
    """Return a pitched roof's cover."""
    return Paint(vary(rng, ROOFS[rng.integers(len(ROOFS))], 10), (3.0, 3.0, 3.0), rng.uniform(1, 4), rng.uniform(2, 5))


def flat_roof(rng: np.random.Generator) -> Paint:
    """Return a flat or industrial roof, mostly grey to white, seldom red, blue or green."""
    if rng.random() < 0.12:
        tones = ((70, 110, 160), (160, 70, 60), (80, 130, 110))
        return Paint(vary(rng, tones[rng.integers(3)], 10), (3.0, 3.0, 3.0), 2.0, 3.0)
    grey = rng.uniform(70, 242)
    return Paint(vary(rng, (grey, grey, grey), 6), (5.0, 5.0, 5.0), rng.uniform(1, 5), rng.uniform(1.5, 4))


CARS = ((225, 225, 225), (200, 202, 206), (60, 60, 64), (32, 32, 36), (128, 130, 134), (150, 40, 38), (44, 66, 124),
        (90, 96, 92), (176, 166, 146))  # fmt: skip
"""Usual car colours."""


@dataclass(frozen=True, slots=True)
class Materials:
    """The surfaces that one scene shares, so that its places belong together."""

    dryness: float
    grass: Paint
    soil: Paint
    road: Paint
    pavement: Paint
    water: Paint
    leaf: RGB
    line: Paint
    """White road paint."""
    yellow: Paint


def materials(rng: np.random.Generator) -> Materials:
    """Draw the surfaces of one place."""
    dryness = float(
        rng.choice([rng.uniform(0, 0.35), rng.uniform(0.25, 0.7), rng.uniform(0.65, 1)], p=[0.5, 0.33, 0.17])
    )
    white = rng.uniform(195, 245)
    return Materials(
        dryness=dryness,
        grass=grass(rng, dryness),
        soil=soil(rng),
        road=asphalt(rng) if rng.random() < 0.75 else concrete(rng),
        pavement=concrete(rng) if rng.random() < 0.7 else asphalt(rng),
        water=water(rng),
        leaf=vary(rng, (52 + 22 * dryness, 72 + 6 * dryness, 44 + 10 * dryness), 9),
        line=flat(white, white, white - rng.uniform(0, 15)),
        yellow=flat(*vary(rng, (208, 168, 62), 14)),
    )
