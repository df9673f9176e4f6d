"""The open-vocabulary backends as segmenters: contract, scores that mean something, windows, text, what is refused."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from geovl import pipeline  # noqa: E402
from geovl.errors import ModelError, PromptError, UsageError  # noqa: E402
from geovl.pipeline import SegmentOptions  # noqa: E402
from geovl.segmenters.open_vocabulary import dense  # noqa: E402
from geovl.segmenters.open_vocabulary.segmenter import (  # noqa: E402
    BACKGROUND,
    METHODS,
    OpenVocabularySegmenter,
    background,
    settings_of,
)
from geovl.types import Chip, ClassPrompt, ModelRecord, Vocabulary, Window  # noqa: E402
from tests.fakes import blobs, write_tif  # noqa: E402
from tests.segmenters import tiny  # noqa: E402
from tests.segmenters.contract import check  # noqa: E402

SMALL = {"crop": 64, "stride": 32}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return {"clip": tiny.clip_folder(folder / "clip"), "dino": tiny.dino_folder(folder / "dino")}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOVL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def load(weights):
    def make(backend="clearclip", **options):
        told = SMALL | ({"vision": str(weights["dino"])} if backend == "proxyclip" else {}) | options
        record = ModelRecord(backend, backend, {}, "1", None, "unknown", str(weights["clip"]), options=told)
        return OpenVocabularySegmenter(record)

    return make


def chip(height=96, width=80, seed=0, valid=None):
    seen = np.ones((height, width), bool) if valid is None else valid
    return Chip(blobs(height, width, seed), seen, Window(0, 0, height, width), 0.5)


def words(*names):
    return Vocabulary.from_prompts(list(names))


@pytest.mark.parametrize("backend", sorted(METHODS))
def test_every_backend_keeps_the_contract(load, backend):
    check(load(backend), ["swimming pool", "roundabout"])


@pytest.mark.parametrize("backend", sorted(METHODS))
def test_backends_differ(load, backend):
    others = [load(name) for name in METHODS if name != backend]
    (mine,) = load(backend).segment([chip()], words("swimming pool"))
    for other in others:
        (theirs,) = other.segment([chip()], words("swimming pool"))
        assert np.abs(mine.values - theirs.values).max() > 1e-4, other.record.backend


def test_a_score_is_the_odds_against_the_strongest_of_the_background(load):
    segmenter = load(background="meadow, harbour")
    asked = words("swimming pool", "roundabout")
    (scores,) = segmenter.segment([chip()], asked)
    queries = segmenter._asked(asked)
    image = segmenter._image(chip())
    cosines = dense.reference_logits(segmenter._encode, queries, image, segmenter._reading)
    expected = torch.sigmoid(50 * (cosines[:2] - cosines[2:].amax(0)))
    np.testing.assert_allclose(scores.values, expected.numpy(), atol=2e-5)


def test_scores_do_not_depend_on_what_else_was_asked(load):
    segmenter = load()
    (alone,) = segmenter.segment([chip()], words("swimming pool"))
    (among,) = segmenter.segment([chip()], words("roundabout", "swimming pool", "harbour"))
    np.testing.assert_allclose(among.values[1], alone.values[0], atol=1e-6)


def test_without_a_background_scores_are_the_published_softmax(load):
    segmenter = load(background="none")
    asked = words("swimming pool", "roundabout", "harbour")
    (scores,) = segmenter.segment([chip()], asked)
    np.testing.assert_allclose(scores.values.sum(axis=0), 1, atol=1e-5)
    cosines = dense.reference_logits(
        segmenter._encode, segmenter._asked(asked), segmenter._image(chip()), segmenter._reading
    )
    np.testing.assert_allclose(scores.values, (50 * cosines).softmax(0).numpy(), atol=2e-5)
    (alone,) = segmenter.segment([chip()], words("harbour"))
    assert (alone.values == 1).all(), "a softmax over one name says nothing, which is why there is a background"


def test_of_synonyms_the_best_counts(load):
    segmenter = load()
    both = Vocabulary((ClassPrompt("pool", ("swimming pool", "roundabout")),))
    (joined,) = segmenter.segment([chip()], both)
    (apart,) = segmenter.segment([chip()], words("swimming pool", "roundabout"))
    np.testing.assert_allclose(joined.values[0], apart.values.max(axis=0), atol=1e-6)


def test_what_has_no_data_is_no_class_and_is_not_shown(load):
    valid = np.ones((96, 80), bool)
    valid[20:50, 30:70] = False
    segmenter = load()
    seen = chip(valid=valid)
    (scores,) = segmenter.segment([seen], words("swimming pool"))
    assert (scores.values[0][~valid] == 0).all()
    pixels = seen.pixels.copy()
    pixels[:, ~valid] = 255
    (other,) = segmenter.segment([dataclasses.replace(seen, pixels=pixels)], words("swimming pool"))
    np.testing.assert_array_equal(scores.values, other.values)


@pytest.mark.parametrize("pixels", [0, 127, 255])
def test_a_picture_of_one_colour_gives_numbers(load, pixels):
    flat = dataclasses.replace(chip(), pixels=np.full((3, 96, 80), pixels, np.uint8))
    for backend in METHODS:
        (scores,) = load(backend).segment([flat], words("swimming pool"))
        assert np.isfinite(scores.values).all(), backend


def test_the_text_is_read_once_and_kept_on_disk(load, monkeypatch, tmp_path):
    load().segment([chip()], words("swimming pool"))
    assert list((tmp_path / "cache" / "names").rglob("*.safetensors"))
    segmenter = load()
    monkeypatch.setattr(type(segmenter._clip.model), "encode_text", None)
    import geovl.segmenters.open_vocabulary.text as text

    monkeypatch.setattr(text, "_ensembled", None)  # whatever would be read anew fails
    (warm,) = segmenter.segment([chip()], words("swimming pool"))
    assert np.isfinite(warm.values).all()


def test_other_precisions_are_near(load):
    (exact,) = load().segment([chip()], words("swimming pool"))
    (rough,) = load(precision="bf16").segment([chip()], words("swimming pool"))
    assert 0 < np.abs(exact.values - rough.values).max() < 0.2


# windows


@pytest.mark.parametrize("backend", sorted(METHODS))
def test_chips_hold_whole_windows_and_fewer_where_classes_are_many(backend):
    told = METHODS[backend]
    fake = object.__new__(OpenVocabularySegmenter)
    fake.settings = told
    sizes = [OpenVocabularySegmenter.windows(fake, classes) for classes in (1, 10, 150, 1000)]
    for side, overlap in sizes:
        assert (side - told.crop) % told.stride == 0
        assert 0 < overlap <= side // 3
    assert [side for side, _ in sizes] == sorted((side for side, _ in sizes), reverse=True)
    assert sizes[0][0] > sizes[3][0]
    side, _ = sizes[2]
    assert 151 * side * side * 4 < 0.6e9, "scores of 150 classes"


def test_a_raster_is_segmented_whatever_the_batch_and_in_pieces(load, tmp_path, store):
    path = str(write_tif(tmp_path / "tile.tif", blobs(150, 200)))
    asked = words("swimming pool", "roundabout")
    options = SegmentOptions(window=96, overlap=16, threshold=0.5, simplify=0, min_area=0)
    plain = pipeline.segment(path, asked, load(), store, options)
    batched = pipeline.segment(path, asked, load(batch=3), store, dataclasses.replace(options, batch=4))
    np.testing.assert_array_equal(plain.labels(), batched.labels())
    assert plain.manifest["model"]["options"]["crop"] == 64
    assert pipeline.segment(path, asked, load(), store).manifest["parameters"]["window"] == 64 + 34 * 32


def test_a_worker_needs_only_the_record(load, weights, tmp_path):
    record = pipeline.model_record(f"clearclip:{weights['clip']}")
    record = dataclasses.replace(record, options=SMALL)
    assert isinstance(pipeline.load_record(record), OpenVocabularySegmenter)
    assert record.source == str(weights["clip"])


# what is asked


def test_the_background_leaves_out_what_says_the_same():
    told = METHODS["clearclip"].background
    assert background(told, ["swimming pool"]) == list(BACKGROUND)
    assert "building" not in background(told, ["Houses"])
    assert "tree" not in background(told, ["forest"])
    assert {"pavement", "road"} & set(background(told, ["airport runways"])) == {"road"}
    assert background("none", ["a"]) == []
    assert background("sea,  sky , sea", ["a"]) == ["sea", "sky"]
    with pytest.raises(PromptError, match="empty"):
        background("sea,,sky", ["a"])


def test_options_are_read_from_words():
    told = settings_of("clearclip", {"crop": "336", "scale": "40", "residual": "true", "attention": "qq+kk"})
    assert (told.crop, told.scale, told.residual, told.attention) == (336, 40.0, True, "qq+kk")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crops": 336}, "crops"),
        ({"crop": "wide"}, "wide"),
        ({"crop": 0}, "crop"),
        ({"residual": "perhaps"}, "perhaps"),
        ({"attention": "kq"}, "qq"),
        ({"templates": "poems"}, "imagenet"),
        ({"precision": "int4"}, "bf16"),
    ],
)
def test_options_that_cannot_be_are_told(options, words):
    with pytest.raises(UsageError) as told:
        settings_of("clearclip", options)
    assert words in f"{told.value.message} {told.value.hint}"


def test_windows_that_would_leave_gaps_are_refused(load):
    with pytest.raises(UsageError, match="stride of 96"):
        load(crop=64, stride=96)


def test_prompts_that_are_too_many_or_too_long_are_refused(load):
    segmenter = load()
    with pytest.raises(PromptError, match="longer than the text tower"):
        segmenter.understand(words("a very long description of a thing " * 20))
    with pytest.raises(PromptError, match="4096"):
        segmenter.understand(words(*(f"thing {number}" for number in range(5000))))


def test_a_device_that_is_not_there_is_told(load, weights):
    record = ModelRecord("x", "clearclip", {}, "1", None, "unknown", str(weights["clip"]), options=SMALL)
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="cuda"):
            OpenVocabularySegmenter(record, "cuda")
