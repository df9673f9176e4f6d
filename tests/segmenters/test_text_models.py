"""Multimodal models are asked as their processors document it, whatever their family; what is wrong is told in words."""

import hashlib
import json
import logging
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra [torch]")
transformers = pytest.importorskip("transformers", reason="needs the extra [torch]")
pytest.importorskip("torchvision", reason="needs the extra [torch]")
hub = pytest.importorskip("huggingface_hub", reason="needs the extra [torch]")

from PIL import Image  # noqa: E402 - after it is known that they are there
from safetensors.torch import load_file, save_file  # noqa: E402

from geovl.errors import ModelError, OutOfMemoryError, PromptError, UsageError  # noqa: E402
from geovl.segmenters.text_as_mask import checkpoints, llava  # noqa: E402
from geovl.segmenters.text_as_mask.automaton import Automaton  # noqa: E402
from geovl.segmenters.text_as_mask.llava import renamed  # noqa: E402
from geovl.segmenters.text_as_mask.models import load, memory, prepare, prompt, squared  # noqa: E402
from geovl.segmenters.text_as_mask.prompts import (  # noqa: E402
    ENVELOPES,
    TRIGGER,
    Question,
    answer_prefix,
    token_budget,
)
from tests.segmenters import tiny_mllm  # noqa: E402
from tests.segmenters.tiny_mllm import FAMILIES, SIDE  # noqa: E402

SHIP = Question("referring", ("the ship",))
FREE = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl"}
EVERY = {**FAMILIES, "llava_next": tiny_mllm.llava_next_folder, "llava_code": tiny_mllm.llava_code_folder}
TEMPLATED = [name for name in EVERY if name not in {"paligemma", "llava_code"}]


