"""Dense tokens from CLIP by the attention of a vision network: ProxyCLIP.

A network trained on pictures alone knows better than CLIP which places belong together. So the last
block of CLIP averages its values by the similarity of that network's features instead of by its
own queries and keys. See :mod:`geovl.segmenters.open_vocabulary.vision` for the networks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf, isfinite, lcm
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional

from geovl.errors import UsageError
from geovl.segmenters.open_vocabulary.dense import interpolation
from geovl.segmenters.open_vocabulary.tower import Linear, Tower

BETA = 1.2
"""Published threshold: similarities below ``BETA`` times their mean are removed."""
GAMMA = 3.0
"""Published inverse temperature."""
_BLOCK = {"cpu": 1 << 20}  # similarities held at a time: what fits into a core's own cache
_BLOCK_ELSEWHERE = 1 << 25

_values: "WeakKeyDictionary[Tower, Linear]" = WeakKeyDictionary()


class Grid(NamedTuple):
    """Rows and columns of a feature map."""

    rows: int
    cols: int

    @property
    def size(self) -> int:
        """Return the number of places."""
        return self.rows * self.cols


def common_multiple(patch_a: int, patch_b: int) -> int:
    """Return what a window's sides must be a multiple of, so that both networks see all of it.

    Args:
        patch_a: Side of a patch of the one network in pixels, or what its input must be a multiple of.
        patch_b: The same of the other.
    """
    return lcm(patch_a, patch_b)


def proxy_tokens(tower: Tower, x: Tensor, features: Tensor | None, beta: float = BETA, gamma: float = GAMMA) -> Tensor:
    """Return CLIP's tokens on the grid of a vision network.

    An image's tokens do not depend on the others in its batch.

    Args:
        tower: The image tower.
        x: (B, 3, H, W), normalised for the tower; sides multiples of its patch.
        features: (B, C, Rv, Kv), what the vision network says of the same pixels; finite, of any scale
            and type. None gives the tower's own last block, as trained, on its own grid.
        beta: Similarities below ``beta`` times their mean over the image are removed.
        gamma: Inverse temperature, positive.

    Returns:
        (B, Rv * Kv, E), row by row, not of unit length. Finite for every finite input.

    Raises:
        ModelError: A side is not a multiple of the tower's patch.
        UsageError: ``beta`` or ``gamma`` is no such number, or the batches differ.
    """
    _check(beta, gamma)
    if features is not None and len(features) != len(x):
        msg = f"Features of {len(features)} images were given with {len(x)} images."
        raise UsageError(msg)
    stream = tower.stream(x)
    if features is None:
        return tower.project(tower.last(stream)[:, 1:])
    values = _value_layer(tower)(tower.last.norm_in(stream[:, 1:]))
    # the output projection acts on every place alone and the attention's rows sum to 1: the two
    # commute, bias included, and CLIP's grid is the smaller one as a rule
    values = tower.last.out(values)
    grid = Grid(*tower.grid(*x.shape[2:]))
    return tower.project(attended(features, values, grid, beta, gamma))


def attended(features: Tensor, values: Tensor, grid: Grid, beta: float = BETA, gamma: float = GAMMA) -> Tensor:
    """Return values averaged by the proxy attention, after resizing them to the features' grid.

    Never more than some rows of the attention are held, whatever the number of places.

    Args:
        features: (B, C, Rv, Kv).
        values: (B, R * K, D), row by row.
        grid: ``(R, K)``; the values are resized bilinearly to ``(Rv, Kv)``.
        beta: See :func:`proxy_tokens`.
        gamma: See :func:`proxy_tokens`.

    Returns:
        (B, Rv * Kv, D), in the type of the values.
    """
    target = Grid(*features.shape[2:])
    if not _cheaper_on_values_grid(grid, target, values.shape[-1]):
        values, grid = _resized(values, grid, target), target
    sides = [interpolation(*lengths) for lengths in zip(grid, target, strict=True)]
    to_rows, to_cols = (side.to(features.device, torch.float32) for side in sides)
    out = values.new_empty(len(values), target.size, values.shape[-1])
    step = max(1, _BLOCK.get(features.device.type, _BLOCK_ELSEWHERE) // target.size)
    for unit, source, found in zip(_unit_rows(features), values, out, strict=True):
        threshold = beta * _mean_similarity(unit)
        for start in range(0, target.size, step):
            weights = _attention(unit[start : start + step], unit, threshold, gamma)
            if grid != target:  # the resize's transpose, on the attention: fewer products than on the values
                with _full_precision(weights.device.type):
                    spread = weights.view(-1, *target) @ to_cols
                    weights = (to_rows.T @ spread).flatten(1)
            torch.matmul(weights.to(source.dtype), source, out=found[start : start + step])
    return out


def proxy_attention(features: Tensor, beta: float = BETA, gamma: float = GAMMA) -> Tensor:
    """Return the whole attention, to look at it: :func:`proxy_tokens` never makes it.

    Args:
        features: (B, C, Rv, Kv).
        beta: See :func:`proxy_tokens`.
        gamma: See :func:`proxy_tokens`.

    Returns:
        (B, M, M) float32 with ``M = Rv * Kv``; rows sum to 1. The same for every head.

    Raises:
        UsageError: ``beta`` or ``gamma`` is no such number.
    """
    _check(beta, gamma)
    return torch.stack([_attention(unit, unit, beta * _mean_similarity(unit), gamma) for unit in _unit_rows(features)])


def _check(beta: float, gamma: float) -> None:
    if not (isfinite(beta) and isfinite(gamma) and gamma > 0):
        msg = f"beta {beta:g} and gamma {gamma:g} were given; expected finite numbers, gamma above 0."
        raise UsageError(msg)


def _unit_rows(features: Tensor) -> Tensor:
    """Return (B, M, C) float32 rows of unit length; rows of zeros stay zeros."""
    return functional.normalize(features.flatten(2).transpose(1, 2).float(), dim=-1, eps=1e-12)


def _mean_similarity(unit: Tensor) -> Tensor:
    """Return the mean of all similarities of unit rows (M, C) with each other, themselves included."""
    return unit.mean(0).square().sum()  # the mean of a product of sums, without the products


def _attention(rows: Tensor, unit: Tensor, threshold: Tensor, gamma: float) -> Tensor:
    """Return some rows (r, M) of the attention of unit rows (M, C)."""
    with _full_precision(unit.device.type):  # the mask is a hard threshold: rounding flips tokens
        similarity = rows @ unit.T
    removed = similarity < threshold
    # a row without a survivor, as of a constant image or a zero feature, stays unmasked
    removed &= ~removed.all(-1, keepdim=True)
    return similarity.mul_(gamma).masked_fill_(removed, -inf).softmax(-1)


@contextmanager
def _full_precision(device: str) -> Iterator[None]:
    """Keep products of float32 in float32, whatever TF32, bfloat16 or autocast the caller chose."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _value_layer(tower: Tower) -> Linear:
    """Return the last block's projection to values alone; its queries and keys are not needed."""
    layer = _values.get(tower)
    if layer is None:
        fused = tower.last.fused
        weight = fused.weight.to_dense() if fused.packed else fused.weight
        bias = None if fused.bias is None else fused.bias[-tower.width :]
        layer = _values[tower] = Linear.of(weight[-tower.width :].contiguous(), bias, pack=fused.packed)
    return layer


def _resized(values: Tensor, grid: Grid, target: Grid) -> Tensor:
    """Resize (B, R * K, D) bilinearly from one grid to another."""
    if grid == target:
        return values
    maps = values.transpose(1, 2).unflatten(2, grid)
    return functional.interpolate(maps, size=tuple(target), mode="bilinear").flatten(2).transpose(1, 2)


def _cheaper_on_values_grid(grid: Grid, target: Grid, width: int) -> bool:
    """Tell whether to bring a row of the attention to the values' grid instead of the values to the attention's."""
    spread = target.size * grid.cols + target.rows * grid.size
    return spread + grid.size * width < target.size * width
