"""The decoding loop writes what the model alone would write, with and without relay, and asks no more than it must."""

import inspect
import itertools
import logging
import math
from collections import Counter
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="needs the extra [torch]")
transformers = pytest.importorskip("transformers", reason="needs the extra [torch]")

from hypothesis import HealthCheck, given, settings  # noqa: E402 - after it is known that they are there
from hypothesis import strategies as st  # noqa: E402

from geovl.errors import ModelError  # noqa: E402
from geovl.segmenters.text_as_mask import cache, generate, lockstep, relay, sharing  # noqa: E402
from geovl.segmenters.text_as_mask.answers import Answer, Choice, choose  # noqa: E402
from geovl.segmenters.text_as_mask.generate import Decoder, Request, Settings  # noqa: E402
from geovl.segmenters.text_as_mask.network import Network, Piece  # noqa: E402
from geovl.segmenters.text_as_mask.sharing import shared_length  # noqa: E402

WORDS, STOP, IMAGE = 90, 5, 88
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": WORDS, "eos_token_id": STOP, "pad_token_id": 0, "bos_token_id": 1,
}  # fmt: skip
FIVE = transformers.__version__ >= "5"


# ------------------------------------------------------------------------------------------------------------- models


def made(name, config, seed=0):
    """A tiny network whose weights lie so far apart that what it writes depends on every token."""
    torch.manual_seed(seed)
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(torch.randn_like(tensor) * (0.3 if tensor.ndim > 1 else 0.05))
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = STOP, 0
    return model


def llama(**changes):
    return made("LlamaForCausalLM", transformers.LlamaConfig(**{**TEXT, "num_key_value_heads": 4, **changes}))


def qwen2(**changes):
    return made("Qwen2ForCausalLM", transformers.Qwen2Config(**{**TEXT, **changes}))


def llava():
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    text = {"model_type": "llama", **TEXT}
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, image_seq_length=4
    )
    return made("LlavaForConditionalGeneration", config)


def internvl():
    vision = {
        "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": [28, 28], "patch_size": [14, 14],
    }  # fmt: skip
    text = {"model_type": "qwen2", **TEXT}
    config = transformers.InternVLConfig(
        vision_config=vision, text_config=text, image_token_id=IMAGE, image_seq_length=1
    )
    return made("InternVLForConditionalGeneration", config)


def paligemma():
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "vision_use_head": False,
    }  # fmt: skip
    text = {"model_type": "gemma", "head_dim": 8, **TEXT}
    config = transformers.PaliGemmaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, projection_dim=32, vocab_size=WORDS
    )  # fmt: skip
    return made("PaliGemmaForConditionalGeneration", config)


def qwen_vl(name, vision, rope, **text):
    axes = {"rope_type": "default", "mrope_section": rope}
    told = {"rope_parameters": {**axes, "rope_theta": 1e4}} if FIVE else {"rope_scaling": {"type": "default", **axes}}
    config = getattr(transformers, f"{name}Config")(
        vision_config={"spatial_merge_size": 2, "temporal_patch_size": 2, "hidden_size": 32, "depth": 2, **vision},
        text_config={**TEXT, **told, **text},
        image_token_id=IMAGE, video_token_id=89, vision_start_token_id=86, vision_end_token_id=87,
    )  # fmt: skip
    return made(f"{name}ForConditionalGeneration", config)


def qwen2_vl():
    return qwen_vl("Qwen2VL", {"embed_dim": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}, [1, 1, 2])


