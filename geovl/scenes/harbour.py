"""Harbours."""

import numpy as np

from geovl.scenes import materials, things
from geovl.scenes.canvas import Canvas
from geovl.scenes.ground import WIDE, car_park, road, somewhere
from geovl.scenes.materials import flat, vary
from geovl.scenes.shapes import Frame, points, rect, wave


def _marina(canvas: Canvas, frame: Frame, reach: float) -> None:
    """Draw floating piers with finger piers and boats along y, starting at the frame."""
    rng = canvas.rng
    wood = flat(*vary(rng, (168, 158, 142), 22))
    size = rng.uniform(6, 18)
    gap, fill = size * rng.uniform(2.4, 3.4), rng.uniform(0.3, 1)
    for x in np.arange(-reach, reach, gap):
        length = rng.uniform(40, 160)
        number = canvas.add("dock", frame(rect(x, length / 2, rng.uniform(1.5, 3.2), length)), wood)
        berth = size * rng.uniform(0.38, 0.5)
        for y in np.arange(5, length, berth):
            for side in (-1, 1):
                if rng.random() < 0.45:
                    finger = rect(x + side * size * 0.45, y - berth / 2, size * 0.8, 0.7)
                    canvas.draw(number, frame(finger), wood)
                if rng.random() < fill:
                    turn = 0.0 if (side > 0) == (rng.random() < 0.6) else np.pi
                    boat = size * rng.uniform(0.6, 1.0)
                    things.ship(canvas, frame.inner(x + side * (boat * 0.5 + 1.6), y, turn), boat)


def harbour(canvas: Canvas) -> None:
    """Draw a shore with quays, piers and boats, ships under way, and what stands on land."""
    rng, half = canvas.rng, canvas.half
    canvas.add(str(rng.choice(["sea", "lake", "water"])), rect(0, 0, WIDE, WIDE), canvas.look.water)
    frame = somewhere(canvas, 0.5)
    built = rng.random() < 0.75
    if built:
        canvas.add("pavement", frame(rect(0, -WIDE / 2, WIDE, WIDE)), canvas.look.pavement)
        canvas.add("dock", frame(rect(0, 0, WIDE, rng.uniform(2, 6))), canvas.look.pavement.lit(rng.uniform(0.8, 1.1)))
    else:
        _beach(canvas, frame)
    kind = rng.random()
    if built and kind < 0.6:
        _marina(canvas, frame.inner(0, 2), half * 1.5)
    elif built:
        _piers(canvas, frame)
    for _ in range(int(rng.integers(0, 7))):
        x, y = rng.uniform(-1, 1) * half, rng.uniform(30, 1.8 * half)
        big = rng.random() < 0.25
        size = rng.uniform(30, 140) if big else rng.uniform(4, 18)
        things.ship(canvas, frame.inner(x, y, rng.uniform(0, 6.3)), size, wake=rng.random() < 0.6)
    _waterfront(canvas, frame)


def _beach(canvas: Canvas, frame: Frame) -> None:
    """Draw a winding shore of sand with grass or other ground behind it."""
    rng, look = canvas.rng, canvas.look
    shore = wave(rng, WIDE, rng.uniform(5, 25), 400)
    for offset, name, paint in (
        (0.0, "sand", materials.soil(rng).lit(1.15)),
        (rng.uniform(5, 25), "grass" if look.dryness < 0.45 else "ground", look.grass),
    ):
        low = np.concatenate([shore - (0, offset), points((WIDE / 2, -WIDE), (-WIDE / 2, -WIDE))])
        canvas.add(name, frame(low), paint)


def _piers(canvas: Canvas, frame: Frame) -> None:
    """Draw broad piers along y, most with a ship at their side."""
    rng, half = canvas.rng, canvas.half
    for x in np.arange(-half * 1.5, half * 1.5, rng.uniform(80, 200)).tolist():
        pier = rect(x, 60, rng.uniform(10, 30), rng.uniform(80, 160))
        canvas.add("dock", frame(pier), materials.concrete(rng))
        if rng.random() < 0.8:
            things.ship(canvas, frame.inner(x + 35, 80, np.pi / 2), rng.uniform(40, 150))


def _waterfront(canvas: Canvas, frame: Frame) -> None:
    """Draw the road along the shore, and buildings, car parks and trees beyond it."""
    rng, half = canvas.rng, canvas.half
    road(canvas, frame(points((-WIDE / 4, -30), (WIDE / 4, -30))), rng.uniform(6, 10))
    for x in np.arange(-half * 1.4, half * 1.4, 45).tolist():
        what, at = rng.random(), frame.inner(x, -62)
        if what < 0.3:
            things.block(canvas, at, rng.uniform(15, 40), rng.uniform(12, 30), rng.uniform(4, 18))
        elif what < 0.45:
            things.shed(canvas, at, rng.uniform(20, 40), rng.uniform(15, 30), rng.uniform(5, 10))
        elif what < 0.6:
            car_park(canvas, at, 1, 36)
        elif what < 0.9:
            things.trees(canvas, int(rng.integers(2, 16)), at, 40, 30)
