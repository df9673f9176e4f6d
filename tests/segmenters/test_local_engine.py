"""Text-as-mask through transformers in this process, on tiny random checkpoints in the true formats."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra [torch]")
pytest.importorskip("transformers", reason="needs the extra [torch]")

from geovl import pipeline  # noqa: E402
from geovl.errors import GeovlError, ModelError, PromptError  # noqa: E402
from geovl.pipeline import SegmentOptions  # noqa: E402
from geovl.runs import RunStore  # noqa: E402
from geovl.segmenters.text_as_mask.engines import Asked  # noqa: E402
from geovl.segmenters.text_as_mask.grammar import decode  # noqa: E402
from geovl.segmenters.text_as_mask.local import LocalEngine, fingerprint, said  # noqa: E402
from geovl.segmenters.text_as_mask.models import prepare  # noqa: E402
from geovl.segmenters.text_as_mask.prompts import Question  # noqa: E402
from geovl.segmenters.text_as_mask.segmenter import TextAsMaskSegmenter  # noqa: E402
from geovl.segmenters.text_as_mask.settings import Settings  # noqa: E402
from geovl.types import ModelRecord, Vocabulary  # noqa: E402
from tests.fakes import blobs, write_tif  # noqa: E402
from tests.segmenters import tiny_mllm  # noqa: E402
from tests.segmenters.contract import check  # noqa: E402

FAMILIES = ("llava", "qwen2_5_vl", "qwen3_vl", "internvl", "paligemma")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: getattr(tiny_mllm, f"{name}_folder")(root / name) for name in FAMILIES}


def record(folder, **options):
    return ModelRecord("tiny", "text-as-mask", {}, "1", None, "CC0-1.0", str(folder), options={"grid": 4, **options})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_was_never_taught_writes_masks_that_parse(folders, family):
    model = TextAsMaskSegmenter(record(folders[family]))
    check(model, ["ship", "a red roof"])
    (scores,) = model.segment([_chip(1)], Vocabulary.from_prompts(["ship"]))
    assert scores.marks == ()
    assert set(np.unique(scores.values > 0)) <= {False, True}


def _chip(seed, side=64):
    from geovl.types import Chip, Window

    return Chip(blobs(side, side, seed), np.ones((side, side), bool), Window(0, 0, side, side), 0.5)


def test_answers_do_not_depend_on_what_is_asked_beside_them_or_on_relay(folders):
    asked = [
        Asked(blobs(64, 64, seed), Question("referring", (name,), shape=(4, 4)))
        for seed in (0, 1) for name in ("ship", "water", "a red roof")
    ]  # fmt: skip
    found = {}
    for relay in ("off", "on"):
        engine = LocalEngine(record(folders["qwen2_5_vl"]), Settings(grid=4, relay=relay), "cpu")
        together = engine.answer(asked)
        alone = [engine.answer([one])[0] for one in asked]
        assert [one.text for one in together] == [one.text for one in alone]
        found[relay] = [one.text for one in together]
    assert found["on"] == found["off"]


def test_scores_are_the_models_own_probabilities(folders):
    """The oracle is one pass of the model over prompt and answer, softmax over what the grammar allows."""
    engine = LocalEngine(record(folders["llava"]), Settings(grid=4), "cpu")
    question = Question("referring", ("ship",), shape=(4, 4))
    pixels = blobs(64, 64, 3)
    (answer,) = engine.answer([Asked(pixels, question)])
    mllm, grammar = engine.model, engine._grammar(question)
    tokens = grammar.tokens(decode(answer.text, (4, 4), question.vocabulary, referring=True).grid)
    given = prepare(mllm, pixels, question)
    ids = torch.tensor([[*given.ids, *tokens]])
    with torch.no_grad():
        logits = mllm.model(input_ids=ids, **given.images).logits[0, len(given.ids) - 1 : -1].float()
    state, expected = grammar.start(), []
    for row, token in zip(logits, tokens, strict=True):
        allowed = list(grammar.allowed(state))
        expected.append(float(row[allowed].log_softmax(0)[allowed.index(token)]))
        state = grammar.advance(state, token)
    assert b"".join(raw for raw, _ in answer.tokens).decode() == answer.text
    np.testing.assert_allclose([value for _, value in answer.tokens], expected, atol=1e-4)


def test_free_answers_of_a_model_that_knows_nothing_are_marked_not_lost(folders, tmp_path):
    path = write_tif(tmp_path / "scene.tif", blobs(130, 70))
    model = TextAsMaskSegmenter(record(folders["internvl"], constrained=False, tokens=20))
    run = pipeline.segment(
        str(path), Vocabulary.from_prompts(["ship"]), model, RunStore(tmp_path / "store"),
        SegmentOptions(window=64, overlap=0),
    )  # fmt: skip
    assert sum(run.manifest["marks"].values()) >= run.manifest["windows"]
    assert set(run.manifest["marks"]) <= {"unread", "cut", "repaired"}
    assert run.manifest["cell"]["pixels"] == 16


def test_a_prompt_longer_than_the_context_is_refused(tmp_path):
    folder = tiny_mllm.qwen2_5_vl_folder(tmp_path / "short", max_position_embeddings=300)
    model = TextAsMaskSegmenter(record(folder))
    with pytest.raises(PromptError, match="takes 300"):
        model.segment([_chip(0)], Vocabulary.from_prompts([f"ship number {n}" for n in range(60)]))


def test_other_weights_have_another_name_and_the_same_have_the_same(folders, tmp_path):
    again = tiny_mllm.llava_folder(tmp_path / "again")
    other = tiny_mllm.llava_folder(tmp_path / "other", seed=1)
    names = [fingerprint([folder / "model.safetensors"]) for folder in (folders["llava"], again, other)]
    assert names[0] == names[1] != names[2]
    digest = TextAsMaskSegmenter(record(folders["llava"])).record.digest
    assert names[0] in digest


@pytest.mark.parametrize(("spoil", "told"), [
    (lambda folder: (folder / "config.json").unlink(), "configuration"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "model.safetensors"),
    (lambda folder: (folder / "config.json").write_text(json.dumps({"model_type": "bert"})), "bert"),
])  # fmt: skip
def test_damaged_checkpoints_get_a_sentence(tmp_path, spoil, told):
    folder = tiny_mllm.llava_folder(tmp_path / "broken")
    spoil(folder)
    with pytest.raises(ModelError) as caught:
        pipeline.load_segmenter(f"text-as-mask:{folder}", "cpu", {"grid": "4"})
    assert told in caught.value.message


def test_a_folder_is_named_on_the_command_line(folders):
    model = pipeline.load_segmenter(f"text-as-mask:{folders['qwen3_vl']}", "cpu", {"grid": "4", "zoom": "true"})
    assert isinstance(model, TextAsMaskSegmenter)
    with pytest.raises(GeovlError):
        pipeline.load_segmenter("text-as-mask:/no/such/folder", "cpu")


def test_tokens_that_are_not_the_tokenizers_own_still_add_up_to_the_text(folders):
    engine = LocalEngine(record(folders["llava"]), Settings(grid=4), "cpu")
    from geovl.segmenters.text_as_mask.answers import Generated

    ids = [token for char in "ship *3" for token in engine.model.tokenizer.encode(char, add_special_tokens=False)]
    count = len(ids)
    answer = said(
        engine.model.tokenizer, Generated(tuple(ids), (-0.1,) * count, (-0.1,) * count, (False,) * count, 1, True)
    )
    assert b"".join(raw for raw, _ in answer.tokens).decode() == answer.text
    assert len(answer.tokens) == count


# outlines by SAM


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    from tests.segmenters import test_promptable

    return test_promptable.saved("sam", tmp_path_factory.mktemp("sam"))


def test_a_sam_draws_the_outlines(sam):
    from tests.segmenters.test_text_as_mask import Painter, painted

    chip = painted(64, red=(0, 0, 32, 32), blue=(36, 36, 20, 20))
    vocabulary = Vocabulary.from_prompts(["red", "blue"])
    coarse, fine = (
        TextAsMaskSegmenter(ModelRecord("painter", "text-as-mask", {}, "1", None, "", "", options=told), engine=Painter(16))
        .segment([chip], vocabulary)[0].values
        for told in ({"upsample": "nearest"}, {"sam": str(sam)})
    )  # fmt: skip
    assert fine.shape == coarse.shape
    assert fine.dtype == np.float32
    assert set(np.unique(fine)) <= {0.0, 1.0}
    assert not (fine > 0).all(0).any(), "a pixel is of one class"
    assert (fine[0] > 0).any(), "what the network does not agree with stays coarse, but for its border"


def test_a_sam_is_not_asked_where_nothing_was_found(sam):
    from tests.segmenters.test_text_as_mask import Painter, painted

    model = TextAsMaskSegmenter(
        ModelRecord("painter", "text-as-mask", {}, "1", None, "", "", options={"sam": str(sam)}), engine=Painter(16)
    )
    model._outliner._network.embed = None  # would fail if it were called
    (found,) = model.segment([painted(64)], Vocabulary.from_prompts(["red"]))
    assert not found.values.any()


def test_the_command_line_asks_a_checkpoint_and_tells_what_was_wrong(folders, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from geovl.cli.app import app

    monkeypatch.chdir(tmp_path)
    write_tif(tmp_path / "scene.tif", blobs(64, 64))
    ask = ["segment", "scene.tif", "ship", "--model", f"text-as-mask:{folders['llava']}", "--set", "grid=4"]
    done = CliRunner().invoke(app, [*ask, "--zoom", "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["model"]["options"]["zoom"] == "true"
    free = CliRunner().invoke(app, [*ask, "--set", "constrained=false", "--set", "tokens=8"])
    assert free.exit_code == 0, free.stderr
    assert "Answers about 1 of 1 windows" in free.stderr
    assert CliRunner().invoke(app, ["segment", "scene.tif", "building", "--zoom"]).exit_code == 2