def qwen2_5_vl():
    vision = {
        "intermediate_size": 48, "num_heads": 2, "patch_size": 14, "out_hidden_size": 32, "window_size": 56,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    return qwen_vl("Qwen2_5_VL", vision, [1, 1, 2])


def qwen3_vl():
    vision = {
        "intermediate_size": 48, "num_heads": 2, "patch_size": 14, "out_hidden_size": 32,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    return qwen_vl("Qwen3VL", vision, [2, 1, 1], head_dim=8)


TEXTS = {"llama": llama, "qwen2": qwen2, "one head of keys": lambda: llama(num_key_value_heads=1)}
PICTURES = {
    "llava": llava, "qwen2_vl": qwen2_vl, "qwen2_5_vl": qwen2_5_vl, "qwen3_vl": qwen3_vl, "internvl": internvl,
}  # fmt: skip
_built = {}


def model_of(name):
    """A model, made once."""
    if name not in _built:
        _built[name] = {**TEXTS, **PICTURES, "paligemma": paligemma}[name]()
    return _built[name]


def words(count, seed):
    return torch.randint(6, 80, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def prompts(shared=40, own=(3, 9, 1, 9, 20)):
    start = words(shared, 0)
    return [Request(start + words(count, 10 + place)) for place, count in enumerate(own)]


def picture(name, seed):
    """What a family takes of a picture, and how many tokens it becomes."""
    noise = torch.Generator().manual_seed(seed)
    if not name.startswith("qwen"):
        return {"pixel_values": torch.randn(1, 3, 28, 28, generator=noise)}, 1 if name == "internvl" else 4
    pixels = torch.randn(24, 3 * 2 * 14 * 14, generator=noise)
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 4, 6]])}, 6


def about(name, before, images, count, behind):
    """A request about a picture."""
    ids = [*before, 86, *[IMAGE] * count, 87, *behind]
    types = {}
    if name.startswith("qwen") and FIVE:
        types = {"mm_token_type_ids": torch.tensor([[int(token == IMAGE) for token in ids]])}
    if name == "paligemma":
        types = {"token_type_ids": torch.zeros(1, len(ids), dtype=torch.long)}
    return Request(ids, images, types)


def many_tiles(name, own=(3, 1, 6, 3)):
    """One question, then the picture: several tiles."""
    start = words(40, 0)
    return [about(name, start, *picture(name, seed), words(n, 20 + seed)) for seed, n in enumerate(own)]


def one_tile(name, own=(3, 1, 6, 3)):
    """One picture, then many questions."""
    start, shown, middle = words(7, 1), picture(name, 5), words(12, 2)
    return [about(name, start, *shown, middle + words(n, 30 + n + seed)) for seed, n in enumerate(own)]


def alone(model, requests, count):
    """What ``model.generate`` writes for each request by itself, up to the stop."""
    found = []
    for request in requests:
        ids = torch.tensor([list(request.ids)])
        given = {**request.images, **request.token_types, "attention_mask": torch.ones_like(ids)}
        row = model.generate(input_ids=ids, do_sample=False, max_new_tokens=count, **given)
        written = row[0, ids.shape[1] :].tolist()
        found.append(tuple(itertools.takewhile(lambda token: token != STOP, written)))
    return found


def watch(model, monkeypatch):
    """Record the arguments of every pass through a model."""
    passes, forward = [], model.forward

    def watched(*args, **more):
        passes.append(more)
        return forward(*args, **more)

    watched.__signature__ = inspect.signature(forward)
    monkeypatch.setattr(model, "forward", watched)
    return passes


def tokens_of(answers):
    return [answer.tokens for answer in answers]


# ------------------------------------------------------------------------------------------ the same as the model alone


@pytest.mark.parametrize("relay_on", [True, False, None])
@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_what_the_model_writes_alone(name, relay_on):
    model, requests = model_of(name), prompts()
    answers = generate.generate(model, requests, Settings(25, relay=relay_on))
    assert tokens_of(answers) == alone(model, requests, 25)
    for answer in answers:
        assert answer.finished == (len(answer.tokens) < 25)
        assert answer.steps == len(answer.tokens) + answer.finished
        assert answer.log_probs == answer.free
        assert not any(answer.forced)