@pytest.fixture(autouse=True)
def _offline(tmp_path, monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("GEOVL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Family to its folder, written when it is first asked for."""
    base, made = tmp_path_factory.mktemp("mllm"), {}

    def folder(name):
        if name not in made:
            made[name] = EVERY[name](base / name)
        return made[name]

    return folder


@pytest.fixture(scope="module")
def mllms(folders):
    """Family to a loaded model."""
    made = {}

    def mllm(name):
        if name not in made:
            made[name] = load(folders(name), side=SIDE[name])
        return made[name]

    return mllm


@pytest.fixture
def said():
    """What transformers logs, as it goes to nobody else."""
    kept = []
    handler = logging.Handler()
    handler.emit = lambda record: kept.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield kept
    logger.removeHandler(handler)


@pytest.fixture
def copied(folders, tmp_path):
    """A folder of a family to spoil."""
    return lambda name: Path(shutil.copytree(folders(name), tmp_path / "copy"))


def chip(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)


def documented(folder, name, pixels, question, **images):
    """What the processor's documentation says to do, and the model that it is done for."""
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    picture = Image.fromarray(pixels.transpose(1, 2, 0))
    if name == "paligemma":
        given = processor(images=picture, text="<image>" + question.text, return_tensors="pt", **images)
    else:
        content = [{"type": "image"}, {"type": "text", "text": question.text}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        given = processor(images=[picture], text=[text], return_tensors="pt", **images)
    given.pop("labels", None)
    return model, given


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


# The same as is documented


@pytest.mark.parametrize("name", [*TEMPLATED, "paligemma"])
@pytest.mark.parametrize("larger", [1, 2.5])
def test_logits_are_those_of_the_documented_way(folders, mllms, name, larger):
    side = int(SIDE[name] * larger)
    pixels = (
        chip(side, side) if name != "llava_next" else squared(chip(side, side), SIDE[name], None)
    )  # which tiles large ones
    told = {}
    if name in FREE:
        least, most = ("min_pixels", "max_pixels") if tiny_mllm.old() else ("shortest_edge", "longest_edge")
        told = {least: SIDE[name] ** 2, most: SIDE[name] ** 2}
        told = told if tiny_mllm.old() else {"size": told}
    if name == "internvl":
        told = {"crop_to_patches": False}
    model, given = documented(folders(name), name, pixels, SHIP, **told)
    prepared = prepare(mllms(name), pixels, SHIP)
    assert list(prepared.ids) == given["input_ids"][0].tolist()
    torch.testing.assert_close(logits(mllms(name).model, prepared.inputs), logits(model, given), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llava", "internvl", "paligemma"])
def test_oblong_chips_are_stretched_as_the_processor_would(folders, mllms, name):
    pixels, side = chip(50, 90), SIDE[name]
    told = {"size": {"height": side, "width": side}}
    told |= {"internvl": {"crop_to_patches": False}, "llava": {"do_center_crop": False}}.get(name, {})
    _, given = documented(folders(name), name, pixels, SHIP, **told)
    prepared = prepare(mllms(name), pixels, SHIP)
    torch.testing.assert_close(prepared.images["pixel_values"], given["pixel_values"])


@pytest.mark.parametrize("name", TEMPLATED)
def test_one_call_that_does_it_all_gives_the_same_ids(folders, mllms, name):
    processor = transformers.AutoProcessor.from_pretrained(folders(name))
    pixels = chip(SIDE[name], SIDE[name])
    content = [{"type": "image", "image": Image.fromarray(pixels.transpose(1, 2, 0))}]
    content.append({"type": "text", "text": SHIP.text})
    given = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip
    assert list(prepare(mllms(name), pixels, SHIP).ids) == given["input_ids"][0].tolist()


@pytest.mark.parametrize("name", EVERY)
def test_greedy_answers_of_generate(mllms, name):
    mllm = mllms(name)
    inputs = prepare(mllm, chip(60, 60), SHIP).inputs
    with torch.no_grad():
        found = mllm.model.generate(**inputs, max_new_tokens=4, do_sample=False)
        first = mllm.model(**inputs).logits[0, -1].argmax()
    answer = found[0, inputs["input_ids"].shape[1] :]
    assert answer[0] == first
    assert 1 <= len(answer) <= 4


@pytest.mark.parametrize("name", EVERY)
def test_the_picture_matters_and_its_tokens_are_counted(mllms, name):
    mllm, side = mllms(name), SIDE[name]
    one, other = (prepare(mllm, chip(side, side, seed), SHIP) for seed in (0, 1))
    assert one.ids == other.ids
    assert not torch.allclose(logits(mllm.model, one.inputs)[0, -1], logits(mllm.model, other.inputs)[0, -1], atol=1e-3)
    patches = {
        "qwen2_vl": 4,
        "qwen2_5_vl": 4,
        "qwen3_vl": 4,
        "internvl": 4,
        "paligemma": 4,
        "llava": 9,
        "llava_code": 9,
    }
    if name in patches:
        assert one.image_tokens == patches[name]
    assert one.ids.count(mllm.image_id) == one.image_tokens
    places = [place for place, token in enumerate(one.ids) if token == mllm.image_id]
    if name != "llava_next":
        assert places == list(range(places[0], places[0] + len(places)))


@pytest.mark.parametrize("name", EVERY)
def test_chips_of_any_size_take_the_same_place(mllms, name):
    mllm = mllms(name)
    found = [prepare(mllm, chip(*size), SHIP) for size in ((32, 32), (17, 90), (200, 120), (SIDE[name], SIDE[name]))]
    assert len({one.ids for one in found}) == 1
    for key in found[0].images:
        assert len({one.images[key].shape for one in found}) == 1
    assert all(value.shape == (1, len(found[0].ids)) for value in found[0].token_types.values())
    assert set(found[0].token_types) <= {"mm_token_type_ids", "token_type_ids"}
    assert set(found[0].images) <= {"pixel_values", "image_grid_thw", "image_sizes"}


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "qwen3_vl", "internvl"])
def test_pictures_of_several_chips_are_joined_along_the_first_axis(mllms, name):
    mllm = mllms(name)
    several = [prepare(mllm, chip(60, 60, seed), SHIP) for seed in range(3)]
    batch = {
        "input_ids": torch.tensor([one.ids for one in several]),
        **{key: torch.cat([one.images[key] for one in several]) for key in several[0].images},
        **{key: torch.cat([one.token_types[key] for one in several]) for key in several[0].token_types},
    }
    found = logits(mllm.model, batch)
    for row, one in zip(found, several, strict=True):
        torch.testing.assert_close(row, logits(mllm.model, one.inputs)[0], rtol=1e-4, atol=1e-4)


# Order


@pytest.mark.parametrize("name", EVERY)
def test_the_question_is_asked_once_behind_the_picture(mllms, name):
    mllm = mllms(name)
    text = prompt(mllm, SHIP)
    assert text.count(SHIP.text) == 1
    assert text.count(mllm.image_token) == 1
    assert text.index(mllm.image_token) < text.index(SHIP.text)
    said = mllm.tokenizer.decode(prepare(mllm, chip(9, 9), SHIP).ids)
    assert said.count(SHIP.text) == 1


@pytest.mark.parametrize("name", [name for name in EVERY if name != "paligemma"])
def test_the_question_can_come_first_so_that_tiles_share_it(mllms, name):
    mllm = mllms(name)
    question = replace(SHIP, share="class-list", shape=(4, 4))
    prepared = prepare(mllm, chip(60, 60), question)
    shared = prepared.ids[: prepared.ids.index(mllm.image_id)]
    assert question.text in mllm.tokenizer.decode(shared)
    assert TRIGGER in mllm.tokenizer.decode(prepared.ids[len(shared) :])
    assert mllm.tokenizer.decode(prepared.ids).count(question.text) == 1
    assert mllm.causal


def test_a_prefix_model_shares_nothing(mllms):
    mllm = mllms("paligemma")
    assert not mllm.causal
    with pytest.raises(UsageError, match="sees the whole prompt at once"):
        prepare(mllm, chip(9, 9), replace(SHIP, share="class-list"))
    token_types = prepare(mllm, chip(9, 9), SHIP).token_types
    assert not any(values.any() for values in token_types.values()), "all of the prompt is attended to both ways"
    assert tiny_mllm.old() or token_types


def test_a_template_that_refuses_the_turn_of_a_system_gets_the_question_in_the_users(copied):
    folder = copied("qwen2_vl")
    template = folder / "chat_template.jinja"
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    template.write_text(
        refuse
        + template.read_text().partition("{% if loop.first")[0]
        + tiny_mllm.chatml("<|image_pad|>")[len("{% for message in messages %}") :]
    )
    mllm = load(folder, side=56)
    text = prompt(mllm, replace(SHIP, share="class-list"))
    assert text.index("<|im_start|>user") < text.index(SHIP.text) < text.index("<|image_pad|>")
    assert "system" not in text


def test_a_template_that_puts_pictures_first_cannot_put_the_question_first(copied):
    folder = copied("llava")
    template = folder / "chat_template.jinja"
    template.write_text("{{ '<image>\n' }}" + template.read_text().replace("{{ '<image>\n' }}", ""))
    mllm = load(folder)
    with pytest.raises(UsageError, match="puts pictures before questions") as raised:
        prompt(mllm, replace(SHIP, share="class-list"))
    assert "share=tile" in raised.value.hint
    assert prompt(mllm, SHIP)


@pytest.mark.parametrize(
    ("template", "match"),
    [
        ("USER: {{ messages[0]['content'][1]['text'] }}", "drops the picture"),
        ("USER: <image>", "drops the question"),
        ("{{ raise_exception('never') }}", "cannot be used: never"),
        ("{% if %}", "cannot be used"),
    ],
)
def test_templates_that_are_no_use(copied, template, match):
    folder = copied("llava")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ModelError, match=match) as raised:
        prompt(load(folder), SHIP)
    assert "envelope=" in raised.value.hint


def test_a_checkpoint_without_a_template_needs_an_envelope(copied):
    folder = copied("llava")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template") as raised:
        prepare(load(folder), chip(9, 9), SHIP)
    assert "llava-swift" in raised.value.hint
    assert prepare(load(folder, envelope="llava"), chip(9, 9), SHIP).image_tokens == 9


def test_an_envelope_takes_the_place_of_the_template(folders):
    told = load(folders("llava"), envelope="llava-swift")
    assert prompt(told, SHIP) == f"USER: <image>\n{SHIP.text}\nASSISTANT:"
    assert prompt(load(folders("llava")), SHIP) == f"USER: <image>\n{SHIP.text} ASSISTANT:"
    ids = told.tokenizer.encode(prompt(told, SHIP).replace("<image>", "<image>" * 9))
    assert list(prepare(told, chip(9, 9), SHIP).ids) == ids
    with pytest.raises(UsageError, match="no envelope 'vicuna'"):
        load(folders("llava"), envelope="vicuna")


def test_a_template_that_begins_the_text_itself_is_not_begun_twice(copied):
    folder = copied("llava")
    template = folder / "chat_template.jinja"
    template.write_text("{{ bos_token }}" + template.read_text())
    mllm = load(folder)
    ids = prepare(mllm, chip(9, 9), SHIP).ids
    assert ids.count(mllm.tokenizer.bos_token_id) == 1
    assert ids[0] == mllm.tokenizer.bos_token_id


# Names and lengths


@pytest.mark.parametrize(("name", "word"), [("llava", "a <image>"), ("llava_code", "<image>s"), ("llava", "x </s>")])
def test_names_that_are_more_than_text_to_the_model(mllms, name, word):
    with pytest.raises(PromptError, match="does not read as text"):
        prepare(mllms(name), chip(9, 9), Question("referring", (word,)))


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_prompts_and_answers_must_fit_into_the_context(folders, tmp_path, name):
    mllm = load(EVERY[name](tmp_path / "short", max_position_embeddings=64), side=SIDE[name])
    ids = prepare(mllm, chip(9, 9), SHIP).ids
    mllm.check_context(ids, 64 - len(ids))
    with pytest.raises(
        PromptError, match=rf"{len(ids)} tokens and its answer up to {65 - len(ids)}.*takes 64"
    ) as raised:
        mllm.check_context(ids, 65 - len(ids))
    assert "fewer classes" in raised.value.hint
    long = Question("closed", tuple(f"class number {i}" for i in range(40)))
    with pytest.raises(PromptError, match="takes 64"):
        prepare(mllm, chip(9, 9), long)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "internvl", "paligemma"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (16, 16)])
