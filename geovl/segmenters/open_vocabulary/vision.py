"""Frozen vision networks that give a feature per patch: DINO, DINOv2, DINOv3, MAE and the encoder of SAM.

Every one is a network class of timm, which takes any input size, attends in fused kernels and knows all five
families. transformers has the same networks in one class per family, with other arithmetic in some.

What model libraries do differently from the original is done here as the original does:

- position tables at other than the native size (see :func:`positions`);
- layer norms of DINO and MAE (1e-6; transformers' configurations say 1e-12) and SAM (1e-6; timm 1e-5);
- DINOv3's rotary periods, which the original files carry in bfloat16, are taken from there.

Checkpoints of any origin are read by :mod:`geovl.segmenters.open_vocabulary.checkpoints`. timm takes seconds to load,
so it is imported where a network is built.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any, Protocol, cast, get_args, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from geovl.errors import ModelError, UsageError
from geovl.segmenters.open_vocabulary.checkpoints import KNOWN, Checkpoint, Kind, read_checkpoint
from geovl.segmenters.open_vocabulary.dense import MEAN, STD
from geovl.segmenters.open_vocabulary.tensors import Triple
from geovl.segmenters.open_vocabulary.tower import Linear
from geovl.weights import Progress

_TABLES = 16  # resampled position tables kept: runs use one or two sizes


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
    progress: Progress | None = None,
) -> VisionBackbone:
    """Load a frozen vision network.

    Args:
        source: A folder with ``config.json`` and weights as transformers' ``save_pretrained`` or timm write
            it; a file of weights in the original repository's or timm's names (``.safetensors``, or
            ``.pt``, ``.pth``, ``.bin`` with nothing but tensors), a URL of one, or
            ``hf-hub:owner/name/path/to/file``; ``hf-hub:owner/name``, perhaps with ``@revision``; or a name of timm
            such as ``vit_base_patch8_224.dino``, which leads to a repository. See :mod:`geovl.weights` for what is
            downloaded and where files can be put by hand.
        kind: The family, where the checkpoint does not tell it. A plain ViT counts as DINO, or as MAE if its
            position table says so.
        heads: Attention heads, where the checkpoint does not tell them; as published, if None.
        device: Where to put it.
        dtype: The type to compute in.
        pack: Reorder linear layers for oneDNN, see :class:`~geovl.segmenters.open_vocabulary.tower.Linear`.
        progress: Told of downloads.

    Raises:
        NotThereError: A file is missing and cannot be downloaded.
        ModelError: Nothing is there, it cannot be read safely, or it is no such network.
        UsageError: No such kind, or no heads.
    """
    if kind is not None and kind not in get_args(Kind):
        msg = f"There is no kind {kind!r} of vision network; known are {', '.join(get_args(Kind))}."
        raise UsageError(msg)
    if heads is not None and heads < 1:
        msg = f"{heads} attention heads were given; expected at least 1."
        raise UsageError(msg)
    checkpoint = read_checkpoint(str(source), kind, heads, progress)
    with torch.no_grad():
        return _built(checkpoint, torch.device(device), dtype, pack)


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

    def __init__(self, network: nn.Module, checkpoint: Checkpoint, patch: int, channels: int) -> None:
        self.kind = checkpoint.kind
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

    def __init__(self, network: nn.Module, checkpoint: Checkpoint, prefix: Tensor, table: Tensor) -> None:
        proj = network.patch_embed.proj
        super().__init__(network, checkpoint, proj.kernel_size[0], proj.out_channels)
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

    def __init__(self, network: nn.Module, checkpoint: Checkpoint, side: int) -> None:
        super().__init__(network, checkpoint, network.patch_embed.proj.kernel_size[0], network.num_features)
        self.multiple = 1
        self._side = side

    def _features(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (self._side, self._side):
            x = functional.interpolate(x, size=(self._side, self._side), mode="bilinear")
        return cast("Tensor", self._network.forward_features(x))


def _built(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, pack: bool) -> VisionBackbone:
    """Make the network that the weights fit."""
    if checkpoint.width % checkpoint.heads:
        msg = f"{checkpoint.heads} heads do not divide the {checkpoint.width} channels of {checkpoint.origin}."
        raise ModelError(msg, "Say how many attention heads the network has: heads=...")
    if checkpoint.kind == "dinov3":
        return _rotary(checkpoint, device, dtype, pack)
    if checkpoint.kind == "sam":
        return _sam(checkpoint, device, dtype, pack)
    return _plain(checkpoint, device, dtype, pack)


def _plain(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, pack: bool) -> VisionBackbone:
    from timm.layers.mlp import Mlp, SwiGLUPacked  # noqa: PLC0415
    from timm.models.vision_transformer import VisionTransformer  # noqa: PLC0415

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
            num_heads=checkpoint.heads,
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
    # copied, as _fill does
    return _Plain(network, checkpoint, prefix.to(device, dtype, copy=True), table)


def _prefix_and_table(state: dict[str, Tensor], checkpoint: Checkpoint) -> tuple[Tensor, Tensor]:
    """Take the class token and registers (1, n, D) and the patches' positions (1, D, g, g) out of a state."""
    for name in {"cls_token", "pos_embed", "reg_token"} & state.keys():
        batch, count, width = checkpoint.shape(name, 3)
        if (batch, width) != (1, checkpoint.width) or (name == "cls_token" and count != 1):
            msg = f"{name} of {checkpoint.origin} is {(batch, count, width)}, expected (1, n, {checkpoint.width})."
            raise ModelError(msg, KNOWN)
    table, first = state.pop("pos_embed").float(), state.pop("cls_token").float()
    registers = state.pop("reg_token", None)
    side = isqrt(table.shape[1])
    if side * side != table.shape[1]:  # the class token's position comes first; else timm added it already
        first, table = first + table[:, :1], table[:, 1:]
        side = isqrt(table.shape[1])
    if side * side != table.shape[1]:
        msg = f"The position table of {checkpoint.origin} has {table.shape[1]} places; expected a square grid."
        raise ModelError(msg, KNOWN)
    prefix = first if registers is None else torch.cat([first, registers.float()], dim=1)
    return prefix, table.transpose(1, 2).unflatten(2, (side, side)).contiguous()


