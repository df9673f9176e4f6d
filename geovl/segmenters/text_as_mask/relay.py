"""Relay attention: requests that begin alike read the keys and values of that beginning once per step, not once each.

L. Zhu, X. Wang, W. Zhang, R. W. H. Lau, "RelayAttention for Efficient Large Language Model Serving with Long System
Prompts", ACL 2024, https://arxiv.org/abs/2402.14808. The softmax over a beginning of ``s`` tokens that b requests share
(the *system* part) and over what is a request's own (its *context*) is taken apart, with the log-sum-exps l of both:

    alpha = 1 / (1 + exp(l_c - l_s))         out = alpha o_s + (1 - alpha) o_c         l = log(exp(l_s) + exp(l_c))

This is exact; only the order of sums differs. What makes it fast is that the system part knows no request: all queries
are rows of one matrix, b matrix-vector products become one matrix product. Keys and values are read with as many heads
as they have, never repeated for grouped queries.

Shapes: queries (b, H, L, d), keys (b, H_kv, T, d), values (b, H_kv, T, d_v), with query head h reading head
h // (H / H_kv). Everything is computed in float32, or float64 if that was given, and rounded once, at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

_FUSED: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
"""The operator behind torch's attention on CPUs; unlike the public function it gives the log-sum-exp."""


@dataclass(frozen=True, slots=True, eq=False)
class Attended:
    """What queries found among some keys."""

    out: Tensor
    """float32 (b, H, L, d_v): mean of values; 0 where there was no key."""
    lse: Tensor
    """float32 (b, H, L): natural logarithm of the sum of exponentials of the scaled scores; -inf where no key was."""


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """Which keys queries see."""

    bias: Tensor
    """float32 (b, 1, L, T): 0 where a query sees a key, -inf where it does not."""
    blind: Tensor | None
    """bool (b, 1, L): True for queries that see no key; None when there are none."""


def context_mask(lengths: Sequence[int], queries: Sequence[int], device: torch.device | str = "cpu") -> Mask:
    """Return the mask of contexts of different lengths: causal, aligned at their ends.

    Args:
        lengths: Of the contexts; their keys are padded on the right to the longest.
        queries: How many queries each has: its last positions, padded on the right to the most.
        device: Where to put it.

    Returns:
        The mask, (b, 1, most queries, longest context). Queries that are padding see what is there, so that they
        are not blind.
    """
    ends = torch.tensor(lengths, device=device)[:, None]
    own = torch.tensor(queries, device=device)[:, None]
    last = ends - own + torch.arange(max(queries, default=0), device=device)  # (b, L): the last key that is seen
    seen = torch.arange(max(lengths, default=0), device=device) <= last[..., None]
    bias = torch.zeros(seen.shape, device=device).masked_fill_(~seen, -torch.inf)
    empty = min(lengths, default=1) == 0 or any(q > n for n, q in zip(lengths, queries, strict=True))
    return Mask(bias[:, None], ~seen.any(-1)[:, None] if empty else None)


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None, mask: Mask | None = None,
    causal: bool = False,
) -> Attended:  # fmt: skip
    """Attend, and give the log-sum-exp of the scores too.

    Args:
        query: (b, H, L, d).
        key: (b, H_kv, T, d).
        value: (b, H_kv, T, d_v).
        scale: Of the scores; ``d ** -0.5`` where None.
        mask: What queries see; all keys where None.
        causal: The queries are the last L of the T positions, and none sees a later one. Not with a mask.

    Returns:
        Outputs and log-sum-exps in float32, or float64 if queries are.
    """
    query, key, value = _wide(query), _wide(key), _wide(value)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    length, total = query.shape[2], key.shape[2]
    if not fuses(query, key, value):
        return _plain(query, key, value, scale, _causal(query, total) if causal and length > 1 else mask)
    if causal and length == total > 1:
        return _fused_causal(query, key, value, scale)
    return _fused(query, key, value, scale, _causal(query, total) if causal and length > 1 else mask)