def test_no_answer_is_longer_than_its_budget(mllms, name, shape):
    tokenizer = mllms(name).tokenizer
    for question in (SHIP, Question("closed", ("a ship at the quay", "road", "Wald"))):
        opening = answer_prefix(question)
        budget = token_budget(tokenizer, question.vocabulary, shape, opening=opening)
        automaton = Automaton(tokenizer, question.vocabulary, shape, opening=opening)
        longest = np.indices(shape).sum(0) % 2  # no two neighbours alike
        for grid in (longest, longest * 0, longest * (len(question.names))):
            assert len(automaton.tokens(grid)) <= budget


# Loading


def test_precisions(folders):
    for precision, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        mllm = load(folders("qwen2_5_vl"), precision=precision, side=56)
        assert {parameter.dtype for parameter in mllm.model.parameters()} == {dtype}
        assert not any(parameter.requires_grad for parameter in mllm.model.parameters())
        assert not mllm.model.training
        tables = [buffer for name, buffer in mllm.model.named_buffers() if "inv_freq" in name]
        assert {table.dtype for table in tables} == {torch.float32}, "positions are not to be rounded"
        prepared = prepare(mllm, chip(20, 20), SHIP)
        assert prepared.images["pixel_values"].dtype == dtype
        assert prepared.images["image_grid_thw"].dtype == torch.int64
        assert logits(mllm.model, prepared.inputs).isfinite().all()
    with pytest.raises(UsageError, match="precision is 'int8'; expected one of float32, bf16, fp16"):
        load(folders("llava"), precision="int8")


