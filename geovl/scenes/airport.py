"""Airports."""

import numpy as np

from geovl.scenes import materials, things
from geovl.scenes.canvas import Canvas
from geovl.scenes.ground import WIDE, car_park, ground, road, scatter, somewhere
from geovl.scenes.materials import Paint
from geovl.scenes.shapes import Frame, Ring, dashes, disc, points, rect, strip

_STROKES = {
    "0": "abcdef", "1": "bc", "2": "abged", "3": "abgcd", "4": "fgbc", "5": "afgcd", "6": "afgecd", "7": "abc",
    "8": "abcdefg", "9": "abcdfg", "L": "fed", "R": "abgef",
}  # fmt: skip
_SEGMENTS = {
    "a": (1, 0, 0, 1), "b": (0.5, 0.5, 1, 0), "c": (-0.5, 0.5, 1, 0), "d": (-1, 0, 0, 1), "e": (-0.5, -0.5, 1, 0),
    "f": (0.5, -0.5, 1, 0), "g": (0, 0, 0, 1),
}  # fmt: skip


def _digits(canvas: Canvas, number: int, frame: Frame, text: str, size: float, paint: Paint) -> None:
    """Write a runway's number, its top towards x, letters ``size`` metres high."""
    for place, letter in enumerate(text):
        aside = (place - (len(text) - 1) / 2) * size * 0.75
        for segment in _STROKES[letter]:
            along, across, tall, _ = _SEGMENTS[segment]
            length, width = (size / 2, size * 0.1) if tall else (size * 0.1, size * 0.5)
            ring = rect(along * size / 2, aside + across * size * 0.5, length + size * 0.1, width)
            canvas.draw(number, frame(ring), paint, mark=True)


def _threshold(canvas: Canvas, number: int, frame: Frame, width: float, paint: Paint) -> None:
    """Paint what marks one end of a runway, x pointing along it from its end."""
    rng = canvas.rng
    count = int(rng.choice([2, 3, 4, 6]))
    for side in (-1, 1):
        for bar in np.linspace(0.1, 0.86, count):
            canvas.draw(number, frame(rect(22, side * bar * width / 2, 30, 0.5 * width / count / 2)), paint, mark=True)
    text = f"{rng.integers(1, 37):02d}" + str(rng.choice(["", "", "L", "R"]))
    _digits(canvas, number, frame.inner(56, 0), text, rng.uniform(9, 18), paint)
    if rng.random() < 0.8:
        for side in (-1, 1):
            canvas.draw(number, frame(rect(320, side * width * 0.22, 45, width * 0.13)), paint, mark=True)
            for x, bars in ((170, 3), (470, 2), (620, 1)):
                for bar in range(bars):
                    canvas.draw(number, frame(rect(x, side * (width * 0.14 + 3.2 * bar), 22, 1.6)), paint, mark=True)
    for _ in range(int(rng.integers(0, 24))):
        streak = rect(rng.uniform(120, 550), rng.normal(0, width * 0.1), rng.uniform(60, 260), rng.uniform(0.6, 3))
        canvas.stain(frame(streak), rng.uniform(0.02, 0.12))


def _runway(canvas: Canvas, frame: Frame, length: float, width: float) -> None:
    """Draw a runway along x, centred on the frame."""
    rng = canvas.rng
    base = materials.hard(rng)
    if rng.random() < 0.3:
        base = base.striped(rng.uniform(1, 5), rng.uniform(5, 12), frame.angle + np.pi / 2)
    number = canvas.thing("runway")
    shoulder = width * rng.uniform(1.1, 1.6) if rng.random() < 0.6 else width
    if rng.random() < 0.4:
        canvas.draw(number, frame(rect(0, 0, length + 120, shoulder)), materials.hard(rng))
    else:
        canvas.draw(number, frame(rect(0, 0, length, shoulder)), base.lit(rng.uniform(0.85, 1.2)))
    canvas.draw(number, frame(rect(0, 0, length, width)), base)
    _wear(canvas, number, frame, length, width, base)
    if rng.random() >= 0.08:  # few are bare
        _markings(canvas, number, frame, length, width)


