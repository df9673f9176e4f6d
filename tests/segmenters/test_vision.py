"""Vision networks read from every format give what their own libraries give, and what cannot be read is told.

The checkpoints are tiny and random, written by the libraries themselves, or by hand as the original
repositories write them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs the extra torch")
pytest.importorskip("timm", reason="needs the extra torch")
pytest.importorskip("transformers", "4.56", reason="needs DINOv3, to compare with")

import timm
import torch
import transformers
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from timm.models._hub import save_for_hf
from torch import nn

from geovl import weights
from geovl.errors import ModelError, UsageError
from geovl.segmenters.open_vocabulary.checkpoints import IMAGENET_MEAN
from geovl.segmenters.open_vocabulary.vision import VisionBackbone, load_vision, positions, renormalised

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
TIMM = {"embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """An empty cache of the Hub and of ours, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("GEOVL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GEOVL_OFFLINE", raising=False)


def randomised(model, seed=0):
    """Make every weight matter: fresh networks have biases of 0 and scales of 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = torch.randn(parameter.shape, generator=generator)
            center = 1.0 if re.search(r"norm.*weight|lambda|gamma|neck\.[13]\.weight", name) else 0.0
            parameter.copy_(center + (0.3 if center else 0.2) * spread)
    return model.eval()


def pictures(height, width, batch=2, seed=1):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def as_map(tokens, rows, cols):
    return tokens[:, -rows * cols :].transpose(1, 2).unflatten(2, (rows, cols))


def hf_model(family, **more):
    """A tiny network of transformers."""
    if family == "dino":
        config = transformers.ViTConfig(**SIZES, intermediate_size=48, layer_norm_eps=1e-6)
        model = transformers.ViTModel(config, add_pooling_layer=False)
    elif family == "mae":
        config = transformers.ViTMAEConfig(**SIZES, intermediate_size=48, layer_norm_eps=1e-6, mask_ratio=0.0)
        model = transformers.ViTMAEModel(config)
    elif family == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**SIZES, mlp_ratio=2, **more))
    elif family == "dinov2_reg":
        model = transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**SIZES, mlp_ratio=2))
    elif family == "dinov3":
        config = transformers.DINOv3ViTConfig(**SIZES, intermediate_size=48, num_register_tokens=4, **more)
        model = transformers.DINOv3ViTModel(config)
    else:
        config = transformers.SamVisionConfig(
            **SIZES, mlp_dim=48, output_channels=8, window_size=3, global_attn_indexes=[1]
        )
        model = transformers.SamVisionModel(config)
    return randomised(model)


def hf_features(family, model, x):
    with torch.no_grad():
        if family == "sam":
            return model(x).last_hidden_state
        rows, cols = x.shape[2] // 8, x.shape[3] // 8
        found = model(x)
        tokens = found.last_hidden_state
        if family == "mae":  # it shuffles the patches even where it hides none
            order = found.ids_restore[..., None].expand(-1, -1, tokens.shape[2])
            tokens = tokens[:, 1:].gather(1, order)
        return as_map(tokens, rows, cols)


FAMILIES = ("dino", "mae", "dinov2", "dinov2_reg", "dinov3", "sam")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_transformers_gives_what_transformers_gives(family, tmp_path):
    model = hf_model(family)
    model.save_pretrained(tmp_path)
    network = load_vision(tmp_path)
    assert isinstance(network, VisionBackbone)
    assert network.kind == family
    x = pictures(32, 32)
    found = network.features(x)
    assert found.shape == (2, network.channels, 4, 4)
    assert not found.requires_grad
    torch.testing.assert_close(found, hf_features(family, model, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["dinov2_reg", "dinov3"])
@pytest.mark.parametrize("size", [(48, 80), (24, 16)])
def test_other_sizes_agree_where_transformers_follows_the_original(family, size, tmp_path):
    model = hf_model(family)
    model.save_pretrained(tmp_path)
    x = pictures(*size)
    torch.testing.assert_close(load_vision(tmp_path).features(x), hf_features(family, model, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "more"),
    [("dinov2", {"use_swiglu_ffn": True}), ("dinov3", {"use_gated_mlp": True, "hidden_act": "silu"})],
)
def test_gated_layers_of_the_largest_are_read(family, more, tmp_path):
    model = hf_model(family, **more)
    model.save_pretrained(tmp_path)
    x = pictures(32, 32)
    torch.testing.assert_close(load_vision(tmp_path).features(x), hf_features(family, model, x), rtol=1e-4, atol=1e-4)


def test_shards_and_pickles_of_transformers_are_read(tmp_path):
    model = hf_model("dinov2")
    whole, shards, pickled = (tmp_path / name for name in ("whole", "shards", "pickled"))
    model.save_pretrained(whole)
    model.save_pretrained(shards, max_shard_size="20KB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    shutil.copytree(whole, pickled)
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    x = pictures(40, 32)
    expected = load_vision(whole).features(x)
    for folder in (shards, pickled):
        assert torch.equal(load_vision(folder).features(x), expected)


TIMM_NAMES = {
    "vit_base_patch8_224.dino": ("dino", {"img_size": 32}),
    "vit_base_patch16_224.mae": ("mae", {"img_size": 64}),
    "vit_small_patch14_dinov2.lvd142m": ("dinov2", {"img_size": 56}),
    "vit_small_patch14_reg4_dinov2.lvd142m": ("dinov2_reg", {"img_size": 56}),
    "vit_small_patch16_dinov3.lvd1689m": ("dinov3", {"img_size": 64}),
    "vit_large_patch16_dinov3_qkvb.sat493m": ("dinov3", {"img_size": 64}),
    "samvit_base_patch16.sa1b": (
        "sam",
        {"img_size": 64, "neck_chans": 8, "window_size": 3, "global_attn_indexes": [1]},
    ),
}


def timm_folder(name, folder):
    """Write a tiny network under a name of timm as timm does, and return it."""
    more = TIMM_NAMES[name][1]
    model = randomised(timm.create_model(name, pretrained=False, **TIMM, **more))
    for module in model.modules():  # timm builds SAM with 1e-5
        if name.startswith("samvit") and isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    save_for_hf(model, str(folder), safe_serialization=True, model_args={"num_heads": TIMM["num_heads"]})
    return model


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_a_folder_of_timm_gives_what_timm_gives(name, tmp_path):
    model = timm_folder(name, tmp_path)
    network = load_vision(tmp_path)
    kind, more = TIMM_NAMES[name]
    assert network.kind == kind
    assert network.mean == tuple(timm.get_pretrained_cfg(name).mean)
    side = more["img_size"]
    x = pictures(side, side)
    with torch.no_grad():
        expected = model.forward_features(x)
    if kind != "sam":
        expected = as_map(expected, side // network.patch, side // network.patch)
    torch.testing.assert_close(network.features(x), expected, rtol=1e-4, atol=1e-4)


def original(family, model=None):
    """Weights as the repository that they come from names them: renamed from what transformers saves."""
    with tempfile.TemporaryDirectory() as folder:
        (model or hf_model(family)).save_pretrained(folder)
        state = load_file(Path(folder) / "model.safetensors")
    found = {}
    for given_name, tensor in state.items():
        key = given_name
        parts = key.split(".")
        if parts[0] == "embeddings":
            flat = {"patch_embeddings": "patch_embed.proj", "position_embeddings": "pos_embed"}
            registers = {"register_tokens": "storage_tokens" if family == "dinov3" else "register_tokens"}
            name = (flat | registers).get(parts[1], parts[1])
            found[".".join([name, parts[-1]]) if parts[1] == "patch_embeddings" else name] = tensor
        elif "query" in parts or "q_proj" in parts:
            names = [key.replace("query", part) for part in ("query", "key", "value")]
            if "q_proj" in parts:
                names = [key.replace("q_proj", part) for part in ("q_proj", "k_proj", "v_proj")]
            layer = parts[parts.index("layer") + 1]
            joined = [state.get(name, torch.zeros_like(tensor)) for name in names]
            found[f"blocks.{layer}.attn.qkv.{parts[-1]}"] = torch.cat(joined)
        elif not {"key", "value", "k_proj", "v_proj"} & set(parts):
            for old, new in (
                ("encoder.layer.", "layer."), ("layer.", "blocks."), ("attention.output.dense", "attn.proj"),
                ("attention.o_proj", "attn.proj"), ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"),
                ("layernorm_before", "norm1"), ("layernorm_after", "norm2"), ("layer_scale1.lambda1", "ls1.gamma"),
                ("layer_scale2.lambda1", "ls2.gamma"), ("mlp.up_proj", "mlp.fc1"), ("mlp.down_proj", "mlp.fc2"),
                ("layernorm.", "norm."),
            ):  # fmt: skip
                key = key.replace(old, new)
            found[key] = tensor
    return found


@pytest.mark.parametrize("family", ["dino", "mae", "dinov2", "dinov2_reg", "dinov3"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_the_original_repository_is_the_same_network(family, suffix, tmp_path):
    model = hf_model(family)
    if family == "mae":
        model.embeddings.position_embeddings.data[:, 0] = 0  # computed, not learnt: how a file shows that it is MAE
    model.save_pretrained(tmp_path / "folder")
    state = original(family, model)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"model": state} if family == "mae" else state, path)
    else:
        save_file(state, path)
    mine, folder = load_vision(path, heads=2), load_vision(tmp_path / "folder")
    assert mine.kind == folder.kind == family
    for size in ((32, 32), (48, 24)):
        assert torch.equal(mine.features(pictures(*size)), folder.features(pictures(*size)))


def test_the_teacher_is_taken_from_a_full_checkpoint_of_dino(tmp_path):
    model = hf_model("dino")
    state = original("dino", model)
    torch.save(state, tmp_path / "plain.pth")
    inside = {f"module.backbone.{name}": tensor for name, tensor in state.items()}
    student = {name: torch.zeros_like(tensor) for name, tensor in inside.items()}
    extra = {"module.head.mlp.0.weight": torch.zeros(3, 24)}
    torch.save({"student": student | extra, "teacher": inside | extra, "epoch": 3}, tmp_path / "full.pth")
    x = pictures(32, 32)
    plain, full = (load_vision(tmp_path / name, heads=2).features(x) for name in ("plain.pth", "full.pth"))
    assert torch.equal(plain, full)


def test_sam_is_found_inside_the_whole_model_and_takes_any_window(tmp_path):
    model = hf_model("sam")
    state = {}
    for key, tensor in model.state_dict().items():
        name = key.removeprefix("vision_encoder.").replace("layers.", "blocks.").replace("projection", "proj")
        for old, new in (
            ("neck.conv1", "neck.0"),
            ("neck.layer_norm1", "neck.1"),
            ("neck.conv2", "neck.2"),
            ("neck.layer_norm2", "neck.3"),
        ):
            name = name.replace(old, new)
        state["image_encoder." + name.replace("layer_norm", "norm")] = tensor
    state |= {
        "prompt_encoder.not_a_point_embed.weight": torch.zeros(1, 8),
        "mask_decoder.iou_token.weight": torch.zeros(1, 8),
    }
    torch.save(state, tmp_path / "sam.pth")
    network = load_vision(tmp_path / "sam.pth")
    assert network.multiple == 1
    x = pictures(20, 50)
    found = network.features(x)
    enlarged = nn.functional.interpolate(x, size=(32, 32), mode="bilinear")
    assert found.shape == (2, 8, 4, 4)
    torch.testing.assert_close(found, hf_features("sam", model, enlarged), rtol=1e-4, atol=1e-4)


def test_periods_of_a_dinov3_file_are_used(tmp_path):
    state = original("dinov3")
    path = tmp_path / "a.pth"
    results = []
    for factor in (None, 1.0, 2.0):
        periods = {} if factor is None else {"rope_embed.periods": factor * 100 ** (torch.arange(3) * 2 / 6)}
        torch.save(state | periods, path)
        results.append(load_vision(path, heads=2).features(pictures(32, 32)))
    torch.testing.assert_close(results[0], results[1])
    assert not torch.allclose(results[0], results[2], atol=1e-3)


def test_satellite_weights_have_their_own_normalisation(tmp_path):
    state = original("dinov3")
    found = []
    for name in ("dinov3_vitl16_pretrain_sat493m-0.pth", "dinov3_vitl16_pretrain_lvd1689m-0.pth"):
        torch.save(state, tmp_path / name)
        found.append(load_vision(tmp_path / name, heads=2))
    assert found[0].mean == (0.430, 0.411, 0.296)
    assert found[1].mean == IMAGENET_MEAN


def test_satellite_weights_keep_it_where_the_file_that_says_so_was_not_put(tmp_path):
    for name, mean in (("me/dinov3-sat493m", (0.430, 0.411, 0.296)), ("me/dinov3-lvd1689m", IMAGENET_MEAN)):
        hf_model("dinov3").save_pretrained(by_hand(tmp_path, name))
        assert load_vision(f"hf-hub:{name}").mean == mean


def test_the_normalisation_of_a_folder_is_read(tmp_path):
    hf_model("dino").save_pretrained(tmp_path)
    told = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.3]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    network = load_vision(tmp_path)
    assert (network.mean, network.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    raw = torch.rand(1, 3, 8, 8)
    given, wanted = (
        tuple(torch.tensor(v).view(3, 1, 1) for v in pair)
        for pair in (((0.2, 0.3, 0.4), (0.5, 0.6, 0.7)), (network.mean, network.std))
    )
    changed = renormalised((raw - given[0]) / given[1], network, (0.2, 0.3, 0.4), (0.5, 0.6, 0.7))
    torch.testing.assert_close(changed, (raw - wanted[0]) / wanted[1])


# ------------------------------------------------------------------------------------------------- positions


def bicubic(table, places, axis):
    """Sample an array along an axis at real-numbered places: Keys' kernel with a = -0.75, edges held."""
    near = np.floor(places).astype(int)
    out = 0
    for step in range(-1, 3):
        t = np.abs(places - (near + step))
        a = -0.75
        inner = (a + 2) * t**3 - (a + 3) * t**2 + 1
        outer = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
        weight = np.where(t <= 1, inner, np.where(t < 2, outer, 0))
        shape = [1] * table.ndim
        shape[axis] = -1
        out = out + np.take(table, np.clip(near + step, 0, table.shape[axis] - 1), axis) * weight.reshape(shape)
    return out