@pytest.mark.parametrize("name", FAMILIES)
def test_what_ends_an_answer(mllms, name):
    mllm = mllms(name)
    assert mllm.stops == (mllm.tokenizer.eos_token_id,)
    assert mllm.family == name
    assert mllm.context == 2048


def test_all_that_is_said_to_end_an_answer_does(copied):
    folder = copied("qwen2_vl")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 3]}))
    mllm = load(folder)
    assert mllm.stops == (3, 7, mllm.tokenizer.eos_token_id)


@pytest.mark.parametrize(("name", "usual"), [("qwen2_vl", 448), ("qwen2_5_vl", 448), ("qwen3_vl", 512), ("llava", 42)])
def test_the_usual_side(folders, name, usual):
    assert load(folders(name)).side == usual


def test_sides_that_a_family_does_not_take(folders):
    with pytest.raises(UsageError, match="multiples of 28 pixels, such as 112"):
        load(folders("qwen2_vl"), side=100)
    with pytest.raises(UsageError, match="multiples of 32 pixels, such as 32"):
        load(folders("qwen3_vl"), side=0)
    with pytest.raises(UsageError, match="takes pictures of 42 pixels"):
        load(folders("llava"), side=84)


def test_a_side_that_was_asked_for_is_taken_whatever_the_processor_would_do(copied):
    folder = copied("qwen2_vl")
    for file in ("processor_config.json", "preprocessor_config.json"):
        if (folder / file).is_file():
            told = json.loads((folder / file).read_text())
            small = {"size": {"shortest_edge": 56 * 56, "longest_edge": 56 * 56}, "max_pixels": 56 * 56}
            told.get("image_processor", told).update(small)
            (folder / file).write_text(json.dumps(told))
    assert prepare(load(folder, side=84), chip(9, 9), SHIP).image_tokens == 9


