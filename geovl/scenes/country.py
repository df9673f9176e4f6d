"""Open country, and tank farms in it."""

import numpy as np

from geovl.scenes import things
from geovl.scenes.canvas import Canvas
from geovl.scenes.ground import ground, road, scatter, somewhere
from geovl.scenes.materials import Paint, flat, vary
from geovl.scenes.shapes import Frame, Ring, dashes, lake_ring, points, rect, shifted, strip, wave


def tank_farm(canvas: Canvas) -> None:
    """Draw round tanks in rows inside their walls, with pipes, halls and roads."""
    rng, half = canvas.rng, canvas.half
    ground(canvas)
    frame = somewhere(canvas, 0.3)
    radius = float(np.exp(rng.uniform(np.log(4), np.log(32))))
    pitch = 2 * radius * rng.uniform(1.25, 2.2)
    paint = Paint(vary(rng, (158, 148, 132), 20), (5.0, 5.0, 5.0), 3.0, 4.0)
    bare = rng.random() < 0.7
    for x in np.arange(-1.3 * half, 1.3 * half, pitch):
        for y in np.arange(-1.3 * half, 1.3 * half, pitch):
            spot = frame.inner(x, y)
            if rng.random() < 0.3 or not canvas.near(spot.x, spot.y, radius):
                continue
            if bare:
                name = "bare soil" if rng.random() < 0.5 else "ground"
                canvas.add(name, spot(rect(0, 0, pitch * 0.95, pitch * 0.95)), paint)
            grown = radius * (rng.uniform(0.5, 1.05) if rng.random() < 0.4 else 1.0)
            things.tank(canvas, spot.x, spot.y, grown)
    for _ in range(int(rng.integers(0, 3))):
        at = rng.uniform(-1, 1) * half // pitch * pitch + pitch / 2
        road(canvas, frame(points((-2 * half, at), (2 * half, at))), min(8.0, pitch * 0.3), traffic=0.1)
    if rng.random() < 0.6:
        hall = frame.inner(rng.uniform(-1, 1) * half, rng.uniform(-1, 1) * half)
        things.shed(canvas, hall, rng.uniform(15, 50), rng.uniform(12, 25), rng.uniform(4, 9))
    scatter(canvas, 5)


def _fields(canvas: Canvas, frame: Frame) -> None:
    """Cover the ground with fields in rows, crops and ploughed ones."""
    rng, half = canvas.rng, canvas.half
    y = -1.5 * half
    while y < 1.5 * half:
        deep, x = rng.uniform(40, 200), -1.5 * half
        while x < 1.5 * half:
            wide = rng.uniform(50, 260)
            tones = ((84, 110, 58), (110, 128, 70), (146, 130, 92), (176, 154, 112), (122, 98, 76), (62, 92, 52))
            color = vary(rng, tones[rng.integers(len(tones))], 12)
            furrow = Paint(color, (6.0, 5.0, 4.0), 3.0, 4.0).striped(
                rng.uniform(2, 11), rng.uniform(0.8, 5), frame.angle + rng.integers(2) * np.pi / 2
            )
            canvas.add("farmland", frame(rect(x + wide / 2, y + deep / 2, wide - 2, deep - 2)), furrow)
            x += wide
        y += deep


