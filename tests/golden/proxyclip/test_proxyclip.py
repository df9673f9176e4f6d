"""ProxyCLIP, its vision networks and whole images agree with vectors computed by the released code.

Every case of every file in the folder runs, and every array that states an expectation must be compared.
"""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from open_clip.model import CLIP
from safetensors.torch import load_file
from torch.nn import functional

from geovl.errors import UsageError
from geovl.segmenters.open_vocabulary import proxyclip
from geovl.segmenters.open_vocabulary.dense import Encoding, Options, Queries, image_logits, normalise, segment_image
from geovl.segmenters.open_vocabulary.proxyclip import Grid, attended, common_multiple, proxy_attention, proxy_tokens
from geovl.segmenters.open_vocabulary.tower import Tower
from geovl.segmenters.open_vocabulary.vision import load_vision, renormalised
from tests.golden import Vectors, folder

FILES = sorted(folder("proxyclip").glob("*.json"))


def tower(vectors, activation):
    model = CLIP(**vectors.about["clip_config"], quick_gelu=activation == "quickgelu").eval()
    model.load_state_dict(load_file(vectors.path.with_name(vectors.about["model_file"])))
    return Tower(model)


def after(vectors, prefix):
    """What follows a prefix in the names of arrays."""
    return [name.removeprefix(prefix) for name in vectors.arrays if name.startswith(prefix)]


def networks(vectors, tmp_path):
    """The vision networks, read as the files of the original repositories are."""
    found = {}
    for name, config in vectors.about.items():
        if not (isinstance(config, dict) and "layout" in config):
            continue
        path, prefix = tmp_path / f"{name}.pth", f"{name}.state."
        torch.save({key: vectors[prefix + key] for key in after(vectors, prefix)}, path)
        found[name] = load_vision(path, heads=config["heads"])
        assert found[name].patch == config["p"]
        assert found[name].kind == {"dino": "dino", "dinov2reg": "dinov2_reg"}[name]
    return found


def images(batch):
    """uint8 (B, H, W, 3) to (B, 3, H, W), normalised for CLIP."""
    return torch.stack([normalise(image.permute(2, 0, 1)) for image in batch])


def check_features(vectors, tmp_path):
    towers = {name: tower(vectors, name) for name in ("gelu", "quickgelu")}
    for case, told in vectors.about["cases"].items():
        x, features = images(vectors[told["image"]]), vectors[f"vfm.{case}"]
        beta, gamma = told["beta"], told["gamma"]
        assert Grid(*features.shape[2:]) == tuple(told["vfm_grid_rows_cols"])
        attention = proxy_attention(features, beta, gamma)
        vectors.compare(f"attn.{case}", attention)
        if told["batch"] == 1:  # of a batch, the share is that of the released code's common mean
            assert (attention == 0).float().mean().item() == pytest.approx(told["masked_share"], abs=1e-4)
        for activation, its_tower in towers.items():
            tokens = proxy_tokens(its_tower, x, features, beta, gamma)
            vectors.compare(f"tok.{activation}.{case}", tokens)
            for defect in after(vectors, "defect."):
                if defect.endswith(f".tok.{case}"):
                    assert (tokens - vectors[f"defect.{defect}"]).abs().max() > 100 * vectors.tolerance()
    match = images(vectors[vectors.about["cases"]["match"]["image"]])
    vectors.compare("tok.gelu.none", proxy_tokens(towers["gelu"], match, None))
    for key in vectors.about["degenerate"]:
        assert proxy_tokens(towers["gelu"], match, vectors[key]).isfinite().all()


def check_vfm(vectors, tmp_path):
    for name, network in networks(vectors, tmp_path).items():
        prefix = f"{name}.image_u8."
        for size in after(vectors, prefix):
            vectors.compare(f"{name}.feat.{size}", network.features(images(vectors[prefix + size][None])))