def test_weights_in_parts(folders, tmp_path):
    folder = Path(shutil.copytree(folders("llava"), tmp_path / "parts"))
    whole = load_file(folder / "model.safetensors")
    names, parts = sorted(whole), ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for part, kept in zip(parts, (names[::2], names[1::2]), strict=True):
        save_file({name: whole[name] for name in kept}, folder / part, {"format": "pt"})
    index = {"weight_map": {name: parts[i % 2] for i, name in enumerate(names)}}
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    found, usual = load(folder), load(folders("llava"))
    assert [path.name for path in found.files] == list(parts)
    inputs = prepare(usual, chip(9, 9), SHIP).inputs
    assert torch.equal(logits(found.model, inputs), logits(usual.model, inputs))
    (folder / parts[1]).unlink()
    with pytest.raises(ModelError, match=parts[1]):
        load(folder)


def cached(repository, folder, *, commit="c" * 40):
    """Lay a folder out as huggingface_hub does."""
    base = Path(hub.constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text(commit)
    for path in folder.iterdir():
        blob = base / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(path.read_bytes())
        pointer = base / "snapshots" / commit / path.name
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.symlink_to(Path("../../blobs") / blob.name)


@pytest.mark.parametrize("source", ["hf-hub:me/tiny", "me/tiny", f"hf-hub:me/tiny@{'c' * 40}"])
def test_repositories_load_from_the_hubs_cache(folders, source):
    cached("me/tiny", folders("internvl"))
    mllm = load(source)
    assert mllm.name == source
    assert prepare(mllm, chip(9, 9), SHIP).image_tokens == 4


def test_repositories_that_are_not_here_are_told_with_the_way_to_get_them():
    with pytest.raises(ModelError, match=r"needs config\.json and model\.safetensors or .*HF_HUB_OFFLINE") as raised:
        load("hf-hub:me/tiny")
    assert "hf download me/tiny config.json" in raised.value.hint


def test_files_put_by_hand_load(folders, tmp_path):
    shutil.copytree(folders("llava"), tmp_path / "cache" / "weights" / "me--tiny")
    assert prepare(load("hf-hub:me/tiny"), chip(9, 9), SHIP).image_tokens == 9


# What is wrong is told


@pytest.mark.parametrize("source", ["/nowhere/at/all", "./nothing", "nothing", "a/b/c"])
def test_places_where_nothing_is(source):
    with pytest.raises(ModelError, match="is no folder and no hf-hub:owner/name"):
        load(source)


@pytest.mark.parametrize(
    ("gone", "match"),
    [
        (["config.json"], "no config.json in .*: no configuration"),
        (["model.safetensors"], "no model.safetensors or .*: no weights"),
        (["tokenizer.json", "vocab.json"], "no tokenizer.json or .*: no tokenizer"),
        (
            ["processor_config.json", "preprocessor_config.json"],
            "The processor of .* cannot be loaded|has no processor of texts and pictures",
        ),
    ],
)
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_folders_that_lack_a_file(copied, gone, match, name):
    folder = copied(name)
    for file in gone:
        (folder / file).unlink(missing_ok=True)  # some are not written by every version
    with pytest.raises(ModelError, match=match) as raised:
        load(folder)
    assert raised.value.hint


def test_models_of_other_types(copied):
    folder = copied("llava")
    config = json.loads((folder / "config.json").read_text())
    for kind, match in (("bert", "'bert'; expected a multimodal"), ("made_up", "'made_up'; expected"), (None, "None;")):
        (folder / "config.json").write_text(json.dumps({**config, "model_type": kind}))
        with pytest.raises(ModelError, match=match) as raised:
            load(folder)
        assert "Qwen2.5-VL" in raised.value.hint
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read, it is not JSON"):
        load(folder)
    (folder / "config.json").write_text(json.dumps({**config, "vision_config": {"model_type": "nothing"}}))
    with pytest.raises(ModelError, match="does not make sense"):
        load(folder)


def test_weights_that_do_not_fit_the_configuration(copied):
    folder = copied("llava")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="do not make a LlavaForConditionalGeneration"):
        load(folder)


