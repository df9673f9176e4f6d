"""CLIP models load from every format with the right activation, and whatever is wrong is told in words."""

import hashlib
import json
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the extra [torch]")
open_clip = pytest.importorskip("open_clip", reason="needs the extra [torch]")
pytest.importorskip("transformers", reason="needs the extra [torch]")
hub = pytest.importorskip("huggingface_hub", reason="needs the extra [torch]")

from safetensors.torch import save_file  # noqa: E402 - after it is known that they are there

from geovl import weights  # noqa: E402
from geovl.catalog import load  # noqa: E402
from geovl.catalog.records import Model, Run  # noqa: E402
from geovl.errors import ModelError  # noqa: E402
from geovl.segmenters.open_vocabulary import clip  # noqa: E402
from geovl.segmenters.open_vocabulary.clip import load_clip, load_record  # noqa: E402
from geovl.segmenters.open_vocabulary.tower import Tower  # noqa: E402

MEAN = (0.5, 0.4, 0.3)
STD = (0.2, 0.3, 0.25)
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
TEXTS = ["a photo of a road.", "houses"]


def network(quick_gelu=True, **changes):
    """A tiny network of random weights, whose activations matter."""
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**{**CONFIG, "quick_gelu": quick_gelu, **changes}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model


@pytest.fixture(scope="module")
def tiny():
    return network()


@pytest.fixture(scope="module")
def tensors(tiny):
    return {name: tensor.clone().contiguous() for name, tensor in tiny.state_dict().items()}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Tiny architectures beside open_clip's own, an empty cache of the Hub, and no network."""
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "Tiny.json").write_text(json.dumps(CONFIG))
    (configs / "Tiny-quickgelu.json").write_text(json.dumps({**CONFIG, "quick_gelu": True}))
    smaller = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "patch_size": 16}}
    (configs / "Tiny16.json").write_text(json.dumps(smaller))
    resnet = {**CONFIG, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}}
    (configs / "TinyResNet.json").write_text(json.dumps(resnet))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [*open_clip.factory._MODEL_CONFIG_PATHS, configs])
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", {})
    open_clip.factory._rescan_model_configs()
    clip._architectures.cache_clear()
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("GEOVL_CACHE", str(tmp_path / "cache"))
    yield
    clip._architectures.cache_clear()


def cached(repository, files, *, commit="c" * 40, ref="main"):
    """Lay files out as huggingface_hub does: blobs, snapshots that point to them, and refs."""
    base = Path(hub.constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / ref).write_text(commit)
    for name, content in files.items():
        data = content if isinstance(content, bytes) else Path(content).read_bytes()
        blob = base / "blobs" / hashlib.sha256(data).hexdigest()
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(data)
        pointer = base / "snapshots" / commit / name
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.symlink_to(Path("../" * (len(Path(name).parts) + 1)) / "blobs" / blob.name)
    return base


def seen(model):
    """What a model makes of a picture and of texts, and its dense stream."""
    picture = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        texts = model.encode_text(open_clip.tokenize(TEXTS))
        return torch.cat([model.encode_image(picture), texts]), Tower(model).stream(picture)


