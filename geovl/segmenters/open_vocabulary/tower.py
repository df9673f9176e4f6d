"""A CLIP image tower that gives its residual stream at any input size, and its last block in pieces.

Methods that read dense tokens out of CLIP replace the last block of the tower. So the tower here
runs all blocks but the last over the weights of an open_clip model, and hands out what the last
one is made of. The model itself is neither patched nor copied.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from geovl.errors import ModelError

_HINT = "Use a ViT of open_clip with a class token, such as ViT-B-16, ViT-L-14 or ViT-B-32."
_TABLES = 16  # resampled position tables kept: runs use one or two sizes, whole images may use many


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer without gradients."""

    weight: Tensor
    """(out, in); in the order of oneDNN where packed."""
    bias: Tensor | None
    packed: bool = False

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, *, pack: bool = False) -> Self:
        """Take over a layer's weights; ``pack`` reorders them once for oneDNN (float32 and bfloat16 on a CPU)."""
        weight, bias = weight.detach(), None if bias is None else bias.detach()
        if not pack or not can_pack(weight):
            return cls(weight, bias)
        return cls(torch.ops.mkldnn._reorder_linear_weight(weight), bias, packed=True)  # noqa: SLF001 - no public name

    def __call__(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")  # noqa: SLF001 - as above
        return functional.linear(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer norm without gradients that computes in the type of its weights."""

    weight: Tensor
    bias: Tensor | None
    eps: float

    @classmethod
    def of(cls, module: Any) -> Self:
        """Take over an ``nn.LayerNorm``."""
        bias = module.bias
        return cls(module.weight.detach(), None if bias is None else bias.detach(), module.eps)

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        shape = (x.shape[-1],)
        return functional.layer_norm(x.to(self.weight.dtype), shape, self.weight, self.bias, self.eps).to(x.dtype)


@dataclass(frozen=True, slots=True)
class Block:
    """One residual attention block of a CLIP tower, image or text, in pieces."""

    norm_in: Norm
    fused: Linear
    """Queries, keys and values in one product, in that order."""
    merge: Linear
    norm_out: Norm
    widen: Linear
    activation: Callable[[Tensor], Tensor]
    """Of the weights: QuickGELU or GELU; may overwrite what it is given."""
    narrow: Linear
    heads: int

    @classmethod
    def of(cls, module: Any, *, pack: bool = False) -> Self:
        """Take over a block of open_clip.

        Raises:
            ModelError: The block is not CLIP's plain one.
        """
        attn = getattr(module, "attn", None)
        if not isinstance(attn, nn.MultiheadAttention) or attn.in_proj_weight is None:
            msg = f"A block with attention {type(attn).__name__} was given; expected nn.MultiheadAttention, fused."
            raise ModelError(msg, _HINT)
        if any(not isinstance(getattr(module, name, nn.Identity()), nn.Identity) for name in ("ls_1", "ls_2")):
            msg = "A block with LayerScale was given; expected one without."
            raise ModelError(msg, _HINT)
        mlp = module.mlp
        return cls(
            Norm.of(module.ln_1),
            Linear.of(attn.in_proj_weight, attn.in_proj_bias, pack=pack),
            Linear.of(attn.out_proj.weight, attn.out_proj.bias, pack=pack),
            Norm.of(module.ln_2),
            Linear.of(mlp.c_fc.weight, mlp.c_fc.bias, pack=pack),
            _quick_gelu if type(mlp.gelu).__name__ == "QuickGELU" else mlp.gelu,
            Linear.of(mlp.c_proj.weight, mlp.c_proj.bias, pack=pack),
            int(attn.num_heads),
        )

    def qkv(self, stream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values (B, heads, tokens, d) of a residual stream (B, tokens, D)."""
        batch, tokens, width = stream.shape
        fused = self.fused(self.norm_in(stream)).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = fused.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def out(self, values: Tensor) -> Tensor:
        """Apply the output projection to attended values: (B, heads, tokens, d), or already merged (B, tokens, D)."""
        return self.merge(values.transpose(1, 2).flatten(2) if values.ndim == 4 else values)

    def feed(self, stream: Tensor) -> Tensor:
        """Return what the feed-forward part adds to a residual stream (B, tokens, D)."""
        return self.narrow(self.activation(self.widen(self.norm_out(stream))))

    def __call__(self, stream: Tensor) -> Tensor:
        """Run the whole block, unmasked, on a residual stream (B, tokens, D)."""
        stream = stream + self.out(functional.scaled_dot_product_attention(*self.qkv(stream)))
        return stream.add_(self.feed(stream))


def _quick_gelu(x: Tensor) -> Tensor:
    """Return x * sigmoid(1.702 x), in place: as SiLU, which is one pass where the product is three."""
    return functional.silu(x.mul_(1.702), inplace=True).mul_(1 / 1.702)


class Tower:
    """The image tower of an open_clip model, up to its last block.

    The weights are shared with the model and must not change afterwards. Results carry no gradients.

    Args:
        model: An open_clip model, or its ``visual``.
        pack: Reorder the weights of the linear layers once for oneDNN. The same sums in another
            order, and a second copy of the weights; whether it is faster depends on the CPU, see
            :func:`packing_pays`. Ignored where oneDNN does not serve.

    Raises:
        ModelError: The image tower is no plain ViT with a class token and patch tokens.
    """

    def __init__(self, model: nn.Module, *, pack: bool = False) -> None:
        visual = _checked(getattr(model, "visual", model))
        blocks = [Block.of(block, pack=pack) for block in visual.transformer.resblocks]
        self._blocks = blocks[:-1]
        self.last = blocks[-1]
        """The last block in pieces: ``qkv``, ``out`` and ``feed``."""
        self.patch = int(visual.conv1.kernel_size[0])
        """Side of a patch in pixels."""
        self.width = int(visual.conv1.out_channels)
        """Channels D of the residual stream."""
        self.heads = self.last.heads
        self.embed_dim = int(visual.proj.shape[1])
        """Channels E shared with the text."""
        self.native = _native(visual)
        """Rows and columns of the grid that the position table was trained on."""
        self._patches = visual.conv1.weight.detach()
        self._class = visual.class_embedding.detach()
        self._table = visual.positional_embedding.detach()
        self._norm_pre = None if isinstance(visual.ln_pre, nn.Identity) else Norm.of(visual.ln_pre)
        self._norm_post = Norm.of(visual.ln_post)
        self._projection = visual.proj.detach()
        self._tables: dict[tuple[int, int], Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self._patches.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the residual stream."""
        return self._patches.dtype

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of patches of an input of that size in pixels.

        Raises:
            ModelError: A side is not a positive multiple of the patch; the rest would be dropped unseen.
        """
        if height < self.patch or width < self.patch or height % self.patch or width % self.patch:
            msg = f"An input of {height} x {width} pixels was given; expected multiples of {self.patch}."
            raise ModelError(msg, "Pad the window to the next multiple.")
        return height // self.patch, width // self.patch

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the position table (1 + N, D) of a grid of (rows, columns): row 0 of the class token, then row-major.

        Any grid but the native one is sampled with the tower's customary shift: as if the grid had
        0.1 more rows and columns. It is part of the published results.
        """
        table = self._tables.get(grid)
        if table is None:
            table = self._table if grid == self.native else self._resampled(grid)
            if len(self._tables) >= _TABLES:
                self._tables.clear()
            self._tables[grid] = table
        return table

    def stream(self, x: Tensor) -> Tensor:
        """Run every block but the last.

        Args:
            x: (B, 3, H, W), normalised as the model expects; sides multiples of ``patch``.

        Returns:
            The residual stream that enters the last block, (B, 1 + N, D): the class token, then
            the patches row by row.

        Raises:
            ModelError: A side is not a multiple of the patch.
        """
        grid = self.grid(*x.shape[2:])
        patches = functional.conv2d(x.to(self.dtype), self._patches, stride=self.patch).flatten(2).transpose(1, 2)
        stream = torch.cat([self._class.to(self.dtype).expand(len(x), 1, -1), patches], dim=1)
        stream = stream + self.positions(grid).to(self.dtype)
        if self._norm_pre is not None:
            stream = self._norm_pre(stream)
        for block in self._blocks:
            stream = block(stream)
        return stream

    def project(self, rows: Tensor) -> Tensor:
        """Bring rows (B, n, D) that left the last block to the space shared with text: (B, n, E), not unit."""
        return self._norm_post(rows) @ self._projection

    def _resampled(self, grid: tuple[int, int]) -> Tensor:
        rows, columns = self.native
        patches = self._table[1:].view(1, rows, columns, -1).permute(0, 3, 1, 2)
        scale = ((grid[0] + 0.1) / rows, (grid[1] + 0.1) / columns)
        found = functional.interpolate(patches, scale_factor=scale, mode="bicubic", recompute_scale_factor=False)
        return torch.cat([self._table[:1], found.flatten(2)[0].T])


def _native(visual: Any) -> tuple[int, int]:
    """Return the grid of the position table; its rows are checked because the towers' own notes differ."""
    rows, columns = visual.grid_size
    if len(visual.positional_embedding) != 1 + rows * columns:
        msg = f"A position table of {len(visual.positional_embedding)} rows was given; expected 1 + {rows} x {columns}."
        raise ModelError(msg, _HINT)
    return int(rows), int(columns)


def _checked(visual: Any) -> Any:
    """Return the image tower if it is a plain ViT."""
    for name in ("conv1", "class_embedding", "positional_embedding", "transformer", "ln_pre", "ln_post"):
        if not hasattr(visual, name):
            msg = f"An image tower {type(visual).__name__} without {name} was given; expected a ViT of open_clip."
            raise ModelError(msg, _HINT)
    if getattr(visual, "attn_pool", None) is not None:
        msg = "An image tower with attentional pooling was given; expected one whose class token is the image."
        raise ModelError(msg, _HINT)
    if getattr(visual, "final_ln_after_pool", False):
        msg = "An image tower with its final norm after pooling was given; expected the norm on every token."
        raise ModelError(msg, _HINT)
    if getattr(visual, "proj", None) is None:
        msg = "An image tower without a projection was given; expected one into the space shared with text."
        raise ModelError(msg, _HINT)
    kernel, stride = tuple(visual.conv1.kernel_size), tuple(visual.conv1.stride)
    if len(set(kernel + stride)) != 1 or visual.conv1.bias is not None:
        msg = f"Patches of {kernel} at a stride of {stride} were given; expected square ones side by side, no bias."
        raise ModelError(msg, _HINT)
    return visual


def can_pack(weight: Tensor) -> bool:
    """Tell whether oneDNN can reorder these weights: float32 or bfloat16 in the CPU's memory."""
    served = weight.dtype in {torch.float32, torch.bfloat16} and weight.device.type == "cpu"
    return served and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


@cache
def packing_pays() -> bool:
    """Tell whether packed weights are worth their memory on this CPU.

    Decided by the maker, not by a clock, as packing changes the last bits of results: what a machine makes it makes
    again. On the Intel CPU that was measured packing gained nothing; the figures of others are of AMD.
    """
    if not can_pack(torch.zeros(1, 1)):
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return False
