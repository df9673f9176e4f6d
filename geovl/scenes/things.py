"""Single objects: aircraft, cars, trees, buildings, tanks, ships, pools and courts.

Each function draws one object at the origin of a frame, ``x`` forward, sizes in metres.
"""

from typing import TYPE_CHECKING

import numpy as np

from geovl.scenes import materials
from geovl.scenes.materials import Paint, flat, vary
from geovl.scenes.shapes import Frame, blob, disc, points, rect, strip

if TYPE_CHECKING:
    from geovl.scenes.canvas import Canvas
    from geovl.scenes.shapes import Ring

_FUSELAGE = points(
    (0.5, 0), (0.485, 0.3), (0.45, 0.75), (0.38, 1), (-0.2, 1), (-0.42, 0.45), (-0.5, 0.12),
    (-0.5, -0.12), (-0.42, -0.45), (-0.2, -1), (0.38, -1), (0.45, -0.75), (0.485, -0.3),
)  # fmt: skip


def _mirrored(ring: "Ring") -> "Ring":
    return ring * (1, -1)


def airplane(canvas: "Canvas", frame: Frame, length: float) -> None:
    """Draw a parked aircraft, nose along x; below 16 m a straight-winged light one, above a swept jet."""
    rng = canvas.rng
    small = length < 16
    span = length * (rng.uniform(1.2, 1.45) if small else rng.uniform(0.82, 1.05))
    if not canvas.near(frame.x, frame.y, length):
        return
    white = vary(rng, (236, 236, 238), 10) if rng.random() < 0.85 else vary(rng, (165, 172, 180), 20)
    body = Paint(white, fine=1.5)
    wing = body.lit(rng.uniform(0.8, 0.97))
    number = canvas.thing("airplane")
    girth = length * (0.055 if small else rng.uniform(0.048, 0.058))
    for ring in _wings(length, span, small=small, sweep=rng.uniform(0.38, 0.62)):
        canvas.draw(number, frame(ring), wing, height=length * 0.08, floats=True)
    canvas.draw(number, frame(_FUSELAGE * (length, girth)), body, height=length * 0.1, floats=True)
    _livery(canvas, frame, number, length, girth, body)
    if small:
        canvas.draw(number, frame(rect(0.12 * length, 0, 0.1 * length, girth * 1.4)), flat(60, 70, 80), mark=True)
        return
    pods = (0.19, 0.34) if length > 55 and rng.random() < 0.5 else (0.18,)
    for share in pods:
        for side in (-1, 1):
            spot = (0.1 - share * 0.45) * length
            pod = rect(spot, side * share * span, 0.085 * length, 0.045 * length)
            canvas.draw(number, frame(pod), body.lit(0.72), height=length * 0.06, floats=True)


def _wings(length: float, span: float, *, small: bool, sweep: float) -> "list[Ring]":
    """Return wings and tailplane, both sides."""
    half = span / 2
    if small:
        chord = 0.17 * length
        wing = points(
            (0.22 * length, 0), (0.2 * length, half), (0.2 * length - 0.8 * chord, half), (0.22 * length - chord, 0)
        )
        tail = points(
            (-0.4 * length, 0), (-0.41 * length, 0.2 * length), (-0.49 * length, 0.2 * length), (-0.5 * length, 0)
        )
    else:
        back = 0.14 * length - sweep * half
        wing = points(
            (0.16 * length, 0), (0.11 * length, 0.03 * length), (back, half), (back - 0.04 * length, half),
            (-0.09 * length, 0.34 * half), (-0.12 * length, 0),
        )  # fmt: skip
        tail = points(
            (-0.36 * length, 0), (-0.46 * length, 0.17 * length), (-0.5 * length, 0.17 * length), (-0.46 * length, 0)
        )
    return [wing, _mirrored(wing), tail, _mirrored(tail)]


