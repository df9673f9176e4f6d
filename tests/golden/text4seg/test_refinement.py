"""What SAM is told about a coarse mask is what Text4Seg means to tell it."""

import json

import numpy as np
import pytest

from geovl.segmenters.promptable.prompts import EPSILON, mask_prompt
from tests.golden import folder

CASES = [
    case
    for path in sorted(folder("text4seg").glob("mask_prompt*.json"))
    for case in json.loads(path.read_text())["cases"]
]


def test_there_are_cases():
    assert CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["n"]))
def test_mask_prompts(case):
    assert case["eps"] == EPSILON
    cells = np.array([[cell == "1" for cell in row] for row in case["grid"]])
    rows, cols, expected = zip(*case["points"], strict=True)
    for padded in (True, False):  # a square picture needs no padding
        found = mask_prompt(cells, (500, 500), padded=padded)
        assert found.shape == (256, 256)
        np.testing.assert_allclose(found[rows, cols], expected, rtol=0, atol=1e-5)
