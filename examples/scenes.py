"""Render four places, ask nano for what is on them, and draw what it found: a look at its habits, good and bad.

python examples/scenes.py [OUT.png]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.features import rasterize

import geovl
from geovl.palette import class_colors, rgba
from geovl.scenes import render

PROMPTS = ["building", "road", "water", "ship", "storage tank", "tree", "swimming pool", "tennis court", "solar panel"]
PLACES = (("harbour", 5), ("town", 11), ("tank farm", 3), ("country", 8))
SIDE = 384

out = Path(sys.argv[1] if len(sys.argv) > 1 else "scenes-found.png")
drawn = []
with tempfile.TemporaryDirectory() as folder:
    for kind, seed in PLACES:
        scene = render(kind, np.random.default_rng(seed), size=SIDE, gsd=0.4)
        place = rasterio.Affine(scene.gsd, 0, 600_000, 0, -scene.gsd, 5_000_000)
        path = Path(folder, "scene.tif")
        with rasterio.open(
            path, "w", driver="GTiff", width=SIDE, height=SIDE, count=3, dtype="uint8", crs="EPSG:32632",
            transform=place, photometric="rgb",
        ) as target:  # fmt: skip
            target.write(scene.rgb)
        found = geovl.segment(path, PROMPTS, store=Path(folder, "runs")).to_geodataframe()
        picture = scene.rgb.copy()
        for name, color in class_colors(tuple(PROMPTS)).items():
            lines = found[found["class"] == name].boundary.buffer(0.4 * scene.gsd)
            if len(lines):
                edge = rasterize(lines, (SIDE, SIDE), transform=place, all_touched=True) == 1
                picture[:, edge] = np.array(rgba(color)[:3], np.uint8)[:, None]
        print(f"{kind}: {found['class'].value_counts().to_dict()}")
        drawn.append(picture)
sheet = np.concatenate([np.concatenate(drawn[:2], axis=2), np.concatenate(drawn[2:], axis=2)], axis=1)
with rasterio.open(out, "w", driver="PNG", width=2 * SIDE, height=2 * SIDE, count=3, dtype="uint8") as target:
    target.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    target.write(sheet)
print(out)
