"""CLIP models from weights in any of their formats, with the activation that they were trained with.

QuickGELU or GELU is a property of weights that no file of tensors holds, and the wrong one runs without an error. So it
is taken from whoever knows it, and nothing is loaded where nobody does:

| weights | format | the activation is told by |
| --- | --- | --- |
| ``ViT-B-16/openai``, ``open_clip:ViT-B-16/openai`` | a tag of open_clip | its table, whatever the name of the model |
| ``hf-hub:owner/name``, a folder | ``open_clip_config.json`` and weights | the table where it knows the repository, else ``quick_gelu`` of ``model_cfg`` |
| ``hf-hub:owner/name``, a folder | ``config.json`` of transformers' ``CLIPModel`` and weights | ``hidden_act`` |
| ``hf-hub:owner/name/file``, a file, a URL | tensors by name: ``.safetensors``, or a checkpoint of torch | the caller, or the record |

Files are read by :mod:`geovl.segmenters.open_vocabulary.tensors`, which runs no code from them. A checkpoint of torch may be
the tensors alone or a training checkpoint that has them under ``state_dict``.

The names of transformers become those of open_clip: ``vision_model.`` is ``visual.``, ``text_model.`` is nothing, and

| transformers | open_clip |
| --- | --- |
| ``encoder.layers.N.`` | ``transformer.resblocks.N.`` |
| ``self_attn.{q,k,v}_proj.{weight,bias}`` | ``attn.in_proj_{weight,bias}``, one above the other |
| ``self_attn.out_proj.`` | ``attn.out_proj.`` |
| ``layer_norm1.``, ``layer_norm2.`` | ``ln_1.``, ``ln_2.`` |
| ``mlp.fc1.``, ``mlp.fc2.`` | ``mlp.c_fc.``, ``mlp.c_proj.`` |
| ``embeddings.patch_embedding.``, ``embeddings.class_embedding`` | ``conv1.``, ``class_embedding`` |
| ``embeddings.token_embedding.``, ``embeddings.position_embedding.weight`` | ``token_embedding.``, ``positional_embedding`` |
| ``pre_layrnorm.`` (so spelt), ``post_layernorm.``, ``final_layer_norm.`` | ``ln_pre.``, ``ln_post.``, ``ln_final.`` |
| ``visual_projection.weight``, ``text_projection.weight`` | ``visual.proj``, ``text_projection``, transposed |
"""  # noqa: E501 - tables

import hashlib
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.pretrained import get_pretrained_cfg, list_pretrained
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from geovl import weights
from geovl.errors import ModelError
from geovl.segmenters.open_vocabulary.tensors import (
    CONFIG,
    FORMATS,
    PREPROCESSOR,
    WEIGHTS,
    Triple,
    read_json,
    read_tensors,
    triple,
    weight_files,
)
from geovl.segmenters.open_vocabulary.text import Tokenizer
from geovl.types import ModelRecord
from geovl.weights import Origin, Progress

_VOCABULARY = 49408  # of CLIP's byte pairs, which open_clip's tokenizer knows
_SCRIPTED = "OpenAI's weights are on the Hub as tensors alone: use the tag, such as open_clip:ViT-B-16/openai."
_VIT = "Use a ViT, such as ViT-B-16, ViT-L-14 or ViT-B-32: dense tokens are its patches."
_SAY = (
    "Say quick_gelu=true for weights made from OpenAI's or MetaCLIP's and false for those of LAION or DataComp, or"
    " name the architecture with its -quickgelu. The wrong one runs unnoticed and costs several points."
)