def _livery(canvas: "Canvas", frame: Frame, number: int, length: float, girth: float, body: Paint) -> None:
    """Paint the fin, the light along the back and the cockpit."""
    rng = canvas.rng
    tints = ((200, 40, 40), (40, 70, 150), (30, 110, 90), (230, 150, 40), (70, 75, 90), (235, 235, 235))
    fin = flat(*vary(rng, tints[rng.integers(len(tints))], 12))
    canvas.draw(number, frame(rect(0.05 * length, 0, 0.75 * length, girth * 0.7)), body.lit(1.06), mark=True)
    tail = points(
        (-0.36 * length, 0), (-0.47 * length, girth * 0.22), (-0.51 * length, 0), (-0.47 * length, -girth * 0.22)
    )
    canvas.draw(number, frame(tail), fin, height=length * 0.2, floats=True)
    canvas.draw(number, frame(rect(0.462 * length, 0, 0.018 * length, girth * 0.8)), flat(55, 60, 70), mark=True)


def car(canvas: "Canvas", frame: Frame) -> None:
    """Draw a car or, now and then, a van or lorry."""
    if not canvas.near(frame.x, frame.y, 8):
        return
    rng = canvas.rng
    large = rng.random() < 0.06
    length, width = (rng.uniform(7, 13), 2.5) if large else (rng.uniform(4.0, 5.0), rng.uniform(1.75, 2.0))
    paint = flat(*vary(rng, materials.CARS[rng.integers(len(materials.CARS))], 10))
    number = canvas.thing("car")
    canvas.draw(number, frame(rect(0, 0, length, width)), paint, height=2.8 if large else 1.5)
    if large:
        canvas.draw(number, frame(rect(0.42 * length, 0, 0.03 * length, width)), paint.lit(0.5), mark=True)
        return
    glass = flat(38, 44, 52)
    canvas.draw(number, frame(rect(0.17 * length, 0, 0.13 * length, width * 0.82)), glass, mark=True)
    canvas.draw(number, frame(rect(-0.3 * length, 0, 0.1 * length, width * 0.8)), glass, mark=True)
    canvas.draw(number, frame(rect(-0.06 * length, 0, 0.3 * length, width * 0.78)), paint.lit(1.1), mark=True)


def tree(canvas: "Canvas", x: float, y: float, radius: float) -> None:
    """Draw a crown: a dark ragged rim, lighter clumps towards the sun, and a shadow."""
    if not canvas.near(x, y, radius * 4):
        return
    rng = canvas.rng
    color = vary(rng, canvas.look.leaf, 9)
    rough = Paint(color, (4.0, 3.0, 2.0), 7.0, 7.0)
    number = canvas.thing("tree")
    canvas.draw(
        number, blob(rng, x, y, radius, 0.18), rough.lit(0.72), height=radius * rng.uniform(1.2, 2.2), floats=True
    )
    toward = -canvas.shade / max(float(np.hypot(*canvas.shade)), 1e-6) * radius
    canvas.draw(number, blob(rng, 0, 0, radius * 0.72, 0.25) + (toward * 0.18 + (x, y)), rough, mark=True)
    for _ in range(2 if radius > 2 else 1):
        spot = toward * 0.3 + rng.normal(0, 0.28 * radius, 2) + (x, y)
        canvas.draw(number, blob(rng, 0, 0, radius * 0.36, 0.3, 7) + spot, rough.lit(rng.uniform(1.15, 1.4)), mark=True)


def trees(canvas: "Canvas", count: int, frame: Frame, width: float, height: float) -> None:
    """Scatter trees over a local rectangle centred on a frame."""
    rng = canvas.rng
    for _ in range(count):
        spot = frame.inner(rng.uniform(-0.5, 0.5) * width, rng.uniform(-0.5, 0.5) * height)
        tree(canvas, spot.x, spot.y, float(np.clip(rng.lognormal(0.9, 0.4), 1.0, 6.5)))


