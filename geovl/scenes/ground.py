"""What every place is made of: its ground, roads, car parks and scattered trees."""

import numpy as np

from geovl.scenes import materials, things
from geovl.scenes.canvas import Canvas
from geovl.scenes.shapes import Frame, Ring, dashes, lake_ring, rect, strip

WIDE = 6000.0
"""Metres; wider than any scene."""


def ground(canvas: Canvas) -> None:
    """Cover everything with the ground of the place: grass, soil, or something between."""
    rng, look = canvas.rng, canvas.look
    name = "grass" if look.dryness < 0.45 else "ground"
    canvas.add(name, rect(0, 0, WIDE, WIDE), look.grass)
    for _ in range(int(rng.integers(0, 5))):
        spot = rng.uniform(-canvas.half, canvas.half, 2)
        ring = lake_ring(rng, 0, 0, rng.uniform(6, 60)) + spot
        if rng.random() < 0.4:
            canvas.add("bare soil", ring, look.soil)
        else:
            canvas.add("ground", ring, materials.grass(rng, float(np.clip(look.dryness + rng.normal(0, 0.2), 0, 1))))


def somewhere(canvas: Canvas, reach: float = 1.0) -> Frame:
    """Return a frame at any place of the scene, turned any way."""
    x, y = canvas.rng.uniform(-reach, reach, 2) * canvas.half
    return Frame(float(x), float(y), float(canvas.rng.uniform(0, 2 * np.pi)))


def scatter(canvas: Canvas, most: int, *, clear: tuple[Frame, float] | None = None) -> None:
    """Plant up to ``most`` trees, none within ``clear``'s metres of the x axis of its frame."""
    rng = canvas.rng
    for _ in range(int(rng.integers(0, most + 1))):
        x, y = rng.uniform(-1, 1, 2) * canvas.half
        if clear is not None and abs(clear[0].local(x, y)[1]) < clear[1]:
            continue
        for _ in range(int(rng.choice([1, 1, 1, 4, 9]))):
            dx, dy = rng.normal(0, 5, 2)
            things.tree(canvas, x + dx, y + dy, float(np.clip(rng.lognormal(0.9, 0.4), 1.0, 6.5)))


def car_park(canvas: Canvas, frame: Frame, rows: int, length: float) -> None:
    """Draw a car park of ``rows`` double rows, each 17 m deep, with lines and cars."""
    rng = canvas.rng
    lot = canvas.add("parking lot", frame(rect(0, 0, length + 8, rows * 17 + 4)), materials.hard(rng))
    filled, lined = rng.uniform(0.1, 0.95), rng.random() < 0.8
    for row in range(rows):
        for side in (-1, 1):
            y = (row - (rows - 1) / 2) * 17 + side * 5.6
            for x in np.arange(-length / 2, length / 2, 2.7):
                if lined:
                    canvas.draw(lot, frame(rect(x - 1.35, y, 0.14, 5)), canvas.look.line, mark=True)
                if rng.random() < filled:
                    things.car(canvas, frame.inner(x, y, np.pi / 2 + rng.normal(0, 0.02)))


def road(canvas: Canvas, way: Ring, width: float, *, traffic: float = 0.3) -> None:
    """Draw a road along an open line, with its lines and its cars."""
    rng, look = canvas.rng, canvas.look
    if rng.random() < 0.4:
        canvas.add("pavement", strip(way, width + rng.uniform(2, 5)), look.pavement)
    paved = canvas.add("road", strip(way, width), look.road)
    if width > 6 and rng.random() < 0.75:
        paint = look.yellow if rng.random() < 0.4 else look.line
        for ring in dashes(way, rng.uniform(3, 9), rng.uniform(4, 9), 0.22):
            canvas.draw(paved, ring, paint, mark=True)
    steps = np.diff(way, axis=0)
    spans = np.hypot(steps[:, 0], steps[:, 1])
    for start, step, span in zip(way[:-1], steps, spans, strict=True):
        for _ in range(rng.poisson(span / 40 * traffic)):
            side = rng.choice([-1, 1])
            at, turn = start + step * rng.random(), float(np.arctan2(step[1], step[0]))
            things.car(canvas, Frame(float(at[0]), float(at[1]), turn).inner(0, side * width / 4))