def same(loaded, model):
    for mine, theirs in zip(seen(loaded.model), seen(model), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def safetensors(path, tensors):
    save_file(tensors, path)
    return path


def checkpoint(path, content, **how):
    torch.save(content, path, **how)
    return path


def transformers_folder(folder, model, act="quick_gelu", **text):
    """Save the same network as transformers does; the names are mapped here by hand."""
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        vision_config={
            "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 8, "hidden_act": act,
        },
        text_config={
            "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
            "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": act, **text,
        },
        projection_dim=16,
    )  # fmt: skip
    theirs = CLIPModel(config).eval()
    with torch.no_grad():
        theirs.logit_scale.copy_(model.logit_scale)
        theirs.visual_projection.weight.copy_(model.visual.proj.T)
        theirs.text_projection.weight.copy_(model.text_projection.T)
        vision, text_model = theirs.vision_model, theirs.text_model
        vision.embeddings.class_embedding.copy_(model.visual.class_embedding)
        vision.embeddings.patch_embedding.weight.copy_(model.visual.conv1.weight)
        vision.embeddings.position_embedding.weight.copy_(model.visual.positional_embedding)
        text_model.embeddings.token_embedding.weight.copy_(model.token_embedding.weight)
        text_model.embeddings.position_embedding.weight.copy_(model.positional_embedding)
        vision.pre_layrnorm.load_state_dict(model.visual.ln_pre.state_dict())
        vision.post_layernorm.load_state_dict(model.visual.ln_post.state_dict())
        text_model.final_layer_norm.load_state_dict(model.ln_final.state_dict())
        for mine, block in (
            *zip(vision.encoder.layers, model.visual.transformer.resblocks, strict=True),
            *zip(text_model.encoder.layers, model.transformer.resblocks, strict=True),
        ):
            for kind, weight, bias in zip(
                "qkv", block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3), strict=True
            ):
                layer = getattr(mine.self_attn, f"{kind}_proj")
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)
            mine.self_attn.out_proj.load_state_dict(block.attn.out_proj.state_dict())
            mine.layer_norm1.load_state_dict(block.ln_1.state_dict())
            mine.layer_norm2.load_state_dict(block.ln_2.state_dict())
            mine.mlp.fc1.load_state_dict(block.mlp.c_fc.state_dict())
            mine.mlp.fc2.load_state_dict(block.mlp.c_proj.state_dict())
    theirs.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    return theirs


def open_clip_config(quick_gelu, **model):
    config = {**CONFIG, **model}
    if quick_gelu is not None:
        config["quick_gelu"] = quick_gelu
    return json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": MEAN, "std": STD}}).encode()


# Formats agree


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        OrderedDict,
        lambda t: {"epoch": 3, "name": "run", "state_dict": {f"module.{k}": v for k, v in t.items()}, "optimizer": {}},
        lambda t: {f"module._orig_mod.{k}": v for k, v in t.items()},
        lambda t: {
            **t,
            "input_resolution": torch.tensor(32),
            "context_length": torch.tensor(77),
            "vocab_size": torch.tensor(1),
        },
        lambda t: {**t, "logit_scale": t["logit_scale"].reshape(1)},
        lambda t: {k if k.startswith(("visual.", "logit_")) else f"text.{k}": v for k, v in t.items()},
    ],
    ids=["plain", "ordered", "training", "compiled", "openai-extras", "scale-of-one", "custom-text"],
)
def test_checkpoints_of_torch_load_as_they_are_saved(tmp_path, tiny, tensors, wrap):
    path = checkpoint(tmp_path / "weights.pt", wrap(tensors))
    same(load_clip(path, architecture="Tiny", quick_gelu=True), tiny)


def test_every_file_format_gives_the_same_network(tmp_path, tiny, tensors):
    files = [
        safetensors(tmp_path / "a.safetensors", tensors),
        checkpoint(tmp_path / "b.bin", tensors),
        checkpoint(tmp_path / "c.pth", tensors, _use_new_zipfile_serialization=False),
    ]
    for path in files:
        loaded = load_clip(str(path), architecture="Tiny-quickgelu")
        same(loaded, tiny)
        assert loaded.digest == weights.sha256(path)
        assert loaded.image_size == 32
        assert loaded.mean == open_clip.OPENAI_DATASET_MEAN
        assert not loaded.model.training
        assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
        assert loaded.tokenizer(TEXTS).shape == (2, 77)


def test_half_precision_weights_come_in_the_type_that_was_asked_for(tmp_path, tensors):
    path = safetensors(tmp_path / "half.safetensors", {name: tensor.half() for name, tensor in tensors.items()})
    for dtype in (torch.float32, torch.bfloat16):
        loaded = load_clip(path, architecture="Tiny-quickgelu", dtype=dtype)
        assert {parameter.dtype for parameter in loaded.model.parameters()} == {dtype}


def test_a_network_of_its_own_text_module_loads(tmp_path, tensors):
    path = safetensors(tmp_path / "open_clip_model.safetensors", tensors)
    (tmp_path / "open_clip_config.json").write_bytes(open_clip_config(True, custom_text=True))
    loaded = load_clip(path.parent)
    assert isinstance(loaded.model, open_clip.model.CustomTextCLIP)
    with torch.no_grad():
        texts = loaded.model.encode_text(loaded.tokenizer(TEXTS))
        torch.testing.assert_close(texts, network().encode_text(open_clip.tokenize(TEXTS)), rtol=1e-5, atol=1e-6)


