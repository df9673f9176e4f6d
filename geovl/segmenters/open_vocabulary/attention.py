"""Dense tokens from CLIP by another attention in its last block: ClearCLIP and its relatives."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from geovl.errors import UsageError
from geovl.segmenters.open_vocabulary.tower import Tower

Variant = Literal["qq", "kk", "vv", "qq+kk", "qq+kk+vv", "qk", "identity"]

PAIRS: dict[Variant, tuple[tuple[int, int], ...]] = {
    "qq": ((0, 0),),
    "kk": ((1, 1),),
    "vv": ((2, 2),),
    "qq+kk": ((0, 0), (1, 1)),
    "qq+kk+vv": ((0, 0), (1, 1), (2, 2)),
    "qk": ((0, 1),),
    "identity": (),
}
"""Which of queries (0), keys (1) and values (2) attend to which; the softmaxes of several are added, not averaged.

``qq`` is ClearCLIP, ``qq+kk`` SCLIP, ``qq+kk+vv`` SegEarth-OV, ``identity`` MaskCLIP, ``qk`` the attention as trained.
"""


def dense_tokens(tower: Tower, x: Tensor, variant: Variant = "qq", residual: bool = False) -> tuple[Tensor, Tensor]:
    """Return the tokens that a tower with a modified last block gives.

    Args:
        tower: The image tower.
        x: (B, 3, H, W), normalised; sides multiples of the tower's patch.
        variant: The attention of the last block.
        residual: Keep the last block's residual connection and feed-forward part. Without them, as
            the method has it, tokens say what is where they are.

    Returns:
        The patches' tokens (B, N, E), row by row, and the class token (B, E) out of the same
        modified block. Neither is of unit length.

    Raises:
        ModelError: A side is not a multiple of the tower's patch.
        UsageError: No such variant.
    """
    if variant not in PAIRS:
        msg = f"There is no attention {variant!r}; known are {', '.join(PAIRS)}."
        raise UsageError(msg)
    stream = tower.stream(x)
    rows = tower.last.out(_attended(tower.last.qkv(stream), variant))
    if residual:
        kept = stream + rows
        rows = kept + tower.last.feed(kept)
    projected = tower.project(rows)
    return projected[:, 1:], projected[:, 0]


def _attended(parts: tuple[Tensor, Tensor, Tensor], variant: Variant) -> Tensor:
    """Return the values (B, heads, tokens, d) after the attention; the class token takes part in it."""
    if variant == "identity":
        return parts[2]
    attended = [functional.scaled_dot_product_attention(parts[a], parts[b], parts[2]) for a, b in PAIRS[variant]]
    return attended[0] if len(attended) == 1 else torch.stack(attended).sum(0)