def _wear(canvas: Canvas, number: int, frame: Frame, length: float, width: float, base: Paint) -> None:
    """Pave some sections of a runway anew, and draw the joints of its lanes."""
    rng = canvas.rng
    for _ in range(int(rng.integers(0, 6))):
        patch = rect(rng.uniform(-0.5, 0.5) * length, 0, rng.uniform(30, 300), width * rng.choice([0.5, 1]))
        canvas.draw(number, frame(patch), base.lit(rng.uniform(0.85, 1.15)), mark=True)
    for aside in np.arange(-width / 2, width / 2, rng.uniform(5, 9)):
        canvas.stain(frame(rect(0, aside, length, 0.35)), rng.uniform(-0.05, 0.1))


def _markings(canvas: Canvas, number: int, frame: Frame, length: float, width: float) -> None:
    """Paint the centre line, the edges and both ends of a runway."""
    rng = canvas.rng
    white = canvas.look.line.lit(rng.uniform(0.8, 1.0))
    axis = frame(points((-length / 2 + 80, 0), (length / 2 - 80, 0)))
    for ring in dashes(axis, rng.uniform(25, 38), rng.uniform(15, 26), rng.uniform(0.4, 1.0)):
        canvas.draw(number, ring, white, mark=True)
    if rng.random() < 0.75:
        for side in (-1, 1):
            canvas.draw(number, frame(rect(0, side * width * 0.48, length, rng.uniform(0.4, 1))), white, mark=True)
    for turn, end in ((0.0, -length / 2), (np.pi, length / 2)):
        _threshold(canvas, number, frame.inner(end, 0, turn), width, white)
        if rng.random() < 0.3:  # chevrons on the stopway before the threshold
            for x in (-8, -23, -38, -53):
                for side in (-1, 1):
                    arm = strip(points((x, 0), (x - width * 0.4, side * width * 0.4)), 1.2)
                    canvas.draw(number, frame.inner(end, 0, turn)(arm), canvas.look.yellow, mark=True)


def _taxiway(canvas: Canvas, line: Ring, width: float, paint: Paint) -> None:
    """Draw a taxiway along a line, with its yellow centre line."""
    rng = canvas.rng
    number = canvas.thing("taxiway")
    if rng.random() < 0.3:
        canvas.draw(number, strip(line, width * 1.5), paint.lit(rng.uniform(0.8, 1.15)))
    canvas.draw(number, strip(line, width), paint)
    canvas.draw(number, strip(line, rng.uniform(0.3, 0.7)), canvas.look.yellow, mark=True)


def _stand(canvas: Canvas, frame: Frame, deep: float, wide: float) -> None:
    """Draw an apron, x along it, with aircraft in rows, vehicles and oil."""
    rng = canvas.rng
    paint = materials.concrete(rng) if rng.random() < 0.7 else materials.asphalt(rng)
    if rng.random() < 0.6:
        paint = paint.striped(rng.uniform(1, 4), rng.uniform(6, 14), frame.angle + rng.integers(2) * np.pi / 2)
    number = canvas.add("apron", frame(rect(0, 0, wide, deep)), paint)
    size = float(rng.choice([rng.uniform(7, 13), rng.uniform(15, 28), rng.uniform(30, 65)], p=[0.35, 0.2, 0.45]))
    pitch = size * rng.uniform(1.15, 1.7)
    full, heading = rng.uniform(0.2, 1), float(rng.choice([np.pi / 2, -np.pi / 2])) + rng.normal(0, 0.25)
    lines = max(1, int(deep / (size * 2.2))) if size < 20 else 1
    for row in range(lines):
        y = (row + 0.5) / lines * deep - deep / 2
        for x in np.arange(-wide / 2 + pitch / 2, wide / 2, pitch):
            spot = frame.inner(x, y)
            mark = strip(points((0, -size), (0, size)), 0.3)
            if rng.random() < 0.5:
                canvas.draw(number, spot(mark), canvas.look.yellow, mark=True)
            if rng.random() < full:
                turned = frame.inner(x, y + rng.normal(0, 0.05) * size, heading + rng.normal(0, 0.08))
                things.airplane(canvas, turned, size * rng.uniform(0.8, 1.1))
            for _ in range(rng.poisson(0.8)):
                near = rng.normal(0, size * 0.5, 2)
                things.car(canvas, frame.inner(x + near[0], y + near[1], rng.uniform(0, 6.3)))
            canvas.stain(spot(disc(0, 0, rng.uniform(1, 4), 10)), rng.uniform(0, 0.1))


