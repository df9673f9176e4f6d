"""Render the example scene: ``airport.tif`` and its exact truth ``airport-truth.geojson``.

    python examples/make_airport.py

An airport at 0.5 m per pixel in UTM zone 32N: runway with markings, parallel taxiway,
apron with aircraft, terminal, hangars, access road, car park, trees and a pond. Shapes
are drawn from far to near on a fine grid and averaged down; the truth is what is visible.
"""

from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize, shapes
from rasterio.io import MemoryFile
from shapely import affinity, box
from shapely.geometry import LineString, Point, Polygon, shape
from shapely.geometry.base import BaseGeometry

HERE = Path(__file__).parent
WIDTH, HEIGHT, FINE, GSD = 900, 640, 2, 0.5
TRANSFORM = Affine(GSD, 0, 691_000, 0, -GSD, 5_334_600)
CRS = "EPSG:32632"
CLASSES = ("grass", "runway", "taxiway", "apron", "road", "parking lot", "building", "airplane", "car", "tree", "water")
SUN = (5.0, 4.0)  # where shadows fall, pixels for a thing 10 m high


class Scene:
    """A picture and its labels, both on a grid ``FINE`` times finer than the result."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.shape = (HEIGHT * FINE, WIDTH * FINE)
        self.rgb = np.zeros((3, *self.shape), np.float32)
        self.labels = np.zeros(self.shape, np.uint8)

    def noise(self, cell: float) -> NDArray[np.float32]:
        """Smooth noise, mean 0 and deviation 1; ``cell`` is its grain in pixels of the result."""
        step = max(1, round(cell * FINE))
        rows, cols = self.shape[0] // step + 2, self.shape[1] // step + 2
        coarse = self.rng.normal(size=(rows, cols)).astype(np.float32)
        y, x = np.arange(self.shape[0]) / step, np.arange(self.shape[1]) / step
        top, left = y.astype(int), x.astype(int)
        down, right = (y - top)[:, None].astype(np.float32), (x - left)[None].astype(np.float32)
        upper = coarse[top][:, left] * (1 - right) + coarse[top][:, left + 1] * right
        lower = coarse[top + 1][:, left] * (1 - right) + coarse[top + 1][:, left + 1] * right
        mixed = upper * (1 - down) + lower * down
        return mixed / mixed.std()

    def mask(self, geometry: BaseGeometry) -> NDArray[np.bool_]:
        """Pixels of the fine grid inside a shape in pixels of the result."""
        if geometry.is_empty:
            return np.zeros(self.shape, np.bool_)
        return rasterize([geometry], self.shape, transform=Affine.scale(1 / FINE)).astype(bool)

    def fill(self, geometry: BaseGeometry, colour: tuple[int, int, int], label: str | None, grain: float = 3) -> None:
        """Paint a shape with a colour that varies a little, and say what it is."""
        inside = self.mask(geometry)
        texture = 0.6 * self.noise(1) + 0.8 * self.noise(14)
        for band in range(3):
            self.rgb[band][inside] = colour[band] + grain * texture[inside]
        if label is not None:
            self.labels[inside] = CLASSES.index(label)

    def shade(self, geometry: BaseGeometry, height: float) -> None:
        """Darken where a thing of ``height`` metres keeps the sun away."""
        dx, dy = (SUN[0] * height / 10, SUN[1] * height / 10)
        steps = [affinity.translate(geometry, dx * t, dy * t) for t in np.linspace(0, 1, 6)]
        for inside in [np.any([self.mask(step) for step in steps], axis=0)]:
            self.rgb[:, inside] *= 0.55

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Average the picture down, blur and add noise; labels take the pixel's centre."""
        picture = self.rgb.reshape(3, HEIGHT, FINE, WIDTH, FINE).mean(axis=(2, 4))
        padded = np.pad(picture, ((0, 0), (1, 1), (1, 1)), mode="edge")
        around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
        picture = 0.6 * picture + 0.1 * around + self.rng.normal(0, 2.0, picture.shape)
        return np.clip(picture, 0, 255).astype(np.uint8), self.labels[FINE // 2 :: FINE, FINE // 2 :: FINE]


def aircraft(length: float) -> BaseGeometry:
    """Outline of an airliner pointing up, its middle at (0, 0); ``length`` in pixels."""
    half = length / 2
    body = LineString([(0, -half), (0, half)]).buffer(length * 0.055)
    wing = Polygon([(0, -0.12), (0.48, 0.16), (0.48, 0.22), (0, 0.1), (-0.48, 0.22), (-0.48, 0.16)])
    tail = Polygon([(0, 0.36), (0.18, 0.46), (0.18, 0.5), (0, 0.46), (-0.18, 0.5), (-0.18, 0.46)])
    flat = [affinity.scale(part, length, length, origin=(0, 0)) for part in (wing, tail)]
    engines = [Point(side * length * 0.18, -length * 0.01).buffer(length * 0.03) for side in (-1, 1)]
    return body.union(flat[0]).union(flat[1]).union(engines[0]).union(engines[1])


def ground(scene: Scene) -> None:
    """Grass with mowing, wear and hay colours, and a pond."""
    base = np.array([104, 118, 74], np.float32)[:, None, None]
    scene.rgb[:] = base + 7 * scene.noise(1.0) + 9 * scene.noise(9) + 11 * scene.noise(60)
    scene.rgb[0] += 8 * scene.noise(35)
    pond = Point(800, 90).buffer(46).union(Point(840, 120).buffer(34))
    scene.fill(pond.buffer(3), (126, 118, 90), None)
    scene.fill(pond, (48, 66, 66), "water", 2)


def runway(scene: Scene) -> None:
    """Runway with shoulders, rubber and markings, and a parallel taxiway with links."""
    strip = box(-20, 200, 860, 290)
    scene.fill(strip, (122, 122, 120), "runway", 4)
    scene.fill(box(-20, 214, 860, 276), (92, 92, 94), None, 4)
    for x in range(150, 700, 3):  # rubber where aircraft touch down
        depth = 14 * np.exp(-(((x - 200) / 90) ** 2)) + 10 * np.exp(-(((x - 640) / 90) ** 2))
        inside = scene.mask(box(x, 228, x + 3, 262))
        scene.rgb[:, inside] -= depth
    white = (214, 214, 208)
    for edge in (216, 272):
        scene.fill(box(36, edge, 824, edge + 2), white, None, 5)
    for x in range(150, 700, 70):
        scene.fill(box(x, 244, x + 36, 246), white, None, 6)
    for end in (44, 786):
        for y in [*range(220, 242, 6), *range(249, 271, 6)]:
            scene.fill(box(end, y, end + 30, y + 3), white, None, 6)
    for x in (180, 620):
        for y in (228, 256):
            scene.fill(box(x, y, x + 45, y + 7), white, None, 6)
    taxi = LineString([(60, 380), (800, 380)]).buffer(17, cap_style="flat")
    for x in (80, 420, 780):
        taxi = taxi.union(LineString([(x, 284), (x, 384)]).buffer(17, cap_style="flat"))
    taxi = taxi.difference(strip)
    scene.fill(taxi, (110, 109, 106), "taxiway", 4)
    lines = LineString([(60, 380), (800, 380)]).union(LineString([(420, 290), (420, 380)])).buffer(0.7)
    scene.fill(lines, (186, 160, 60), None, 4)


def apron(scene: Scene) -> None:
    """Concrete apron in slabs, aircraft, terminal and hangars."""
    scene.fill(box(150, 397, 650, 500), (158, 156, 150), "apron", 4)
    for x in range(150, 650, 12):
        scene.rgb[:, scene.mask(box(x, 397, x + 0.6, 500))] -= 12
    for y in range(397, 500, 12):
        scene.rgb[:, scene.mask(box(150, y, 650, y + 0.6))] -= 12
    for x, length, turn in ((205, 76, 4), (300, 66, -3), (390, 78, 2), (480, 60, 0), (560, 44, 8), (615, 30, -12)):
        plane = affinity.translate(affinity.rotate(aircraft(length), 180 + turn, origin=(0, 0)), x, 452)
        scene.shade(plane, 7)
        scene.fill(plane, (222, 224, 226), "airplane", 5)
        scene.fill(affinity.scale(plane, 0.25, 0.9), (204, 208, 214), None, 3)
    blocks = ((box(170, 506, 470, 546), 12, (176, 172, 166)), (box(490, 506, 560, 556), 10, (150, 92, 74)),
              (box(680, 410, 740, 470), 11, (188, 192, 196)), (box(750, 410, 805, 470), 11, (128, 138, 150)),
              (box(60, 430, 110, 470), 8, (172, 110, 86)))  # fmt: skip
    for block, height, colour in blocks:
        scene.shade(block, height)
        scene.fill(block, colour, "building", 4)
        west, south, east, north = block.bounds
        scene.fill(box(west, south, east, (south + north) / 2), tuple(round(c * 0.86) for c in colour), None, 4)


def landside(scene: Scene) -> None:
    """Access road, car park with cars, and trees."""
    road = LineString([(-10, 610), (300, 590), (620, 600), (910, 570)]).buffer(8, cap_style="flat")
    scene.fill(road, (98, 97, 96), "road", 4)
    scene.fill(LineString([(-10, 610), (300, 590), (620, 600), (910, 570)]).buffer(0.5), (196, 196, 190), None)
    lot = box(580, 515, 700, 580)
    scene.fill(lot, (112, 111, 112), "parking lot", 4)
    colours = ((210, 210, 210), (60, 62, 66), (120, 30, 30), (40, 60, 110), (150, 150, 156))
    for y in (520, 536, 552, 568):
        for x in range(584, 694, 6):
            if scene.rng.random() < 0.7:
                car = box(x, y, x + 4, y + 9)
                scene.shade(car, 1.6)
                scene.fill(car, colours[int(scene.rng.integers(len(colours)))], "car", 3)
    for _ in range(150):
        x, y = scene.rng.uniform(0, WIDTH), scene.rng.choice([scene.rng.uniform(0, 150), scene.rng.uniform(612, 640)])
        radius = scene.rng.uniform(4, 10)
        crown = Point(x, y).buffer(radius)
        if Point(815, 100).distance(crown) < 75:
            continue
        scene.shade(crown, radius * 0.9)
        tone = scene.rng.uniform(0.8, 1.15)
        scene.fill(crown, (round(56 * tone), round(78 * tone), round(46 * tone)), "tree", 9)
        scene.fill(Point(x - radius / 4, y - radius / 4).buffer(radius * 0.5), (86, 106, 66), None, 9)


def main() -> None:
    """Write picture and truth beside this script."""
    scene = Scene(np.random.default_rng(7))
    for draw in (ground, runway, apron, landside):
        draw(scene)
    picture, labels = scene.finish()
    profile = {"driver": "GTiff", "count": 3, "height": HEIGHT, "width": WIDTH, "dtype": "uint8", "crs": CRS}
    with MemoryFile() as memory:
        with memory.open(**profile, transform=TRANSFORM, photometric="RGB") as dataset:
            dataset.write(picture)
        with memory.open() as dataset:
            rasterio.shutil.copy(dataset, HERE / "airport.tif", driver="COG", compress="DEFLATE", predictor="YES")
    found = [(shape(s), CLASSES[int(v)]) for s, v in shapes(labels, connectivity=4, transform=TRANSFORM)]
    truth = gpd.GeoDataFrame({"class": [name for _, name in found]}, geometry=[g for g, _ in found], crs=CRS)
    truth.to_file(HERE / "airport-truth.geojson", driver="GeoJSON", RFC7946="YES")


if __name__ == "__main__":
    main()