@dataclass(frozen=True, slots=True)
class ClipModel:
    """A CLIP model that is ready to be read."""

    model: nn.Module
    """open_clip's ``CLIP`` or ``CustomTextCLIP``, in evaluation mode, without gradients."""
    tokenizer: Tokenizer
    mean: Triple
    """Of red, green and blue in 0..1, as in training."""
    std: Triple
    image_size: int
    """Pixels a side in training."""
    name: str
    """Architecture and weights; another one for another activation."""
    digest: str
    """sha256 of the file of weights; of the digests of all where there are several."""
    quick_gelu: bool
    """The activation: QuickGELU, or GELU."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is known of a model before its tensors are read."""

    config: dict[str, Any]
    """``embed_dim``, ``vision_cfg``, ``text_cfg``, ... as in open_clip's configurations."""
    architecture: str
    quick_gelu: bool
    label: str
    """Which weights."""
    files: tuple[Path, ...] = ()
    mean: Triple = OPENAI_DATASET_MEAN
    std: Triple = OPENAI_DATASET_STD
    transformers: bool = False
    """Whether the tensors have the names of transformers."""


def load_record(
    record: ModelRecord, *, device: torch.device | str = "cpu", progress: Progress | None = None
) -> ClipModel:
    """Load the model of a record in float32; see :func:`load_clip`.

    Its ``options`` may hold ``architecture``, ``quick_gelu`` and ``file``.
    """
    options: Mapping[str, Any] = record.options
    # one that was made of the words of a command line, backend:source, names no more than its source
    pinned = None if ":" in record.id else weights.of_record(record)
    if pinned is None and options.get("file"):
        pinned = weights.origin(record.source, [(str(options["file"]),)])
    tagged = record.source.startswith("open_clip:")
    loaded = load_clip(
        record.source if pinned is None or tagged else pinned,
        architecture=options.get("architecture") or None,
        quick_gelu=options.get("quick_gelu"),
        device=device,
        progress=progress,
        origin=pinned if tagged else None,
    )
    return replace(loaded, mean=triple(record.mean, loaded.mean), std=triple(record.std, loaded.std))


def load_clip(
    source: str | Path | Origin,
    *,
    architecture: str | None = None,
    quick_gelu: bool | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
    origin: Origin | None = None,
) -> ClipModel:
    """Load a CLIP model.

    Args:
        source: A tag of open_clip, ``hf-hub:owner/name``, a folder, a file or a URL; see the module.
        architecture: Of open_clip, for weights that do not name theirs.
        quick_gelu: The activation, for weights that do not tell theirs.
        device: Where the weights end.
        dtype: Type of all of them.
        progress: Told of downloads.
        origin: Which files to take, where a record pins those of a tag.

    Raises:
        NotThereError: A file is missing and cannot be downloaded.
        ModelError: A file is damaged, would run code, or holds another network; or what it needs to be told was not.
    """
    plan = _plan(source, architecture, quick_gelu, progress, origin)
    model = _built(plan.config, plan.quick_gelu, plan.architecture)
    tensors = _fitted(_tensors(plan), model, plan.architecture, plan.files[0])
    model.load_state_dict(tensors, strict=True, assign=True)
    _fill_masks(model)
    model = model.to(device=device, dtype=dtype).eval().requires_grad_(requires_grad=False)
    text = plan.config["text_cfg"]
    return ClipModel(
        model,
        cast("Tokenizer", SimpleTokenizer(context_length=int(text.get("context_length", 77)))),
        plan.mean,
        plan.std,
        _side(plan.config["vision_cfg"].get("image_size", 224)),
        f"{plan.architecture}{'-quickgelu' if plan.quick_gelu else ''}/{plan.label}",
        _digest(plan.files),
        plan.quick_gelu,
    )


def _side(size: int | Sequence[int]) -> int:
    return int(size) if isinstance(size, int) else int(size[0])