def test_open_clips_own_loader_agrees(tmp_path, tensors):
    safetensors(tmp_path / "open_clip_model.safetensors", tensors)
    (tmp_path / "open_clip_config.json").write_bytes(open_clip_config(True))
    oracle = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    loaded = load_clip(tmp_path)
    same(loaded, oracle)
    assert (loaded.mean, loaded.std) == (MEAN, STD)


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_transformers_folders_agree_with_transformers(tmp_path, act):
    model = network(quick_gelu=act == "quick_gelu")
    theirs = transformers_folder(tmp_path, model, act)
    loaded = load_clip(tmp_path)
    same(loaded, model)
    assert loaded.quick_gelu is (act == "quick_gelu")
    assert (loaded.mean, loaded.std) == (MEAN, STD)
    picture, tokens = torch.randn(1, 3, 32, 32), open_clip.tokenize(TEXTS)
    with torch.no_grad():
        out = theirs(input_ids=tokens, pixel_values=picture)
        image = torch.nn.functional.normalize(loaded.model.encode_image(picture), dim=-1)
        text = torch.nn.functional.normalize(loaded.model.encode_text(tokens), dim=-1)
    torch.testing.assert_close(image, out.image_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(text, out.text_embeds, rtol=1e-4, atol=1e-5)


def test_transformers_folders_in_parts(tmp_path, tiny):
    transformers_folder(tmp_path, tiny).save_pretrained(tmp_path / "parts", max_shard_size="1MB")
    assert (tmp_path / "parts" / "model.safetensors.index.json").is_file()
    same(load_clip(tmp_path / "parts"), tiny)


# The Hub's cache, without the Hub


def test_a_repository_of_open_clip_loads_from_the_hub_cache(tmp_path, tiny, tensors):
    path = safetensors(tmp_path / "w.safetensors", tensors)
    cached("me/tiny", {"open_clip_config.json": open_clip_config(True), "open_clip_model.safetensors": path})
    loaded = load_clip("hf-hub:me/tiny")
    same(loaded, tiny)
    assert loaded.digest == weights.sha256(path)
    assert loaded.name == "Tiny-quickgelu/me/tiny"
    assert (loaded.mean, loaded.std) == (MEAN, STD)


def test_a_repository_of_transformers_loads_from_the_hub_cache(tmp_path, tiny):
    folder = tmp_path / "saved"
    transformers_folder(folder, tiny)
    cached("me/tiny", {path.name: path for path in folder.iterdir()})
    same(load_clip("hf-hub:me/tiny"), tiny)


def test_a_named_file_of_a_repository_at_a_commit(tmp_path, tiny, tensors):
    path = checkpoint(tmp_path / "w.pt", tensors)
    cached("me/rs", {"ckpt/Tiny.pt": path}, commit="a" * 40)
    source = f"hf-hub:me/rs@{'a' * 40}/ckpt/Tiny.pt"
    same(load_clip(source, architecture="Tiny", quick_gelu=True), tiny)
    with pytest.raises(ModelError, match="activation"):
        load_clip(source, architecture="Tiny")
    with pytest.raises(ModelError, match="not here"):
        load_clip(f"hf-hub:me/rs@{'b' * 40}/ckpt/Tiny.pt", architecture="Tiny", quick_gelu=True)


def test_files_in_the_plain_folder_serve_instead_of_the_cache(tmp_path, tiny, tensors):
    folder = tmp_path / "cache" / "weights" / "me--tiny"
    folder.mkdir(parents=True)
    safetensors(folder / "open_clip_model.safetensors", tensors)
    (folder / "open_clip_config.json").write_bytes(open_clip_config(True))
    same(load_clip("hf-hub:me/tiny"), tiny)


def test_a_damaged_file_in_the_hub_cache_is_told(tmp_path, tensors):
    path = safetensors(tmp_path / "w.safetensors", tensors)
    base = cached("me/tiny", {"open_clip_config.json": open_clip_config(True), "open_clip_model.safetensors": path})
    for blob in (base / "blobs").iterdir():
        if blob.stat().st_size > 10_000:
            data = bytearray(blob.read_bytes())
            data[-1] ^= 1
            blob.write_bytes(data)
    with pytest.raises(ModelError, match="damaged"):
        load_clip("hf-hub:me/tiny")


def test_missing_files_are_named_with_the_place_to_put_them(tmp_path):
    with pytest.raises(weights.NotThereError) as raised:
        load_clip("hf-hub:me/tiny")
    told = f"{raised.value.message} {raised.value.hint}"
    for word in ("open_clip_config.json", "open_clip_model.safetensors", "HF_HUB_OFFLINE", "hf download me/tiny"):
        assert word in told
    assert str(tmp_path / "hub") in told
    assert str(tmp_path / "cache" / "weights" / "me--tiny") in told


# Records


def record(tmp_path, options, **run):
    run = Run(backend="clearclip", options=options, **{"source": "hf-hub:me/rs", **run})
    return Model(id="tiny-rs", name="Tiny", kind="contrastive", license_weights="MIT", run=run)


def test_a_record_pins_file_hash_activation_and_means(tmp_path, tiny, tensors):
    path = checkpoint(tmp_path / "w.pt", tensors)
    cached("me/rs", {"ckpt/Tiny.pt": path}, commit="a" * 40)
    options = {"architecture": "Tiny", "file": "ckpt/Tiny.pt", "quick_gelu": True}
    entry = record(
        tmp_path, options, revision="a" * 40, weights={"ckpt/Tiny.pt": weights.sha256(path)}, mean=MEAN, std=STD
    )
    loaded = load_record(entry.record)
    same(loaded, tiny)
    assert (loaded.mean, loaded.std) == (MEAN, STD)
    wrong = record(tmp_path, options, revision="a" * 40, weights={"ckpt/Tiny.pt": "0" * 64})
    with pytest.raises(ModelError, match="expected 0000") as raised:
        load_record(wrong.record)
    assert "geovl catalog fetch tiny-rs" in raised.value.hint


def test_every_runnable_clip_of_the_catalog_names_a_vit_and_its_activation():
    entries = [
        entry for entry in load(types=("model",)).models.values() if entry.run and entry.run.backend == "clearclip"
    ]
    assert {"remoteclip-vit-b-32", "clip-vit-b-16"} <= {entry.id for entry in entries}
    for entry in entries:
        what = weights.of_record(entry.record)
        assert what.known
        assert what.kind == "hub"
        options = entry.run.options
        config = clip._architecture(options["architecture"])
        assert isinstance(options["quick_gelu"], bool)
        assert clip._activation(options["architecture"], options["quick_gelu"])[1] is options["quick_gelu"]
        told = clip._table_says(what.place)
        assert told in {None, options["quick_gelu"]}, entry.id
        assert entry.image_resolution == config["vision_cfg"]["image_size"]
        with pytest.raises(weights.NotThereError, match=r"HF_HUB_OFFLINE"):
            load_record(entry.record)


# The activation


def tagged(monkeypatch, tmp_path, quick_gelu, tensors):
    """A tag of open_clip's table whose weights are in the cache."""
    entry = open_clip.pretrained._pcfg(hf_hub="me/tiny/", mean=MEAN, std=STD)
    table = {"Tiny": {"seed": {**entry, "quick_gelu": True} if quick_gelu else entry}}
    if quick_gelu:
        table["Tiny-quickgelu"] = table["Tiny"]
    monkeypatch.setattr(open_clip.pretrained, "_PRETRAINED", table)
    path = safetensors(tmp_path / "w.safetensors", tensors)
    cached("me/tiny", {"open_clip_model.safetensors": path, "open_clip_config.json": open_clip_config(None)})


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize(
    "name", ["Tiny/seed", "Tiny-quickgelu/seed", "open_clip:Tiny/seed", "open_clip:Tiny-quickgelu/seed"]
)
def test_a_tag_has_the_activation_of_its_weights_whatever_the_name_says(
    monkeypatch, tmp_path, tensors, quick_gelu, name
):
    tagged(monkeypatch, tmp_path, quick_gelu, tensors)
    loaded = load_clip(name)
    assert loaded.quick_gelu is quick_gelu
    same(loaded, network(quick_gelu=quick_gelu))
    assert loaded.name == ("Tiny-quickgelu/seed" if quick_gelu else "Tiny/seed")
    assert (loaded.mean, loaded.std) == (MEAN, STD)
    with pytest.raises(ModelError, match="was asked for"):
        load_clip(name, quick_gelu=not quick_gelu)


def test_the_table_knows_better_than_the_configuration_of_its_repository(monkeypatch, tmp_path, tensors):
    tagged(monkeypatch, tmp_path, True, tensors)  # whose configuration says nothing
    assert load_clip("hf-hub:me/tiny").quick_gelu is True


@pytest.mark.parametrize("told", [True, False, None])
def test_a_configuration_says_the_activation(tmp_path, tensors, told):
    path = safetensors(tmp_path / "w.safetensors", tensors)
    cached("me/tiny", {"open_clip_config.json": open_clip_config(told), "open_clip_model.safetensors": path})
    same(load_clip("hf-hub:me/tiny"), network(quick_gelu=bool(told)))
    with pytest.raises(ModelError, match="was asked for"):
        load_clip("hf-hub:me/tiny", quick_gelu=not told)


def test_openai_weights_are_quick_gelu_under_either_name():
    for model in ("ViT-B-16", "ViT-B-16-quickgelu", "ViT-L-14", "ViT-B-32"):
        assert weights.table(model, "openai")["quick_gelu"] is True
        assert weights.origin(f"open_clip:{model}/openai").place.startswith("timm/vit_")
    assert not weights.table("ViT-L-14", "laion2b_s32b_b82k").get("quick_gelu")


def test_the_activation_matters_so_it_must_be_said(tmp_path, tensors):
    path = safetensors(tmp_path / "w.safetensors", tensors)
    quick, other = (load_clip(path, architecture="Tiny", quick_gelu=told) for told in (True, False))
    assert not torch.allclose(seen(quick.model)[0], seen(other.model)[0], atol=1e-3)
    assert quick.name != other.name, "or vectors of one would be taken for those of the other"
    with pytest.raises(ModelError, match="does not say whether its activation") as raised:
        load_clip(path, architecture="Tiny")
    assert "quick_gelu=true" in raised.value.hint
    with pytest.raises(ModelError, match="architecture and its activation"):
        load_clip(path)
    with pytest.raises(ModelError, match="its architecture"):
        load_clip(path, quick_gelu=True)
    with pytest.raises(ModelError, match="quick_gelu is false"):
        load_clip(path, architecture="Tiny-quickgelu", quick_gelu=False)


# What is wrong is told


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("open_clip:ViT-B-16/nobody", "no weights 'nobody'"),
        ("ViT-B-16/nobody", "no weights 'nobody'"),
        ("open_clip:openai", "expected open_clip:MODEL/TAG"),
        ("hf-hub:tiny", "expected hf-hub:owner/name"),
        ("s3://bucket/x.pt", "no source of weights"),
        ("/nowhere/x.pt", "There is no x.pt"),
        ("RN50/openai", "ResNet"),
        ("open_clip:RN50-quickgelu/openai", "ResNet"),
        ("ViT-B-16-SigLIP/webli", "image tower"),
        ("roberta-ViT-B-32/laion2b_s12b_b32k", "text tower"),
    ],
)
def test_names_that_mean_nothing_or_no_plain_vit(source, match):
    with pytest.raises(ModelError, match=match) as raised:
        load_clip(source)
    assert raised.value.hint


