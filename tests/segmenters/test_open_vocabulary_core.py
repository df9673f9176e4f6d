"""The torch core of open-vocabulary segmentation: towers against open_clip's own, the fast path against the slow one."""

import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the extra [torch]")
pytest.importorskip("open_clip", reason="needs the extra [torch]")
pytest.importorskip("safetensors", reason="needs the extra [torch]")

from open_clip.model import CLIP, CustomTextCLIP  # noqa: E402
from open_clip.transformer import QuickGELU  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from geovl.errors import ModelError, PromptError, UsageError  # noqa: E402
from geovl.segmenters.open_vocabulary import dense, templates, text, tower  # noqa: E402
from geovl.segmenters.open_vocabulary.attention import PAIRS, dense_tokens  # noqa: E402
from geovl.segmenters.open_vocabulary.dense import Encoding, Options, Queries  # noqa: E402

VISION = {"image_size": 32, "patch_size": 8, "width": 48, "layers": 3, "head_width": 16, "mlp_ratio": 2.0}
TEXT = {"context_length": 20, "vocab_size": 300, "width": 32, "heads": 2, "layers": 3}
END = 299


def clip(layout=CLIP, quick=False, vision=None, words=None, seed=0):
    """A small model whose every weight is random, so that none can be left out unseen."""
    torch.manual_seed(seed)
    model = layout(24, VISION | (vision or {}), TEXT | (words or {}), quick_gelu=quick).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn_like(value) * (0.3 if value.ndim == 1 else 0.15) + (value.ndim == 1) * 0.5)
    return model


