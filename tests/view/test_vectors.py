"""What a page reads of polygons is what the run holds."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geovl.views.backdrop import MERCATOR, grid
from geovl.views.page import _steps, _to_map
from geovl.views.vectors import Steps, pack, read_varints, unpack, varints
from tests.view.conftest import LOCAL, run_of


def signed(value):
    return -(value + 1) // 2 if value % 2 else value // 2


def polygons_of(packed, steps):
    """Decode as the page does, one number after the other."""
    vertices = [signed(v) for v in read_varints(unpack(packed.vertices))]
    places = np.cumsum(np.array(vertices).reshape(-1, 2), axis=0) * steps.step
    x, y = steps.left + places[:, 0], (steps.top + places[:, 1]) if steps.down else (steps.top - places[:, 1])
    points, at = np.stack([x, y], 1), 0
    lengths = iter(read_varints(unpack(packed.rings)))
    for parts in read_varints(unpack(packed.parts)):
        rings = []
        for _ in range(parts):
            length = next(lengths)
            rings.append(points[at : at + length])
            at += length
        yield shapely.Polygon(rings[0], rings[1:])
    assert at == len(points)


@given(st.lists(st.integers(0, 2**40)))
def test_counts_survive(values):
    assert list(read_varints(varints(np.array(values, np.int64)))) == values


def test_bytes_are_those_of_protocol_buffers():
    assert varints(np.array([0, 127, 128, 300])) == bytes([0, 127, 128, 1, 172, 2])


PLACES = {
    "on Earth": {},
    "without CRS": {"crs": None, "transform": None},
    "without CRS, with a scale": {"crs": None, "transform": Affine(0.5, 0, 7, 0, -0.25, 90)},
    "local": {"crs": LOCAL, "transform": Affine(2, 0, 1000, 0, -2, 500)},
}


@pytest.mark.parametrize("where", PLACES)
def test_polygons_classes_scores_and_areas_are_those_of_the_run(tmp_path, store, where):
    run = run_of(tmp_path, store, **PLACES[where])
    crs = MERCATOR if where == "on Earth" else None
    box = grid(run, 200, crs)
    steps = _steps(box if crs else replace(box, crs=None), 320, 0.25)
    packed = pack(run, steps, _to_map(run, box, crs))
    frame = run.to_geodataframe()
    pixels = PLACES[where].get("transform") or Affine.identity()
    expected = (
        frame.to_crs(crs) if crs else frame.set_crs(None, allow_override=True).affine_transform((~pixels).to_shapely())
    )
    assert packed.count == len(frame) > 20
    scores = np.frombuffer(unpack(packed.scores), np.uint8) / 254
    areas = np.frombuffer(unpack(packed.areas), "<f4")
    labels = list(read_varints(unpack(packed.labels)))
    for index, (shape, label) in enumerate(zip(polygons_of(packed, steps), labels, strict=True)):
        near = getattr(expected, "geometry", expected).intersection(shape).area
        row = int(near.argmax())
        assert shape.hausdorff_distance(getattr(expected, "geometry", expected).iloc[row]) <= steps.step
        assert run.classes[label] == frame["class"].iloc[row]
        assert scores[index] == pytest.approx(frame["score"].iloc[row], abs=0.003)
        if crs:
            assert areas[index] == pytest.approx(frame["area_m2"].iloc[row], rel=1e-5)
    if crs:
        assert (np.diff(areas) <= 0).all()  # large ones are drawn first


def test_steps_round_to_the_nearest():
    assert Steps(10.0, 50.0, 0.5).round(np.array([[10.26, 49.3]])).tolist() == [[1, 1]]
    assert Steps(0.0, 0.0, 2.0, down=True).round(np.array([[5.0, 8.9]])).tolist() == [[2, 4]]
