"""Keys and values of requests that are written together: in place, each as long as it is, with or without relay.

A pass through the model takes the new tokens of all requests in one row, (1, N), without padding. :class:`Pass` says
which token belongs to which request. :class:`Ragged` is a cache as transformers has them; it takes the new keys in, and
:func:`attention`, which is registered there by the name :data:`NAME`, then lets every request attend to its own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface
from transformers.cache_utils import Cache

from geovl.segmenters.text_as_mask.relay import Attended, Mask, attend, blend, context_mask, system_attention

NAME = "geovl_relay"
"""Of the attention function, among those of transformers."""

_STEP = 64  # tokens that room is a multiple of
_GROWTH = 1.5  # so that all copies together are at most two of what is there in the end
_UNKNOWN = ("softcap", "s_aux", "position_bias")  # what some models want of their attention, and this one cannot


class UnsuitableError(Exception):
    """A model asks for more than this attention gives; the message says what."""


class Pass:
    """The requests of one pass through the model and how many new tokens each has.

    Args:
        rows: The requests' places in the cache. Where contexts go on, all of them, in order.
        counts: New tokens of each.
        before: Tokens of each that the cache holds already.
        first: The contexts begin with this pass.
        device: Where its tensors shall be.
    """

    def __init__(
        self, rows: Sequence[int], counts: Sequence[int], before: Sequence[int], *, first: bool, device: torch.device,
    ) -> None:  # fmt: skip
        self.rows, self.counts, self.before, self.first = tuple(rows), tuple(counts), tuple(before), first
        self._device = device
        self._seen: dict[tuple[int, int], Tensor] = {}
        self.after = tuple(old + new for old, new in zip(before, counts, strict=True))
        self.longest = max(self.after)
        self.width = max(counts)
        self.even = len(set(counts)) == 1
        self.aligned = self.even and len(set(before)) == 1

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """First and stop of each request's tokens in the row of all."""
        stops = list(accumulate(self.counts))
        return list(zip([0, *stops], stops, strict=False))

    @cached_property
    def last(self) -> list[int]:
        """Place of each request's last token in the row of all."""
        return [stop - 1 for _, stop in self.spans]

    @cached_property
    def cells(self) -> tuple[Tensor, Tensor]:
        """Row and column in the cache for each token."""
        pieces = zip(self.rows, self.before, self.after, strict=True)
        cells = [(row, column) for row, old, new in pieces for column in range(old, new)]
        found = torch.tensor(cells, device=self._device).T
        return found[0], found[1]

    @cached_property
    def padded(self) -> Tensor:
        """(b, L): the token at each place where requests are padded to the same length; padding repeats the last."""
        places = [[min(first + n, stop - 1) for n in range(self.width)] for first, stop in self.spans]
        return torch.tensor(places, device=self._device)

    @cached_property
    def packed(self) -> Tensor:
        """(N,): for each token, its place among those padded, as they lie row by row."""
        places = [row * self.width + n for row, count in enumerate(self.counts) for n in range(count)]
        return torch.tensor(places, device=self._device)

    @cached_property
    def mask(self) -> Mask | None:
        """What the padded queries see of the longest context; None where that is everything."""
        return None if self.aligned and self.width == 1 else context_mask(self.after, self.counts, self._device)

    @cached_property
    def seen(self) -> Tensor | None:
        """The same as booleans, (b, 1, L, T)."""
        return None if self.mask is None else self.mask.bias == 0

    def seen_by(self, place: int) -> Tensor:
        """What the tokens of one request see of it, bool (1, 1, L, T)."""
        kind = (self.after[place], self.counts[place])
        if kind not in self._seen:
            self._seen[kind] = context_mask(kind[:1], kind[1:], self._device).bias == 0
        return self._seen[kind]


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """A beginning that requests share, as the model has read it."""

    ids: tuple[int, ...]
    images: dict[str, Tensor]
    """What the model was given of pictures within it."""
    keys: tuple[Tensor, ...]
    """(1, H_kv, s, d) for each layer."""
    values: tuple[Tensor, ...]
    """(1, H_kv, s, d_v) for each layer."""

    def __len__(self) -> int:
        return len(self.ids)

    def cropped(self, length: int) -> "Prefix":
        """Return the first tokens of it; its pictures are either all within them or all behind."""
        if length == len(self):
            return self
        keys, values = (tuple(part[:, :, :length] for part in parts) for parts in (self.keys, self.values))
        return Prefix(self.ids[:length], self.images, keys, values)

    def widened(self) -> "Prefix":
        """Return the same in float32."""
        keys, values = (tuple(part.float() for part in parts) for parts in (self.keys, self.values))
        return Prefix(self.ids, self.images, keys, values)


