"""Metrics of referring segmentation: what they are, under which names, and what counts."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geovl.evaluate.referring import BOXES, CUMULATIVE, MEAN, NO_TARGET, Referring, Semantic, beside_oracle
from geovl.segmenters.text_as_mask.grid import to_grid, to_pixels

MASKS = arrays(bool, (5, 6))
PAIRS = st.lists(st.tuples(MASKS, MASKS), min_size=1, max_size=6)


def counted(pairs):
    metrics = Referring()
    for truth, predicted in pairs:
        metrics.add(truth, predicted)
    return metrics


def square(row, col, side, size=(16, 16)):
    mask = np.zeros(size, bool)
    mask[row : row + side, col : col + side] = True
    return mask


def test_a_large_object_weighs_more_in_the_cumulative_ratio_and_not_in_the_mean():
    found = counted([(square(0, 0, 10), square(0, 0, 10)), (square(0, 0, 2), square(8, 8, 2))])
    assert found.cumulative_iou() == 100 / 108
    assert found.mean_iou() == 0.5
    assert found.precision(0.9) == 0.5


def test_results_carry_both_names_of_the_metrics_that_papers_exchange():
    found = counted([(square(0, 0, 4), square(0, 0, 2))]).summary()
    assert {"cIoU", "oIoU", "cumulative"} <= set(CUMULATIVE.replace("(", "").replace(")", "").split())
    assert {"gIoU", "mIoU", "mean"} <= set(MEAN.replace("(", "").replace(")", "").split())
    assert list(found) == [CUMULATIVE, MEAN, "Pr@0.5", "Pr@0.6", "Pr@0.7", "Pr@0.8", "Pr@0.9", NO_TARGET, BOXES]
    assert found[CUMULATIVE] == found[MEAN] == 0.25


def test_a_threshold_itself_is_not_above_the_threshold():
    half = counted([(square(0, 0, 2), np.pad(np.ones((1, 2), bool), ((0, 15), (0, 14))))])
    assert half.mean_iou() == 0.5
    assert half.precision(0.5) == 0
    assert half.precision(0.4999) == 1


@given(PAIRS)
def test_metrics_are_shares_and_know_no_order(pairs):
    found, turned = counted(pairs), counted(pairs[::-1])
    for (name, value), other in zip(found.summary().items(), turned.summary().values(), strict=True):
        assert value is None or 0 <= value <= 1, name
        assert value == pytest.approx(other), name
    shares = [found.precision(threshold / 10) for threshold in range(11)]
    assert shares == sorted(shares, reverse=True)


@given(PAIRS)
def test_truth_answers_itself_perfectly_and_truth_and_answer_may_be_exchanged(pairs):
    itself = counted([(truth, truth) for truth, _ in pairs])
    assert itself.mean_iou() == 1
    assert itself.cumulative_iou() in {1, None}
    turned = counted([(predicted, truth) for truth, predicted in pairs])
    assert counted(pairs).mean_iou() == turned.mean_iou()
    assert counted(pairs).cumulative_iou() == turned.cumulative_iou()


def test_expressions_without_target():
    nothing = np.zeros((16, 16), bool)
    found = counted([(nothing, nothing), (nothing, square(0, 0, 3)), (square(0, 0, 3), nothing)])
    assert found.no_target_accuracy() == 0.5  # the expression with a target does not count
    assert found.mean_iou() == pytest.approx(1 / 3)
    assert found.cumulative_iou() == 0  # what was found in vain is in the union
    assert counted([(square(0, 0, 3), nothing)]).no_target_accuracy() is None


def test_nothing_to_count_is_no_number():
    assert set(Referring().summary().values()) == {None}
    assert Referring().published_mean_iou() is None
    assert Referring().published_cumulative_iou() is None
    nothing = np.zeros((4, 4), bool)
    assert counted([(nothing, nothing)]).cumulative_iou() is None


def test_truth_that_is_covered_twice_is_truth():
    truth = square(0, 0, 4).astype(np.uint8) + square(2, 2, 4).astype(np.uint8)
    assert truth.max() == 2
    assert counted([(truth * 127, truth > 0)]).mean_iou() == 1


def test_pixels_without_data_do_not_count():
    metrics = Referring()
    found = metrics.add(square(0, 0, 4), square(0, 0, 8), valid=square(0, 0, 4))
    assert (found.intersection, found.union) == (16, 16)
    assert found.predicted_box == (0, 0, 3, 3)


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="expected the same size"):
        Referring().add(np.zeros((4, 4), bool), np.zeros((4, 5), bool))
    with pytest.raises(ValueError, match="expected the same size"):
        Referring().add(np.zeros((4, 4), bool), np.zeros((4, 4), bool), np.zeros(4, bool))


def test_a_box_one_pixel_wide_has_an_area_unless_figures_of_others_are_to_be_met():
    line = np.pad(np.ones((6, 1), bool), ((2, 2), (3, 3)))
    found = counted([(line, line)])
    assert found.box_accuracy() == 1
    assert found.expressions[0].box_iou(published=True) is None
    assert found.box_accuracy(published=True) == 0


def test_single_precision_of_others_is_near_and_not_the_same():
    found = counted([(square(0, 0, 3), square(1, 1, 3))])
    assert found.published_mean_iou() == pytest.approx(found.mean_iou(), abs=1e-6)
    assert found.published_mean_iou() < found.mean_iou()


def test_a_model_beside_the_oracle_of_its_grid():
    model, oracle = Referring(), Referring()
    for side in (3, 5, 9):
        truth = square(1, 2, side)
        model.add(truth, square(1, 2, side - 1))
        oracle.add(truth, to_pixels(to_grid(truth, (4, 4)), truth.shape))
    table = beside_oracle(model, oracle)
    assert table.keys() == model.summary().keys()
    row = table[MEAN]
    assert row == {
        "model": model.mean_iou(),
        "grid oracle": oracle.mean_iou(),
        "share": model.mean_iou() / oracle.mean_iou(),
    }
    assert table[NO_TARGET] == {"model": None, "grid oracle": None, "share": None}
    assert {entry["share"] for name, entry in beside_oracle(oracle, oracle).items() if entry["share"]} == {1}


def test_an_oracle_of_other_expressions_is_refused():
    with pytest.raises(ValueError, match="same expressions"):
        beside_oracle(counted([(square(0, 0, 3), square(0, 0, 3))]), Referring())
    with pytest.raises(ValueError, match="same expressions"):
        beside_oracle(counted([(square(0, 0, 3),) * 2]), counted([(square(0, 1, 3),) * 2]))


# ------------------------------------------------------------------------------------------------------------ semantic


def test_what_truth_leaves_open_does_not_count_except_in_the_mean_of_others():
    metrics = Semantic(3)
    metrics.add(np.array([[0, 0, 1, 1, 2, 2]]), np.array([[1, 2, 1, 2, 2, 0]]))
    np.testing.assert_allclose(metrics.iou(), [2 / 3, 1 / 2, 1 / 3])
    assert metrics.mean_iou() == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert metrics.published_mean_iou() == pytest.approx(0.5)
    assert list(metrics.summary().values()) == [metrics.mean_iou(), metrics.published_mean_iou()]


def test_a_class_that_does_not_occur_is_not_in_the_mean():
    metrics = Semantic(4)
    assert metrics.mean_iou() is None
    assert metrics.published_mean_iou() is None
    metrics.add(np.array([[1, 1, 0]]), np.array([[1, 1, 3]]))
    np.testing.assert_array_equal(metrics.iou(), [1, 1, np.nan, np.nan])
    assert metrics.mean_iou() == 1


@given(arrays(np.uint8, (6, 4), elements=st.integers(0, 3)), arrays(np.uint8, (6, 4), elements=st.integers(0, 3)))
def test_pictures_add_up(truth, predicted):
    whole, halves = Semantic(4), Semantic(4)
    whole.add(truth, predicted)
    for half in (slice(0, 3), slice(3, 6)):
        halves.add(truth[half], predicted[half])
    np.testing.assert_array_equal(whole.confusion, halves.confusion)
    for label in range(1, 4):
        mask, found = truth == label, (predicted == label) & (truth != 0)
        union = np.count_nonzero(mask | found)
        expected = np.count_nonzero(mask & found) / union if union else np.nan
        np.testing.assert_allclose(whole.iou()[label], expected)


def test_labels_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"Labels of the prediction must be 0 to 1, got 0 to 2"):
        Semantic(2).add(np.array([[0, 1]]), np.array([[0, 2]]))
    with pytest.raises(ValueError, match=r"Labels of truth must be 0 to 1, got 0 to 255"):
        Semantic(2).add(np.array([[0, 255]]), np.array([[0, 1]]))
    with pytest.raises(ValueError, match="expected the same size"):
        Semantic(2).add(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="at least 2 classes"):
        Semantic(1)


def test_metrics_need_nothing_but_numpy():
    script = "import sys, geovl.evaluate.referring; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"torch", "rasterio", "pandas", "transformers"} & set(done.stdout.split())