def _sunward(canvas: "Canvas", angle: float) -> float:
    """Return how much a slope that faces ``angle`` looks at the sun, -1..1."""
    away = canvas.shade / max(float(np.hypot(*canvas.shade)), 1e-6)
    return float(-(away[0] * np.cos(angle) + away[1] * np.sin(angle)))


def house(
    canvas: "Canvas", frame: Frame, length: float, width: float, *, hip: bool, paint: Paint | None = None
) -> None:
    """Draw a house with a pitched roof: gabled or hipped, each slope lit by its own angle to the sun."""
    if not canvas.near(frame.x, frame.y, length + 20):
        return
    rng = canvas.rng
    cover = paint or materials.roof(rng)
    number = canvas.thing("building")
    half, deep = length / 2, width / 2
    inset = deep * rng.uniform(0.6, 1.0) if hip else 0.0
    tops = points((-half + inset, 0), (half - inset, 0))
    corners = points((-half, -deep), (half, -deep), (half, deep), (-half, deep))
    canvas.draw(number, frame(corners), cover, height=rng.uniform(4, 8))
    slopes = [(np.array([corners[0], corners[1], tops[1], tops[0]]), -np.pi / 2)]
    slopes.append((np.array([corners[2], corners[3], tops[0], tops[1]]), np.pi / 2))
    if hip:
        slopes.append((np.array([corners[1], corners[2], tops[1]]), 0.0))
        slopes.append((np.array([corners[3], corners[0], tops[0]]), np.pi))
    for ring, facing in slopes:
        gain = 1 + 0.24 * _sunward(canvas, frame.angle + facing)
        canvas.draw(number, frame(ring), cover.lit(gain).striped(2.5, 1.2, frame.angle), mark=True)
    if rng.random() < 0.5:
        vent = rect(rng.uniform(-0.3, 0.3) * length, rng.uniform(-0.2, 0.2) * width, 0.9, 0.8)
        canvas.draw(number, frame(vent), flat(90, 80, 76), height=1.2, mark=True)
    if rng.random() < 0.06:
        canvas.add("solar panel", frame(rect(0, deep / 2, length * 0.5, deep * 0.7)), flat(36, 44, 70))


def block(
    canvas: "Canvas", frame: Frame, length: float, width: float, height: float, paint: Paint | None = None
) -> None:
    """Draw a flat-roofed building with parapet, vents and plant on its roof."""
    if not canvas.near(frame.x, frame.y, length + width):
        return
    rng = canvas.rng
    cover = paint or materials.flat_roof(rng)
    number = canvas.thing("building")
    canvas.draw(number, frame(rect(0, 0, length, width)), cover.lit(rng.uniform(0.75, 1.2)), height=height)
    rim = rng.uniform(0.5, 1.0)
    if rng.random() < 0.4:
        cover = cover.striped(rng.uniform(2, 6), rng.uniform(1.5, 6), frame.angle + rng.integers(2) * np.pi / 2)
    canvas.draw(number, frame(rect(0, 0, length - rim, width - rim)), cover, mark=True)
    for _ in range(int(rng.integers(0, 3 + int(length * width / 250)))):
        unit = rect(
            rng.uniform(-0.42, 0.42) * length, rng.uniform(-0.42, 0.42) * width, rng.uniform(1, 4), rng.uniform(1, 3)
        )
        tone = rng.uniform(90, 225)
        canvas.draw(number, frame(unit), flat(tone, tone, tone), height=1.5, mark=True)
    if rng.random() < 0.12 and min(length, width) > 14:
        panels = flat(30, 38, 62).striped(14, 3.0, frame.angle)
        canvas.add("solar panel", frame(rect(0, 0, length * 0.7, width * 0.6)), panels)