def system_attention(query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None) -> Attended:
    """Attend to the shared beginning: one product for all requests, which see all of it.

    Args:
        query: (b, H, L, d), rotated at their true positions, behind the beginning.
        key: (1, H_kv, s, d), rotated at positions 0 to s - 1.
        value: (1, H_kv, s, d_v).
        scale: Of the scores; ``d ** -0.5`` where None.

    Returns:
        As :func:`attend`, (b, H, L, ...).

    Raises:
        ValueError: Keys for more than one request.
    """
    if key.shape[0] != 1 or value.shape[0] != 1:
        msg = f"Keys and values of the shared beginning must be (1, H_kv, s, d), got {tuple(key.shape)}"
        raise ValueError(msg)
    batch, heads, length, dim = query.shape
    if batch == 1:  # one row of tokens, whosever they are: nothing to move
        return attend(query, key, value, scale=scale)
    shape = (batch, key.shape[1], heads // key.shape[1], length)
    rows = query.reshape(*shape, dim).permute(1, 2, 0, 3, 4).reshape(1, key.shape[1], -1, dim)
    found = attend(rows, key, value, scale=scale)
    parts = (shape[1], shape[2], batch, length)
    out = found.out.view(*parts, -1).permute(2, 0, 1, 3, 4).reshape(batch, heads, length, -1)
    return Attended(out, found.lse.view(parts).permute(2, 0, 1, 3).reshape(batch, heads, length))


def merge(first: Attended, second: Attended) -> Attended:
    """Return what attending to the keys of both parts together finds.

    Any order and any grouping gives the same, so that chains of beginnings can be merged one by one.

    Raises:
        ValueError: A query found no key in either part.
    """
    if torch.isneginf(torch.maximum(first.lse, second.lse)).any():
        msg = "Nothing to merge: a query saw no key in either part"
        raise ValueError(msg)
    return Attended(blend(first, second), torch.logaddexp(first.lse, second.lse))


def blend(first: Attended, second: Attended) -> Tensor:
    """Return the outputs of :func:`merge` alone; not checked, and NaN where neither part has a key."""
    share = torch.sigmoid(first.lse - second.lse)  # of the difference: exponentials of either alone overflow
    return torch.lerp(second.out, first.out, share[..., None])


def relay_attention(
    query: Tensor, system: tuple[Tensor, Tensor], context: tuple[Tensor, Tensor], *, scale: float | None = None,
    lengths: Sequence[int] | None = None, queries: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attend to a shared beginning and to every request's own context, as if they were one.

    Args:
        query: (b, H, L, d), rotated at their true positions: of the first token of a context, s. The last positions
            of their contexts, padded on the right where ``queries`` says so.
        system: Keys (1, H_kv, s, d) and values (1, H_kv, s, d_v) that all requests share; s may be 0.
        context: Keys (b, H_kv, T, d) and values (b, H_kv, T, d_v), the queries' own among them.
        scale: Of the scores; ``d ** -0.5`` where None.
        lengths: Of the contexts, whose keys are padded on the right to T; all T where None.
        queries: Of each request, padded on the right to L; all L where None.

    Returns:
        Outputs (b, H, L, d_v) in the type of ``query``, and log-sum-exps (b, H, L) in float32 or float64. What stands
        for padding means nothing.

    Raises:
        ValueError: A query sees no key at all.
    """
    batch, _, length, _ = query.shape
    whole = context[0].shape[2]
    lengths, queries = lengths or [whole] * batch, queries or [length] * batch
    ragged = len(set(lengths)) > 1 or len(set(queries)) > 1 or (lengths[0], queries[0]) != (whole, length)
    mask = context_mask(lengths, queries, query.device) if ragged else None
    own = attend(query, context[0], context[1], scale=scale, mask=mask, causal=not ragged)
    found = merge(system_attention(query, *system, scale=scale), own)
    return found.out.to(query.dtype), found.lse


# -------------------------------------------------------------------------------------------------- both ways to attend


def fuses(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Tell whether the fused operator takes these tensors."""
    return (
        query.device.type == "cpu"
        and value.shape[-1] == key.shape[-1]
        and query.dtype == key.dtype == value.dtype == torch.float32
        and query.numel() > 0
        and key.numel() > 0
        and fused_works()
    )


@cache
def fused_works() -> bool:
    """Tell whether torch has the fused operator, and whether it means what this module needs.

    Its name is private, so that it is compared with the plain way once.
    """
    if _FUSED is None:
        return False
    noise = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, 3, 8, generator=noise).unbind()
    mask = context_mask([3, 2], [3, 2])
    with torch.inference_mode():
        try:
            found = _fused(query, key, value, 0.2, mask)
        except (RuntimeError, TypeError, ValueError):
            return False
        expected = _plain(query, key, value, 0.2, mask)
    close = (torch.allclose(a, b, atol=1e-5) for a, b in ((found.out, expected.out), (found.lse, expected.lse)))
    return all(close)


def _fused(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Mask | None) -> Attended:
    """Attend by the fused operator; query heads of a group are rows beside each other."""
    rows, bias = _grouped(query, key, mask)
    out, lse = _FUSED(rows, key, value, attn_mask=bias, scale=scale)
    return _ungrouped(query, out, _unseeing(lse.reshape(query.shape[:3]), mask))


def _fused_causal(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Attended:
    """Attend to as many keys as there are queries, by the fused operator: it leaves out what lies ahead.

    Key heads take the place of requests, and query heads of a group that of heads, for which keys are repeated
    without a copy.
    """
    batch, heads, length, dim = query.shape
    group = heads // key.shape[1]
    rows = query.reshape(-1, group, length, dim)
    keys, values = (part.reshape(-1, 1, *part.shape[2:]).expand(-1, group, -1, -1) for part in (key, value))
    out, lse = _FUSED(rows, keys, values, is_causal=True, scale=scale)
    return Attended(out.reshape(batch, heads, length, dim), lse.reshape(batch, heads, length))


def _plain(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Mask | None) -> Attended:
    """Attend step by step; takes any device, type and dimension of values."""
    rows, bias = _grouped(query, key, mask)
    scores = (rows * scale) @ key.transpose(2, 3)
    if bias is not None:
        scores += bias
    if not key.shape[2]:
        return Attended(query.new_zeros(*query.shape[:3], value.shape[-1]), query.new_full(query.shape[:3], -torch.inf))
    lse = scores.logsumexp(-1, keepdim=True)
    weights = (scores - lse.masked_fill(lse == -torch.inf, 0)).exp_()
    return _ungrouped(query, weights @ value, lse.reshape(query.shape[:3]))


def _grouped(query: Tensor, key: Tensor, mask: Mask | None) -> tuple[Tensor, Tensor | None]:
    """Return queries (b, H_kv, G L, d) and the bias (b, 1, G L, T) for them, with G query heads to a head of keys."""
    group = query.shape[1] // key.shape[1]
    bias = None if mask is None else mask.bias.to(query)
    if group == 1:
        return query, bias
    if bias is not None:
        bias = bias.expand(-1, group, -1, -1).flatten(1, 2)[:, None]
    return query.reshape(query.shape[0], key.shape[1], -1, query.shape[-1]), bias


def _ungrouped(query: Tensor, out: Tensor, lse: Tensor) -> Attended:
    """Give the outputs of grouped queries the shape of the queries."""
    return Attended(out if out.shape[:3] == query.shape[:3] else out.reshape(*query.shape[:3], -1), lse)


def _unseeing(lse: Tensor, mask: Mask | None) -> Tensor:
    """Return log-sum-exps with -inf for queries that see nothing: the fused operator gives them 0."""
    return lse if mask is None or mask.blind is None else lse.masked_fill(mask.blind, -torch.inf)


def _causal(query: Tensor, total: int) -> Mask:
    """Return the mask of queries that are the last of some positions, for one request and so for all."""
    return context_mask([total], [query.shape[2]], query.device)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in {torch.float32, torch.float64} else tensor.float()
