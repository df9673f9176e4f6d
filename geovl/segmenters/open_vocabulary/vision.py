"""Frozen vision networks that give a feature per patch: DINO, DINOv2, DINOv3, MAE and the encoder of SAM.

Every one is a network class of timm. Its names of weights are those of the original repositories,
it takes any input size, attends in fused kernels and knows all five families, so that one table of
names reads checkpoints of timm, of transformers and of the original authors into one network.
transformers has the same networks in one class per family, with other arithmetic in some.

What model libraries do differently from the original is done here as the original does:

- position tables at other than the native size (see :func:`positions`);
- layer norms of DINO and MAE (1e-6; transformers' configurations say 1e-12) and SAM (1e-6; timm 1e-5);
- DINOv3's rotary periods, which the original files carry in bfloat16, are taken from there.

Checkpoints are read without running code from them: safetensors, or pickles of nothing but tensors.
"""

import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable

import timm
import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers.mlp import Mlp, SwiGLUPacked
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn
from torch.nn import functional

from geovl.errors import ModelError, UsageError
from geovl.segmenters.open_vocabulary.dense import MEAN, STD
from geovl.segmenters.open_vocabulary.tower import Linear

Kind = Literal["dino", "dinov2", "dinov2_reg", "dinov3", "mae", "sam"]
Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
_SAT_MEAN: Triple = (0.430, 0.411, 0.296)  # DINOv3 as trained on satellite pictures
_SAT_STD: Triple = (0.213, 0.156, 0.143)

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDEX = "model.safetensors.index.json"
_TABLES = 16  # resampled position tables kept: runs use one or two sizes
_KNOWN = "Known are DINO, DINOv2, DINOv3 (ViT), MAE and the image encoder of SAM."


@runtime_checkable
class VisionBackbone(Protocol):
    """A frozen network that gives a feature per patch."""

    kind: Kind
    patch: int
    """Side in pixels of what a feature stands for, in the network's own input."""
    multiple: int
    """Sides of a window must be multiples of this."""
    channels: int
    """Channels C of a feature."""
    mean: Triple
    """Per channel of RGB in [0, 1], what the network was trained with."""
    std: Triple

    def features(self, x: Tensor) -> Tensor:
        """Return the features of pictures.

        Args:
            x: (B, 3, H, W), RGB normalised by ``mean`` and ``std`` (see :func:`renormalised`); sides
                multiples of ``multiple``.

        Returns:
            (B, C, Rv, Kv) in the network's type, without gradients. The whole picture is on the grid.

        Raises:
            ModelError: A side is not a multiple of ``multiple``.
        """
        ...


def renormalised(x: Tensor, backbone: VisionBackbone, mean: Triple = MEAN, std: Triple = STD) -> Tensor:
    """Return pictures (B, 3, H, W) that were normalised by ``mean`` and ``std``, CLIP's, as a backbone expects them."""
    scale = [given / wanted for given, wanted in zip(std, backbone.std, strict=True)]
    shift = [(given - wanted) / s for given, wanted, s in zip(mean, backbone.mean, backbone.std, strict=True)]
    return torch.addcmul(x.new_tensor(shift).view(3, 1, 1), x, x.new_tensor(scale).view(3, 1, 1))