def _rotary(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, pack: bool) -> VisionBackbone:
    from timm.models.eva import Eva  # noqa: PLC0415

    state = dict(checkpoint.tensors)
    periods = state.pop("rope_embed.periods", None)
    gated = "blocks.0.mlp.fc1_g.weight" in state
    network = Eva(
        patch_size=checkpoint.patch,
        embed_dim=checkpoint.width,
        depth=checkpoint.depth,
        num_heads=checkpoint.heads,
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
    return _Rotary(network, checkpoint, checkpoint.patch, checkpoint.width)


def _eva_names(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Rename what timm's class of DINOv3 calls otherwise; keys have no bias in DINOv3."""
    for name, tensor in state.items():
        if name.endswith("attn.qkv.bias"):
            query, _, value = tensor.chunk(3)
            yield name.replace("qkv.bias", "q_bias"), query
            yield name.replace("qkv.bias", "v_bias"), value
        else:
            yield re.sub(r"ls([12])\.gamma$", r"gamma_\1", name), tensor


def _sam(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, pack: bool) -> VisionBackbone:
    from timm.models.vision_transformer_sam import VisionTransformerSAM  # noqa: PLC0415

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
            num_heads=checkpoint.heads,
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
    return _Sam(_frozen(network, device, dtype, pack), checkpoint, grid * checkpoint.patch)


def _fill(network: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Put the weights in, every one and no other."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name))
    if wrong:
        told = f"{wrong[0]} is {given.get(wrong[0], 'missing')}, expected {expected.get(wrong[0], 'none')}"
        msg = f"{origin} does not fit its network in {len(wrong)} of its weights: {told}."
        raise ModelError(msg, f"Get the file again, or another one. {KNOWN}")
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