@pytest.mark.parametrize("relay_on", [True, False])
@pytest.mark.parametrize("requests", [many_tiles, one_tile])
@pytest.mark.parametrize("name", PICTURES)
def test_texts_about_pictures_are_what_the_model_writes_alone(name, requests, relay_on):
    model, asked = model_of(name), requests(name)
    decoder = Decoder(model, Settings(12, relay=relay_on))
    assert tokens_of(decoder.generate(asked)) == alone(model, asked, 12)
    assert len(decoder._prefix) == (41 if requests is many_tiles else 7 + 2 + asked[0].ids.count(IMAGE) + 12)
    again = decoder.generate(asked[1:2])  # with what the first batch read
    assert tokens_of(again) == alone(model, asked[1:2], 12)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_without_any_sharing(name):
    model, asked = model_of(name), many_tiles(name)[:1] + one_tile(name)[:1]
    assert tokens_of(generate.generate(model, asked, Settings(12))) == alone(model, asked, 12)


def test_log_probabilities_are_those_of_the_whole_text():
    model, requests = model_of("qwen2"), prompts()
    for answer, request in zip(generate.generate(model, requests, Settings(9, relay=True)), requests, strict=True):
        row = torch.tensor([[*request.ids, *answer.tokens]])
        with torch.no_grad():
            chances = model(row).logits[0].log_softmax(-1)
        start = len(request.ids) - 1
        expected = [float(chances[start + n, token]) for n, token in enumerate(answer.tokens)]
        assert answer.log_probs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("relay_on", [True, False])
def test_halves_are_decoded_too(dtype, relay_on):
    model = qwen2().to(dtype)
    wide = generate.generate(model_of("qwen2"), prompts(), Settings(1))
    answers = generate.generate(model, prompts(), Settings(1, relay=relay_on))
    assert sharing.verified(Network(model)) is None
    for answer, expected in zip(answers, wide, strict=True):
        assert answer.log_probs == pytest.approx(expected.log_probs, abs=0.3)


def test_no_requests_have_no_answers():
    assert generate.generate(model_of("llama"), []) == []


def test_prompts_need_tokens():
    with pytest.raises(ValueError, match="at least one token"):
        Request([])
    with pytest.raises(ValueError, match="at least 0 new and 1 at once, got -1 and 4096"):
        Settings(-1)


def test_scores_that_are_no_numbers_are_told():
    model = llama()
    sharing._verdicts[model] = None
    with torch.no_grad():
        model.lm_head.weight[3] = torch.nan
    with pytest.raises(ModelError, match="no numbers") as caught:
        generate.generate(model, prompts())
    assert "precision" in caught.value.hint


# --------------------------------------------------------------------------------------------------- what is not done


def test_what_is_shared_is_read_once_and_contexts_follow_it(monkeypatch):
    model, requests = model_of("llama"), prompts()
    sharing.verified(Network(model))
    passes = watch(model, monkeypatch)
    generate.generate(model, requests, Settings(3, relay=True))
    shapes = [tuple(one["input_ids"].shape) for one in passes]
    assert shapes == [(1, 40), (1, 3 + 9 + 1 + 9 + 20), (1, 5), (1, 5)]
    first, contexts, step, _ = (one["position_ids"][0].tolist() for one in passes)
    assert first == list(range(40))
    assert contexts == [40 + n for count in (3, 9, 1, 9, 20) for n in range(count)]
    assert step == [40 + count for count in (3, 9, 1, 9, 20)]
    assert [one["logits_to_keep"].tolist() for one in passes[:2]] == [[39], [2, 11, 12, 21, 41]]


def test_the_beginning_is_attended_to_once_for_each_layer_and_step(monkeypatch):
    model, rows = model_of("qwen2"), []
    sharing.verified(Network(model))

    def counting(query, key, value, **more):
        rows.append((tuple(query.shape[:3]), tuple(key.shape[:3])))
        return relay.system_attention(query, key, value, **more)

    monkeypatch.setattr(cache, "system_attention", counting)
    generate.generate(model, prompts(), Settings(3, relay=True))
    contexts, step = ((1, 4, 42), (1, 2, 40)), ((1, 4, 5), (1, 2, 40))
    assert rows == [contexts] * 2 + [step] * 4  # two layers; the first token comes from the contexts' pass


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_a_picture_that_all_ask_about_is_seen_once(name, monkeypatch):
    model = model_of(name)
    sharing.verified(Network(model))
    seen = []
    owner, feature = model.model, model.model.get_image_features

    def seeing(pixel_values, *args, **more):
        seen.append(len(pixel_values))
        return feature(pixel_values, *args, **more)

    monkeypatch.setattr(owner, "get_image_features", seeing)
    decoder = Decoder(model, Settings(2))
    size = len(one_tile(name)[0].images["pixel_values"])
    decoder.generate(one_tile(name))
    assert seen == [size]
    decoder.generate(one_tile(name, own=(2, 2)))
    assert seen == [size], "it is there from the batch before"
    decoder.generate(many_tiles(name))
    assert seen == [size, 4 * size]


