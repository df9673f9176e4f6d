"""Towns."""

import numpy as np

from geovl.scenes import materials, things
from geovl.scenes.canvas import Canvas
from geovl.scenes.ground import car_park, ground, road, somewhere
from geovl.scenes.shapes import Frame, lake_ring, points, rect


def _plot(canvas: Canvas, frame: Frame, wide: float, deep: float) -> None:
    """Fill one plot of a residential street, the street beyond its negative y side."""
    rng = canvas.rng
    length, width = rng.uniform(0.5, 0.75) * wide, rng.uniform(8, 13)
    front = -deep / 2 + width / 2 + rng.uniform(4, 9)
    drive = rect(wide * 0.3, -deep / 2 + 5, 4, 12)
    if rng.random() < 0.8:
        canvas.add("pavement", frame(drive), canvas.look.pavement)
        if rng.random() < 0.6:
            things.car(canvas, frame.inner(wide * 0.3, -deep / 2 + 4, np.pi / 2))
    things.house(canvas, frame.inner(0, front), length, width, hip=rng.random() < 0.5)
    if rng.random() < 0.3:
        wing = frame.inner(rng.choice([-0.2, 0.2]) * wide, front + width / 2, np.pi / 2)
        things.house(canvas, wing, rng.uniform(8, 13), rng.uniform(6, 9), hip=rng.random() < 0.5)
    if rng.random() < 0.3:
        things.pool(canvas, frame.inner(rng.normal(0, 4), deep * 0.28, rng.choice([0, np.pi / 2])), rng.uniform(6, 12))
    things.trees(canvas, int(rng.integers(0, 7)), frame.inner(0, deep * 0.2), wide, deep * 0.6)


def _estate(canvas: Canvas, frame: Frame, wide: float, deep: float) -> None:
    """Fill a block with large buildings, car parks, courts and trees."""
    rng = canvas.rng
    kind = rng.random()
    if kind < 0.35:
        canvas.add("pavement", frame(rect(0, 0, wide, deep)), materials.hard(rng))
        things.block(canvas, frame, wide * rng.uniform(0.4, 0.8), deep * rng.uniform(0.4, 0.75), rng.uniform(5, 25))
    elif kind < 0.55:
        car_park(canvas, frame.inner(0, -deep * 0.2), max(1, int(deep / 40)), wide * 0.8)
        things.shed(canvas, frame.inner(0, deep * 0.32), wide * 0.8, deep * 0.25, rng.uniform(5, 12))
    elif kind < 0.75:
        apart = rng.uniform(18, 22)
        for index in range(int(rng.integers(1, 5))):
            things.court(canvas, frame.inner((index - 1) * apart, 0, np.pi / 2))
        things.trees(canvas, int(rng.integers(4, 20)), frame.inner(0, deep * 0.4), wide, deep * 0.2)
    else:
        things.trees(canvas, int(rng.integers(10, 50)), frame, wide, deep)
        if rng.random() < 0.5:
            canvas.add("lake", frame(lake_ring(rng, 0, 0, min(wide, deep) * 0.3)), materials.water(rng))
        else:
            things.court(canvas, frame)


def town(canvas: Canvas) -> None:
    """Draw streets with houses, gardens, pools, courts, car parks and large buildings."""
    rng, half = canvas.rng, canvas.half
    ground(canvas)
    frame = somewhere(canvas, 0.3)
    plot, deep = rng.uniform(16, 30), rng.uniform(26, 42)
    long = plot * int(rng.integers(4, 9))
    street = rng.uniform(6, 11)
    dense = rng.uniform(0, 1)
    rows, cols = 2 * deep + street + 4, long + street + 4
    for y in np.arange(-1.5 * half - rows, 1.5 * half + rows, rows):
        road(canvas, frame(points((-2 * half, y), (2 * half, y))), street)
        for x in np.arange(-1.5 * half - cols, 1.5 * half + cols, cols):
            block = frame.inner(x + cols / 2, y + rows / 2)
            if not canvas.near(block.x, block.y, cols):
                continue
            if rng.random() < dense * 0.5:
                _estate(canvas, block, long, 2 * deep - 8)
                continue
            for start in np.arange(-long / 2 + plot / 2, long / 2, plot):
                for turn, aside in ((0.0, -deep / 2), (np.pi, deep / 2)):
                    spot = block.inner(start, aside, turn)
                    if rng.random() < 0.93 and canvas.near(spot.x, spot.y, 30):
                        _plot(canvas, spot, plot, deep)
    for x in np.arange(-1.5 * half - cols, 1.5 * half + cols, cols):
        road(canvas, frame(points((x, -2 * half), (x, 2 * half))), street)