def shed(canvas: "Canvas", frame: Frame, length: float, width: float, height: float) -> None:
    """Draw a hall or hangar: a low-pitched or arched roof of ribbed sheet, its ridge along x."""
    if not canvas.near(frame.x, frame.y, length + width):
        return
    rng = canvas.rng
    number = canvas.thing("building")
    cover = materials.flat_roof(rng)
    canvas.draw(number, frame(rect(0, 0, length, width)), cover, height=height)
    bands = int(rng.choice([2, 8]))
    for band in range(bands):
        middle = (band + 0.5) / bands - 0.5
        gain = 1 + 0.3 * middle * _sunward(canvas, frame.angle + np.pi / 2)
        ring = rect(0, middle * width, length - 0.4, width / bands)
        canvas.draw(number, frame(ring), cover.lit(gain).striped(3, 3.0, frame.angle), mark=True)
    for place in np.arange(-0.45, 0.45, rng.uniform(0.08, 0.3)):
        if rng.random() < 0.5:
            light = rect(place * length, rng.choice([-0.25, 0.25]) * width, 1.0, width * 0.25)
            canvas.draw(number, frame(light), cover.lit(1.2), mark=True)


def tank(canvas: "Canvas", x: float, y: float, radius: float) -> None:
    """Draw a round tank: rim, roof lit from one side, stair and shadow."""
    rng = canvas.rng
    if not canvas.near(x, y, radius * 3):
        return
    tones = ((232, 232, 228), (205, 204, 196), (150, 150, 146), (176, 150, 128), (120, 142, 130))
    cover = Paint(vary(rng, tones[rng.choice(5, p=[0.5, 0.2, 0.12, 0.1, 0.08])], 8), (2.0, 2.0, 2.0), 2.0, 2.0)
    number = canvas.thing("storage tank")
    canvas.draw(number, disc(x, y, radius, 24), cover.lit(0.84), height=rng.uniform(0.5, 1.1) * radius)
    canvas.draw(number, disc(x, y, radius * 0.95, 24), cover, mark=True)
    away = canvas.shade / max(float(np.hypot(*canvas.shade)), 1e-6)
    if rng.random() < 0.4:  # a floating roof lies below the rim, so the wall shades its sunny side
        canvas.draw(number, disc(x, y, radius * 0.9, 24), cover.lit(0.55), mark=True)
        canvas.draw(number, disc(0, 0, radius * 0.8, 20) + (away * radius * 0.12 + (x, y)), cover.lit(0.9), mark=True)
    else:
        canvas.draw(number, disc(0, 0, radius * 0.55, 16) + (-away * radius * 0.3 + (x, y)), cover.lit(1.05), mark=True)
        canvas.draw(number, disc(x, y, radius * 0.1, 8), cover.lit(0.7), mark=True)
    line = strip(np.array([(x, y), disc(x, y, radius, 24)[rng.integers(24)]]), 0.5)
    canvas.draw(number, line, cover.lit(0.7), mark=True)


def greenhouse(canvas: "Canvas", frame: Frame, length: float, bays: int) -> None:
    """Draw a greenhouse of parallel bays along x, each 6 to 9 m wide under a vaulted roof of glass or foil."""
    rng = canvas.rng
    bay = rng.uniform(6, 9)
    if not canvas.near(frame.x, frame.y, length + bay * bays):
        return
    tones = ((226, 230, 230), (196, 210, 206), (170, 190, 178), (210, 206, 192))
    foil = Paint(vary(rng, tones[rng.integers(len(tones))], 10), (6.0, 6.0, 5.0), 5.0, 3.0)
    number = canvas.thing("greenhouse")
    canvas.draw(number, frame(rect(0, 0, length, bay * bays)), foil.lit(0.82), height=rng.uniform(2.5, 5))
    tilt = _sunward(canvas, frame.angle + np.pi / 2)
    for index in range(bays):
        y = (index - (bays - 1) / 2) * bay
        for side in (-1, 1):
            half = frame(rect(0, y + side * bay * 0.23, length - 0.6, bay * 0.44))
            canvas.draw(number, half, foil.lit(1 + 0.14 * side * tilt).striped(5, 2.0, frame.angle), mark=True)