def load_vision(
    source: str | Path,
    *,
    kind: Kind | None = None,
    heads: int | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    pack: bool = False,
) -> VisionBackbone:
    """Load a frozen vision network.

    Args:
        source: A folder with ``config.json`` and weights as transformers' ``save_pretrained`` or timm write
            it; a file of weights in the original repository's or timm's names (``.safetensors``, or
            ``.pt``, ``.pth``, ``.bin`` with nothing but tensors); ``hf-hub:owner/name``, perhaps with
            ``@revision``; or a name of timm such as ``vit_base_patch8_224.dino``. The latter two are
            taken from huggingface_hub's cache, or downloaded to it.
        kind: The family, where the checkpoint does not tell it. A plain ViT counts as DINO, or as MAE if its
            position table says so.
        heads: Attention heads, where the checkpoint does not tell them; as published, if None.
        device: Where to put it.
        dtype: The type to compute in.
        pack: Reorder linear layers for oneDNN, see :class:`~geovl.segmenters.open_vocabulary.tower.Linear`.

    Raises:
        ModelError: Nothing is there, it cannot be read safely, or it is no such network.
        UsageError: No such kind, or no heads.
    """
    if kind is not None and kind not in get_args(Kind):
        msg = f"There is no kind {kind!r} of vision network; known are {', '.join(get_args(Kind))}."
        raise UsageError(msg)
    if heads is not None and heads < 1:
        msg = f"{heads} attention heads were given; expected at least 1."
        raise UsageError(msg)
    checkpoint = _read(str(source))
    checkpoint = replace(checkpoint, tensors=_canonical(checkpoint.tensors), heads=heads or checkpoint.heads)
    with torch.no_grad():
        return _built(checkpoint, _kind(checkpoint, kind), torch.device(device), dtype, pack)