class Ragged(Cache):  # type: ignore[misc] # of transformers, which mypy is told to skip
    """Keys and values of requests of different lengths, each from the left, with room to grow.

    Args:
        requests: How many.
        room: Tokens to make room for at first.
        prefix: What all begin with.
        relay: Read the prefix once for all requests, and keep keys and values in float32; otherwise every request gets
            a copy of it. Without a prefix it makes no difference.
        device: Where the model is; the CPU where None.
    """

    def __init__(
        self, requests: int, room: int, prefix: Prefix | None = None, *, relay: bool = False,
        device: torch.device | None = None,
    ) -> None:  # fmt: skip
        super().__init__(layers=[])
        self.device = device or torch.device("cpu")
        self.prefix = prefix.widened() if relay and prefix is not None else prefix
        self.relay = relay and prefix is not None
        self.copied = 0 if self.relay or prefix is None else len(prefix)
        self.lengths = [self.copied] * requests
        self.room = _rounded(self.copied + room)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.now = Pass([0], [1], [0], first=True, device=self.device)
        self.fresh: Tensor | None = None
        self.layer = 0

    def plan(self, counts: Sequence[int], rows: Sequence[int] | None = None) -> Pass:
        """Get ready for a pass.

        Args:
            counts: New tokens of each request.
            rows: The requests whose contexts begin with it; None: all requests, and their contexts go on.
        """
        some = range(len(self.lengths)) if rows is None else rows
        before = [self.lengths[row] for row in some]
        self.now = Pass(some, counts, before, first=rows is not None, device=self.device)
        if self.now.longest > self.room:
            self.room = _rounded(max(self.now.longest, int(self.room * _GROWTH)))
            for store in (self.keys, self.values):
                store[:] = [self._roomier(old) for old in store]
        for row, length in zip(some, self.now.after, strict=True):
            self.lengths[row] = length
        return self.now

    def drop(self, row: int) -> None:
        """Forget a request; the last one takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            used = self.lengths[last]
            for store in (*self.keys, *self.values):
                store[row, :, :used] = store[last, :, :used]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Take the keys (1, H_kv, N, d) and values (1, H_kv, N, d_v) of a pass in, and give them back."""
        if layer_idx == len(self.keys):
            self.keys.append(self._store(key_states, layer_idx, "keys"))
            self.values.append(self._store(value_states, layer_idx, "values"))
        _write(self.keys[layer_idx], key_states, self.now)
        _write(self.values[layer_idx], value_states, self.now)
        self.fresh, self.layer = key_states, layer_idx
        return key_states, value_states

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Let the queries (1, H, N, d) of the layer updated last attend; return (1, N, H, d_v)."""
        if not self.relay or self.prefix is None:
            return self._first(query, key, value, scale) if self.now.first else self._next(query, scale)
        own = self._own_first(query, key, value, scale) if self.now.first else self._own_next(query, scale)
        keys, values = self.prefix.keys[self.layer], self.prefix.values[self.layer]
        found = blend(system_attention(query, keys, values, scale=scale), own)
        return found.to(query.dtype).transpose(1, 2)

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002 - the same for all layers
        """Return how many tokens of the longest request are there, its beginning with them."""
        return max(self.lengths) + (len(self.prefix) if self.relay and self.prefix else 0)

    def _own_first(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Attended:
        """Attend to contexts that begin with this pass, each to its own, by itself; (1, H, N, ...)."""
        parts = [[t[:, :, a:b] for t in (query, key, value)] for a, b in self.now.spans]
        found = [attend(*part, scale=scale, causal=True) for part in parts]
        return Attended(torch.cat([one.out for one in found], 2), torch.cat([one.lse for one in found], 2))

    def _own_next(self, query: Tensor, scale: float) -> Attended:
        """Attend to contexts that go on, all at once; (1, H, N, ...)."""
        found = attend(_padded(query, self.now), *self._used(), scale=scale, mask=self.now.mask)
        return Attended(_packed(found.out, self.now), _packed(found.lse[..., None], self.now)[..., 0])

    def _first(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend where contexts begin and every request holds all that it sees."""
        found = []
        for place, (first, stop) in enumerate(self.now.spans):
            some = query[:, :, first:stop]
            if self.copied:
                row, total = self.now.rows[place], self.now.after[place]
                keys, values = (store[self.layer][row : row + 1, :, :total] for store in (self.keys, self.values))
                found.append(_all_heads(some, keys, values, scale, self.now.seen_by(place)))
            else:
                found.append(_all_heads(some, key[:, :, first:stop], value[:, :, first:stop], scale, None))
        return torch.cat(found, 2).transpose(1, 2)

    def _next(self, query: Tensor, scale: float) -> Tensor:
        """Attend where contexts go on and every request holds all that it sees."""
        keys, values = self._used()
        rows = _padded(query, self.now)
        group, seen = rows.shape[1] // keys.shape[1], self.now.seen
        if seen is not None:
            seen = seen.expand(-1, group, -1, -1).flatten(1, 2)[:, None]
        grouped = rows.reshape(rows.shape[0], keys.shape[1], -1, rows.shape[-1])
        out = functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=seen, scale=scale)
        return _packed(out.reshape(*rows.shape[:3], -1), self.now).transpose(1, 2)

    def _used(self) -> tuple[Tensor, Tensor]:
        """Keys and values (b, H_kv, T, ...) of all requests, up to the longest."""
        keys, values = self.keys[self.layer], self.values[self.layer]
        count, longest = len(self.lengths), self.now.longest
        return keys[:count, :, :longest], values[:count, :, :longest]

    def _store(self, like: Tensor, layer: int, which: str) -> Tensor:
        """Return room for keys or values like these, with what every request begins with."""
        _, heads, _, dim = like.shape
        dtype = torch.float32 if self.relay else like.dtype
        # not empty: what is behind the end of a request is masked, but masked NaN is NaN
        store = torch.zeros(len(self.lengths), heads, self.room, dim, dtype=dtype, device=like.device)
        if self.copied and self.prefix is not None:
            store[:, :, : self.copied] = getattr(self.prefix, which)[layer]
        return store

    def _roomier(self, old: Tensor) -> Tensor:
        new = old.new_zeros(*old.shape[:2], self.room, old.shape[3])
        new[:, :, : old.shape[2]] = old
        return new


