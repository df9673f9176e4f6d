"""Draw what was found on the example airport as outlines on the picture.

python examples/picture.py [OUT.png]
"""

import sys
from pathlib import Path

import rasterio
from rasterio.enums import ColorInterp
from rasterio.features import rasterize

import geovl
from geovl.palette import class_colors, rgba

AIRPORT = Path(__file__).parent / "airport.tif"

out = Path(sys.argv[1] if len(sys.argv) > 1 else "airport-found.png")
run = geovl.segment(AIRPORT, ["airport runways", "airplane", "building", "water"])
with rasterio.open(AIRPORT) as dataset:
    picture, place = dataset.read([1, 2, 3]), dataset.transform
found = run.to_geodataframe()
for name, color in class_colors(run.classes).items():
    lines = found[found["class"] == name].boundary.buffer(0.6)
    if lines.empty:
        continue
    drawn = rasterize(lines, picture.shape[1:], transform=place, all_touched=True) == 1
    for band, value in enumerate(rgba(color)[:3]):
        picture[band][drawn] = value
    print(f"{name}: {len(lines)} regions, {color}")
with rasterio.open(
    out, "w", driver="PNG", width=picture.shape[2], height=picture.shape[1], count=3, dtype="uint8"
) as target:
    target.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    target.write(picture)
print(out)