def airport(canvas: Canvas) -> None:
    """Draw a runway with markings, taxiways, apron, parked aircraft, halls, car park and roads."""
    rng, half = canvas.rng, canvas.half
    ground(canvas)
    frame = somewhere(canvas, 0.6)
    length = rng.uniform(600, 3200)
    width = float(rng.choice([rng.uniform(15, 32), rng.uniform(40, 62)], p=[0.35, 0.65]))
    end = length / 2 - rng.uniform(0, 1.2) * half if rng.random() < 0.5 else rng.uniform(-0.5, 0.5) * length
    if rng.random() < 0.9:
        _runway(canvas, frame.inner(float(end), 0), length, width)
    if rng.random() < 0.2:
        _runway(canvas, frame.inner(rng.uniform(-1, 1) * half, 0, rng.uniform(0.5, 2.6)), rng.uniform(500, 2000), width)
    side = int(rng.choice([-1, 1]))
    paint, narrow = materials.hard(rng), width * rng.uniform(0.25, 0.5)
    apart = side * (width / 2 + rng.uniform(20, 120) + narrow)
    if rng.random() < 0.75:
        _taxiways(canvas, frame, apart, narrow, paint)
    if rng.random() < min(0.5, half / 800):
        _taxiways(canvas, frame, -apart * rng.uniform(0.8, 1.5), narrow, paint)
    edge = abs(apart) + narrow * rng.uniform(0.4, 1.5)
    # a wide view shows several aprons, on either side
    for number in range(int(rng.integers(0, 2 + int(half // 250)))):
        _terminal(canvas, frame, edge, side if number < 2 else -side)
    if rng.random() < 0.3:
        aside = -side * (width / 2 + rng.uniform(40, 150))
        road(canvas, frame(points((-WIDE / 4, aside), (WIDE / 4, aside))), rng.uniform(4, 7), traffic=0.05)
    scatter(canvas, 14, clear=(frame, width))


def _taxiways(canvas: Canvas, frame: Frame, apart: float, width: float, paint: Paint) -> None:
    """Draw a taxiway ``apart`` metres beside the runway, and its links, straight or slanting."""
    rng, half = canvas.rng, canvas.half
    _taxiway(canvas, frame(points((-WIDE / 4, apart), (WIDE / 4, apart))), width, paint)
    for x in np.arange(-2 * half, 2 * half, rng.uniform(120, 400)).tolist():
        slant = float(rng.choice([0, 0, rng.uniform(-1.4, 1.4)])) * abs(apart)
        _taxiway(canvas, frame(points((x + slant, 0), (x, apart))), width, paint)


def _terminal(canvas: Canvas, frame: Frame, edge: float, side: int) -> None:
    """Draw an apron from ``edge`` metres beside the runway outwards, what stands behind it, and its road."""
    rng, half = canvas.rng, canvas.half
    deep, wide = rng.uniform(45, 160), rng.uniform(100, 700)
    spot = frame.inner(rng.uniform(-1, 1) * half, side * (edge + deep / 2))
    _stand(canvas, spot, deep, wide)
    behind = side * (deep / 2 + rng.uniform(10, 30))
    for x in np.arange(-wide / 2, wide / 2, 60).tolist():
        kind, at = rng.random(), spot.inner(x, behind + side * 14)
        if kind < 0.3:
            things.shed(canvas, at, rng.uniform(25, 50), rng.uniform(20, 40), rng.uniform(7, 14))
        elif kind < 0.55:
            things.block(canvas, at, rng.uniform(25, 58), rng.uniform(14, 30), rng.uniform(5, 15))
        elif kind < 0.7:
            car_park(canvas, at.inner(0, side * 20), 2, 45)
    road(canvas, spot(points((-WIDE / 4, behind + side * 50), (WIDE / 4, behind + side * 50))), 8)