def _rounded(tokens: int) -> int:
    return -(-tokens // _STEP) * _STEP


def _write(store: Tensor, new: Tensor, now: Pass) -> None:
    """Put keys or values (1, H_kv, N, d) where they belong."""
    if now.first:
        for row, (first, stop), old, length in zip(now.rows, now.spans, now.before, now.after, strict=True):
            store[row, :, old:length] = new[0, :, first:stop]
    elif now.aligned:
        store[: len(now.rows), :, now.before[0] : now.longest] = _padded(new, now)
    else:
        rows, columns = now.cells
        store[rows, :, columns] = new[0].transpose(0, 1).to(store.dtype)


def _padded(query: Tensor, now: Pass) -> Tensor:
    """Return queries (1, H, N, d) as (b, H, L, d)."""
    if now.width == 1:
        return query.transpose(0, 2)
    if now.even:
        return query[0].unflatten(1, (len(now.rows), now.width)).transpose(0, 1)
    return query[0][:, now.padded].transpose(0, 1)


def _packed(out: Tensor, now: Pass) -> Tensor:
    """Return outputs (b, H, L, d) as (1, H, N, d)."""
    if now.width == 1:
        return out.transpose(0, 2)
    columns = out.transpose(0, 1).flatten(1, 2)
    return (columns if now.even else columns[:, now.packed])[None]


def _all_heads(query: Tensor, key: Tensor, value: Tensor, scale: float, seen: Tensor | None) -> Tensor:
    """Attend for one request, causal where nothing tells what is seen; heads of a group share keys without a copy."""
    heads, group = key.shape[1], query.shape[1] // key.shape[1]
    rows = query[0].unflatten(0, (heads, group))
    keys, values = (part[0][:, None].expand(-1, group, -1, -1) for part in (key, value))
    out = functional.scaled_dot_product_attention(
        rows, keys, values, attn_mask=seen, is_causal=seen is None and query.shape[2] > 1, scale=scale
    )
    return out.flatten(0, 1)[None]


# -------------------------------------------------------------------------------------------------- inside transformers

_CURRENT: ContextVar[Ragged | None] = ContextVar("ragged cache", default=None)


@contextmanager
def attending(cache: Ragged, configs: Sequence[Any]) -> Iterator[None]:
    """Let a model's layers attend through a cache, within a ``with``.

    Args:
        cache: What the model is given as its cache.
        configs: Configurations of the modules that attend.
    """
    before = [config._attn_implementation for config in configs]  # noqa: SLF001 - that is its name
    token = _CURRENT.set(cache)
    try:
        for config in configs:
            config._attn_implementation = NAME  # noqa: SLF001
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name  # noqa: SLF001
        _CURRENT.reset(token)


def attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None,
    scaling: float | None = None, dropout: float = 0.0, **more: Any,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Attend as transformers asks its attention functions to: relay where our cache was just updated, plain elsewhere.

    Layers of a picture's tower have no cache and come here only where all of a model was switched.

    Raises:
        UnsuitableError: The model asks for what this cannot do.
    """
    cache = _CURRENT.get()
    if cache is None or cache.fresh is not key:
        plain = AttentionInterface()["sdpa"]
        found: tuple[Tensor, None] = plain(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **more
        )
        return found
    cache.fresh = None
    asked = [name for name in _UNKNOWN if more.get(name) is not None]
    if asked or attention_mask is not None:
        msg = f"its attention needs {', '.join(asked) or 'masks of its own'}"
        raise UnsuitableError(msg)
    return cache.attend(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling), None


AttentionInterface.register(NAME, attention)
