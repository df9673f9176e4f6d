"""Map the example airport with several prompts at once and write a GeoPackage for QGIS.

python examples/land_cover.py [OUT.gpkg]
"""

import sys
from pathlib import Path

import geovl

out = Path(sys.argv[1] if len(sys.argv) > 1 else "airport-land-cover.gpkg")
run = geovl.segment(Path(__file__).parent / "airport.tif", ["airport runways", "building", "grass", "water"])
areas = run.to_geodataframe().groupby("class")["area_m2"].sum()
print(areas.round().to_string())
print(run.export(out, overwrite=True))