def test_prompts_are_read_in_pieces_of_bounded_size(monkeypatch):
    model, requests = model_of("llama"), prompts()
    sharing.verified(Network(model))
    expected = tokens_of(generate.generate(model, requests, Settings(6)))
    passes = watch(model, monkeypatch)
    found = generate.generate(model, requests, Settings(6, tokens_at_once=12, relay=True))
    assert [one["input_ids"].shape[1] for one in passes[:5]] == [40, 3 + 9, 1 + 9, 20, 5]
    assert tokens_of(found) == expected


def test_caches_are_written_in_place(monkeypatch):
    made_caches = []

    class Kept(cache.Ragged):
        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            made_caches.append(self)

        def update(self, *args, **more):
            found = super().update(*args, **more)
            self.places = [*getattr(self, "places", []), self.keys[self.layer].data_ptr()]
            return found

    monkeypatch.setattr(generate, "Ragged", Kept)
    model = llama(eos_token_id=None)
    model.generation_config.eos_token_id = None
    requests = prompts()
    answers = generate.generate(model, requests, Settings(150))
    (kept,) = made_caches
    changes = sum(a != b for a, b in itertools.pairwise(kept.places[::2]))
    assert len(kept.places) == 2 * 150
    assert changes == 2, "room for 128, 192 and 256 tokens"
    model.generation_config.eos_token_id = STOP
    assert tokens_of(answers)[0][:20] == alone(model, requests[:1], 20)[0]


def test_those_that_are_done_leave(monkeypatch):
    model, requests = model_of("llama"), prompts()
    sharing.verified(Network(model))
    constraints = [Script([[n]] + [[7, 8]] * (count - 1)) for n, count in enumerate((4, 1, 3, 6, 2))]
    asked = [Request(one.ids, constraint=rule) for one, rule in zip(requests, constraints, strict=True)]
    for relay_on in (True, False):
        with monkeypatch.context() as patch:
            passes = watch(model, patch)
            answers = generate.generate(model, asked, Settings(9, relay=relay_on))
        sizes = [one["input_ids"].shape[1] for one in passes]
        assert sizes[2:] == [3, 2, 1, 1], "after the prompts"
        assert [len(answer.tokens) for answer in answers] == [4, 1, 3, 6, 2]
        assert [answer.steps for answer in answers] == [3, 0, 2, 5, 1], "the first token is forced"
        for answer, request in zip(answers, asked, strict=True):
            assert generate.generate(model, [request], Settings(9))[0].tokens == answer.tokens


# -------------------------------------------------------------------------------------------------------- constraints


class Script:
    """What may be written at each place."""

    def __init__(self, places):
        self.places = places
        self.asked = Counter()

    def start(self):
        return 0

    def allowed(self, state):
        return self.places[state] if state < len(self.places) else []

    def advance(self, state, token):
        assert token in self.places[state]
        return state + 1


def written(model, request, count):
    """A constrained answer by the whole text anew for each token: tokens, and both chances of each."""
    rule, tokens, chances = request.constraint, [], []
    state = rule.start()
    while len(tokens) < count and (allowed := rule.allowed(state)):
        with torch.no_grad():
            logits = model(torch.tensor([[*request.ids, *tokens]])).logits[0, -1]
        token = allowed[int(logits[list(allowed)].argmax())]
        among = float(logits[token] - logits[list(allowed)].logsumexp(0))
        chances.append((0.0, 0.0) if len(allowed) == 1 else (among, float(logits.log_softmax(-1)[token])))
        tokens.append(token)
        state = rule.advance(state, token)
    return tokens, chances