def test_weights_that_are_missing_are_not_made_up(copied, said):
    folder = copied("qwen2_vl")
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if "layers.1.mlp.down_proj" in name)
    save_file({name: tensor for name, tensor in tensors.items() if name != gone}, folder / "model.safetensors")
    said.clear()
    with pytest.raises(ModelError, match=r"lacks 1 of the weights of a Qwen2VL.*layers\.1\.mlp\.down_proj"):
        load(folder)
    assert said == [], "transformers would print a table"


@pytest.mark.parametrize("keep", [0, 7, 1000, -1])
def test_truncated_weights(copied, keep):
    folder = copied("llava")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match="is damaged or no file of weights") as raised:
        load(folder)
    assert str(path) in raised.value.message


def test_pickles_are_refused(copied):
    folder = copied("llava")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"are in pytorch_model\.bin, which could run code") as raised:
        load(folder)
    assert "save_pretrained" in raised.value.hint
    index = {"weight_map": {"lm_head.weight": "pytorch_model.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"are in pytorch_model\.bin, which could run code"):
        load(folder)


CODE = "from pathlib import Path\nPath({mark!r}).touch()\n"


@pytest.mark.parametrize("kind", ["model", "processor", "tokenizer"])
def test_code_of_a_checkpoint_is_not_run(copied, tmp_path, kind):
    folder, mark = copied("llava"), tmp_path / "ran"
    (folder / "mine.py").write_text(CODE.format(mark=str(mark)))
    names = {
        "model": ("config.json", {"model_type": "mine", "auto_map": {"AutoConfig": "mine.A", "AutoModelForImageTextToText": "mine.B"}}),
        "processor": ("processor_config.json", {"processor_class": "Mine", "auto_map": {"AutoProcessor": "mine.A"}}),
        "tokenizer": ("tokenizer_config.json", {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.A", None]}}),
    }  # fmt: skip
    file, change = names[kind]
    told = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**told, **change}))
    if kind == "model":
        with pytest.raises(ModelError, match="needs code of its own, which is never run"):
            load(folder)
    else:
        with suppress(ModelError):  # some do without, none runs it
            load(folder)
    assert not mark.exists()


def test_adapters_are_told_apart_from_models(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="is an adapter, not a model") as raised:
        load(tmp_path)
    assert "merge" in raised.value.hint


def test_a_library_that_is_too_old_or_not_there(monkeypatch):
    monkeypatch.setattr(checkpoints, "import_module", lambda name: type("Old", (), {"__version__": "4.44.0"}))
    with pytest.raises(ModelError, match=r"4\.57 or later, here is 4\.44\.0"):
        checkpoints.library()

    def gone(name):
        raise ImportError(name)

    monkeypatch.setattr(checkpoints, "import_module", gone)
    with pytest.raises(ModelError, match="cannot be loaded") as raised:
        checkpoints.library()
    assert "geovl[torch]" in raised.value.hint


@pytest.mark.parametrize("pixels", [np.zeros((9, 9, 3), np.uint8), np.zeros((3, 9, 9)), np.zeros((3, 0, 9), np.uint8)])
def test_pixels_of_another_kind(pixels):
    with pytest.raises(ValueError, match="Pixels must be uint8"):
        squared(pixels, 8, None)


def test_nothing_is_said_on_the_way(folders, capfd, said):
    for name in ("paligemma", "llava", "qwen2_vl", "llava_code"):
        folder = folders(name)
        said.clear()
        capfd.readouterr()
        prepare(load(folder), chip(9, 9), SHIP)
        assert said == []
        assert capfd.readouterr() == ("", "")


# Files of the original code of LLaVA


def by_hand(seed, pixels, text):
    """Logits as the original code computes them: three networks, and embeddings put together."""
    language, tower, projector, tokenizer = tiny_mllm.llava_code_parts(seed)
    images = transformers.CLIPImageProcessor(size={"height": 42, "width": 42}, do_center_crop=False)
    picture = images(Image.fromarray(pixels.transpose(1, 2, 0)), return_tensors="pt")["pixel_values"]
    before, behind = (tokenizer.encode(part, add_special_tokens=False) for part in text.split("<image>"))
    with torch.no_grad():
        seen = projector(tower(picture, output_hidden_states=True).hidden_states[-2][:, 1:])
        embed = language.get_input_embeddings()
        first = embed(torch.tensor([[tokenizer.bos_token_id, *before]]))
        whole = torch.cat([first, seen, embed(torch.tensor([behind]))], dim=1)
        return language(inputs_embeds=whole).logits


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("kind", ["llava_llama", "llava"])
def test_original_files_give_what_the_original_code_computes(tmp_path, inside, kind):
    folder = tiny_mllm.llava_code_folder(tmp_path / "code", 3, tower_inside=inside, model_type=kind)
    mllm = load(folder)
    pixels = chip(50, 70)
    prepared = prepare(mllm, pixels, SHIP)
    found, expected = logits(mllm.model, prepared.inputs), by_hand(3, pixels, prompt(mllm, SHIP))
    assert mllm.family == "llava_llama"
    torch.testing.assert_close(found[..., :-1], expected, rtol=1e-4, atol=1e-4)
    unknown = mllm.tokenizer.unk_token_id
    torch.testing.assert_close(found[..., -1], found[..., unknown])
    assert prompt(mllm, SHIP).startswith("A chat between a curious user")
    assert len(mllm.files) == (1 if inside else 2)


def test_original_files_name_the_tower_that_they_lack(tmp_path):
    folder = tiny_mllm.llava_code_folder(tmp_path / "code", mm_vision_tower="openai/clip-vit-tiny")
    with pytest.raises(ModelError, match=r"openai/clip-vit-tiny needs config\.json"):
        load(folder)
    (folder / "tiny-clip-336").rename(folder / "clip-vit-tiny")
    assert prepare(load(folder), chip(9, 9), SHIP).image_tokens == 9, "a tower beside the files is found"
    elsewhere = tiny_mllm.llava_code_folder(tmp_path / "other", mm_vision_tower="/data/towers/clip-vit-tiny")
    with pytest.raises(ModelError, match="/data/towers/clip-vit-tiny, which is not here") as raised:
        load(elsewhere)
    assert f"into {elsewhere / 'clip-vit-tiny'}" in raised.value.hint


def test_a_tower_of_which_all_is_known_needs_no_other_repository(tmp_path, monkeypatch):
    known = {"tiny-clip": tiny_mllm.CLIP, "clip-vit-large-patch14-336": llava.TOWERS["clip-vit-large-patch14-336"]}
    monkeypatch.setattr(llava, "TOWERS", known)
    folder = tiny_mllm.llava_code_folder(tmp_path / "code", 4, mm_vision_tower="openai/tiny-clip")
    mllm = load(folder)
    found = logits(mllm.model, prepare(mllm, chip(42, 42), SHIP).inputs)
    torch.testing.assert_close(found[..., :-1], by_hand(4, chip(42, 42), prompt(mllm, SHIP)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("whole", [True, False])
def test_the_tower_of_another_repository_is_taken_from_the_hubs_cache(tmp_path, whole):
    """Whether that holds the tower alone or, as OpenAI's do, all of CLIP."""
    folder = tiny_mllm.llava_code_folder(tmp_path / "code", 5, tower_inside=False, mm_vision_tower="me/clip")
    beside = folder / "tiny-clip-336"
    if whole:
        config = transformers.CLIPConfig(vision_config=tiny_mllm.CLIP, text_config=tiny_mllm.TEXT, projection_dim=16)
        clip = transformers.CLIPModel(config)
        clip.vision_model.load_state_dict(
            {
                name.removeprefix("vision_model."): tensor
                for name, tensor in load_file(beside / "model.safetensors").items()
            }
        )
        clip.save_pretrained(beside)
    cached("me/clip", beside)
    shutil.rmtree(beside)
    mllm = load(folder)
    found = logits(mllm.model, prepare(mllm, chip(42, 42), SHIP).inputs)
    torch.testing.assert_close(found[..., :-1], by_hand(5, chip(42, 42), prompt(mllm, SHIP)), rtol=1e-4, atol=1e-4)


def test_a_tower_that_is_no_clip_or_no_safetensors(tmp_path):
    folder = tiny_mllm.llava_code_folder(tmp_path / "code", tower_inside=False)
    beside = folder / "tiny-clip-336"
    (beside / "model.safetensors").rename(beside / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no model\.safetensors in"):
        load(folder)
    (beside / "config.json").write_text('{"model_type": "siglip_vision_model"}')
    (beside / "pytorch_model.bin").rename(beside / "model.safetensors")
    with pytest.raises(ModelError, match="is of type 'siglip_vision_model'; expected CLIP's"):
        load(folder)


@pytest.mark.parametrize("kind", ["LlamaTokenizer", "LlamaTokenizerFast"])
def test_original_files_name_the_tokenizer_of_llama(tmp_path, kind):
    folder = tiny_mllm.llava_code_folder(tmp_path / "code")
    told = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**told, "tokenizer_class": kind, "legacy": True}))
    mllm = load(folder)
    *_, tokenizer = tiny_mllm.llava_code_parts()
    before, behind = (tokenizer.encode(part, add_special_tokens=False) for part in prompt(mllm, SHIP).split("<image>"))
    assert list(prepare(mllm, chip(9, 9), SHIP).ids) == [1, *before, *[mllm.image_id] * 9, *behind]


def test_original_files_have_their_tokenizer_as_sentencepiece_saves_it(tmp_path):
    pieces = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    folder = tiny_mllm.llava_code_folder(tmp_path / "code")
    (folder / "tokenizer.json").unlink()
    (tmp_path / "lines.txt").write_text("\n".join(line.replace("\n", " ") for line in tiny_mllm.SENTENCES))
    pieces.SentencePieceTrainer.train(
        input=str(tmp_path / "lines.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=380, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=9,
    )  # fmt: skip
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_bos_token": True, "unk_token": "<unk>"}
    config |= {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    mllm = load(folder)
    oracle = pieces.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    before, behind = (oracle.encode(part) for part in prompt(mllm, SHIP).split("<image>"))
    assert list(prepare(mllm, chip(9, 9), SHIP).ids) == [1, *before, *[mllm.image_id] * 9, *behind]


def test_a_tokenizer_of_sentencepiece_that_cannot_be_read(tmp_path):
    folder = tiny_mllm.llava_code_folder(tmp_path / "code")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\x0anothing")
    with pytest.raises(ModelError, match=r"The tokenizer of .* cannot be loaded") as raised:
        load(folder)
    assert "pip install sentencepiece protobuf" in raised.value.hint


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"mm_projector_type": "linear"}, "mm_projector_type 'linear'"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio 'anyres'"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end True"),
    ],
)
def test_other_versions_of_the_original_code(tmp_path, change, match):
    folder = tiny_mllm.llava_code_folder(tmp_path / "code", **change)
    with pytest.raises(ModelError, match=match) as raised:
        load(folder)
    assert "convert_llava_weights_to_hf" in raised.value.hint