def test_an_unknown_architecture(tmp_path, tensors):
    path = safetensors(tmp_path / "w.safetensors", tensors)
    with pytest.raises(ModelError, match="no architecture 'ViT-Z-3'"):
        load_clip(path, architecture="ViT-Z-3", quick_gelu=True)
    with pytest.raises(ModelError, match="ResNet"):
        load_clip(path, architecture="TinyResNet", quick_gelu=True)


def test_weights_of_another_architecture(tmp_path, tensors):
    path = safetensors(tmp_path / "w.safetensors", tensors)
    with pytest.raises(ModelError, match=r"conv1.weight is \(64, 3, 8, 8\), expected \(64, 3, 16, 16\)") as raised:
        load_clip(path, architecture="Tiny16", quick_gelu=True)
    assert "Tiny." in raised.value.hint
    with pytest.raises(ModelError, match=r"does not fit ViT-B-32"):
        load_clip(path, architecture="ViT-B-32", quick_gelu=True)


def test_weights_that_are_not_all_there_or_too_many(tmp_path, tensors):
    few = {name: tensor for name, tensor in tensors.items() if "resblocks.1" not in name}
    with pytest.raises(ModelError, match="lacks 24 of"):
        load_clip(safetensors(tmp_path / "few.safetensors", few), architecture="Tiny", quick_gelu=True)
    many = {**tensors, "visual.extra": torch.zeros(3)}
    with pytest.raises(ModelError, match=r"1 tensors more, such as visual\.extra"):
        load_clip(safetensors(tmp_path / "many.safetensors", many), architecture="Tiny", quick_gelu=True)