def positions(kind: Kind, table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return a position table at another size, as the original network of a kind samples it.

    Args:
        kind: ``dino`` and ``dinov2`` sample as if the grid had 0.1 more rows and columns, on both axes even
            if one is native; ``dinov2_reg`` by size, antialiased; ``mae`` by size. All bicubic.
        table: (1, D, g, g) float32, the native grid.
        grid: Rows and columns wanted.

    Returns:
        (1, D, rows, columns); ``table`` itself where that is its grid.
    """
    native = (table.shape[2], table.shape[3])
    if grid == native:
        return table
    if kind in {"dino", "dinov2"}:
        scale = ((grid[0] + 0.1) / native[0], (grid[1] + 0.1) / native[1])
        return functional.interpolate(table, scale_factor=scale, mode="bicubic", recompute_scale_factor=False)
    return functional.interpolate(table, size=grid, mode="bicubic", antialias=kind == "dinov2_reg")


# ------------------------------------------------------------------------------------------------ networks


class _Backbone:
    """What all have in common: a network of timm, its grid and its normalisation."""

    def __init__(self, network: nn.Module, checkpoint: "_Checkpoint", kind: Kind, patch: int, channels: int) -> None:
        self.kind = kind
        self.patch = patch
        self.multiple = patch
        self.channels = channels
        self.mean = checkpoint.mean
        self.std = checkpoint.std
        self._network: Any = network
        self._like: Tensor = network.patch_embed.proj.weight

    def features(self, x: Tensor) -> Tensor:
        """See :meth:`VisionBackbone.features`."""
        height, width = x.shape[2:]
        if height < self.multiple or width < self.multiple or height % self.multiple or width % self.multiple:
            msg = f"An input of {height} x {width} pixels was given; expected multiples of {self.multiple}."
            raise ModelError(msg, "Pad the window to the next multiple.")
        with torch.no_grad():
            return self._features(x.to(self._like))

    def _features(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _mapped(self, tokens: Tensor, x: Tensor) -> Tensor:
        """Return tokens (B, prefix + N, C) as a map (B, C, R, K), without those that stand for no place."""
        rows, cols = x.shape[2] // self.patch, x.shape[3] // self.patch
        return tokens[:, -rows * cols :].transpose(1, 2).unflatten(2, (rows, cols))


class _Plain(_Backbone):
    """A ViT with a table of positions: DINO, DINOv2 and MAE. Class token and registers precede the patches."""

    def __init__(
        self, network: nn.Module, checkpoint: "_Checkpoint", kind: Kind, prefix: Tensor, table: Tensor
    ) -> None:
        proj = network.patch_embed.proj
        super().__init__(network, checkpoint, kind, proj.kernel_size[0], proj.out_channels)
        self._prefix = prefix
        self._table = table  # in the CPU's memory: not every device can resample it
        self._tables: dict[tuple[int, int], Tensor] = {}

    def _features(self, x: Tensor) -> Tensor:
        patches = self._network.patch_embed.proj(x) + self._positions(
            (x.shape[2] // self.patch, x.shape[3] // self.patch)
        )
        tokens = torch.cat([self._prefix.expand(len(x), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        return self._mapped(self._network.norm(self._network.blocks(tokens)), x)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        found = self._tables.get(grid)
        if found is None:
            if len(self._tables) >= _TABLES:
                self._tables.clear()
            found = self._tables[grid] = positions(self.kind, self._table, grid).to(self._like)
        return found


class _Rotary(_Backbone):
    """A ViT whose attention turns with the place: DINOv3. Made for any size."""

    def _features(self, x: Tensor) -> Tensor:
        return self._mapped(self._network.forward_features(x), x)


class _Sam(_Backbone):
    """SAM's image encoder with its neck: every picture is brought to the one size that it knows, 1024 as published."""

    def __init__(self, network: nn.Module, checkpoint: "_Checkpoint", kind: Kind, side: int) -> None:
        super().__init__(network, checkpoint, kind, network.patch_embed.proj.kernel_size[0], network.num_features)
        self.multiple = 1
        self._side = side

    def _features(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (self._side, self._side):
            x = functional.interpolate(x, size=(self._side, self._side), mode="bilinear")
        return cast("Tensor", self._network.forward_features(x))


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """Weights under canonical names, timm's for a ViT, and what else was told of them."""

    tensors: dict[str, Tensor]
    origin: str
    kind: Kind | None = None
    heads: int | None = None
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

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

    def shape(self, name: str, ndim: int) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises:
            ModelError: There is no such tensor, or it has another number of axes.
        """
        tensor = self.tensors.get(name)
        if tensor is None or tensor.ndim != ndim:
            given = "missing" if tensor is None else tuple(tensor.shape)
            msg = f"{self.origin} is damaged, or of another network: {name} is {given}, expected {ndim} axes."
            raise ModelError(msg, _KNOWN)
        return tuple(tensor.shape)

    def ratio(self, name: str) -> float:
        """Return what, times the width and rounded down, is the hidden width of a layer."""
        return (self.shape(f"blocks.0.mlp.{name}.weight", 2)[0] + 0.5) / self.width


def _built(checkpoint: _Checkpoint, kind: Kind, device: torch.device, dtype: torch.dtype, pack: bool) -> VisionBackbone:
    """Make the network that the weights fit."""
    if checkpoint.width % _heads(checkpoint):
        msg = f"{_heads(checkpoint)} heads do not divide the {checkpoint.width} channels of {checkpoint.origin}."
        raise ModelError(msg, "Say how many attention heads the network has: heads=...")
    if kind == "dinov3":
        return _rotary(checkpoint, device, dtype, pack)
    if kind == "sam":
        return _sam(checkpoint, device, dtype, pack)
    return _plain(checkpoint, kind, device, dtype, pack)


def _plain(checkpoint: _Checkpoint, kind: Kind, device: torch.device, dtype: torch.dtype, pack: bool) -> VisionBackbone:
    state = dict(checkpoint.tensors)
    prefix, table = _prefix_and_table(state, checkpoint)
    # two hidden layers in one, gate first: DINOv2's largest
    gated = checkpoint.shape("blocks.0.mlp.fc1.weight", 2)[0] == 2 * checkpoint.shape("blocks.0.mlp.fc2.weight", 2)[1]
    mlp: Any = SwiGLUPacked if gated else Mlp
    with torch.device("meta"):
        network = VisionTransformer(
            img_size=checkpoint.patch * table.shape[-1],
            patch_size=checkpoint.patch,
            embed_dim=checkpoint.width,
            depth=checkpoint.depth,
            num_heads=_heads(checkpoint),
            mlp_ratio=checkpoint.ratio("fc1"),
            mlp_layer=mlp,
            act_layer=nn.SiLU if gated else nn.GELU,
            qkv_bias="blocks.0.attn.qkv.bias" in state,
            init_values=1.0 if "blocks.0.ls1.gamma" in state else None,
            class_token=False,  # ours: the originals differ in which tokens have a position
            pos_embed="none",
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            num_classes=0,
            global_pool="",
        )
    _fill(network, state, checkpoint.origin)
    network = _frozen(network, device, dtype, pack)
    return _Plain(network, checkpoint, kind, prefix.to(device, dtype), table)


def _prefix_and_table(state: dict[str, Tensor], checkpoint: _Checkpoint) -> tuple[Tensor, Tensor]:
    """Take the class token and registers (1, n, D) and the patches' positions (1, D, g, g) out of a state."""
    for name in {"cls_token", "pos_embed", "reg_token"} & state.keys():
        batch, count, width = checkpoint.shape(name, 3)
        if (batch, width) != (1, checkpoint.width) or (name == "cls_token" and count != 1):
            msg = f"{name} of {checkpoint.origin} is {(batch, count, width)}, expected (1, n, {checkpoint.width})."
            raise ModelError(msg, _KNOWN)
    table, first = state.pop("pos_embed").float(), state.pop("cls_token").float()
    registers = state.pop("reg_token", None)
    side = isqrt(table.shape[1])
    if side * side != table.shape[1]:  # the class token's position comes first; else timm added it already
        first, table = first + table[:, :1], table[:, 1:]
        side = isqrt(table.shape[1])
    if side * side != table.shape[1]:
        msg = f"The position table of {checkpoint.origin} has {table.shape[1]} places; expected a square grid."
        raise ModelError(msg, _KNOWN)
    prefix = first if registers is None else torch.cat([first, registers.float()], dim=1)
    return prefix, table.transpose(1, 2).unflatten(2, (side, side)).contiguous()


def _rotary(checkpoint: _Checkpoint, device: torch.device, dtype: torch.dtype, pack: bool) -> VisionBackbone:
    state = dict(checkpoint.tensors)
    periods = state.pop("rope_embed.periods", None)
    gated = "blocks.0.mlp.fc1_g.weight" in state
    network = Eva(
        patch_size=checkpoint.patch,
        embed_dim=checkpoint.width,
        depth=checkpoint.depth,
        num_heads=_heads(checkpoint),
        mlp_ratio=checkpoint.ratio("fc1_g" if gated else "fc1"),
        swiglu_mlp=gated,
        swiglu_align_to=1 if gated else 0,  # gate and value as two layers, as in the files
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        init_values=1.0,
        num_reg_tokens=checkpoint.shape("reg_token", 3)[1],
        use_abs_pos_emb=False,
        use_rot_pos_emb=True,
        rope_type="dinov3",
        rope_temperature=100.0,
        rope_rotate_half=True,
        dynamic_img_size=True,
        use_fc_norm=False,
        norm_layer=partial(nn.LayerNorm, eps=1e-5),
        num_classes=0,
        global_pool="",
    )
    _fill(network, dict(_eva_names(state)), checkpoint.origin)
    network = _frozen(network, device, dtype, pack)
    if periods is not None:
        if periods.shape != network.rope.periods.shape:
            msg = f"{checkpoint.origin} has {len(periods)} rotary periods, expected {len(network.rope.periods)}."
            raise ModelError(msg, "Check the number of attention heads: heads=...")
        network.rope.periods.copy_(periods.to(network.rope.periods))
    return _Rotary(network, checkpoint, "dinov3", checkpoint.patch, checkpoint.width)


def _eva_names(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Rename what timm's class of DINOv3 calls otherwise; keys have no bias in DINOv3."""
    for name, tensor in state.items():
        if name.endswith("attn.qkv.bias"):
            query, _, value = tensor.chunk(3)
            yield name.replace("qkv.bias", "q_bias"), query
            yield name.replace("qkv.bias", "v_bias"), value
        else:
            yield re.sub(r"ls([12])\.gamma$", r"gamma_\1", name), tensor


def _sam(checkpoint: _Checkpoint, device: torch.device, dtype: torch.dtype, pack: bool) -> VisionBackbone:
    state = checkpoint.tensors
    grid = checkpoint.shape("pos_embed", 4)[1]
    # the relative positions of a block tell whether it sees the whole grid or a window
    norm: Any = partial(nn.LayerNorm, eps=1e-6)
    spans = [(checkpoint.shape(f"blocks.{i}.attn.rel_pos_h", 2)[0] + 1) // 2 for i in range(checkpoint.depth)]
    with torch.device("meta"):
        network = VisionTransformerSAM(
            img_size=grid * checkpoint.patch,
            patch_size=checkpoint.patch,
            embed_dim=checkpoint.width,
            depth=checkpoint.depth,
            num_heads=_heads(checkpoint),
            mlp_ratio=checkpoint.ratio("fc1"),
            use_rel_pos=True,
            window_size=min(spans),
            global_attn_indexes=tuple(i for i, span in enumerate(spans) if span == grid),
            neck_chans=checkpoint.shape("neck.0.weight", 4)[0],
            norm_layer=norm,
            num_classes=0,
            global_pool="",
        )
    _fill(network, state, checkpoint.origin)
    return _Sam(_frozen(network, device, dtype, pack), checkpoint, "sam", grid * checkpoint.patch)


def _heads(checkpoint: _Checkpoint) -> int:
    """Return the attention heads: as told, by the width of a head that the weights show, or as published."""
    if checkpoint.heads is not None:
        return checkpoint.heads
    if "blocks.0.attn.rel_pos_h" in checkpoint.tensors:
        return max(1, checkpoint.width // checkpoint.shape("blocks.0.attn.rel_pos_h", 2)[1])
    if "rope_embed.periods" in checkpoint.tensors:
        return max(1, checkpoint.width // (4 * checkpoint.shape("rope_embed.periods", 1)[0]))
    if checkpoint.width % 64:
        msg = f"{checkpoint.origin} does not say how many attention heads its {checkpoint.width} channels have."
        raise ModelError(msg, "Say so: heads=...")
    return checkpoint.width // (128 if checkpoint.width == 4096 else 64)  # DINOv3's 7B is the exception


def _fill(network: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Put the weights in, every one and no other."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name))
    if wrong:
        told = f"{wrong[0]} is {given.get(wrong[0], 'missing')}, expected {expected.get(wrong[0], 'none')}"
        msg = f"{origin} does not fit its network in {len(wrong)} of its weights: {told}."
        raise ModelError(msg, f"Get the file again, or another one. {_KNOWN}")
    # copied, as a file that is mapped into memory must not stay so
    network.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)


def _frozen(network: Any, device: torch.device, dtype: torch.dtype, pack: bool) -> Any:
    """Put a network where it shall run and turn off all that belongs to training."""
    network = network.to(device=device, dtype=dtype).eval().requires_grad_(requires_grad=False)
    for block in network.blocks:
        block.attn.fused_attn = True  # whatever the environment chose for timm
        if pack:
            _pack(block)
    return network


def _pack(block: Any) -> None:
    """Exchange the linear layers of a block for packed ones."""
    for parent in (block.attn, block.mlp):
        for name, layer in list(parent.named_children()):
            # DINOv3's fused projection is read by its weight, not called
            if isinstance(layer, nn.Linear) and not hasattr(parent, "q_bias"):
                delattr(parent, name)
                setattr(parent, name, Linear.of(layer.weight, layer.bias, pack=True))


# ------------------------------------------------------------------------------------------- names of weights

_RENAMES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        # the network inside another one
        (r"^(?:module\.|backbone\.)+", ""),
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


def _kind(checkpoint: _Checkpoint, asked: Kind | None) -> Kind:
    """Tell the family by the weights, and see that it is the one that was asked for or that the files name."""
    names = checkpoint.tensors
    essential = ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.norm1.weight")
    if any(name not in names for name in essential) or names[essential[0]].ndim != 4:
        msg = f"{checkpoint.origin} is no vision transformer that can be used here: it has {_some(names)}."
        raise ModelError(msg, _KNOWN)
    fits = _families(names)
    kind = asked or checkpoint.kind or next(iter(fits), None)
    if kind is None or kind not in fits:
        shown = " or ".join(fits) or "no known family"
        msg = f"{checkpoint.origin} has the weights of {shown}" + (f", not of {kind}." if kind else ".")
        raise ModelError(msg, _KNOWN)
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


# ---------------------------------------------------------------------------------------------- reading files

_MODEL_TYPES: dict[str, Kind] = {
    "vit": "dino",  # transformers keeps DINO's weights in its plain ViT
    "vit_mae": "mae",
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2_reg",
    "dinov3_vit": "dinov3",
    "sam": "sam",
    "sam_vision_model": "sam",
}


def _read(source: str) -> _Checkpoint:
    """Read weights and what is told of them from wherever they are."""
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_folder(path, source)
    if path.is_file():
        sat = "sat493m" in path.name  # the original files of DINOv3 say nowhere else what they were trained on
        mean, std = (_SAT_MEAN, _SAT_STD) if sat else (IMAGENET_MEAN, IMAGENET_STD)
        return _Checkpoint(_read_weights(path), source, mean=mean, std=std)
    if source.startswith("hf-hub:"):
        return _read_hub(source.removeprefix("hf-hub:"), source)
    if "/" not in source and "\\" not in source and timm.is_model(source):
        return _read_hub(_repository(source), source)
    msg = f"{source!r} is no folder, no file, no hf-hub:owner/name and no name of timm."
    raise ModelError(msg, _names_like(source))


def _repository(name: str) -> str:
    """Return where the Hub has the weights of a name of timm."""
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        msg = f"timm knows no weights {name!r}."
        raise ModelError(msg, _names_like(name)) from error
    if config is None or not config.hf_hub_id or _timm_kind(config.architecture or "", config.tag or "") is None:
        msg = f"timm's {name} is none of the networks that can be used here."
        raise ModelError(msg, _names_like(name))
    return config.hf_hub_id


def _names_like(source: str) -> str:
    stem = Path(source).name.partition(".")[0]
    known = [name for name in timm.list_pretrained(f"{stem}*") if _timm_kind(*_split(name)) is not None]
    return f"Names of timm that can be used: {', '.join(known[:5])}." if known else "Check the path."


def _read_folder(folder: Path, origin: str) -> _Checkpoint:
    """Read what transformers or timm saved."""
    config = _read_json(folder / "config.json", origin)
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights is not None:
        tensors = _read_weights(weights)
    elif (folder / _INDEX).is_file():
        parts = sorted(set(_read_json(folder / _INDEX, origin)["weight_map"].values()))
        tensors = {name: tensor for part in parts for name, tensor in _read_weights(folder / part).items()}
    else:
        msg = f"There are no weights in {origin}; expected {' or '.join((*_WEIGHTS, _INDEX))}."
        raise ModelError(msg, "Put the file beside config.json.")
    return _described(tensors, config, folder / "preprocessor_config.json", origin)


def _described(tensors: dict[str, Tensor], config: dict[str, Any], preprocessor: Path, origin: str) -> _Checkpoint:
    """Take from a configuration what weights do not tell."""
    if "architecture" in config:
        trained = config.get("pretrained_cfg") or {}
        name = f"{config['architecture']}.{trained.get('tag') or ''}"
        kind = _timm_kind(*_split(name))
        if kind is None:
            msg = f"{origin} is timm's {name.rstrip('.')}, which is none of the networks that can be used here."
            raise ModelError(msg, _KNOWN)
        heads = (config.get("model_args") or {}).get("num_heads")
        return _Checkpoint(tensors, origin, kind, heads, *_normalisation(trained, "mean", "std"))
    model_type = str(config.get("model_type"))
    if model_type not in _MODEL_TYPES:
        msg = f"{origin} is a model of type {model_type!r}; expected one of {', '.join(_MODEL_TYPES)}."
        raise ModelError(msg, _KNOWN)
    trained = _read_json(preprocessor, origin) if preprocessor.is_file() else {}
    told = config.get("vision_config") or config
    kind, heads = _MODEL_TYPES[model_type], told.get("num_attention_heads")
    return _Checkpoint(tensors, origin, kind, heads, *_normalisation(trained, "image_mean", "image_std"))


def _normalisation(trained: Mapping[str, Any], mean: str, std: str) -> tuple[Triple, Triple]:
    return _triple(trained.get(mean), IMAGENET_MEAN), _triple(trained.get(std), IMAGENET_STD)


def _triple(values: Sequence[float] | None, default: Triple) -> Triple:
    return default if values is None else (float(values[0]), float(values[1]), float(values[2]))


def _split(name: str) -> tuple[str, str]:
    architecture, _, tag = name.partition(".")
    return architecture, tag


def _timm_kind(architecture: str, tag: str) -> Kind | None:
    """Return the family of a model of timm; None for those that are not for use here."""
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


def _read_hub(repository: str, origin: str) -> _Checkpoint:
    """Read a model of the Hub from huggingface_hub's cache, downloading what is not there."""
    name, _, revision = repository.partition("@")
    config = _hub_file(name, revision, "config.json", origin)
    weights = _hub_weights(name, revision, origin)
    if weights.name == _INDEX:
        for part in sorted(set(_read_json(weights, origin)["weight_map"].values())):
            _hub_file(name, revision, part, origin)
    with suppress(_NotThereError):  # timm's have none
        _hub_file(name, revision, "preprocessor_config.json", origin)
    return _read_folder(config.parent, origin)


def _hub_weights(name: str, revision: str, origin: str) -> Path:
    missing = []
    for wanted in (*_WEIGHTS, _INDEX):
        try:
            return _hub_file(name, revision, wanted, origin)
        except _NotThereError as error:
            missing.append(error)
    raise missing[0]


class _NotThereError(ModelError):
    """A file that is not in a repository, or not in the cache while the Hub cannot be reached."""


def _hub_file(name: str, revision: str, wanted: str, origin: str) -> Path:
    try:
        return Path(hf_hub_download(name, wanted, revision=revision or None))
    except HFValidationError as error:
        msg = f"{origin!r} names no repository; expected hf-hub:owner/name."
        raise ModelError(msg, _KNOWN) from error
    except LocalEntryNotFoundError as error:
        place = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots" / (revision or "main")
        msg = f"{origin} needs {wanted} of {name}, which is not in the cache, and the Hub cannot be reached."
        hint = (
            f"Download config.json and {_WEIGHTS[0]} of {name} on another machine, put both into one folder here and"
            f" name that folder; or copy its cache {place.parents[1]} as a whole."
        )
        raise _NotThereError(msg, hint) from error
    except EntryNotFoundError as error:
        msg = f"The repository {name} has no {wanted}."
        raise _NotThereError(msg, _KNOWN) from error
    except OSError as error:  # every answer of the Hub but the wanted one, a full disk, no permission
        msg = f"{wanted} of {name} cannot be had: {str(error).strip().splitlines()[0]}"
        raise ModelError(msg, "Check the name; accept the terms and log in where the Hub asks for it.") from error


def _read_json(path: Path, origin: str) -> dict[str, Any]:
    if not path.is_file():
        msg = f"There is no {path.name} in {origin}."
        raise ModelError(
            msg, "Name a folder as transformers' save_pretrained writes it, or the file of weights itself."
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path} is not JSON: {error}."
        raise ModelError(msg, "Get the file again.") from error
    if not isinstance(found, dict):
        msg = f"{path} holds no object."
        raise ModelError(msg, "Get the file again.")
    return found


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors by name, and run no code."""
    try:
        if path.suffix == ".safetensors":
            return cast("dict[str, Tensor]", load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        msg = f"{path} holds more than tensors, or is no checkpoint: it is not read, as that could run code from it."
        raise ModelError(msg, "Use the .safetensors file, or save its state_dict alone where you trust it.") from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        msg = f"{path} cannot be read: {str(error).strip().splitlines()[0] if str(error) else type(error).__name__}."
        raise ModelError(msg, "Get the file again.") from error
    for nested in ("teacher", "model", "state_dict"):  # DINO's full checkpoints, MAE's and SAM's
        if isinstance(found, dict) and isinstance(found.get(nested), dict):
            found = found[nested]
    tensors = (
        {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
        if isinstance(found, dict)
        else {}
    )
    if not tensors:
        msg = f"{path} holds no weights by name."
        raise ModelError(msg, "Expected a state_dict.")
    return tensors
