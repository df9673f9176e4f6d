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
    assert plain.manifest["model"]["options"] == {"crop": 64, "stride": 32}
    assert pipeline.segment(path, asked, load(), store).manifest["parameters"]["window"] == 64 + 34 * 32


def test_a_worker_needs_only_the_record(load, weights, tmp_path):
    record = pipeline.model_record(f"clearclip:{weights['clip']}")
    loaded = pipeline.load_record(dataclasses.replace(record, options=SMALL))
    assert isinstance(loaded, OpenVocabularySegmenter)
    again = pipeline.load_record(loaded.record)  # as it comes to a worker
    assert again.record == loaded.record
    with pytest.raises(ModelError, match="not those with which"):
        pipeline.load_record(dataclasses.replace(loaded.record, digest="0" * 64))


def test_a_path_means_the_same_in_every_folder(weights, monkeypatch):
    monkeypatch.chdir(weights["clip"].parent)
    record = pipeline.model_record("clearclip:clip")
    assert (record.source, record.id) == (str(weights["clip"]), f"clearclip:{weights['clip']}")
    loaded = pipeline.load_segmenter("clearclip:clip", "cpu", SMALL | {"vision": "dino"}, "proxyclip")
    assert loaded.record.options["vision"] == str(weights["dino"])


def test_other_weights_are_another_run(tmp_path, store):
    path = str(write_tif(tmp_path / "tile.tif", blobs(100, 100)))
    runs = []
    for seed in (1, 2):
        tiny.clip_folder(tmp_path / "clip", seed)
        segmenter = pipeline.load_segmenter(f"clearclip:{tmp_path / 'clip'}", "cpu", SMALL)
        execution = pipeline.Execution(resume=True)
        runs.append(pipeline.segment(path, words("pool"), segmenter, store, execution=execution))
    assert runs[0].id != runs[1].id
    assert runs[0].manifest["model"]["digest"] != runs[1].manifest["model"]["digest"]


def test_the_same_said_otherwise_is_the_same_run(weights, tmp_path, store):
    path = str(write_tif(tmp_path / "tile.tif", blobs(100, 100)))
    name = f"clearclip:{weights['clip']}"
    ways = ({"crop": "64", "stride": "32"}, {"crop": 64, "stride": 32, "batch": 4, "attention": "qq"}, {"crop": 64.0})
    found = set()
    for told in ways:
        execution = pipeline.Execution(resume=True)
        segmenter = pipeline.load_segmenter(name, "cpu", told)
        found.add(pipeline.segment(path, words("pool"), segmenter, store, execution=execution).id)
    assert len(found) == 1


def test_a_method_is_its_own_whatever_record_it_is_given(load, weights, monkeypatch):
    monkeypatch.setattr(pipeline, "model_record", lambda _: load("proxyclip").record)
    plain = pipeline.load_segmenter("x", "cpu", SMALL, "clearclip")
    assert plain.record.options == {"crop": 64, "stride": 32}
    assert plain.record.id == "proxyclip (clearclip)"
    (one,) = plain.segment([chip()], words("pool"))
    (other,) = load("clearclip").segment([chip()], words("pool"))
    np.testing.assert_array_equal(one.values, other.values)


@pytest.mark.parametrize(
    "name", ["clearclip:", "clearclip:https://u:p@host/w.safetensors", "clearclip:https://h/w.pt?sig=1"]
)
def test_sources_that_cannot_be_are_refused(name):
    with pytest.raises(UsageError):
        pipeline.model_record(name)


@pytest.mark.parametrize("name", ["nano:foo", "nowhere:foo"])
def test_only_weights_of_a_clip_can_be_named(name):
    with pytest.raises(ModelError):
        pipeline.model_record(name)


# what is asked