places = st.lists(st.lists(st.integers(6, 79), min_size=1, max_size=3, unique=True), max_size=9)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(1, 6), places), min_size=1, max_size=4), st.sampled_from(["llama", "qwen2"]))
def test_grammars_are_kept_whatever_is_forced(rows, name):
    model, start = model_of(name), words(30, 3)
    requests = [Request(start + words(own, place), constraint=Script(rule)) for place, (own, rule) in enumerate(rows)]
    for relay_on in (True, False):
        answers = generate.generate(model, requests, Settings(7, relay=relay_on))
        for answer, request in zip(answers, requests, strict=True):
            tokens, chances = written(model, request, 7)
            assert list(answer.tokens) == tokens
            assert answer.log_probs == pytest.approx([among for among, _ in chances], abs=1e-4)
            assert answer.free == pytest.approx([free for _, free in chances], abs=1e-4)
            assert list(answer.forced) == [len(ids) == 1 for ids in request.constraint.places[: len(tokens)]]
            assert answer.finished == (len(request.constraint.places) <= 7)
            free = sum(not forced for forced in answer.forced)
            assert answer.steps == free, "forced stretches cost no pass of their own"


def test_the_models_own_attention_keeps_grammars_too():
    model = model_of("llama")
    rules = [[[7], [8, 9], [10], [11], [12, 13, 14]], [[20, 21], [22]], [], [[30], [31]]]
    requests = [Request(words(5, n), constraint=Script(rule)) for n, rule in enumerate(rules)]
    answers = [Answer(request, 4, frozenset()) for request in requests]
    with torch.inference_mode():
        lockstep.decode(Network(model), answers)
    for answer, request in zip(answers, requests, strict=True):
        found = answer.generated()
        assert list(found.tokens) == written(model, request, 4)[0]
        assert found.finished == (len(request.constraint.places) <= 4)


def test_what_must_be_written_asks_nothing(monkeypatch):
    model = model_of("llama")
    sharing.verified(Network(model))
    passes = watch(model, monkeypatch)
    rules = [Script([[7], [8], [9]]), Script([]), Script([[7]] * 5)]
    answers = generate.generate(model, [Request([6, 6], constraint=rule) for rule in rules], Settings(4))
    assert tokens_of(answers) == [(7, 8, 9), (), (7, 7, 7, 7)]
    assert [answer.finished for answer in answers] == [True, True, False]
    assert [answer.steps for answer in answers] == [0, 0, 0]
    assert not passes


def test_no_new_tokens_are_no_tokens():
    (answer,) = generate.generate(model_of("llama"), [Request([6, 7])], Settings(0))
    assert answer == generate.Generated((), (), (), (), 0, finished=False)


def test_choices_among_few_are_normalised_over_them():
    scores = torch.tensor([[1.0, 3.0, 2.0, 0.0]] * 3)
    anything, two, one = choose(scores, [None, [0, 2], [3]])
    assert anything == Choice(1, pytest.approx(-0.44019, abs=1e-4), pytest.approx(-0.44019, abs=1e-4))
    assert two == Choice(2, pytest.approx(-math.log1p(math.exp(-1)), abs=1e-6), pytest.approx(-1.44019, abs=1e-4))
    assert one == Choice(3, 0.0, pytest.approx(-3.44019, abs=1e-4))


@pytest.mark.parametrize("stops", [None, frozenset(), frozenset({STOP, 11})])
def test_stops_are_the_models_own_unless_told(stops):
    model, requests = model_of("llama"), prompts(own=(2, 4, 6, 8, 3, 5))
    free = tokens_of(generate.generate(model, requests, Settings(40, stops=frozenset())))
    assert {len(tokens) for tokens in free} == {40}
    ends = {STOP} if stops is None else stops
    expected = [tuple(itertools.takewhile(lambda token: token not in ends, tokens)) for tokens in free]
    found = generate.generate(model, requests, Settings(40, stops=stops))
    assert tokens_of(found) == expected
    assert [answer.finished for answer in found] == [len(tokens) < 40 for tokens in expected]