@given(st.sampled_from(["dino", "dinov2", "mae"]), st.integers(2, 6), st.integers(1, 12), st.integers(1, 12))
def test_positions_are_sampled_where_the_original_does(kind, native, rows, cols):
    table = np.random.default_rng(native).normal(size=(1, 2, native, native))
    if (rows, cols) == (native, native):
        expected = table
    else:
        odd = 0.0 if kind == "mae" else 0.1
        places = [(np.arange(n) + 0.5) * native / (n + odd) - 0.5 for n in (rows, cols)]
        expected = bicubic(bicubic(table, places[0], 2), places[1], 3)
    found = positions(kind, torch.tensor(table), (rows, cols))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_a_grid_of_as_many_places_but_another_shape_is_not_the_native_one(tmp_path):
    hf_model("dino").save_pretrained(tmp_path)
    network = load_vision(tmp_path)
    x = pictures(16, 64, batch=1)
    model = hf_model("dino")
    scrambled = hf_features("dino", model, x.unfold(3, 32, 32).permute(0, 1, 3, 2, 4).reshape(1, 3, 32, 32))
    assert network.features(x).shape == (1, 24, 2, 8)
    assert not torch.allclose(network.features(x).flatten(2), scrambled.flatten(2), atol=1e-2)


def test_sizes_may_change_from_call_to_call(tmp_path):
    hf_model("dino").save_pretrained(tmp_path)
    network, fresh = load_vision(tmp_path), load_vision(tmp_path)
    for size in [(32, 32), (40, 24), (32, 32), *((8 * n, 16) for n in range(1, 20)), (40, 24)]:
        last = network.features(pictures(*size))
    assert torch.equal(last, fresh.features(pictures(40, 24)))


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_layers_and_low_precision_stay_near(family, tmp_path):
    hf_model(family).save_pretrained(tmp_path)
    x = pictures(32, 32)
    expected = load_vision(tmp_path).features(x)
    torch.testing.assert_close(load_vision(tmp_path, pack=True).features(x), expected, rtol=1e-3, atol=1e-3)
    low = load_vision(tmp_path, dtype=torch.bfloat16).features(x)
    assert low.dtype == torch.bfloat16
    assert nn.functional.cosine_similarity(low.float(), expected, dim=1).min() > 0.98