def country(canvas: Canvas) -> None:
    """Draw fields, woods, a river with a bridge, a lake, a railway, solar panels, greenhouses, turbines, a farm."""
    rng, half = canvas.rng, canvas.half
    ground(canvas)
    frame = somewhere(canvas, 0.4)
    if rng.random() < 0.7:
        _fields(canvas, frame)
    broad = 0.0
    if rng.random() < 0.5:
        course = frame(wave(rng, 6 * half, rng.uniform(8, 50), 200))
        broad = rng.uniform(8, 70)
        canvas.add("ground", strip(course, broad * rng.uniform(1.1, 1.6)), canvas.look.soil)
        canvas.add("river", strip(course, broad), canvas.look.water)
    elif rng.random() < 0.4:
        x, y = (rng.uniform(-0.6, 0.6, 2) * half).tolist()
        canvas.add("lake", lake_ring(rng, x, y, rng.uniform(15, 0.6 * half)), canvas.look.water)
    _crossing(canvas, frame, broad)
    for _ in range(int(rng.integers(0, 4))):
        wood = somewhere(canvas)
        things.trees(canvas, int(rng.integers(8, 120)), wood, rng.uniform(20, 120), rng.uniform(10, 60))
    if rng.random() < 0.4:
        yard = somewhere(canvas, 0.7)
        for _ in range(int(rng.integers(1, 5))):
            x, y = rng.normal(0, 22, 2).tolist()
            at = yard.inner(x, y, float(rng.choice([0, np.pi / 2])))
            things.house(canvas, at, rng.uniform(10, 30), rng.uniform(8, 14), hip=False)
    _works(canvas)
    scatter(canvas, 12)


def _crossing(canvas: Canvas, frame: Frame, broad: float) -> None:
    """Draw a road, bridged over a river ``broad`` metres wide when there is one, or a railway, or nothing."""
    rng, half = canvas.rng, canvas.half
    across = frame.inner(rng.uniform(-0.5, 0.5) * half, 0, np.pi / 2 + rng.normal(0, 0.3))
    way = across(points((-3 * half, 0), (3 * half, 0)))
    if rng.random() < 0.7:
        road(canvas, way, rng.uniform(4, 12))
        if broad:
            deck = across(rect(0, 0, broad * 1.5, rng.uniform(7, 13)))
            canvas.add("bridge", deck, canvas.look.road.lit(rng.uniform(1, 1.3)), height=5)
    elif rng.random() < 0.6:
        _railway(canvas, way)


def _solar_park(canvas: Canvas, frame: Frame) -> None:
    """Draw rows of solar panels along x."""
    rng = canvas.rng
    for y in np.arange(-60, 60, rng.uniform(5, 9)).tolist():
        panel = flat(*vary(rng, (38, 46, 74), 8)).striped(10, 2.0, frame.angle)
        canvas.add("solar panel", frame(rect(0, y, rng.uniform(60, 160), 3.2)), panel, height=1.5)


def _works(canvas: Canvas) -> None:
    """Draw solar panels, greenhouses, wind turbines, or nothing."""
    rng = canvas.rng
    kind = rng.random()
    if kind < 0.15:
        _solar_park(canvas, somewhere(canvas, 0.5))
    elif kind < 0.3:
        _nursery(canvas, somewhere(canvas, 0.5))
    elif kind < 0.42:
        for _ in range(int(rng.integers(1, 4))):
            x, y = (rng.uniform(-0.9, 0.9, 2) * canvas.half).tolist()
            things.turbine(canvas, x, y, rng.uniform(60, 120))


def _nursery(canvas: Canvas, frame: Frame) -> None:
    """Draw blocks of greenhouses along x."""
    rng = canvas.rng
    y = -60.0
    for _ in range(int(rng.integers(1, 5))):
        bays, length = int(rng.integers(1, 9)), rng.uniform(25, 110)
        things.greenhouse(canvas, frame.inner(rng.normal(0, 8), y), length, bays)
        y += bays * 9 + rng.uniform(4, 14)


def _railway(canvas: Canvas, line: Ring) -> None:
    """Draw ballast, sleepers and rails along a line."""
    rng = canvas.rng
    tracks = int(rng.choice([1, 2, 2, 4]))
    grey = rng.uniform(90, 150)
    number = canvas.add(
        "railway", strip(line, tracks * 4.5 + 1), Paint((grey + 6, grey, grey - 6), (4.0, 4.0, 4.0), 3, 6)
    )
    for track in range(tracks):
        middle = shifted(line, (track - (tracks - 1) / 2) * 4.5)
        for ring in dashes(middle, 0.3, 0.4, 2.5):
            canvas.draw(number, ring, flat(*vary(rng, (92, 80, 70), 6)), mark=True)
        for side in (-0.75, 0.75):
            canvas.draw(number, strip(shifted(middle, side), 0.2), flat(178, 172, 166), mark=True)
