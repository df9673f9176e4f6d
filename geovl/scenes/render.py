"""Draws a scene of a kind."""

from collections.abc import Callable

import numpy as np

from geovl.scenes import light
from geovl.scenes.airport import airport
from geovl.scenes.canvas import Canvas
from geovl.scenes.country import country, tank_farm
from geovl.scenes.harbour import harbour
from geovl.scenes.scene import Scene
from geovl.scenes.town import town

_KINDS: dict[str, tuple[Callable[[Canvas], None], tuple[float, float]]] = {
    "airport": (airport, (0.3, 4.0)),
    "harbour": (harbour, (0.25, 0.8)),
    "town": (town, (0.25, 0.7)),
    "tank farm": (tank_farm, (0.3, 1.0)),
    "country": (country, (0.3, 1.0)),
}
KINDS: tuple[str, ...] = tuple(_KINDS)
"""What :func:`render` can draw."""


def render(kind: str, rng: np.random.Generator, *, size: int = 384, gsd: float | None = None) -> Scene:
    """Draw one scene.

    Args:
        kind: One of :data:`KINDS`.
        rng: Decides everything: equal generators draw equal scenes.
        size: Pixels along each side.
        gsd: Metres per pixel; drawn between a quarter of a metre and a few metres, by kind, when None.

    Raises:
        ValueError: An unknown kind, or a size below 8.
    """
    if kind not in _KINDS:
        msg = f"There are no scenes of kind {kind!r}; there are {', '.join(KINDS)}."
        raise ValueError(msg)
    if size < 8:
        msg = f"A scene of {size} px is too small to draw; give at least 8."
        raise ValueError(msg)
    draw, (least, most) = _KINDS[kind]
    metres = float(np.exp(rng.uniform(np.log(least), np.log(most)))) if gsd is None else gsd
    canvas = Canvas(rng, size, metres)
    draw(canvas)
    surface = canvas.finish()
    return Scene(light.develop(surface.rgb, rng), surface.labels, metres, surface.objects)