# -------------------------------------------------------------------------------------------------- the Hub


def by_hand(tmp_path, repository):
    """The folder in which the files of a repository can be put by hand."""
    return tmp_path / "cache" / "weights" / repository.replace("/", "--")


def cached(cache, repository, folder):
    """Lay a folder out as huggingface_hub keeps a downloaded repository."""
    root = cache / f"models--{repository.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    (root / "blobs").mkdir()
    (root / "snapshots" / commit).mkdir(parents=True)
    for file in folder.iterdir():
        shutil.copy(file, root / "blobs" / file.name)
        (root / "snapshots" / commit / file.name).symlink_to(f"../../blobs/{file.name}")


def test_a_cache_of_the_hub_is_enough_without_a_network(tmp_path):
    timm_folder("vit_base_patch8_224.dino", tmp_path / "timm")
    hf_model("dinov2").save_pretrained(tmp_path / "hf", max_shard_size="20KB")
    cache = tmp_path / "hub"
    cached(cache, "timm/vit_base_patch8_224.dino", tmp_path / "timm")
    cached(cache, "facebook/dinov2-tiny", tmp_path / "hf")
    script = """if True:
        import sys, torch
        from geovl.errors import ModelError
        from geovl.segmenters.open_vocabulary.vision import load_vision
        x = torch.load(sys.argv[1] + "/x.pt")
        names = "vit_base_patch8_224.dino", "hf-hub:timm/vit_base_patch8_224.dino@main", "hf-hub:facebook/dinov2-tiny"
        torch.save([load_vision(name).features(x) for name in names], sys.argv[1] + "/y.pt")
        for name in "vit_small_patch16_224.dino", "hf-hub:facebook/dino-vitb8":
            try:
                load_vision(name)
            except ModelError as error:
                print(error.message, error.hint)
    """
    x = pictures(40, 32)
    torch.save(x, tmp_path / "x.pt")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}  # GEOVL_CACHE is set already
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    by_name, by_address, sharded = torch.load(tmp_path / "y.pt")
    assert torch.equal(by_name, load_vision(tmp_path / "timm").features(x))
    assert torch.equal(by_address, by_name)
    assert torch.equal(sharded, load_vision(tmp_path / "hf").features(x))
    told = done.stdout.splitlines()
    for line, repository in zip(told, ("timm/vit_small_patch16_224.dino", "facebook/dino-vitb8"), strict=True):
        assert f"{repository} needs config.json and model.safetensors" in line
        assert "HF_HUB_OFFLINE" in line
        assert f"hf download {repository} config.json model.safetensors preprocessor_config.json" in line
        assert str(by_hand(tmp_path, repository)) in line
        assert str(cache) in line
        assert f"models--{repository.replace('/', '--')}/snapshots/" in line


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "20KB"}], ids=["whole", "shards"])
def test_files_that_were_put_by_hand_serve_and_may_be_in_two_places(shards, tmp_path):
    model = hf_model("dino")
    model.save_pretrained(tmp_path / "whole", **shards)
    told = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.3]}
    (tmp_path / "whole" / "preprocessor_config.json").write_text(json.dumps(told))
    shutil.copytree(tmp_path / "whole", by_hand(tmp_path, "a/b"))
    for repository in ("me/halves", "timm/vit_base_patch8_224.dino"):
        half = tmp_path / repository / "half"
        half.mkdir(parents=True)
        by_hand(tmp_path, repository).mkdir(parents=True)
        for number, path in enumerate(sorted((tmp_path / "whole").iterdir())):
            shutil.copy(path, (half, by_hand(tmp_path, repository))[number % 2])
        cached(tmp_path / "hub", repository, half)
    x = pictures(32, 40)
    expected = load_vision(tmp_path / "whole").features(x)
    for name in ("hf-hub:a/b", "hf-hub:me/halves", "vit_base_patch8_224.dino"):
        network = load_vision(name)
        assert torch.equal(network.features(x), expected)
        assert network.mean == (0.5, 0.4, 0.3)