def test_names_of_original_files():
    names = {
        "model.embed_tokens.weight": "language_model.model.embed_tokens.weight",
        "model.layers.0.mlp.up_proj.weight": "language_model.model.layers.0.mlp.up_proj.weight",
        "lm_head.weight": "language_model.lm_head.weight",
        "model.mm_projector.0.bias": "multi_modal_projector.linear_1.bias",
        "model.mm_projector.2.weight": "multi_modal_projector.linear_2.weight",
        "model.vision_tower.vision_tower.vision_model.pre_layrnorm.bias": "vision_tower.vision_model.pre_layrnorm.bias",
    }
    unused = ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.image_newline"]
    assert list(renamed(dict.fromkeys([*names, *unused], torch.zeros(1)))) == list(names.values())


def test_envelopes_are_known_by_their_names():
    assert all(name == envelope.name for name, envelope in ENVELOPES.items())
    assert os.environ["HF_HUB_OFFLINE"] == "1", "these tests are to work without a network"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError("can't allocate 9 GB")]
)
def test_memory_that_is_short_is_told(error):
    with pytest.raises(OutOfMemoryError, match="m does not fit into the memory of the device") as raised, memory("m"):
        raise error
    assert "precision=bf16" in raised.value.hint
    with pytest.raises(RuntimeError, match="of another kind"), memory("m"):
        raise RuntimeError("of another kind")
