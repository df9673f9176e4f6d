"""Checkpoints of vision networks from any origin: family, normalisation, and tensors under one set of names.

The names are timm's for a ViT, which are those of the original repositories, so one table of names reads checkpoints
of timm, of transformers and of the original authors.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from geovl import weights
from geovl.errors import ModelError
from geovl.segmenters.open_vocabulary.tensors import (
    CONFIG,
    PREPROCESSOR,
    WEIGHTS,
    Triple,
    read_json,
    read_tensors,
    triple,
    weight_files,
)
from geovl.weights import Origin, Progress

Kind = Literal["dino", "dinov2", "dinov2_reg", "dinov3", "mae", "sam"]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
_SAT_MEAN: Triple = (0.430, 0.411, 0.296)  # DINOv3 as trained on satellite pictures
_SAT_STD: Triple = (0.213, 0.156, 0.143)

KNOWN = "Known are DINO, DINOv2, DINOv3 (ViT), MAE and the image encoder of SAM."
_NESTED = ("teacher", "model", "state_dict")  # DINO's full checkpoints, MAE's and SAM's


@dataclass(frozen=True, slots=True)
class _Told:
    """What files say beside the weights."""

    mean: Triple
    std: Triple
    kind: Kind | None = None
    heads: int | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights of a vision network under timm's names for a ViT, and what else is known of it."""

    tensors: dict[str, Tensor]
    origin: str
    """As messages call it."""
    kind: Kind
    mean: Triple
    """Per channel of RGB in [0, 1], what the network was trained with."""
    std: Triple
    told_heads: int | None = None
    """Attention heads, where somebody says them."""

    @property
    def width(self) -> int:
        """Channels of the residual stream."""
        return self.shape("patch_embed.proj.weight", 4)[0]

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return self.shape("patch_embed.proj.weight", 4)[-1]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        numbers = [re.match(r"blocks\.(\d+)\.", name) for name in self.tensors]
        return 1 + max((int(number[1]) for number in numbers if number), default=-1)

    @property
    def heads(self) -> int:
        """Attention heads: as told, by the width of a head that the weights show, or as published.

        Raises:
            ModelError: Nothing tells them.
        """
        if self.told_heads is not None:
            return self.told_heads
        if "blocks.0.attn.rel_pos_h" in self.tensors:
            return max(1, self.width // self.shape("blocks.0.attn.rel_pos_h", 2)[1])
        if "rope_embed.periods" in self.tensors:
            return max(1, self.width // (4 * self.shape("rope_embed.periods", 1)[0]))
        if self.width % 64:
            msg = f"{self.origin} does not say how many attention heads its {self.width} channels have."
            raise ModelError(msg, "Say so: heads=...")
        return self.width // (128 if self.width == 4096 else 64)  # DINOv3's 7B is the exception

    def shape(self, name: str, ndim: int) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises:
            ModelError: There is no such tensor, or it has another number of axes.
        """
        tensor = self.tensors.get(name)
        if tensor is None or tensor.ndim != ndim:
            given = "missing" if tensor is None else tuple(tensor.shape)
            msg = f"{self.origin} is damaged, or of another network: {name} is {given}, expected {ndim} axes."
            raise ModelError(msg, KNOWN)
        return tuple(tensor.shape)

    def ratio(self, name: str) -> float:
        """Return what, times the width and rounded down, is the hidden width of a layer."""
        return (self.shape(f"blocks.0.mlp.{name}.weight", 2)[0] + 0.5) / self.width


def read_checkpoint(
    source: str, kind: Kind | None = None, heads: int | None = None, progress: Progress | None = None
) -> Checkpoint:
    """Read the weights of a vision network and all that is told of them.

    Args:
        source: See :func:`~geovl.segmenters.open_vocabulary.vision.load_vision`.
        kind: The family, where files do not tell it.
        heads: Attention heads, where files do not tell them.
        progress: Told of downloads.

    Raises:
        NotThereError: A file is missing and cannot be downloaded.
        ModelError: Nothing is there, it cannot be read safely, or it is no such network.
    """
    given, told = _read(source, progress)
    tensors = _canonical(given)
    family = _kind(tensors, source, kind or told.kind)
    return Checkpoint(tensors, source, family, told.mean, told.std, heads or told.heads)


# ------------------------------------------------------------------------------------------- names of weights

_RENAMES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        # the network inside another one
        (r"^(?:module\.|backbone\.|_orig_mod\.)+", ""),
        (r"^(?:vit|dinov2|dinov2_with_registers|dinov3_vit|image_encoder|vision_encoder)\.", ""),
        (r"^embeddings\.", ""),
        (r"^(?:encoder\.|model\.)?layers?\.(\d+)\.", r"blocks.\1."),
        # transformers
        (r"^patch_embed(?:dings)?(?:\.projection)?\.(?=weight|bias)", "patch_embed.proj."),
        (r"^position_embeddings$", "pos_embed"),
        (r"^neck\.conv1\.", "neck.0."),
        (r"^neck\.layer_norm1\.", "neck.1."),
        (r"^neck\.conv2\.", "neck.2."),
        (r"^neck\.layer_norm2\.", "neck.3."),
        (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
        (r"\.attention\.q_proj\.", ".attn.query."),
        (r"\.attention\.k_proj\.", ".attn.key."),
        (r"\.attention\.v_proj\.", ".attn.value."),
        (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
        (r"\.(?:layernorm_before|layer_norm1)\.", ".norm1."),
        (r"\.(?:layernorm_after|layer_norm2)\.", ".norm2."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
        (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
        (r"\.mlp\.up_proj\.", ".mlp.fc1_x."),
        (r"\.mlp\.(?:weights_out|down_proj)\.", ".mlp.fc2."),
        (r"\.mlp\.weights_in\.", ".mlp.fc1."),
        (r"^layernorm\.", "norm."),
        # the original repositories
        (r"^(?:register|storage)_tokens$", "reg_token"),
        (r"\.mlp\.lin([12])\.", r".mlp.fc\1."),
        (r"\.mlp\.w12\.", ".mlp.fc1."),
        (r"\.mlp\.w1\.", ".mlp.fc1_g."),
        (r"\.mlp\.w2\.", ".mlp.fc1_x."),
        (r"\.mlp\.w3\.", ".mlp.fc2."),
        # timm
        (r"\.gamma_([12])$", r".ls\1.gamma"),
        (r"\.attn\.q_bias$", ".attn.query.bias"),
        (r"\.attn\.v_bias$", ".attn.value.bias"),
    )
)

_UNUSED = re.compile(
    r"^(?:mask_token|decoder|pooler|head|fc_norm|classifier|projectors\.|local_cls_norm\.|mask_decoder\.|"
    r"prompt_encoder\.|shared_image_embedding\.|rope\.)|\.bias_mask$"
)
"""What belongs to training, or to other parts of the model."""


def _canonical(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring the names of any origin to those of timm's ViT."""
    found = {}
    for given, tensor in tensors.items():
        name = given
        for pattern, replacement in _RENAMES:
            name = pattern.sub(replacement, name)
        found[name] = tensor
    found = {name: tensor for name, tensor in found.items() if not _UNUSED.search(name)}
    if not any(name.endswith("mlp.fc1_g.weight") for name in found):
        found = {name.replace("mlp.fc1_x.", "mlp.fc1."): tensor for name, tensor in found.items()}
    return _fused(found)


def _fused(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join queries, keys and values; networks with rotary positions have no bias of keys, which is a bias of zero."""
    found = dict(tensors)
    rotary = "pos_embed" not in tensors
    for name, tensor in tensors.items():
        stem, asked, what = name.rpartition(".query.")
        if not asked:
            continue
        names = [f"{stem}.{part}.{what}" for part in ("query", "key", "value")]
        parts = [tensors.get(part) for part in names]
        if parts[1] is None and what == "bias" and rotary:
            parts[1] = torch.zeros_like(tensor)
        if all(part is not None and part.shape == tensor.shape for part in parts):
            found[f"{stem}.qkv.{what}"] = torch.cat(cast("list[Tensor]", parts))
            found = {other: kept for other, kept in found.items() if other not in names}
    return found


def _kind(names: Mapping[str, Tensor], origin: str, wanted: Kind | None) -> Kind:
    """Tell the family by the weights, and see that it is the one that was asked for or that the files name."""
    essential = ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.norm1.weight")
    if any(name not in names for name in essential) or names[essential[0]].ndim != 4:
        msg = f"{origin} is no vision transformer that can be used here: it has {_some(names)}."
        raise ModelError(msg, KNOWN)
    fits = _families(names)
    kind = wanted or next(iter(fits), None)
    if kind is None or kind not in fits:
        shown = " or ".join(fits) or "no known family"
        msg = f"{origin} has the weights of {shown}" + (f", not of {kind}." if kind else ".")
        raise ModelError(msg, KNOWN)
    return kind


def _families(names: Mapping[str, Tensor]) -> tuple[Kind, ...]:
    """Return the families that weights can be of, the likeliest first."""
    if "neck.0.weight" in names:
        return ("sam",)
    if "cls_token" not in names or "norm.weight" not in names:
        return ()
    scaled, registers, table = "blocks.0.ls1.gamma" in names, "reg_token" in names, names.get("pos_embed")
    if table is None:
        return ("dinov3",) if scaled and registers else ()
    if scaled:
        return ("dinov2_reg",) if registers else ("dinov2",)
    if registers:
        return ()
    # MAE's table is computed, not learnt: the class token has no position
    return ("dino", "mae") if table.flatten()[: names["cls_token"].numel()].any() else ("mae", "dino")


def _some(names: Mapping[str, Tensor]) -> str:
    return ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "") if names else "no weights"


# ------------------------------------------------------------------------------------- where they are, what they say

_MODEL_TYPES: dict[str, Kind] = {
    "vit": "dino",  # transformers keeps DINO's weights in its plain ViT
    "vit_mae": "mae",
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2_reg",
    "dinov3_vit": "dinov3",
    "sam": "sam",
    "sam_vision_model": "sam",
}


def _read(source: str, progress: Progress | None) -> tuple[dict[str, Tensor], _Told]:
    """Read weights and what is told of them from wherever they are."""
    path = Path(source).expanduser()
    if path.is_file():
        return read_tensors(path, _NESTED), _usual(path.name)
    if path.is_dir():
        return _read_folder(path, source)
    if re.match(r"hf-hub:|https?://", source):
        return _read_origin(weights.origin(source), source, progress)
    if "/" not in source and "\\" not in source and (found := _repository(source)):
        return _read_origin(weights.origin(f"hf-hub:{found}"), source, progress)
    msg = f"{source!r} is no folder, no file, no hf-hub:owner/name, no URL and no name of timm."
    raise ModelError(msg, _names_like(source))


def _read_origin(what: Origin, source: str, progress: Progress | None) -> tuple[dict[str, Tensor], _Told]:
    """Read what a repository or another server has."""
    if len(what.needed) == 1:  # a file of weights was named
        (file,) = weights.fetch(what, progress)
        return read_tensors(file.path, _NESTED), _usual(file.name)
    what = replace(what, needed=((CONFIG,), WEIGHTS), optional=(PREPROCESSOR,))
    files = {file.name: file.path for file in weights.fetch(what, progress)}
    return _read_files(what, files, source, progress)


def _read_folder(folder: Path, source: str) -> tuple[dict[str, Tensor], _Told]:
    files = {name: folder / name for name in (CONFIG, *WEIGHTS, PREPROCESSOR) if (folder / name).is_file()}
    if CONFIG not in files:
        msg = f"There is no {CONFIG} in {source}."
        hint = "Name a folder as transformers' save_pretrained writes it, or the file of weights itself."
        raise ModelError(msg, hint)
    return _read_files(weights.origin(folder), files, source)


def _read_files(
    what: Origin, files: Mapping[str, Path], source: str, progress: Progress | None = None
) -> tuple[dict[str, Tensor], _Told]:
    """Read what transformers or timm saved."""
    told = _told(read_json(files[CONFIG]), files.get(PREPROCESSOR), source)
    if not files.keys() & set(WEIGHTS):
        msg = f"There are no weights in {source}; expected {' or '.join(WEIGHTS)}."
        raise ModelError(msg, f"Put the file beside {CONFIG}.")
    tensors: dict[str, Tensor] = {}
    for path in weight_files(what, files, progress):
        tensors |= read_tensors(path, _NESTED)
    return tensors, told


def _told(config: Mapping[str, Any], preprocessor: Path | None, source: str) -> _Told:
    """Take from a configuration what weights do not tell."""
    usual = _usual(Path(source).name)
    if "architecture" in config:
        trained = config.get("pretrained_cfg") or {}
        name = f"{config['architecture']}.{trained.get('tag') or ''}"
        kind = _timm_kind(name)
        if kind is None:
            msg = f"{source} is timm's {name.rstrip('.')}, which is none of the networks that can be used here."
            raise ModelError(msg, KNOWN)
        mean, std = triple(trained.get("mean"), usual.mean), triple(trained.get("std"), usual.std)
        return _Told(mean, std, kind, (config.get("model_args") or {}).get("num_heads"))
    model_type = str(config.get("model_type"))
    if model_type not in _MODEL_TYPES:
        msg = f"{source} is a model of type {model_type!r}; expected one of {', '.join(_MODEL_TYPES)}."
        raise ModelError(msg, KNOWN)
    trained = read_json(preprocessor) if preprocessor is not None else {}
    mean, std = triple(trained.get("image_mean"), usual.mean), triple(trained.get("image_std"), usual.std)
    heads = (config.get("vision_config") or config).get("num_attention_heads")
    return _Told(mean, std, _MODEL_TYPES[model_type], heads)


def _usual(name: str) -> _Told:
    """Return the normalisation of weights of which nothing is told but their name."""
    # the original files of DINOv3 say nowhere else what they were trained on
    return _Told(_SAT_MEAN, _SAT_STD) if "sat493m" in name else _Told(IMAGENET_MEAN, IMAGENET_STD)


# Names of timm. It is imported where it is asked, as it takes seconds to load.


def _repository(name: str) -> str | None:
    """Return where the Hub has the weights of a name of timm; None for other words."""
    import timm  # noqa: PLC0415

    if not timm.is_model(name):
        return None
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        msg = f"timm knows no weights {name!r}."
        raise ModelError(msg, _names_like(name)) from error
    if config is None or not config.hf_hub_id or _timm_kind(f"{config.architecture}.{config.tag or ''}") is None:
        msg = f"timm's {name} is none of the networks that can be used here."
        raise ModelError(msg, _names_like(name))
    return str(config.hf_hub_id)


def _names_like(source: str) -> str:
    import timm  # noqa: PLC0415

    stem = Path(source).name.partition(".")[0]
    known = [name for name in timm.list_pretrained(f"{stem}*") if _timm_kind(name) is not None]
    return f"Names of timm that can be used: {', '.join(known[:5])}." if known else "Check the path."


def _timm_kind(name: str) -> Kind | None:
    """Return the family of a model of timm, ``architecture.tag``; None for those that are not for use here."""
    architecture, _, tag = name.partition(".")
    by_architecture: tuple[tuple[str, Kind], ...] = (
        (r"vit_.*_dinov3", "dinov3"),
        (r"vit_.*_reg4_dinov2", "dinov2_reg"),
        (r"vit_.*_dinov2", "dinov2"),
        (r"samvit_.*_patch16", "sam"),
    )
    for pattern, kind in by_architecture:
        if re.match(pattern, architecture):
            return kind
    by_tag: dict[str, Kind] = {"dino": "dino", "mae": "mae"}
    return by_tag.get(tag) if architecture.startswith("vit_") else None