def test_a_file_of_a_repository_or_of_a_server_can_be_named(tmp_path):
    state = original("dino")
    path = by_hand(tmp_path, "a/b") / "ckpt" / "dino.pth"
    address = "https://example.org/dino/dino.pth"
    for place in (tmp_path / "dino.pth", path, weights.origin(address).plain / "dino.pth"):
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, place)
    x = pictures(32, 32)
    expected = load_vision(tmp_path / "dino.pth", heads=2).features(x)
    for name in ("hf-hub:a/b/ckpt/dino.pth", address):
        assert torch.equal(load_vision(name, heads=2).features(x), expected)
    path.unlink()
    with pytest.raises(weights.NotThereError, match=r"needs ckpt/dino\.pth of a/b"):
        load_vision("hf-hub:a/b/ckpt/dino.pth")


def test_a_repository_that_lacks_its_weights_is_told_apart(tmp_path):
    folder = tmp_path / "folder"
    hf_model("dino").save_pretrained(folder, max_shard_size="20KB")
    part = sorted(folder.glob("model-*"))[1]
    part.unlink()
    cached(tmp_path / "hub", "a/parts", folder)
    with pytest.raises(weights.NotThereError, match=rf"needs {part.name} of a/parts"):
        load_vision("hf-hub:a/parts")
    with pytest.raises(weights.NotThereError, match=f"There is no {part.name} in {folder}"):
        load_vision(folder)
    for path in folder.glob("model*"):
        path.unlink()
    cached(tmp_path / "hub", "a/b", folder)
    with pytest.raises(weights.NotThereError, match=r"needs model\.safetensors or .* of a/b"):
        load_vision("hf-hub:a/b")
    with pytest.raises(ModelError, match="names no repository"):
        load_vision("hf-hub:a")


