"""Find the aircraft on the example airport and list them by size.

python examples/count_airplanes.py
"""

from pathlib import Path

import geovl

run = geovl.segment(Path(__file__).parent / "airport.tif", "airplane")
aircraft = run.to_geodataframe().sort_values("area_m2", ascending=False)
print(f"{len(aircraft)} regions")
for row in aircraft.itertuples():
    print(
        f"{row.area_m2:7.0f} m²  score {row.score:.2f}  at {row.geometry.centroid.x:.0f}, {row.geometry.centroid.y:.0f}"
    )