# ---------------------------------------------------------------------------------------------------- what is shared


def test_what_is_shared_ends_before_the_picture_unless_it_is_the_same():
    marks = frozenset({IMAGE})
    a, b = {"x": torch.ones(2)}, {"x": torch.zeros(2)}
    ids = [[1, 2, IMAGE, IMAGE, 3, 4], [1, 2, IMAGE, IMAGE, 3, 5, 6]]
    assert shared_length(ids, [a, b], marks) == 2
    assert shared_length(ids, [a, a], marks) == shared_length(ids, [a, {"x": torch.ones(2)}], marks) == 5
    assert shared_length(ids, [a, a], marks, "class-list") == 2
    assert shared_length(ids, [a, b], marks, "tile") == 2
    assert shared_length(ids, [a, {"y": torch.ones(2)}], marks) == 2
    assert shared_length(ids, [a, a], frozenset()) == 0, "nothing tells where pictures are"
    shown_later = [[1, 2, 3, IMAGE, IMAGE], [1, 2, 3, IMAGE, IMAGE]]
    assert shared_length(shown_later, [a, a], marks) == 3, "not a part of the picture"


def test_every_prompt_keeps_a_token_of_its_own():
    none = frozenset()
    assert shared_length([[1, 2, 3], [1, 2, 3]], [{}, {}], none) == 2
    assert shared_length([[1, 2], [1, 2, 3]], [{}, {}], none) == 1
    assert shared_length([[1], [1, 2, 3]], [{}, {}], none) == 0
    assert shared_length([[1, 2, 3], [2, 2, 3]], [{}, {}], none) == 0


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=4))
def test_shared_tokens_are_the_longest_common_beginning(rows):
    length = shared_length(rows, [{}] * len(rows), frozenset())
    assert len({tuple(row[:length]) for row in rows}) == 1
    longer = {tuple(row[: length + 1]) for row in rows}
    assert len(longer) > 1 or any(len(row) == length + 1 for row in rows)


def test_a_beginning_is_kept_for_the_next_batch_as_far_as_it_fits(monkeypatch):
    model = model_of("llama")
    sharing.verified(Network(model))
    passes = watch(model, monkeypatch)
    decoder = Decoder(model, Settings(1))
    start = words(80, 0)
    batches = [
        ([start + words(3, n) for n in range(3)], [80, 9]),
        ([start + words(2, n) for n in range(10, 12)], [4]),
        ([[*start[:60], 6, *words(2, n)] for n in range(20, 22)], [6]),  # 60 are there: one more is not worth a pass
        ([start[:5] + words(90, 40) + [n] for n in (50, 51)], [95, 2]),
        ([start[:5] + words(90, 40) + [52]], [1]),
        ([words(5, 60)], [5]),
    ]
    for ids, read in batches:
        passes.clear()
        requests = [Request(one) for one in ids]
        answers = decoder.generate(requests)
        assert [one["input_ids"].shape[1] for one in passes] == read
        assert tokens_of(answers) == tokens_of(generate.generate(model, requests, Settings(1)))


def test_another_picture_is_not_taken_for_the_one_that_was_read():
    model = model_of("qwen2_5_vl")
    decoder = Decoder(model, Settings(6))
    first = one_tile("qwen2_5_vl")
    decoder.generate(first)
    others = [Request(one.ids, picture("qwen2_5_vl", 6)[0], one.token_types) for one in first]
    assert tokens_of(decoder.generate(others)) == alone(model, others, 6)
    assert alone(model, others, 6) != alone(model, first, 6)