def _digest(files: Sequence[Path]) -> str:
    digests = [weights.digest(path) for path in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


# Which weights, and what is said of them


def _plan(
    source: str | Path | Origin,
    architecture: str | None,
    quick_gelu: bool | None,
    progress: Progress | None,
    pinned: Origin | None,
) -> _Plan:
    """Find the files of a source, and what is known of them."""
    tag = _tag(source)
    if tag is not None:
        return _of_tag(tag, quick_gelu, progress, pinned)
    if architecture is not None:  # before a download, which may take minutes
        base, told = _activation(architecture, quick_gelu)
        config = _architecture(base)
        if told is None:
            msg = f"{_called(source)} does not say whether its activation is QuickGELU or GELU."
            raise ModelError(msg, _SAY)
        what = _bare(source)
        files = tuple(file.path for file in weights.fetch(what, progress))
        return _Plan(config, base, told, what.model, files)
    what = source if isinstance(source, Origin) else weights.origin(source)
    if what.kind == "hub":
        plan = _of_repository(what, quick_gelu, progress)
    else:
        plan = _of_folder(Path(what.place), what, quick_gelu)
    if quick_gelu is not None and quick_gelu != plan.quick_gelu:
        raise _contradiction(_called(source), plan.quick_gelu)
    return plan


def _called(source: str | Path | Origin) -> str:
    return source.model if isinstance(source, Origin) else str(source)


def _contradiction(name: str, right: bool) -> ModelError:
    words = {True: "QuickGELU", False: "GELU"}
    msg = f"{name} has {words[right]} activations, but {words[not right]} was asked for."
    return ModelError(msg, "Leave quick_gelu out: these weights say it themselves.")


def _tag(source: str | Path | Origin) -> tuple[str, str] | None:
    """Return model and tag of open_clip, if a source is one."""
    if not isinstance(source, str):
        return None
    model, slash, tag = source.removeprefix("open_clip:").rpartition("/")
    if source.startswith("open_clip:"):
        return model, tag
    named = slash and _base(model) is not None and not Path(source).expanduser().exists()
    return (model, tag) if named else None


def _of_tag(tag: tuple[str, str], quick_gelu: bool | None, progress: Progress | None, pinned: Origin | None) -> _Plan:
    name = "/".join(tag)
    what = pinned or weights.origin(f"open_clip:{name}")
    entry = weights.table(*tag)
    right = bool(entry.get("quick_gelu", False))
    if quick_gelu is not None and quick_gelu != right:
        raise _contradiction(name, right)
    base = tag[0].removesuffix("-quickgelu")
    config = _architecture(base)
    files = tuple(file.path for file in weights.fetch(what, progress))
    mean, std = triple(entry.get("mean"), OPENAI_DATASET_MEAN), triple(entry.get("std"), OPENAI_DATASET_STD)
    return _Plan(config, base, right, tag[1], files, mean, std)


def _base(architecture: str) -> str | None:
    """Return the name of an architecture of open_clip without its activation; None for another name."""
    base = architecture.replace("/", "-").removesuffix("-quickgelu")
    return base if {base, f"{base}-quickgelu"} & _architectures() else None


@cache
def _architectures() -> frozenset[str]:
    return frozenset(open_clip.list_models())


def _activation(architecture: str, quick_gelu: bool | None) -> tuple[str, bool | None]:
    """Return an architecture without its activation, and the activation if either says it."""
    base = _base(architecture)
    if base is None:
        msg = f"open_clip has no architecture {architecture!r}."
        raise ModelError(msg, _VIT)
    if architecture.endswith("-quickgelu"):
        if quick_gelu is False:
            msg = f"The architecture {architecture} has QuickGELU activations, but quick_gelu is false."
            raise ModelError(msg, f"Name {base} for GELU, or leave quick_gelu out.")
        return base, True
    return base, quick_gelu


def _architecture(base: str) -> dict[str, Any]:
    """Return open_clip's configuration of a plain ViT with CLIP's own text tower."""
    config = open_clip.get_model_config(base) or open_clip.get_model_config(f"{base}-quickgelu")
    if config is None:
        msg = f"open_clip has no architecture {base!r}."
        raise ModelError(msg, _VIT)
    return _plain(config, base)


def _plain(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration if it is one of a plain ViT with CLIP's own text tower."""
    vision, text = config.get("vision_cfg"), config.get("text_cfg")
    if not isinstance(vision, dict) or not isinstance(text, dict) or "embed_dim" not in config:
        msg = f"The configuration of {name} lacks embed_dim, vision_cfg or text_cfg."
        raise ModelError(msg, "Get it again: it should be as open_clip writes it.")
    if not isinstance(vision.get("layers", 12), int) or vision.get("timm_model_name"):
        kind = vision.get("timm_model_name") or "ResNet"
        msg = f"The image tower of {name} is a {kind}, which has no patch tokens; expected a ViT."
        raise ModelError(msg, _VIT)
    if text.get("hf_model_name") or text.get("hf_tokenizer_name") or "multimodal_cfg" in config:
        kind = text.get("hf_model_name") or text.get("hf_tokenizer_name") or "one that also writes"
        msg = f"The text tower of {name} is {kind}; expected CLIP's own."
        raise ModelError(msg, _VIT)
    return deepcopy(dict(config))


def _bare(source: str | Path | Origin) -> Origin:
    """Return the origin of a file of tensors alone."""
    what = source if isinstance(source, Origin) else weights.origin(source)
    if what.kind == "hub":
        kept = tuple(names for names in what.needed if names != (weights.OPEN_CLIP_CONFIG,))
        return replace(what, needed=kept or (weights.OPEN_CLIP_WEIGHTS,))
    if what.needed:
        return what
    found = [path.name for path in sorted(Path(what.place).glob("*")) if path.suffix in FORMATS]
    if len(found) == 1:
        return replace(what, needed=((found[0],),))
    usual = next((name for name in (*weights.OPEN_CLIP_WEIGHTS, "model.safetensors") if name in found), None)
    if usual is not None:
        return replace(what, needed=((usual,),))
    msg = f"The folder {what.place} holds {len(found)} files of weights{': ' if found else ''}{', '.join(found)}."
    raise ModelError(msg, "Name the file." if found else f"Expected one that ends in {', '.join(FORMATS)}.")


def _of_repository(what: Origin, quick_gelu: bool | None, progress: Progress | None) -> _Plan:
    """Return what a repository of the Hub says of its weights."""
    named = {name for names in what.needed for name in names}
    if weights.OPEN_CLIP_CONFIG not in named:
        return _of_file(what, Path(what.place), quick_gelu)
    theirs = replace(what, needed=((CONFIG,), WEIGHTS), optional=(PREPROCESSOR,), sha256={})
    try:
        # what is here is enough, in either format; but the means of the other one may be missing still
        found = weights.find(what) or weights.fetch(theirs if weights.find(theirs) else what, progress)
    except weights.LacksFileError:
        found = weights.fetch(theirs, progress)
    files = {file.name: file.path for file in found}
    if weights.OPEN_CLIP_CONFIG in files:
        tensors = next(path for name, path in files.items() if name != weights.OPEN_CLIP_CONFIG)
        plan = _of_open_clip(files[weights.OPEN_CLIP_CONFIG], tensors, what.model)
        told = _table_says(what.place)
        return plan if told is None else replace(plan, quick_gelu=told)
    shards = weight_files(theirs, files, progress)
    return _of_transformers(files[CONFIG], shards, files.get(PREPROCESSOR), what.model)


def _table_says(repository: str) -> bool | None:
    """Return the activation of the weights of a repository, where open_clip's table knows it."""
    entries = (get_pretrained_cfg(*entry) for entry in list_pretrained())
    told = {bool(e.get("quick_gelu", False)) for e in entries if str(e.get("hf_hub", "")).startswith(f"{repository}/")}
    return told.pop() if len(told) == 1 else None


def _of_folder(folder: Path, what: Origin, quick_gelu: bool | None) -> _Plan:
    """Return what a folder says of its weights: all of it, or the one file of it that is named."""
    if what.kind == "url":
        return _of_file(what, Path(what.place), quick_gelu)
    if not folder.is_dir() or (what.needed and weights.find(what) is None):
        weights.fetch(what)  # says what is missing
    config, theirs = folder / weights.OPEN_CLIP_CONFIG, folder / CONFIG
    if config.is_file():
        return _of_open_clip(config, _file_of(what), what.model)
    named = [name for names in what.needed for name in names]
    if not theirs.is_file() or (named and named[0] not in WEIGHTS):
        return _of_file(what, _file_of(what), quick_gelu)
    preprocessor = folder / PREPROCESSOR
    found = {name: folder / name for name in WEIGHTS if (folder / name).is_file()}
    if not found:
        msg = f"There are no weights in {folder}; expected {' or '.join(WEIGHTS)}."
        raise ModelError(msg, "Put the file beside config.json.")
    files = weight_files(what, found)
    return _of_transformers(theirs, files, preprocessor if preprocessor.is_file() else None, str(folder))


def _file_of(what: Origin) -> Path:
    return weights.fetch(_bare(what))[0].path


def _of_file(what: Origin, path: Path, quick_gelu: bool | None) -> _Plan:
    """Refuse tensors of which nobody says what they are."""
    if path.is_file():
        read_tensors(path, scripted=_SCRIPTED)  # a damaged or foreign file is the greater fault
    lacks = "its architecture" if quick_gelu is not None else "its architecture and its activation"
    msg = f"{what.model} does not say {lacks}."
    raise ModelError(msg, f"Name one of open_clip, such as ViT-B-16. {_SAY}")


def _of_open_clip(config: Path, file: Path, label: str) -> _Plan:
    """Return what ``open_clip_config.json`` says."""
    raw = read_json(config)
    model = _plain(raw.get("model_cfg", raw), label)
    told = raw.get("preprocess_cfg") or {}
    architecture = _known_as(model) or "CLIP"
    mean, std = triple(told.get("mean"), OPENAI_DATASET_MEAN), triple(told.get("std"), OPENAI_DATASET_STD)
    return _Plan(model, architecture, bool(model.get("quick_gelu", False)), label, (file,), mean, std)


def _known_as(config: Mapping[str, Any]) -> str | None:
    """Return the name that open_clip has for a configuration, but for its activation."""
    wanted = {key: value for key, value in config.items() if key != "quick_gelu"}
    for name in sorted(_architectures()):
        other = open_clip.get_model_config(name) or {}
        if {key: value for key, value in other.items() if key != "quick_gelu"} == wanted:
            return name.removesuffix("-quickgelu")
    return None


_ACTIVATIONS = {"quick_gelu": True, "gelu": False}


def _of_transformers(config: Path, files: tuple[Path, ...], preprocessor: Path | None, label: str) -> _Plan:
    """Return what transformers' ``config.json`` says."""
    raw = read_json(config)
    if raw.get("model_type") != "clip":
        msg = f"{config} is of a model of type {raw.get('model_type')!r}; expected 'clip'."
        raise ModelError(msg, "Name a folder or a repository with a CLIPModel, or with open_clip_config.json.")
    from transformers import CLIPConfig  # noqa: PLC0415 - open_clip has loaded what is slow of it

    told: Any = CLIPConfig.from_dict(raw)
    vision, text = told.vision_config, told.text_config
    acts = {vision.hidden_act, text.hidden_act}
    if len(acts) != 1 or not acts <= set(_ACTIVATIONS):
        msg = f"{config} has the activations {' and '.join(sorted(acts))}; expected quick_gelu or gelu in both towers."
        raise ModelError(msg, _VIT)
    if text.eos_token_id not in {2, text.vocab_size - 1}:  # 2 is how older files say: the highest
        msg = f"{config} ends its texts with token {text.eos_token_id}; expected the last one, {text.vocab_size - 1}."
        raise ModelError(msg, "Use the tokenizer's own CLIP, or weights of open_clip.")
    trained = read_json(preprocessor) if preprocessor is not None else {}
    mean = triple(trained.get("image_mean"), OPENAI_DATASET_MEAN)
    std = triple(trained.get("image_std"), OPENAI_DATASET_STD)
    made = {
        "embed_dim": told.projection_dim,
        "vision_cfg": {
            "image_size": vision.image_size,
            "layers": vision.num_hidden_layers,
            "width": vision.hidden_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "mlp_ratio": vision.intermediate_size / vision.hidden_size,
            "patch_size": vision.patch_size,
            "norm_kwargs": {"eps": vision.layer_norm_eps},
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
            "mlp_ratio": text.intermediate_size / text.hidden_size,
            "norm_kwargs": {"eps": text.layer_norm_eps},
        },
    }
    return _Plan(made, "CLIP", _ACTIVATIONS[acts.pop()], label, files, mean, std, transformers=True)


# The network and its tensors


def _built(config: Mapping[str, Any], quick_gelu: bool, name: str) -> Any:
    """Return the network without memory for its weights, which saves the seconds of filling them at random."""
    config = {**deepcopy(dict(config)), "quick_gelu": quick_gelu}
    kind = CustomTextCLIP if config.pop("custom_text", False) else CLIP
    if int(config["text_cfg"].get("vocab_size", _VOCABULARY)) != _VOCABULARY:
        msg = f"The text tower of {name} knows {config['text_cfg']['vocab_size']} tokens; expected {_VOCABULARY}."
        raise ModelError(msg, "Use a CLIP with its own tokenizer.")
    try:
        with torch.device("meta"):
            return kind(**config)
    except (TypeError, ValueError, AssertionError) as error:
        msg = f"open_clip cannot build {name} from its configuration: {error}."
        raise ModelError(msg, "Get the configuration again, or a newer open_clip_torch.") from error


def _fill_masks(model: nn.Module) -> None:
    """Give the causal mask of the text tower its values, which no file holds."""
    for module in model.modules():
        mask = module._buffers.get("attn_mask")  # noqa: SLF001 - the way to set a buffer that is not kept
        if mask is not None and mask.is_meta:
            module._buffers["attn_mask"] = torch.full(mask.shape, -torch.inf).triu_(1)  # noqa: SLF001 - as above


def _tensors(plan: _Plan) -> dict[str, Tensor]:
    """Read the tensors of all files, under the names of open_clip."""
    found: dict[str, Tensor] = {}
    for path in plan.files:
        found |= read_tensors(path, scripted=_SCRIPTED)
    return _renamed(found, plan.files[0]) if plan.transformers else found


_RENAMED = tuple(
    (re.compile(pattern), to)
    for pattern, to in (
        (r"^vision_model\.", "visual."),
        (r"^text_model\.", ""),
        (r"encoder\.layers\.", "transformer.resblocks."),
        (r"self_attn\.out_proj\.", "attn.out_proj."),
        (r"layer_norm([12])\.", r"ln_\1."),
        (r"mlp\.fc1\.", "mlp.c_fc."),
        (r"mlp\.fc2\.", "mlp.c_proj."),
        (r"embeddings\.patch_embedding\.", "conv1."),
        (r"embeddings\.class_embedding$", "class_embedding"),
        (r"embeddings\.token_embedding\.", "token_embedding."),
        (r"embeddings\.position_embedding\.weight$", "positional_embedding"),
        (r"pre_layrnorm\.", "ln_pre."),
        (r"post_layernorm\.", "ln_post."),
        (r"final_layer_norm\.", "ln_final."),
    )
)
_PROJECTIONS = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}


def _renamed(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return tensors of transformers under open_clip's names; see the module."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith("position_ids"):  # older files hold 0, 1, 2, ...
            continue
        if name in _PROJECTIONS:
            out[_PROJECTIONS[name]] = tensor.T.contiguous()
        elif (found := re.search(r"self_attn\.([qkv])_proj\.(weight|bias)$", name)) is None:
            new = name
            for pattern, to in _RENAMED:
                new = pattern.sub(to, new)
            out[new] = tensor
        elif found[1] == "q":
            three = [tensors.get(name.replace(".q_proj.", f".{kind}_proj.")) for kind in "qkv"]
            if any(part is None for part in three):
                msg = f"{path} has {name}, but not the keys and values that belong to it."
                raise ModelError(msg, "Get the file again.")
            joined = name.replace(f"self_attn.q_proj.{found[2]}", f"attn.in_proj_{found[2]}")
            for pattern, to in _RENAMED:
                joined = pattern.sub(to, joined)
            out[joined] = torch.cat([part for part in three if part is not None])
    return out


_IGNORED = re.compile(r"(input_resolution|context_length|vocab_size|logit_bias|(.*\.)?(attn_mask|position_ids))")
"""What files may hold that is no weight: numbers of OpenAI's archives, buffers of older versions."""


_TELLING = ("visual.conv1.weight", "visual.positional_embedding", "visual.proj", "text_projection")
"""Tensors whose shapes tell architectures apart."""


def _fitted(found: Mapping[str, Tensor], model: Any, architecture: str, path: Path) -> dict[str, Tensor]:
    """Return the tensors that a network needs, if they are there in the right shapes."""
    expected: dict[str, Tensor] = model.state_dict()
    found = {name: tensor for name, tensor in found.items() if not _IGNORED.fullmatch(name)}
    if any(name.startswith("visual.layer1.") for name in found):
        msg = f"{path} holds the weights of a ResNet image tower, which has no patch tokens; expected {architecture}."
        raise ModelError(msg, _VIT)
    found = _laid_out(found, expected)
    if "logit_scale" in found and "logit_scale" in expected and found["logit_scale"].numel() == 1:
        found["logit_scale"] = found["logit_scale"].reshape(expected["logit_scale"].shape)
    wrong = [name for name in expected if name in found and found[name].shape != expected[name].shape]
    missing = [name for name in expected if name not in found]
    surplus = [name for name in found if name not in expected]
    if not (wrong or missing or surplus):
        return found
    likely = _guess(found)
    hint = f"These look like weights of {likely}." if likely else "Name the architecture that they were trained in."
    if wrong:
        name = next((name for name in _TELLING if name in wrong), wrong[0])
        shapes = f"{name} is {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
        more = f", and {len(wrong) - 1} more tensors differ" if len(wrong) > 1 else ""
        msg = f"{path} does not fit {architecture}: {shapes}{more}."
    elif missing:
        lacks = f"it lacks {len(missing)} of {len(expected)} tensors, such as {missing[0]}"
        msg = f"{path} does not fit {architecture}: {lacks}."
    else:
        msg = f"{path} does not fit {architecture}: it has {len(surplus)} tensors more, such as {surplus[0]}."
    raise ModelError(msg, hint)


def _laid_out(found: Mapping[str, Tensor], expected: Mapping[str, Any]) -> dict[str, Tensor]:
    """Move the text tower under ``text.``, or out of it, as the network has it."""
    if "text.positional_embedding" in expected and "positional_embedding" in found:
        own = ("visual.", "logit_scale", "text.")
        return {name if name.startswith(own) else f"text.{name}": tensor for name, tensor in found.items()}
    if "positional_embedding" in expected and "text.positional_embedding" in found:
        return {name.removeprefix("text."): tensor for name, tensor in found.items()}
    return dict(found)


def _guess(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the architecture of open_clip that has tensors of these shapes."""
    try:
        kernel, table = tensors["visual.conv1.weight"], tensors["visual.positional_embedding"]
        embed_dim = tensors["visual.proj"].shape[1]
    except KeyError:
        return None
    layers = len({name.split(".")[3] for name in tensors if name.startswith("visual.transformer.resblocks.")})
    shape = (int(embed_dim), int(kernel.shape[0]), int(kernel.shape[-1]), layers)
    for name in sorted(_architectures(), key=len):
        config = open_clip.get_model_config(name) or {}
        vision = config.get("vision_cfg", {})
        patch = vision.get("patch_size", 16)
        sides = vision.get("image_size", 224)
        if (config.get("embed_dim"), vision.get("width", 768), patch, vision.get("layers", 12)) != shape:
            continue
        if isinstance(sides, int) and table.shape[0] == (sides // patch) ** 2 + 1 and "timm_model_name" not in vision:
            return name.removesuffix("-quickgelu")
    return None