def turbine(canvas: "Canvas", x: float, y: float, height: float) -> None:
    """Draw a wind turbine seen from above: three blades, nacelle, tower, its pad, and their long shadows."""
    if not canvas.near(x, y, height * 3):
        return
    rng = canvas.rng
    white = flat(*vary(rng, (232, 233, 234), 6))
    canvas.add("ground", blob(rng, x, y, rng.uniform(8, 20), 0.2, 11), canvas.look.soil.lit(1.1))
    number = canvas.thing("wind turbine")
    canvas.draw(number, disc(x, y, 2.3, 12), white.lit(0.9), height=height)
    facing = rng.uniform(0, 2 * np.pi)
    spot = Frame(x, y, float(facing))
    canvas.draw(number, spot(rect(-1, 0, 11, 3.6)), white, height=height, floats=True)
    long = height * rng.uniform(0.42, 0.56)
    turn = rng.uniform(0, 2 * np.pi)
    for blade in range(3):
        # the rotor stands upright: from above a blade is as long as its level part
        aside = long * np.sin(turn + blade * 2 * np.pi / 3)
        tip = height + long * np.cos(turn + blade * 2 * np.pi / 3)
        ring = points((5.0, 0), (3.8, aside * 0.2), (4.6, aside), (5.6, aside), (6.6, aside * 0.2))
        canvas.draw(number, spot(ring), white, height=(height + tip) / 2, floats=True)


def court(canvas: "Canvas", frame: Frame) -> None:
    """Draw a tennis court: 23.8 x 11 m with lines and net, on a wider surface."""
    if not canvas.near(frame.x, frame.y, 25):
        return
    rng = canvas.rng
    tones = ((58, 102, 78), (58, 88, 132), (172, 96, 66), (96, 124, 92), (150, 110, 96), (120, 130, 134))
    outer, inner = (vary(rng, tones[rng.integers(len(tones))], 8) for _ in range(2))
    number = canvas.thing("tennis court")
    canvas.draw(number, frame(rect(0, 0, 36, 17.5)), Paint(outer, (2.0, 2.0, 2.0), 1.5, 2.0))
    canvas.draw(number, frame(rect(0, 0, 23.8, 11)), Paint(inner, (2.0, 2.0, 2.0), 1.5, 2.0), mark=True)
    white = flat(225, 228, 226)
    for x, y, length, width in (
        *((0, side * 5.45, 23.8, 0.22) for side in (-1, 1)),
        *((0, side * 4.1, 23.8, 0.2) for side in (-1, 1)),
        *((side * 11.8, 0, 0.22, 11) for side in (-1, 1)),
        *((side * 6.4, 0, 0.2, 8.2) for side in (-1, 1)),
        (0, 0, 12.8, 0.2),
    ):
        canvas.draw(number, frame(rect(x, y, length, width)), white, mark=True)
    canvas.draw(number, frame(rect(0, 0, 0.25, 12.5)), flat(60, 62, 66), height=1.0, mark=True)


def pool(canvas: "Canvas", frame: Frame, length: float) -> None:
    """Draw a swimming pool with its deck."""
    rng = canvas.rng
    if not canvas.near(frame.x, frame.y, 15):
        return
    width = length * rng.uniform(0.4, 0.65)
    canvas.add("pavement", frame(rect(0, 0, length + 3, width + 3)), materials.concrete(rng))
    ring = rect(0, 0, length, width) if rng.random() < 0.6 else disc(0, 0, 1, 16) * (length / 2, width / 2)
    blue = Paint(vary(rng, (86, 178, 200), 14), (2.0, 2.0, 2.0), 3.0, 3.0)
    number = canvas.add("swimming pool", frame(ring), blue, level=2)
    canvas.draw(number, frame(ring * 0.6), blue.lit(0.93), mark=True, level=2)