@pytest.mark.parametrize(
    ("wanted", "requests", "shared", "expected"),
    [
        (None, 8, 256, True), (None, 7, 256, False), (None, 8, 255, False), (True, 1, 40, True), (False, 8, 256, False),
    ],
)  # fmt: skip
def test_relay_is_on_where_it_pays_or_is_wanted(wanted, requests, shared, expected, monkeypatch):
    found = []

    class Kept(cache.Ragged):
        def __init__(self, *args, **more):
            found.append(more["relay"])
            super().__init__(*args, **more)

    monkeypatch.setattr(generate, "Ragged", Kept)
    monkeypatch.setattr(generate, "fused_works", lambda: True)
    decoder = Decoder(model_of("llama"), Settings(1, relay=wanted))
    decoder.generate([Request([*words(shared, 0), 81, n]) for n in range(6, 8)])  # for the beginning
    found.clear()
    decoder.generate([Request([*words(shared - 1, 0), words(shared, 0)[-1], 82 - n % 2, n]) for n in range(requests)])
    assert found == [expected or (wanted is None and requests >= 8 and shared >= 256)]


def test_relay_without_anything_to_share_is_told(caplog):
    model = llama()
    generate.generate(model, [Request([6, 7]), Request([8, 9])], Settings(1, relay=True))
    assert [record.getMessage() for record in caplog.records] == [
        "Requests are decoded without sharing: prompts begin with different tokens."
    ]


# ------------------------------------------------------------------------------------------------ models that are not fit


def test_a_model_that_looks_both_ways_is_read_alone_and_told_once(caplog):
    model = model_of("paligemma")
    sharing._warned.pop(model, None)
    asked = many_tiles("paligemma")
    for _ in range(2):
        assert tokens_of(generate.generate(model, asked, Settings(8))) == alone(model, asked, 8)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "paligemma attends both ways" in record.getMessage()


def test_layers_that_see_too_little_are_left_to_the_model(caplog):
    kinds = ["sliding_attention", "full_attention"]
    config = transformers.Gemma3TextConfig(head_dim=8, sliding_window=16, layer_types=kinds, **TEXT)
    model = made("Gemma3ForCausalLM", config)
    requests = prompts(own=(3, 3, 7, 3))
    assert tokens_of(generate.generate(model, requests, Settings(8))) == alone(model, requests, 8)
    assert "see 16 tokens back" in caplog.text


def test_layers_that_see_far_enough_share(caplog):
    model = made("MistralForCausalLM", transformers.MistralConfig(sliding_window=70, **TEXT))
    requests = prompts()
    assert tokens_of(generate.generate(model, requests, Settings(8, relay=True))) == alone(model, requests, 8)
    assert not caplog.records
    assert (
        sharing.unsuitable(Network(model), 71) == "its layers see 70 tokens back, fewer than prompt and answer may have"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layer_types": ["linear_attention", "full_attention"]}, "keep a state instead of keys"),
        ({"use_bidirectional_attention": True}, "attends both ways"),
        ({"attn_logit_softcapping": 50.0}, "changed before the softmax"),
        ({"alibi": True}, "changed before the softmax"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "depend on how long"),
        ({"rope_scaling": {"type": "longrope"}, "rope_parameters": None}, "depend on how long"),
        ({"num_hidden_layers": 3}, "2 of the 3 layers of llama attend"),
        ({"is_encoder_decoder": True}, "has an encoder"),
    ],
)
def test_what_is_wrong_with_a_model_is_told(changes, reason):
    model = model_of("llama")
    config = SimpleNamespace(**{**model.config.to_dict(), **changes})
    config.get_text_config = lambda: config
    network = Network(model)
    network.model = SimpleNamespace(config=config, _supports_attention_backend=True, modules=model.modules)
    found = sharing._unlike(network) or sharing._unsteady(network.text, 50)
    assert reason in found


def test_unknown_families_and_fixed_attentions_are_left_alone():
    text = SimpleNamespace(num_hidden_layers=2)
    config = SimpleNamespace(model_type="new_vl", get_text_config=lambda: text)
    network = Network(model_of("llama"))
    network.model = SimpleNamespace(config=config, _supports_attention_backend=True)
    assert "new_vl is not known to attend causally, as internvl, llava," in sharing._unlike(network)
    config.get_text_config = lambda: config
    network = Network(model_of("llama"))
    network.model = SimpleNamespace(config=config)
    assert "the attention of new_vl cannot be replaced" in sharing._unlike(network)


