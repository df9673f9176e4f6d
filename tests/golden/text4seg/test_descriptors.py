"""Descriptors as Text4Seg writes and reads them, and as geovl must read what models answer."""

import json

import numpy as np
import pytest

from geovl.errors import PromptError
from geovl.segmenters.text_as_mask.grammar import FORMS, decode, decode_strict, encode
from geovl.segmenters.text_as_mask.grid import to_grid, to_pixels
from tests.golden import folder


def cases(name):
    return [
        case
        for path in sorted(folder("text4seg").glob(f"{name}*.json"))
        for case in json.loads(path.read_text())["cases"]
    ]


DESCRIPTORS, RESAMPLE = cases("descriptors"), cases("resample")
WRITTEN = [case for case in DESCRIPTORS if "grid" in case]
READ = [case for case in DESCRIPTORS if case["row_aligned"] is not None]


def reserved(case):
    """Whether the encoder must refuse the labels; a star within is refused too, though it could be read."""
    return case.get("encoder_must_reject") or any("*" in label for label in case["labels"])


def name(case):
    return case["id"]


def test_there_are_cases_of_every_kind():
    groups = {case["group"] for case in DESCRIPTORS}
    assert {"wellformed", "malformed", "degenerate", "grammar-collision"} <= groups
    assert RESAMPLE


@pytest.mark.parametrize("case", [case for case in WRITTEN if not reserved(case)], ids=name)
def test_a_grid_is_written_as_the_reference_writes_it(case):
    grid = np.array(case["grid"])
    for form in FORMS:
        assert encode(grid, case["labels"], form) == case[form], form


@pytest.mark.parametrize("case", [case for case in WRITTEN if reserved(case)], ids=name)
def test_labels_that_could_not_be_read_back_are_refused(case):
    for form in FORMS:
        with pytest.raises(PromptError):
            encode(np.array(case["grid"]), case["labels"], form)


@pytest.mark.parametrize("case", READ, ids=name)
def test_an_answer_is_read_row_by_row(case):
    expected = case["row_aligned"]
    shape = (case["h"], case["w"])
    for referring in (True, False):
        mode = "referring" if referring else "semantic"
        if mode not in expected:
            continue
        found = decode(case["text"], shape, case["labels"], referring=referring)
        assert found.status == expected["status"]
        assert found.exact == expected["exact"]
        assert list(found.unknown) == expected["unknown"]
        assert found.grid.tolist() == expected[mode], mode


@pytest.mark.parametrize("case", DESCRIPTORS, ids=name)
def test_the_strict_path_is_the_references(case):
    expected = case["reference"]
    shape = (case["h"], case["w"])
    if expected["strict_error"]:
        with pytest.raises({"ValueError": ValueError, "IndexError": IndexError}[expected["strict_error"]]):
            decode_strict(case["text"], shape, case["labels"])
        return
    found = decode_strict(case["text"], shape, case["labels"])
    assert found.cells == expected["strict_cells"]
    assert found.ids.tolist() == expected["referring_ids"]
    assert found.referring.tolist() == expected["referring"]
    assert found.semantic.tolist() == expected["semantic"]


@pytest.mark.parametrize("case", [case for case in WRITTEN if not reserved(case)], ids=name)
def test_every_form_is_read_back(case):
    labels, grid = case["labels"], np.array(case["grid"])
    for form in FORMS:
        found = decode(f"<seg>{encode(grid, labels, form)}</seg>", grid.shape, labels, referring=False)
        assert found.exact, form
        assert np.array_equal(found.grid, grid), form


def digits(rows):
    return np.array([[int(cell) for cell in row] for row in rows])


@pytest.mark.parametrize("case", RESAMPLE, ids=name)
def test_resampling_is_exact_both_ways(case):
    size = (case["H"], case["W"])
    down = to_grid(digits(case["mask"]), (case["n"], case["n"]))
    assert np.array_equal(down, digits(case["down"]))
    assert np.array_equal(to_pixels(digits(case["grid"]), size), digits(case["up"]))