def pixels(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --------------------------------------------------------------------------------------------------------- image tower


@pytest.mark.parametrize("pack", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize(
    ("quick", "vision"),
    [(False, {}), (True, {}), (False, {"no_ln_pre": True}), (False, {"image_size": (16, 40)}), (True, {"layers": 1})],
)
def test_with_attention_as_trained_the_tower_is_the_models_own(quick, vision, pack):
    model = clip(quick=quick, vision=vision)
    model.visual.output_tokens = True
    x = pixels(2, 3, *model.visual.image_size)
    with torch.no_grad():
        pooled, tokens = model.visual(x)
        tokens = tokens @ model.visual.proj
    ours = tower.Tower(model, pack=pack)
    found, whole = dense_tokens(ours, x, "qk", residual=True)
    torch.testing.assert_close(found, tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole, pooled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.project(ours.last(ours.stream(x)))[:, 1:], tokens, atol=1e-5, rtol=1e-5)


def test_a_tower_tells_its_sizes_and_leaves_the_model_alone():
    model = clip()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ours = tower.Tower(model.visual)
    assert (ours.patch, ours.width, ours.heads, ours.embed_dim, ours.native) == (8, 48, 3, 24, (4, 4))
    found, _ = dense_tokens(ours, pixels(1, 3, 32, 40))
    assert found.shape == (1, 20, 24)
    assert not found.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert type(model.visual.transformer.resblocks[-1].attn) is torch.nn.MultiheadAttention


@pytest.mark.parametrize("variant", PAIRS)
def test_attention_is_a_sum_of_softmaxes_over_all_tokens(variant):
    ours = tower.Tower(clip())
    x = pixels(2, 3, 24, 40)
    parts = ours.last.qkv(ours.stream(x))
    weights = sum((parts[a] @ parts[b].transpose(2, 3) / 4).softmax(-1) for a, b in PAIRS[variant])
    values = parts[2] if variant == "identity" else weights @ parts[2]
    merged = values.transpose(1, 2).flatten(2)
    rows = functional.linear(merged, *(clip().visual.transformer.resblocks[-1].attn.out_proj.parameters()))
    expected = ours.project(rows)
    found, whole = dense_tokens(ours, x, variant)
    torch.testing.assert_close(found, expected[:, 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole, expected[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.last.out(values), ours.last.out(merged))
    one_by_one = torch.cat([dense_tokens(ours, window[None], variant)[0] for window in x])
    torch.testing.assert_close(found, one_by_one, atol=1e-5, rtol=1e-5)


def test_positions_depend_on_the_shape_of_the_grid_and_not_on_its_count():
    ours = tower.Tower(clip())
    native, long = ours.positions((4, 4)), ours.positions((2, 8))
    assert torch.equal(native, clip().visual.positional_embedding)
    assert torch.equal(native[0], long[0])
    assert (native[1:] - long[1:]).abs().max() > 0.1
    # a cubic through equal points is that point: of columns that are alike, resampling changes nothing
    model = clip()
    with torch.no_grad():
        table = model.visual.positional_embedding
        table[1:] = table[1:5].repeat_interleave(4, 0)  # rows differ, columns do not
    wide = tower.Tower(model).positions((6, 9))[1:].view(6, 9, -1)
    torch.testing.assert_close(wide, wide[:, :1].expand_as(wide), atol=1e-6, rtol=0)
    tall = tower.Tower(model).positions((6, 4))[1:].view(6, 4, -1)
    torch.testing.assert_close(tall[:, 0], wide[:, 0], atol=1e-6, rtol=0)


def test_tables_are_made_once_for_a_grid_and_not_kept_for_ever(monkeypatch):
    ours = tower.Tower(clip())
    assert ours.positions((3, 5)) is ours.positions((3, 5))
    for rows in range(1, 60):
        ours.positions((rows, 7))
    assert len(ours._tables) <= 16


def test_a_model_of_low_precision_gives_near_tokens_of_its_type():
    x = pixels(1, 3, 32, 40)
    exact, _ = dense_tokens(tower.Tower(clip()), x)
    for pack in (False, True):
        ours = tower.Tower(clip().to(torch.bfloat16), pack=pack)
        assert (ours.dtype, ours.device) == (torch.bfloat16, torch.device("cpu"))
        found, _ = dense_tokens(ours, x)
        assert found.dtype == torch.bfloat16
        assert functional.cosine_similarity(found.float(), exact, dim=-1).min() > 0.995


def test_packing_does_not_depend_on_the_moment():
    assert tower.packing_pays() is tower.packing_pays()
    assert tower.can_pack(torch.zeros(2, 2)) == torch.backends.mkldnn.is_available()
    assert not tower.can_pack(torch.zeros(2, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("vision", "word"),
    [
        ({"layers": (1, 1, 1, 1), "width": 16}, "ModifiedResNet"),
        ({"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "image_size": 32}, "TimmModel"),
        ({"attentional_pool": True, "attn_pooler_queries": 4}, "attentional pooling"),
        ({"final_ln_after_pool": True}, "after pooling"),
        ({"ls_init_value": 0.1}, "LayerScale"),
        ({"block_type": "custom"}, "Attention"),
    ],
)
def test_another_kind_of_tower_is_refused_by_name(vision, word):
    model = CLIP(24, VISION | vision, TEXT)
    with pytest.raises(ModelError, match=word) as caught:
        tower.Tower(model)
    assert "expected" in caught.value.message
    assert "ViT" in caught.value.hint


def test_a_tower_without_projection_or_with_a_strange_one_is_refused():
    model = clip()
    model.visual.proj = None
    with pytest.raises(ModelError, match="projection"):
        tower.Tower(model)
    model = clip()
    model.visual.conv1.stride = (4, 4)
    with pytest.raises(ModelError, match="side by side"):
        tower.Tower(model)
    model = clip()
    model.visual.grid_size = (2, 4)
    with pytest.raises(ModelError, match="17 rows"):
        tower.Tower(model)


@pytest.mark.parametrize("size", [(30, 32), (32, 33), (0, 32), (4, 32)])
def test_sides_that_are_no_multiple_of_the_patch_are_refused(size):
    ours = tower.Tower(clip())
    assert ours.grid(32, 48) == (4, 6)
    with pytest.raises(ModelError, match=f"{size[0]} x {size[1]}.*multiples of 8"):
        ours.grid(*size)
    with pytest.raises(ModelError, match="multiples of 8"):
        ours.stream(torch.zeros(1, 3, *size))
    with pytest.raises(UsageError, match=r"'kq'.*qq\+kk"):
        dense_tokens(ours, torch.zeros(1, 3, 32, 32), "kq")


# ---------------------------------------------------------------------------------------------------------- text tower


def sentences(count=60, seed=0, context=20):
    """Sentences of 3 to ``context`` tokens, many of which begin alike; behind their ends, zeros."""
    rng = np.random.default_rng(seed)
    tokens = np.zeros((count, context), int)
    stems = rng.integers(1, END, (4, context))
    for row in tokens:
        stop, shared = rng.integers(2, context), rng.integers(0, context)
        row[:stop] = rng.integers(1, END, stop)
        row[: min(shared, stop)] = stems[rng.integers(4)][: min(shared, stop)]
        row[stop] = END
    return torch.from_numpy(tokens)


@pytest.mark.parametrize("work", [None, 30_000])
@pytest.mark.parametrize("pack", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (CLIP, {}),
        (CustomTextCLIP, {}),
        (CLIP, {"pool_type": "eos", "eos_id": END}),
        (CustomTextCLIP, {"proj_bias": True}),
    ],
)
def test_sentences_cut_and_shared_give_what_the_models_own_forward_gives(layout, words, pack, work, monkeypatch):
    if work:
        monkeypatch.setattr(text, "_WORK", work)
    model = clip(layout, quick=bool(words), words=words)
    tokens = torch.cat([sentences(), sentences(5)])
    ours = text.TextTower(model, pack=pack)
    assert ours.cuts
    with torch.no_grad():
        expected = model.encode_text(tokens)
    assert expected.abs().mean() > 0.1
    torch.testing.assert_close(ours.embed(tokens), expected, atol=5e-6, rtol=5e-6)


@pytest.mark.parametrize(
    "words",
    [
        {"no_causal_mask": True},
        {"embed_cls": True},
        {"pool_type": "last"},
        {"ls_init_value": 0.5},
        {"block_type": "custom"},
    ],
)
def test_a_text_tower_of_another_kind_runs_as_it_is(words, monkeypatch):
    monkeypatch.setattr(text, "_UNCUT", 7)
    model = clip(CustomTextCLIP, words=words)
    ours = text.TextTower(model)
    assert not ours.cuts
    tokens = sentences(20)
    with torch.no_grad():
        torch.testing.assert_close(ours.embed(tokens), model.encode_text(tokens), atol=1e-5, rtol=1e-5)


def test_equal_beginnings_are_worked_on_once():
    tokens = sentences(200)
    lengths = tokens.argmax(1) + 1
    filled = tokens.where(torch.arange(20) < lengths[:, None], -1)
    shared = text._prefixes(filled)
    distinct = {
        tuple(row[:stop].tolist()) for row, length in zip(tokens, lengths, strict=True) for stop in range(1, length + 1)
    }
    assert len(shared.tokens) == len(distinct) < 0.8 * int(lengths.sum())
    # every path spells its sentence
    for row, path, end, length in zip(tokens, shared.paths, shared.ends, lengths, strict=True):
        assert torch.equal(shared.tokens[path[:length]], row[:length])
        assert shared.places[path[:length]].tolist() == list(range(length))
        assert path[length - 1] == end
    assert torch.equal(shared.paths.flatten()[shared.origin], torch.arange(len(shared.tokens)))


class ToyTokenizer:
    """A word is a token; counts what it was asked for."""

    def __init__(self):
        self.texts = []

    def __call__(self, texts):
        self.texts += texts
        out = torch.zeros(len(texts), 20, dtype=torch.long)
        for row, line in zip(out, texts, strict=True):
            ids = [*[1 + sum(map(ord, word)) % (END - 1) for word in line.lower().split()][:19], END]
            row[: len(ids)] = torch.tensor(ids)
        return out


NAMES = ["house", "swimming pool", "road", "very long name of something"]
WAYS = ["a photo of a {} .", "{} from above", "the {}"]


def test_a_name_is_the_mean_of_unit_vectors_of_its_sentences():
    model, toy = clip(), ToyTokenizer()
    found = text.embed_names(model, toy, [" house ", *NAMES[1:], "house"], WAYS)
    with torch.no_grad():
        for name, vector in zip([*NAMES, "house"], found, strict=True):
            each = functional.normalize(model.encode_text(ToyTokenizer()([way.format(name) for way in WAYS])), dim=-1)
            torch.testing.assert_close(vector, functional.normalize(each.mean(0), dim=0), atol=5e-6, rtol=0)
    assert len(toy.texts) == len(NAMES) * len(WAYS), "a name given twice is embedded once"
    assert found.dtype == torch.float32


@pytest.mark.parametrize("names", [[], ["house", " "]])
def test_no_name_or_an_empty_one_is_refused(names):
    with pytest.raises(PromptError, match="empty"):
        text.embed_names(clip(), ToyTokenizer(), names, WAYS)
    with pytest.raises(PromptError, match="0 templates"):
        text.embed_names(clip(), ToyTokenizer(), ["house"], [])
    with pytest.raises(ModelError, match="Linear"):
        text.TextTower(torch.nn.Linear(2, 2))


KEY = text.CacheKey("toy", "ab" * 32, templates.digest(WAYS))


def test_vectors_are_kept_and_only_missing_names_are_embedded(tmp_path):
    model, toy = clip(), ToyTokenizer()
    cold = text.embed_names(model, toy, NAMES[:2], WAYS, text.NameCache(tmp_path, KEY))
    toy.texts.clear()
    warm = text.embed_names(model, toy, [NAMES[1], "road", NAMES[0]], WAYS, text.NameCache(tmp_path, KEY))
    assert len(toy.texts) == len(WAYS)
    assert all("road" in line for line in toy.texts)
    assert torch.equal(warm[[2, 0]], cold)
    for other in ({"model": "other"}, {"weights": "cd" * 32}, {"templates": templates.digest(WAYS[:2])}):
        key = text.CacheKey(**({name: getattr(KEY, name) for name in ("model", "weights", "templates")} | other))
        assert text.NameCache(tmp_path, key).get("road") is None
    assert text.NameCache(tmp_path, KEY).get("road") is not None
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors"}, "no drafts are left"


def damage_byte(path):
    blob = bytearray(path.read_bytes())
    blob[-3] ^= 1
    path.write_bytes(blob)


@pytest.mark.parametrize(
    "damage",
    [
        damage_byte,
        lambda path: path.write_bytes(path.read_bytes()[:-5]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(os.urandom(200)),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["byte", "cut", "empty", "noise", "folder"],
)
def test_a_damaged_file_is_a_miss_and_no_error(tmp_path, damage):
    cache = text.NameCache(tmp_path, KEY)
    cold = text.embed_names(clip(), ToyTokenizer(), ["road"], WAYS, cache)
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    damage(path)
    assert cache.get("road") is None
    assert torch.equal(text.embed_names(clip(), ToyTokenizer(), ["road"], WAYS, cache), cold)
    if path.is_file():
        assert torch.equal(cache.get("road"), cold[0]), "it is written anew"


def test_a_file_under_the_name_of_another_is_a_miss(tmp_path):
    cache = text.NameCache(tmp_path, KEY)
    cache.put("road", torch.ones(3))
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    path.rename(cache._path("river"))
    assert cache.get("river") is None
    assert cache.get("road") is None


def test_a_cache_that_cannot_be_written_to_changes_nothing(tmp_path):
    (tmp_path / "file").write_text("no folder")
    cache = text.NameCache(tmp_path / "file", KEY)
    found = text.embed_names(clip(), ToyTokenizer(), ["road"], WAYS, cache)
    assert torch.equal(found, text.embed_names(clip(), ToyTokenizer(), ["road"], WAYS))
    with pytest.raises(OSError, match="file"):
        cache.put("road", found[0])


# ------------------------------------------------------------------------------------------------ templates and classes


def test_sets_of_templates_have_one_place_for_a_name():
    sets = {name: templates.templates(name) for name in templates.SETS}
    assert [len(sets[name]) for name in ("imagenet", "remote-sensing", "plain")] == [80, 15, 1]
    for found in sets.values():
        assert len(set(found)) == len(found)
        assert all(template.count("{}") == 1 for template in found)
    assert "a bad photo of a {}." in sets["imagenet"]
    assert templates.fill(sets["plain"][0], "{x} {}") == "a photo of a {x} {}."
    with pytest.raises(UsageError, match=r"'none'.*imagenet"):
        templates.templates("none")


def test_the_digest_is_of_the_words_and_not_of_their_order():
    some = templates.templates()
    assert templates.digest(some) == templates.digest(some[::-1])
    assert len({templates.digest(found) for found in (some, some[1:], templates.REMOTE_SENSING)}) == 3


# -------------------------------------------------------------------------------------------------- windows and bands


@given(st.integers(1, 400), st.integers(0, 120), st.integers(1, 120))
def test_windows_cover_an_axis_and_end_with_it(length, crop, stride):
    stride = min(stride, crop) or 1
    found = dense.spans(length, crop, stride)
    assert found[0].first == 0
    assert found[-1].stop == length
    assert {stop - first for first, stop in found} == {min(crop, length) if crop else length}
    for before, after in itertools.pairwise(found):
        assert before.first < after.first <= before.stop
        assert after.first - before.first <= stride
    assert len(found) == (1 if not crop else -(-max(length - crop, 0) // stride) + 1)


@given(st.integers(1, 40), st.integers(1, 90))
def test_interpolation_is_that_of_torch(inner, outer):
    line = pixels(1, 1, inner)
    expected = functional.interpolate(line, outer, mode="linear", align_corners=False)[0, 0]
    matrix = dense.interpolation(inner, outer)
    torch.testing.assert_close((matrix @ line[0, 0].double()).float(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(matrix.sum(1), torch.ones(outer, dtype=torch.float64))


def test_padding_is_even_with_the_odd_pixel_after():
    assert [dense.margins(side, 8) for side in (16, 15, 14, 9)] == [(0, 0), (0, 1), (1, 1), (3, 4)]
    window = dense.cut(torch.full((3, 20, 20), 7.0), dense.Span(4, 13), dense.Span(0, 16), 8)
    assert window.shape == (3, 16, 16)
    assert (window[:, 3:12] == 7).all()
    assert (window[:, :3] == 0).all()
    assert (window[:, 12:] == 0).all()


def toy_encoder(cells, embed=6, shape=None):
    """Tokens of ``cells`` x ``cells`` pixels that are not linear in them, and one of the whole."""
    mix = pixels(embed, 3, seed=2)

    def encode(windows):
        assert windows.shape[2] % cells == 0
        assert windows.shape[3] % cells == 0
        maps = (
            functional.avg_pool2d(windows, cells) if shape is None else functional.adaptive_avg_pool2d(windows, shape)
        )
        tokens = torch.einsum("ec,bchw->behw", mix, maps).sin()
        return Encoding(tokens.flatten(2).transpose(1, 2), tuple(tokens.shape[2:]), tokens.mean((2, 3)))

    return encode


def toy_queries(classes, embed=6, seed=3):
    return Queries(functional.normalize(pixels(len(classes), embed, seed=seed), dim=-1), tuple(classes))


cases = st.fixed_dictionaries(
    {
        "height": st.integers(1, 44),
        "width": st.integers(1, 44),
        "crop": st.sampled_from([0, 8, 12, 20, 24]),
        "stride": st.integers(5, 24),
        "multiple": st.sampled_from([4, 8]),
        "size": st.none() | st.tuples(st.integers(1, 60), st.integers(1, 60)),
        "classes": st.permutations([0, 1, 1, 2, 2, 2]) | st.just([0, 1]),
        "bias": st.sampled_from([0.0, -0.3]),
        "batch": st.integers(1, 4),
        "block": st.sampled_from([1, 400, 2**20]),
        "shape": st.none() | st.just((3, 5)),
    }
)


@settings(max_examples=60)
@given(cases)
def test_the_fast_path_gives_what_the_slow_one_gives(case):
    height, width, crop, multiple = (case[key] for key in ("height", "width", "crop", "multiple"))
    if not crop:
        height, width = (side + -side % multiple for side in (height, width))
    image = pixels(3, height, width)
    encode, queries = toy_encoder(4, shape=case["shape"]), toy_queries(case["classes"])
    options = Options(crop, min(case["stride"], crop) or 1, multiple, 20, case["bias"], 0.6, 9, case["batch"])
    before = dense._BLOCK
    try:
        dense._BLOCK = {"cpu": case["block"]}
        slow = dense.reference_logits(encode, queries, image, options, case["size"])
        fast = dense.image_logits(encode, queries, image, options, case["size"])
        found = dense.segment_image(encode, queries, image, options, case["size"], class_scores=True)
    finally:
        dense._BLOCK = before
    assert slow.shape[1:] == (case["size"] or (height, width))
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=0)
    expected = dense.reference_finish(slow, queries, options)
    torch.testing.assert_close(found.score, expected.score, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.classes, expected.classes, atol=1e-4, rtol=0)
    first, second = expected.classes.topk(2, dim=0).values
    clear = (first - second > 1e-4) & ((first - options.threshold).abs() > 1e-4)
    assert torch.equal(found.labels[clear], expected.labels[clear])


@pytest.mark.parametrize("size", [(1, 2), (3, 1), (200, 7)])
def test_an_output_of_which_some_windows_hold_no_pixel(size):
    image, queries, options = pixels(3, 64, 72), toy_queries([0, 1, 2]), Options(8, 8, 4, 20)
    slow = dense.reference_logits(toy_encoder(4), queries, image, options, size)
    torch.testing.assert_close(
        dense.image_logits(toy_encoder(4), queries, image, options, size), slow, atol=1e-5, rtol=0
    )
    assert dense.segment_image(toy_encoder(4), queries, image, options, size).labels.shape == size


def test_bands_follow_each_other_as_soon_as_windows_allow():
    seen = []

    def encode(windows):
        seen.append(len(windows))
        return toy_encoder(4)(windows)

    options = Options(24, 16, 4, 20, batch=3)
    image, queries = pixels(3, 70, 60), toy_queries([0, 1, 2])
    bands = []
    for band in dense.segment_bands(encode, queries, image, options):
        bands.append((band.first, len(band.labels), sum(seen)))
        assert not torch.is_inference_mode_enabled()
    # rows of 4 windows, in batches of 3 and 1, at rows 0, 16, 32, 46
    assert bands == [(0, 16, 4), (16, 16, 8), (32, 14, 12), (46, 24, 16)]
    assert set(seen) == {3, 1}


class Largest(TorchDispatchMode):
    """Keeps the largest number of floats in any tensor that is made."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                self.count = max(self.count, value.numel())
        return out


def test_no_map_of_all_names_is_made_not_even_of_a_row_of_windows(monkeypatch):
    monkeypatch.setattr(dense, "_BLOCK", {"cpu": 20_000})
    names, side = 30, 300
    queries = toy_queries([*range(names)])
    image, options = torch.zeros(3, side, side, dtype=torch.uint8), Options(64, 32, 8, 50)
    with Largest() as slow:
        dense.reference_logits(toy_encoder(8), queries, image, options)
    assert slow.count == names * side * side, "the measurement sees it where it is made"
    with Largest() as fast:
        dense.segment_image(toy_encoder(8), queries, image, options)
    lines = names * side * (64 // 8)  # those of the grid, as wide as the image
    assert fast.count <= max(lines, 20_000, 3 * side * side) < names * side * 32


def test_of_a_tall_image_only_the_windows_in_use_are_held(monkeypatch):
    held, blocks = [], dense._blocks

    def counted(live, first, stop):
        held.append(len(live))
        return blocks(live, first, stop)

    monkeypatch.setattr(dense, "_blocks", counted)
    dense.segment_image(toy_encoder(4), toy_queries([0, 1]), torch.zeros(3, 400, 8), Options(24, 8, 4, 50))
    assert len(held) == 48
    assert max(held) == 3, "a pixel lies in no more rows of windows"


def test_the_best_of_many_names_decides_and_the_threshold_gives_the_background():
    logits = torch.tensor([[0.1, 0.5], [0.4, 0.2], [0.3, 0.49]]).view(3, 1, 2)
    queries = Queries(torch.eye(3), (1, 0, 1))
    options = Options(8, 8, 8, scale=10)
    chances = (10 * logits).softmax(0)[:, 0]
    # classes 0: name 1; 1: names 0 and 2
    expected = torch.stack([chances[1], chances[[0, 2]].amax(0)])
    in_order = queries.by_class()
    assert in_order.classes == (0, 1, 1)
    sorted_logits = (in_order.vectors @ logits[:, 0]).view(3, 1, 2).transpose(0, 1)
    for threshold, labels in ((0.0, [0, 1]), (0.9, [7, 7]), (float(expected[1, 1]) + 1e-3, [0, 7])):
        chosen = Options(8, 8, 8, scale=10, threshold=threshold, background=7)
        band = dense.finish(sorted_logits.clone(), in_order, chosen, class_scores=True)
        assert band.labels.tolist() == [labels]
        torch.testing.assert_close(band.classes[:, 0], expected)
        torch.testing.assert_close(band.score[0], expected.amax(0))
    assert dense.finish(torch.zeros(1, 3, 4), in_order, options).labels.tolist() == [[0] * 4], "the lowest of equals"
    for threshold, label in ((0.5, 0), (0.5000001, 9)):  # two equal names have half each; strictly lower is too low
        chosen = Options(8, 8, 8, scale=10, threshold=threshold, background=9)
        assert dense.finish(torch.zeros(1, 2, 1), toy_queries([0, 1]), chosen).labels.item() == label


def test_large_scales_and_tokens_of_no_length_stay_finite():
    def encode(windows):
        return Encoding(torch.zeros(len(windows), 4, 6), (2, 2))

    band = dense.segment_image(
        encode, toy_queries([0, 1]), torch.zeros(3, 8, 8), Options(8, 8, 8, 50), class_scores=True
    )
    torch.testing.assert_close(band.classes, torch.full((2, 8, 8), 0.5))
    band = dense.finish(torch.tensor([[[1.0], [-1.0]]]), toy_queries([0, 1]), Options(8, 8, 8, 1e4), class_scores=True)
    assert band.score.item() == 1
    assert band.classes[1].item() == 0


def test_bytes_are_normalised_as_the_towers_expect():
    image = torch.randint(0, 256, (3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = [(channel / 255 - m) / s for channel, m, s in zip(image.numpy(), dense.MEAN, dense.STD, strict=True)]
    np.testing.assert_allclose(dense.normalise(image), np.stack(expected), atol=1e-6)
    ready = pixels(3, 4, 4)
    assert dense.normalise(ready) is ready


@pytest.mark.parametrize(
    "fault",
    [
        lambda: Options(8, 9, 8, 50),
        lambda: Options(8, 0, 8, 50),
        lambda: Options(-1, 1, 8, 50),
        lambda: Options(8, 8, 0, 50),
        lambda: Options(8, 8, 8, 0),
        lambda: Options(8, 8, 8, 50, bias=float("nan")),
        lambda: Options(8, 8, 8, 50, batch=0),
        lambda: Queries(torch.eye(2), (0,)),
        lambda: Queries(torch.eye(2), (0, 2)),
        lambda: Queries(torch.zeros(0, 3), ()),
    ],
)
def test_options_and_names_that_mean_nothing_are_refused(fault):
    with pytest.raises(UsageError, match="given"):
        fault()


def test_images_that_do_not_suit_are_refused():
    queries, options = toy_queries([0, 1]), Options(0, 1, 8, 50)
    with pytest.raises(UsageError, match=r"12 x 8.*multiples of 8"):
        dense.segment_image(toy_encoder(8), queries, torch.zeros(3, 12, 8), options)
    with pytest.raises(UsageError, match="shape"):
        dense.segment_image(toy_encoder(8), queries, torch.zeros(8, 8, 3), options)
    with pytest.raises(UsageError, match="0 x 5"):
        dense.segment_image(toy_encoder(8), queries, torch.zeros(3, 8, 8), options, (0, 5))
    with pytest.raises(UsageError, match="no token of the whole"):
        dense.name_logits(Encoding(torch.ones(1, 1, 6), (1, 1)), queries.vectors, bias=-0.3)


def test_quick_gelu_is_that_of_the_models():
    x = pixels(1000) * 4
    torch.testing.assert_close(tower._quick_gelu(x.clone()), QuickGELU()(x), atol=1e-6, rtol=1e-6)
