"""Metrics are those that Text4Seg's own functions give, and the exact ones beside them."""

import json

import numpy as np
import pytest

from geovl.evaluate.referring import THRESHOLDS, Referring, Semantic
from tests.golden import folder

SETS = [
    case for path in sorted(folder("text4seg").glob("metrics*.json")) for case in json.loads(path.read_text())["sets"]
]
WITHIN = {"rel": 0, "abs": 1e-9}


def digits(rows):
    return np.array([[int(cell) for cell in row] for row in rows])


def of_kind(*kinds):
    return [
        pytest.param(case, id=f"{index}-{case['kind']}") for index, case in enumerate(SETS) if case["kind"] in kinds
    ]


def test_there_are_sets_of_every_kind_and_of_no_other():
    assert {case["kind"] for case in SETS} == {"res", "gres", "single_px", "semantic"}


@pytest.mark.parametrize("case", of_kind("res", "gres", "single_px"))
def test_referring(case):
    metrics, expected = Referring(), case["expect"]
    for sample, told in zip(case["samples"], expected["per_sample"], strict=True):
        found = metrics.add(digits(sample["gt"]), digits(sample["pred"]))
        assert (found.intersection, found.union) == (told["inter"], told["union"])
        assert float(found.published_iou) == pytest.approx(told["iou"], **WITHIN)
        box = found.box_iou(published=True)
        assert (None if box is None else float(np.float32(box))) == (
            None if told["box_iou"] is None else pytest.approx(told["box_iou"], **WITHIN)
        )
    assert metrics.mean_iou() == pytest.approx(expected["giou_exact"], **WITHIN)
    assert metrics.published_mean_iou() == pytest.approx(expected["giou_reference"], **WITHIN)
    assert metrics.published_cumulative_iou() == pytest.approx(expected["ciou"], **WITHIN)
    assert metrics.cumulative_iou() == pytest.approx(expected["ciou"], rel=1e-7)
    assert metrics.box_accuracy(published=True) == pytest.approx(expected["box_acc_0_5_reference"], **WITHIN)
    for threshold in THRESHOLDS:
        assert metrics.precision(threshold) == pytest.approx(expected[f"pr_{threshold}"], **WITHIN)


@pytest.mark.parametrize("case", of_kind("gres"))
def test_expressions_without_target(case):
    metrics = Referring()
    nothing = [digits(sample["pred"]) for sample in case["samples"] if not digits(sample["gt"]).any()]
    for sample in case["samples"]:
        metrics.add(digits(sample["gt"]), digits(sample["pred"]))
    assert nothing
    assert metrics.no_target_accuracy() == pytest.approx(np.mean([not mask.any() for mask in nothing]), **WITHIN)


@pytest.mark.parametrize("case", of_kind("semantic"))
def test_semantic(case):
    metrics, expected = Semantic(case["classes"]), case["expect"]
    assert case["ignore_index"] == 0
    for sample in case["samples"]:
        metrics.add(digits(sample["gt"]), digits(sample["pred"]))
    np.testing.assert_allclose(metrics.iou().astype(np.float32), expected["iou_per_class"], rtol=0, atol=1e-9)
    assert metrics.published_mean_iou() == pytest.approx(expected["miou_reference_with_class0"], **WITHIN)
    assert metrics.mean_iou() == pytest.approx(expected["miou_without_class0"], **WITHIN)