def ship(canvas: "Canvas", frame: Frame, length: float, *, wake: bool = False) -> None:
    """Draw a vessel, bow along x: a boat below 25 m, above it a freighter or ferry."""
    if not canvas.near(frame.x, frame.y, length * 2):
        return
    rng = canvas.rng
    width = length * (rng.uniform(0.26, 0.36) if length < 25 else rng.uniform(0.14, 0.2))
    hull = points(
        (0.5, 0),
        (0.4, 0.26),
        (0.22, 0.46),
        (-0.1, 0.5),
        (-0.5, 0.42),
        (-0.5, -0.42),
        (-0.1, -0.5),
        (0.22, -0.46),
        (0.4, -0.26),
    )
    number = canvas.thing("ship")
    if wake:
        for spread, amount in ((0.5, -0.25), (0.9, -0.12)):
            tail = points((0, 0.1), (-rng.uniform(1.5, 3), spread), (-rng.uniform(1.5, 3), -spread), (0, -0.1))
            canvas.stain(frame(tail * (length, length * 0.8)), amount)
    if length < 25:
        _boat(canvas, frame, number, hull * (length, width), length)
    else:
        _freighter(canvas, frame, number, hull * (length, width), length, width)


def _boat(canvas: "Canvas", frame: Frame, number: int, hull: "Ring", length: float) -> None:
    rng = canvas.rng
    shell = flat(*vary(rng, (226, 226, 222), 12)) if rng.random() < 0.8 else flat(*vary(rng, (70, 80, 110), 30))
    canvas.draw(number, frame(hull), shell, height=length * 0.1)
    deck = flat(*vary(rng, (190, 172, 146) if rng.random() < 0.4 else (214, 214, 210), 14))
    canvas.draw(number, frame(hull * 0.8), deck, mark=True)
    tints = ((236, 236, 234), (44, 72, 140), (238, 232, 220), (70, 74, 80), (30, 90, 130))
    cabin = flat(*vary(rng, tints[rng.integers(len(tints))], 12))
    width = float(np.ptp(hull[:, 1]))
    canvas.draw(
        number, frame(rect(-0.04 * length, 0, 0.36 * length, width * 0.58)), cabin, height=length * 0.09, mark=True
    )
    canvas.draw(number, frame(rect(0.16 * length, 0, 0.07 * length, width * 0.5)), flat(42, 50, 60), mark=True)
    canvas.draw(number, frame(rect(-0.38 * length, 0, 0.14 * length, width * 0.55)), deck.lit(0.6), mark=True)
    if rng.random() < 0.35:  # a mast, its boom and their shadow
        boom = frame(rect(-0.05 * length, 0, 0.55 * length, 0.25))
        canvas.draw(number, boom, flat(210, 210, 205), height=length * 0.3, floats=True, mark=True)


def _freighter(canvas: "Canvas", frame: Frame, number: int, hull: "Ring", length: float, width: float) -> None:
    rng = canvas.rng
    tints = ((120, 52, 44), (62, 72, 92), (84, 96, 84), (160, 160, 156), (52, 52, 56))
    canvas.draw(number, frame(hull), flat(*vary(rng, tints[rng.integers(len(tints))], 12)), height=length * 0.06)
    canvas.draw(number, frame(hull * 0.93), flat(*vary(rng, (130, 104, 90), 25)), mark=True)
    for place in np.arange(-0.22, 0.32, 0.105):
        tone = flat(*vary(rng, (150, 120, 100), 40))
        canvas.draw(number, frame(rect(place * length, 0, 0.085 * length, width * 0.66)), tone, height=3, mark=True)
    tower = rect(-0.38 * length, 0, 0.11 * length, width * 0.85)
    canvas.draw(number, frame(tower), flat(232, 232, 230), height=length * 0.12, mark=True)