def check_segment(vectors, tmp_path):
    about = vectors.about
    vision = networks(Vectors(vectors.path.with_name(about["vfm_file"]).with_suffix(".json")), tmp_path)
    for case, told in about["cases"].items():
        network, clip = vision[told["vfm"]], tower(vectors, told["activation"])
        seen = []

        def encode(x, network=network, clip=clip, told=told, seen=seen):
            seen.append(network.features(renormalised(x, network)))
            tokens = proxy_tokens(clip, x, seen[-1], told["beta"], told["gamma"])
            return Encoding(tokens, tuple(seen[-1].shape[2:]))

        image = vectors[f"{case}.image_u8"].permute(2, 0, 1)
        queries = Queries(vectors[f"{case}.query_features"], tuple(about["class_index"]))
        sides, size = [told[key] for key in ("crop", "stride", "pad_multiple", "logit_scale")], tuple(told["ori_shape"])
        vectors.compare(f"{case}.logits", image_logits(encode, queries, image, Options(*sides), size))
        assert len(seen) == told["windows"]
        vectors.compare(f"{case}.first_window_vfm", seen[0])

        plain = segment_image(encode, queries, image, Options(*sides), size, class_scores=True)
        vectors.compare(f"{case}.score", plain.score, vectors.tolerance("on scores"))
        near = vectors.tolerance("below")
        best, second = plain.classes.topk(2, dim=0).values
        unsure = best - second < near
        assert not ((plain.labels != vectors[f"{case}.pred"]) & ~unsure).any()

        options = Options(*sides, threshold=told["prob_threshold"], background=told["background_index"])
        cut = segment_image(encode, queries, image, options, size)
        unsure |= (plain.score - told["prob_threshold"]).abs() < near
        assert unsure.float().mean() < 0.01
        assert not ((cut.labels != vectors[f"{case}.pred_thd"]) & ~unsure).any()


def checker(about):
    """What a file holds is told by what its JSON says."""
    if "vfm_file" in about:
        return check_segment
    if "clip_config" in about:
        return check_features
    if any(isinstance(value, dict) and "layout" in value for value in about.values()):
        return check_vfm
    pytest.fail(f"nothing here reads a file that says {sorted(about)}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_array_agrees(path, tmp_path):
    vectors = Vectors(path)
    checker(vectors.about)(vectors, tmp_path)
    vectors.finish()


def test_there_are_vectors_of_each_sort():
    assert {checker(Vectors(path).about) for path in FILES} >= {check_features, check_vfm, check_segment}


# ----------------------------------------------------------------------- what must hold whatever the vectors


def tiny_tower(**more):
    torch.manual_seed(0)
    vision = {"image_size": 32, "patch_size": 8, "width": 24, "layers": 2, "head_width": 12, "mlp_ratio": 2.0}
    text = {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}
    return Tower(CLIP(16, vision, text).eval().to(more.pop("dtype", torch.float32)), **more)


def step_by_step(features, values, grid, beta, gamma):
    """The definition, in float64, one place at a time."""
    batch, _, rows, cols = features.shape
    maps = values.double().transpose(1, 2).unflatten(2, tuple(grid))
    resized = functional.interpolate(maps, size=(rows, cols), mode="bilinear").flatten(2).transpose(1, 2)
    out = torch.empty_like(resized)
    for image in range(batch):
        vectors = features[image].double().flatten(1).T
        unit = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)
        similarity = unit @ unit.T
        margin = gamma * (similarity - beta * similarity.mean())
        assume(margin.abs().min() > 1e-6)
        for place, row in enumerate(margin):
            kept = row >= 0 if (row >= 0).any() else torch.ones_like(row, dtype=torch.bool)
            weights = (gamma * similarity[place]).where(kept, torch.tensor(-torch.inf).double()).softmax(0)
            out[image, place] = weights @ resized[image]
    return out


sides = st.integers(1, 7)