def test_our_own_word_forbids_the_network_too(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("GEOVL_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: pytest.fail("the network was used"))
    for name in ("hf-hub:a/b", "vit_base_patch8_224.dino", "https://example.org/dino.pth"):
        with pytest.raises(weights.NotThereError, match="GEOVL_OFFLINE forbids"):
            load_vision(name)


def test_a_hub_that_cannot_be_reached_is_told(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("time.sleep", lambda _: None)  # it would try again for long
    address = "http://127.0.0.1:9"  # nobody listens there
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    with pytest.raises(weights.NotThereError) as error:
        load_vision("hf-hub:a/b")
    assert "cannot be reached" in told(error)
    assert "models--a--b" in told(error)
    assert str(tmp_path / "hub") in told(error)
    assert str(by_hand(tmp_path, "a/b")) in told(error)


def test_what_is_downloaded_is_told(tmp_path, monkeypatch):
    folder, asked = tmp_path / "folder", []
    hf_model("dino").save_pretrained(folder, max_shard_size="20KB")

    def fetch(what, progress=None):
        asked.append((what.place, what.needed, what.optional, progress))
        return tuple(weights.File(n[0], folder / n[0], "nothing") for n in map(there, what.needed))

    def there(names):
        return [name for name in names if (folder / name).is_file()]

    def progress(*_):
        pass

    monkeypatch.setattr(weights, "fetch", fetch)
    load_vision("hf-hub:a/b", progress=progress)
    assert [call[3] for call in asked] == [progress] * 2, "parts are downloads too"
    assert asked[0][1][0] == ("config.json",)
    assert asked[0][2] == ("preprocessor_config.json",)
    assert set(asked[1][1]) == {(path.name,) for path in folder.glob("model-*")}


def test_the_module_loads_neither_timm_nor_the_hub():
    script = (
        "import sys, geovl.segmenters.open_vocabulary.vision\n"
        "print(sorted({'timm', 'torchvision', 'transformers', 'huggingface_hub', 'open_clip'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_attention_is_fused_whatever_timm_was_told(tmp_path):
    hf_model("dino").save_pretrained(tmp_path)
    timm.layers.set_fused_attn(enable=False)
    try:
        network = load_vision(tmp_path)
    finally:
        timm.layers.set_fused_attn(enable=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        network.features(pictures(32, 32))
    assert "aten::scaled_dot_product_attention" in {event.key for event in profile.key_averages()}


# --------------------------------------------------------------------------------------------------- faults


def told(error):
    assert error.value.hint
    return f"{error.value.message} {error.value.hint}"


@pytest.mark.parametrize("name", ["nowhere.pth", "no/such/folder", "dino_vitb8", ""])
def test_what_is_not_there_is_told(name):
    with pytest.raises(ModelError) as error:
        load_vision(name or "/no/such")
    assert repr(name or "/no/such") in told(error)


@pytest.mark.parametrize("name", ["vit_base_patch8_224.din", "vit_base_patch8_224", "vit_base_patch8"])
def test_near_names_of_timm_are_offered(name):
    with pytest.raises(ModelError) as error:
        load_vision(name)
    assert "vit_base_patch8_224.dino" in told(error)


def test_a_model_of_timm_that_is_none_of_these_is_refused(tmp_path):
    model = timm.create_model("vit_base_patch16_224.augreg_in21k", pretrained=False, **TIMM, img_size=32)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    with pytest.raises(ModelError, match="augreg"):
        load_vision(tmp_path)


def test_a_model_of_transformers_that_is_none_of_these_is_refused(tmp_path):
    hf_model("dino").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(ModelError, match="'bert'"):
        load_vision(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "dinov2"}))
    with pytest.raises(ModelError, match=r"weights of dino or mae, not of dinov2"):
        load_vision(tmp_path)


def test_a_folder_without_its_files_is_told(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_vision(tmp_path)
    hf_model("dino").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        load_vision(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        load_vision(tmp_path)


def test_weights_of_other_networks_are_refused(tmp_path):
    path = tmp_path / "resnet.pth"
    torch.save({"conv1.weight": torch.zeros(2, 3, 7, 7), "fc.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ModelError, match=r"no vision transformer.*conv1\.weight"):
        load_vision(path)
    state = original("dino")
    torch.save(state, path)
    with pytest.raises(ModelError, match="dino or mae, not of dinov2_reg"):
        load_vision(path, heads=2, kind="dinov2_reg")
    with pytest.raises(UsageError, match="no kind 'clip'"):
        load_vision(path, kind="clip")
    assert load_vision(path, heads=2, kind="mae").kind == "mae"


def test_weights_that_lack_or_exceed_something_are_refused(tmp_path):
    path = tmp_path / "dino.pth"
    state = original("dino")
    lacking = {name: tensor for name, tensor in state.items() if name != "blocks.1.mlp.fc2.bias"}
    for wrong, word in (
        (lacking, r"blocks\.1\.mlp\.fc2\.bias is missing"),
        (state | {"blocks.1.mlp.fc3.bias": torch.zeros(3)}, r"fc3\.bias is \(3,\), expected none"),
        (state | {"blocks.0.norm1.weight": torch.zeros(5)}, r"norm1\.weight is \(5,\), expected \(24,\)"),
        (state | {"pos_embed": torch.zeros(1, 19, 24)}, "square"),
    ):
        torch.save(wrong, path)
        with pytest.raises(ModelError, match=word):
            load_vision(path, heads=2)
    torch.save(state, path)
    with pytest.raises(ModelError, match="how many attention heads"):
        load_vision(path)
    with pytest.raises(ModelError, match="5 heads"):
        load_vision(path, heads=5)
    with pytest.raises(UsageError, match="0 attention heads"):
        load_vision(path, heads=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_whatever_lacks_or_has_another_shape_is_told(family, tmp_path):
    hf_model(family).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    for name in state:
        if "mask_token" in name or ".1." in name:
            continue  # of no use here; or told by the first block
        others = {other: tensor for other, tensor in state.items() if other != name}
        for shape in (None, (5,), (2, 5), (3, 2, 24), (7, 7, 7, 7)):
            save_file(others if shape is None else others | {name: torch.ones(shape)}, path)
            with pytest.raises(ModelError):
                load_vision(tmp_path)


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_code_in_a_pickle_is_not_run(tmp_path):
    path, trace = tmp_path / "trap.pth", tmp_path / "trace"
    torch.save({"cls_token": Trap(trace)}, path)
    with pytest.raises(ModelError, match="run code"):
        load_vision(path)
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04garbage"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_told(content, suffix, tmp_path):
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError) as error:
        load_vision(path)
    assert path.name in told(error)


def test_a_truncated_file_is_told(tmp_path):
    path = tmp_path / "whole.pth"
    torch.save(original("dino"), path)
    assert zipfile.is_zipfile(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ModelError):
        load_vision(path)


def test_an_index_that_names_no_parts_is_told(tmp_path):
    hf_model("dino").save_pretrained(tmp_path, max_shard_size="20KB")
    for told_there in ({}, {"weight_map": {}}, {"weight_map": {"a": "../elsewhere.safetensors"}}):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(told_there))
        with pytest.raises(ModelError, match="weight_map"):
            load_vision(tmp_path)


def test_means_of_another_number_are_told(tmp_path):
    hf_model("dino").save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5], "image_std": [0.5]}')
    with pytest.raises(ModelError, match="expected 3"):
        load_vision(tmp_path)


def test_an_archive_of_code_is_not_loaded(tmp_path):
    path = tmp_path / "scripted.pt"
    torch.jit.script(nn.Linear(2, 2)).save(str(path))
    with pytest.raises(ModelError, match="TorchScript") as error:
        load_vision(path)
    assert "state_dict" in error.value.hint


def test_a_file_without_weights_by_name_is_told(tmp_path):
    path = tmp_path / "list.pth"
    torch.save([torch.zeros(3)], path)
    with pytest.raises(ModelError, match="by name"):
        load_vision(path)


@pytest.mark.parametrize("size", [(33, 32), (32, 4), (0, 8)])
def test_sides_that_are_no_multiples_are_refused(size, tmp_path):
    hf_model("dino").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"{size[0]} x {size[1]} pixels"):
        load_vision(tmp_path).features(torch.zeros(1, 3, *size))