def test_a_model_is_compared_with_itself_once(monkeypatch):
    model = llama()
    passes = watch(model, monkeypatch)
    assert sharing.verified(Network(model)) is None
    assert len(passes) == 2 + 2 * 3
    assert sum(one["input_ids"].numel() for one in passes) < 80
    assert sharing.verified(Network(model)) is None
    assert len(passes) == 8


@pytest.mark.parametrize("broken", ["positions", "scale", "prefix"])
def test_what_does_not_come_out_the_same_is_not_used(broken, monkeypatch, caplog):
    model = llama()
    if broken == "positions":
        monkeypatch.setattr(sharing, "_places", lambda network, _, count: torch.arange(count).expand(1, -1))
    elif broken == "scale":
        monkeypatch.setattr(cache, "attend", lambda *args, scale, **more: relay.attend(*args, scale=scale / 2, **more))
    else:
        monkeypatch.setattr(cache, "blend", lambda _, own: own.out)
    requests = prompts()
    assert tokens_of(generate.generate(model, requests, Settings(5, relay=True))) == alone(model, requests, 5)
    assert "its scores would differ by" in caplog.text


def test_attentions_that_want_more_are_not_replaced(monkeypatch):
    model = llama()
    attend = cache.attention
    monkeypatch.setitem(
        transformers.AttentionInterface._global_mapping, cache.NAME, lambda *a, **k: attend(*a, s_aux=1, **k)
    )
    assert sharing.verified(Network(model)) == "its attention needs s_aux"


# ---------------------------------------------------------------------------------------------- inside transformers' code


@pytest.mark.parametrize("name", PICTURES)
def test_towers_attend_as_ever_where_all_of_a_model_is_switched(name):
    model = {**PICTURES}[name]()
    images, _ = picture(name, 3)
    request = many_tiles(name)[0]
    given = {"input_ids": torch.tensor([request.ids]), **request.images, **request.token_types}
    with torch.no_grad():
        features, logits = model.get_image_features(**images), model(**given).logits
        model.set_attn_implementation(cache.NAME)
        assert {config._attn_implementation for config in Network(model).configs} == {cache.NAME}
        found = model.get_image_features(**images)
        torch.testing.assert_close(model(**given).logits, logits)
    pooled = [getattr(one, "pooler_output", one) for one in (features, found)]
    for before, after in zip(*pooled, strict=True):
        torch.testing.assert_close(after, before)


def test_a_model_is_left_as_it_was():
    model = llama()
    model.set_attn_implementation("eager")
    generate.generate(model, prompts(), Settings(2, relay=True))
    assert model.config._attn_implementation == "eager"
    with pytest.raises(IndexError):
        read_nonsense(model)
    assert model.config._attn_implementation == "eager"
    assert cache._CURRENT.get() is None


def read_nonsense(model):
    kept = cache.Ragged(1, 4)
    now = kept.plan([1], [0])
    Network(model).read([Piece([WORDS + 5], torch.zeros(1, 1, dtype=torch.long))], kept, now.last)


def test_layers_of_the_models_own_cache_do_not_copy_with_every_token():
    layer, places, keys, values = lockstep.InPlaceLayer(), [], [], []
    for step in range(100):
        new = torch.randn(2, 2, 5 if step == 0 else 1, 4), torch.randn(2, 2, 5 if step == 0 else 1, 4)
        keys.append(new[0])
        values.append(new[1])
        found = layer.update(*new)
        places.append(found[0].data_ptr())
        assert torch.equal(found[0], torch.cat(keys, 2))
        assert torch.equal(found[1], torch.cat(values, 2))
        assert layer.get_seq_length() == 5 + step
    assert len(set(places)) == 2
    layer.reorder_cache(torch.tensor([1]))
    keys.append(torch.randn(2, 2, 1, 4))
    found = layer.update(keys[-1][1:], keys[-1][1:])
    assert torch.equal(found[0], torch.cat(keys, 2)[1:])