def test_published_numbers():
    assert {name: (m.attention, m.residual, m.bias, m.scale, m.crop, m.stride) for name, m in METHODS.items()} == {
        "clearclip": ("qq", False, 0.0, 50.0, 448, 224),
        "maskclip": ("identity", False, 0.0, 50.0, 448, 224),
        "sclip": ("qq+kk", False, 0.0, 50.0, 448, 224),
        "segearth-ov": ("qq+kk+vv", False, -0.3, 50.0, 224, 112),
        "proxyclip": ("qq", False, 0.0, 40.0, 336, 112),
    }
    assert (METHODS["proxyclip"].beta, METHODS["proxyclip"].gamma) == (1.2, 3.0)


@pytest.mark.parametrize(
    ("backend", "option"),
    [
        ("clearclip", {"attention": "kk"}), ("clearclip", {"residual": True}), ("clearclip", {"bias": -0.5}),
        ("clearclip", {"scale": 20}), ("clearclip", {"stride": 16}), ("clearclip", {"templates": "plain"}),
        ("clearclip", {"background": "sea"}), ("clearclip", {"background": "none"}), ("proxyclip", {"beta": 0.4}),
        ("proxyclip", {"gamma": 9.0}),
    ],
)  # fmt: skip
def test_every_option_matters(load, backend, option):
    asked = words("swimming pool", "roundabout")
    (usual,) = load(backend).segment([chip()], asked)
    (other,) = load(backend, **option).segment([chip()], asked)
    assert np.abs(usual.values - other.values).max() > 1e-4


def test_windows_encoded_together_are_encoded_alike(load):
    (one,) = load().segment([chip()], words("pool"))
    (many,) = load(batch=5).segment([chip()], words("pool"))
    np.testing.assert_allclose(one.values, many.values, atol=1e-4)


def test_vectors_are_kept_for_these_weights_and_templates_only(load, tmp_path):
    load().segment([chip()], words("pool"))
    folders = set((tmp_path / "cache" / "names").iterdir())
    load(templates="plain").segment([chip()], words("pool"))
    assert len(set((tmp_path / "cache" / "names").iterdir()) - folders) == 1
    tiny.clip_folder(tmp_path / "other", seed=5)
    pipeline.load_segmenter(f"clearclip:{tmp_path / 'other'}", "cpu", SMALL).segment([chip()], words("pool"))
    assert len(set((tmp_path / "cache" / "names").iterdir()) - folders) == 2


def test_too_little_memory_is_an_error_that_windows_are_halved_for(load, monkeypatch):
    from geovl.errors import OutOfMemoryError

    segmenter = load()

    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(segmenter, "_encode", full)
    with pytest.raises(OutOfMemoryError):
        segmenter.segment([chip()], words("pool"))


def test_the_background_leaves_out_what_says_the_same():
    told = METHODS["clearclip"].background
    assert "building" not in background(told, ["residential buildings"])
    assert "building" not in background(told, ["building footprints"])
    assert {"building", "pavement", "bare ground"} <= set(background(told, ["greenhouse", "parking lot", "quarry"]))
    assert background(told, list(BACKGROUND)) == [], "who names all of the ground wants the softmax over it"
    assert background("forest, sea", ["tree"]) == ["forest", "sea"], "what somebody names stands"
    assert background("trees, sea", ["Tree"]) == ["sea"]
    with pytest.raises(PromptError, match="only what was asked for"):
        background("building", ["buildings"])
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
    assert (told.crop, told.stride, told.scale, told.residual, told.attention) == (336, 168, 40.0, True, "qq+kk")
    assert settings_of("clearclip", {"background": ["sea", "sky"]}).background == "sea, sky"
    assert settings_of("clearclip", {"quick_gelu": "false"}).quick_gelu is False
    assert settings_of("clearclip", {"quick_gelu": None}).quick_gelu is None
    with pytest.raises(UsageError, match="bias"):
        settings_of("proxyclip", {"bias": -0.3})
    with pytest.raises(UsageError, match="vision network"):
        settings_of("proxyclip", {"vision": ""})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crops": 336}, "crops"),
        ({"crop": "wide"}, "wide"),
        ({"crop": 0}, "crop"),
        ({"crop": float("inf")}, "crop"),
        ({"crop": 63.9}, "crop"),
        ({"crop": None}, "crop"),
        ({"vision": "x"}, "vision"),
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
