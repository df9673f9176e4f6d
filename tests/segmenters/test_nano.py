"""The bundled model keeps the segmenter's contract, knows what it was taught, and refuses the rest."""

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from rasterio.features import rasterize

from geovl import catalog, pipeline, weights
from geovl.errors import ModelError, PromptError
from geovl.segmenters import registry
from geovl.segmenters.nano.text import TextTable
from geovl.types import Chip, ModelRecord, Vocabulary, Window
from tests.fakes import blobs

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def nano():
    return pipeline.load_segmenter("nano")


def chip(seed, side=64):
    return Chip(blobs(side, side, seed), np.ones((side, side), bool), Window(0, 0, side, side), 0.5)


def test_a_class_scores_the_same_beside_any_other(nano):
    alone = nano.segment([chip(0)], Vocabulary.from_prompts(["road"]))[0].values[0]
    beside = nano.segment([chip(0)], Vocabulary.from_prompts(["water", "road"]))[0].values[1]
    np.testing.assert_allclose(alone, beside, atol=1e-5)


@pytest.mark.parametrize(
    ("prompt", "concept"),
    [
        ("landing strip", "runway"), ("airport runways", "runway"), ("runways", "runway"), ("houses", "building"),
        ("woodland", "forest"), ("trees", "tree"), ("water", "water"), ("vegetation", "vegetation"),
    ],
)  # fmt: skip
def test_synonyms_mean_the_concept(nano, prompt, concept):
    (note,) = nano.understand(Vocabulary.from_prompts([prompt]))
    assert note.status == "known"
    assert note.nearest[0] == concept


@pytest.mark.parametrize("prompt", ["volcano", "dog", "pizza", "happiness", "zzzqqq", "☃"])
def test_what_it_was_never_taught_is_refused_with_what_it_knows(nano, prompt):
    with pytest.raises(PromptError) as caught:
        nano.understand(Vocabulary.from_prompts([prompt]))
    assert "building" in f"{caught.value.message} {caught.value.hint}"


def test_what_is_poor_is_said_to_be_experimental(nano, store):
    poor = catalog.model("nano").experimental
    assert "wind turbine" in poor, "only rendered pictures show it"
    notes = nano.understand(Vocabulary.from_prompts(["wind turbine", "building"]))
    assert [note.status for note in notes] == ["experimental", "known"]
    (near,) = nano.understand(Vocabulary.from_prompts(["wind farm turbines"]))
    assert (near.nearest[0], near.status) == ("wind turbine", "experimental")
    run = pipeline.segment(str(EXAMPLES / "airport.tif"), Vocabulary.from_prompts(["wind turbine"]), nano, store)
    assert run.manifest["classes"][0]["status"] == "experimental"
    assert any("experimental" in warning for warning in run.manifest["warnings"])


def test_familiarity_is_the_highest_score_of_all_that_was_taught(nano):
    names = json.loads((weights.folder(nano.record) / "concepts.json").read_text())
    scores = nano.segment([chip(3), chip(4)], Vocabulary.from_prompts(list(names)))
    for found, every in zip(nano.familiarity([chip(3), chip(4)]), scores, strict=True):
        assert found.shape == every.values.shape[1:]
        # the highest is taken before pixels are interpolated, so that it can only be higher
        assert (found >= every.values.max(axis=0) - 1e-5).all()
    side = 512  # in the middle of an even picture all locations are the same, and interpolation changes nothing
    even = Chip(np.full((3, side, side), 120, np.uint8), np.ones((side, side), bool), Window(0, 0, side, side), 0.5)
    (found,), (every,) = nano.familiarity([even]), nano.segment([even], Vocabulary.from_prompts(list(names)))
    middle = np.s_[240:272, 240:272]
    np.testing.assert_allclose(found[middle], every.values.max(axis=0)[middle], atol=1e-4)
    assert nano.familiarity([]) == []


def test_equal_chips_give_equal_bits(nano):
    first, second = (
        pipeline.load_segmenter("nano").segment([chip(5)], Vocabulary.from_prompts(["road"])) for _ in range(2)
    )
    assert np.array_equal(first[0].values, second[0].values)


def test_the_example_runway_is_found(nano, store):
    run = pipeline.segment(str(EXAMPLES / "airport.tif"), Vocabulary.from_prompts(["airport runways"]), nano, store)
    with rasterio.open(EXAMPLES / "airport.tif") as dataset:
        truth = gpd.read_file(EXAMPLES / "airport-truth.geojson").to_crs(dataset.crs)
        runway = rasterize(truth[truth["class"] == "runway"].geometry, dataset.shape, transform=dataset.transform) == 1
    found = run.labels() == 1
    assert (found & runway).sum() / (found | runway).sum() >= RUNWAY_IOU


RUNWAY_IOU = 0.7
"""What is promised on the example; version 0.2.0 reached 0.92 when it was trained."""


def test_the_record_names_the_weights_that_are_there(tmp_path):
    record = catalog.model("nano").record
    folder = weights.folder(record)
    weights.verify(record, folder)
    assert sum((folder / name).stat().st_size for name in record.weights) <= 12_000_000
    with pytest.raises(ModelError, match="lacks its file"):
        weights.verify(record, tmp_path)
    for name in record.weights:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelError, match="is not the one"):
        weights.verify(record, tmp_path)


def test_an_unknown_backend_is_refused_by_name():
    with pytest.raises(ModelError, match=r"known are .*nano"):
        registry.load(ModelRecord("x", "none", {}, "1", None, "MIT"))


def test_text_vectors_are_unit_length_and_cut_like_bert(nano):
    table = TextTable.load(weights.folder(nano.record))
    assert np.linalg.norm(table.embed("storage tank")) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(table.embed("Café  ROAD"), table.embed("cafe road"))
    assert table.embed("☃☃☃ zz☃") is None or np.isfinite(table.embed("☃☃☃ zz☃")).all()
    assert float(table.embed("houses") @ table.embed("building")) > 0.5
    concepts = json.loads((weights.folder(nano.record) / "concepts.json").read_text())
    assert {"building", "road", "vegetation", "water", "land", "runway"} <= set(concepts)