@given(
    sides,
    sides,
    sides,
    sides,
    st.floats(-1, 3),
    st.floats(0.1, 8),
    st.integers(0, 99),
    st.sampled_from([1, 40, 1 << 22]),
)
def test_averages_are_those_of_the_definition(rows, cols, to_rows, to_cols, beta, gamma, seed, block):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 5, to_rows, to_cols, generator=generator) + torch.rand(2, 1, 1, 1, generator=generator)
    values = torch.randn(2, rows * cols, 4, generator=generator)
    expected = step_by_step(features, values, (rows, cols), beta, gamma)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(proxyclip._BLOCK, "cpu", block)  # some rows at a time
        found = attended(features, values, Grid(rows, cols), beta, gamma)
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("grid", [(8, 8), (4, 4), (3, 5)])
def test_tokens_of_nothing_but_equal_or_zero_features_are_a_plain_mean(grid):
    x = torch.randn(1, 3, 32, 32)
    tower = tiny_tower()
    features = torch.ones(1, 6, *grid)
    for constant in (features, features * 1e-30, features * 1e30, torch.zeros_like(features)):
        weights = proxy_attention(constant)
        torch.testing.assert_close(weights, torch.full_like(weights, 1 / weights.shape[-1]))
        tokens = proxy_tokens(tower, x, constant)
        assert tokens.isfinite().all()
        torch.testing.assert_close(tokens, tokens[:, :1].expand_as(tokens), rtol=1e-4, atol=1e-4)


def test_an_image_does_not_depend_on_its_batch():
    tower, x, features = tiny_tower(), torch.randn(3, 3, 32, 48), torch.randn(3, 6, 5, 7)
    features[1] += 5  # another mean similarity
    together = proxy_tokens(tower, x, features)
    alone = torch.cat([proxy_tokens(tower, x[i : i + 1], features[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_packed_weights_give_the_same_tokens():
    x, features = torch.randn(1, 3, 32, 32), torch.randn(1, 6, 8, 8)
    plain, packed = (proxy_tokens(tiny_tower(pack=pack), x, features) for pack in (False, True))
    torch.testing.assert_close(packed, plain, rtol=1e-4, atol=1e-4)


def test_the_mask_is_made_in_full_precision_whatever_is_asked_for():
    features = torch.randn(1, 64, 12, 12) + 0.5
    expected = proxy_attention(features)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(proxy_attention(features), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    low = features.bfloat16()
    assert torch.equal(proxy_attention(low), proxy_attention(low.float()))


def test_towers_of_low_precision_give_near_tokens():
    x, features = torch.randn(1, 3, 32, 32), torch.randn(1, 6, 8, 8)
    expected = proxy_tokens(tiny_tower(), x, features)
    low = proxy_tokens(tiny_tower(dtype=torch.bfloat16), x, features)
    assert low.dtype == torch.bfloat16
    assert functional.cosine_similarity(low.float(), expected, dim=-1).min() > 0.99


@pytest.mark.parametrize(("beta", "gamma"), [(1.2, 0.0), (1.2, -1.0), (float("nan"), 3.0), (1.2, float("inf"))])
def test_numbers_that_mean_nothing_are_refused(beta, gamma):
    with pytest.raises(UsageError, match="beta"):
        proxy_tokens(tiny_tower(), torch.zeros(1, 3, 32, 32), torch.zeros(1, 2, 4, 4), beta, gamma)


def test_features_of_other_images_are_refused():
    with pytest.raises(UsageError, match="2 images were given with 1"):
        proxy_tokens(tiny_tower(), torch.zeros(1, 3, 32, 32), torch.zeros(2, 2, 4, 4))


@pytest.mark.parametrize(
    ("patches", "side"), [((16, 8), 16), ((14, 8), 56), ((14, 14), 14), ((16, 14), 112), ((16, 1), 16)]
)
def test_windows_suit_both_patches(patches, side):
    assert common_multiple(*patches) == side