def test_weights_of_a_resnet(tmp_path, tensors):
    other = {**tensors, "visual.layer1.0.conv1.weight": torch.zeros(3)}
    with pytest.raises(ModelError, match="ResNet"):
        load_clip(safetensors(tmp_path / "w.safetensors", other), architecture="Tiny", quick_gelu=True)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "old.pt"])
@pytest.mark.parametrize("keep", [0, 7, 1000, -1])
def test_truncated_files(tmp_path, tensors, name, keep):
    path = tmp_path / name
    if name == "w.safetensors":
        safetensors(path, tensors)
    else:
        checkpoint(path, tensors, _use_new_zipfile_serialization=name == "w.pt")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError) as raised:
        load_clip(path, architecture="Tiny", quick_gelu=True)
    assert str(path) in raised.value.message


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path, tensors, zipped):
    mark = tmp_path / "ran"
    path = checkpoint(
        tmp_path / "w.pt", {"state_dict": tensors, "args": Bomb(mark)}, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(ModelError, match="could run code"):
        load_clip(path, architecture="Tiny", quick_gelu=True)
    assert not mark.exists()


def test_other_archives_and_files_are_named_for_what_they_are(tmp_path):
    scripted = tmp_path / "ViT.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(scripted))
    with pytest.raises(ModelError, match="TorchScript") as raised:
        load_clip(scripted, architecture="Tiny", quick_gelu=True)
    assert "open_clip:ViT-B-16/openai" in raised.value.hint
    packed = tmp_path / "SkyCLIP.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("SkyCLIP/epoch_20.pt", b"x")
    with pytest.raises(ModelError, match=r"holds SkyCLIP/epoch_20\.pt") as raised:
        load_clip(packed, architecture="Tiny", quick_gelu=True)
    assert "Unpack" in raised.value.hint
    lists = checkpoint(tmp_path / "l.pt", [1, 2])
    with pytest.raises(ModelError, match="no tensors by name"):
        load_clip(lists, architecture="Tiny", quick_gelu=True)


def test_folders_that_hold_no_clip(tmp_path, tiny, tensors):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError, match="holds 0 files"):
        load_clip(empty, architecture="Tiny", quick_gelu=True)
    with pytest.raises(ModelError):
        load_clip(empty)
    other = tmp_path / "bert"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    safetensors(other / "model.safetensors", tensors)
    with pytest.raises(ModelError, match="'bert'; expected 'clip'"):
        load_clip(other)
    (other / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        load_clip(other)
    odd = tmp_path / "odd"
    transformers_folder(odd, tiny)
    raw = json.loads((odd / "config.json").read_text())
    raw["text_config"]["hidden_act"] = "relu"
    (odd / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ModelError, match="quick_gelu and relu"):
        load_clip(odd)


def test_a_vocabulary_that_the_tokenizer_does_not_know(tmp_path):
    config = {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "vocab_size": 1000}}
    model = open_clip.model.CLIP(**config)
    safetensors(tmp_path / "open_clip_model.safetensors", model.state_dict())
    (tmp_path / "open_clip_config.json").write_bytes(open_clip_config(False, text_cfg=config["text_cfg"]))
    with pytest.raises(ModelError, match="knows 1000 tokens"):
        load_clip(tmp_path)


def test_no_memory_is_filled_at_random_and_masks_are_right(tmp_path, tensors):
    loaded = load_clip(safetensors(tmp_path / "w.safetensors", tensors), architecture="Tiny", quick_gelu=True)
    assert not any(tensor.is_meta for tensor in (*loaded.model.parameters(), *loaded.model.buffers()))
    torch.testing.assert_close(loaded.model.attn_mask, network().attn_mask)
