"""Vectors of names from a CLIP text tower: every name in many sentences, computed once and kept.

CLIP's text towers are causal: what a token becomes depends only on the tokens before it. Two
things follow. Whatever comes after the end of a sentence can be left out, and tokens that begin
several sentences alike need be worked on only once. The sentences here are the same ones around
every name, so most of their tokens are alike. All layers but the attention work on the distinct
beginnings only; the attention sees whole sentences.
"""

import hashlib
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from geovl.errors import ModelError, PromptError
from geovl.segmenters.open_vocabulary.templates import fill
from geovl.segmenters.open_vocabulary.tower import Block, Linear, Norm

Tokenizer = Callable[[list[str]], Tensor]
"""Gives int64 (texts, context) of texts, as open_clip's tokenizers do."""

_WORK = 2**23  # values of a layer's widest array worked on at once: 32 MiB of float32
_NAMES = 512  # whose sentences are tokenised at once
_UNCUT = 256  # whole sentences worked on at once


@dataclass(frozen=True, slots=True)
class _Prefixes:
    """Sentences as paths through their distinct beginnings."""

    tokens: Tensor
    """(beginnings,): the last token of each."""
    places: Tensor
    """(beginnings,): how many tokens come before it."""
    paths: Tensor
    """(sentences, longest): the beginnings of each sentence, in order; after its end any."""
    origin: Tensor
    """(beginnings,): where in the flattened paths each is found first."""
    ends: Tensor
    """(sentences,): the beginning that is the whole sentence."""

    def to(self, device: torch.device) -> "_Prefixes":
        """Return the same on a device."""
        return _Prefixes(*(getattr(self, entry.name).to(device) for entry in fields(self)))


class TextTower:
    """The text tower of an open_clip model.

    The weights are shared with the model and must not change afterwards. Results carry no gradients.

    Args:
        model: An open_clip model; either layout, ``CLIP`` or ``CustomTextCLIP``.
        pack: As for :class:`geovl.segmenters.open_vocabulary.tower.Tower`.

    Raises:
        ModelError: The model has no text tower.
    """

    def __init__(self, model: nn.Module, *, pack: bool = False) -> None:
        if not hasattr(model, "encode_text"):
            msg = f"A {type(model).__name__} without a text tower was given; expected a model of open_clip."
            raise ModelError(msg)
        self._model: Any = model
        text: Any = getattr(model, "text", model)
        self._pool = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
        self._end = getattr(text, "text_eos_id", getattr(text, "eos_id", None))
        self._blocks = self._taken(text, pack=pack)
        if not self._blocks:
            return
        self._dtype = text.transformer.resblocks[0].mlp.c_fc.weight.dtype
        self._embedding = text.token_embedding.weight.detach()
        self._positions = text.positional_embedding.detach()
        self._norm = Norm.of(text.ln_final)
        found = text.text_projection
        layer = isinstance(found, nn.Linear)
        self._project = Linear.of(found.weight, found.bias) if layer else Linear.of(found.T, None)
        mlp = text.transformer.resblocks[0].mlp.c_fc
        self._widest = max(3 * self._positions.shape[1], mlp.out_features)

    @property
    def cuts(self) -> bool:
        """Whether sentences are cut at their ends and share beginnings; if not, the model's own forward is run."""
        return bool(self._blocks)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self._model.parameters()).device

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the embeddings of tokenised sentences, not of unit length.

        Args:
            tokens: int64 (sentences, context).

        Returns:
            (sentences, E), what the model's ``encode_text`` gives.
        """
        with torch.inference_mode():
            if not self.cuts:
                return torch.cat([self._model.encode_text(part) for part in tokens.split(_UNCUT)])
            lengths = self._ends(tokens) + 1
            everywhere = torch.arange(tokens.shape[1], device=tokens.device)
            tokens = tokens.where(everywhere < lengths[:, None], -1)[:, : int(lengths.max())]
            # sorted by their words, so that sentences that begin alike come into one batch
            # on the CPU: it is little, and not every device can do it
            tokens, which = tokens.cpu().unique(dim=0, return_inverse=True)
            batches = tokens.split(max(1, _WORK // (tokens.shape[1] * self._widest)))
            return torch.cat([self._embedded(batch) for batch in batches])[which.to(self.device)]

    def _taken(self, text: Any, *, pack: bool) -> tuple[Block, ...]:
        """Return the blocks of a tower that is causal, reads the end of the sentence and has nothing else; or none."""
        causal = getattr(text, "attn_mask", None) is not None and not getattr(text, "use_pad_mask", False)
        ends = self._pool == "argmax" or (self._pool == "eos" and self._end is not None)
        parts = ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection")
        whole = all(getattr(text, name, None) is not None for name in parts)
        if not (causal and ends and whole) or getattr(text, "cls_emb", None) is not None:
            return ()
        try:
            return tuple(Block.of(block, pack=pack) for block in text.transformer.resblocks)
        except ModelError:  # of another kind
            return ()

    def _ends(self, tokens: Tensor) -> Tensor:
        """Return the place of the token that each sentence is read at, (sentences,)."""
        return tokens.argmax(1) if self._pool == "argmax" else (tokens == self._end).int().argmax(1)

    def _embedded(self, tokens: Tensor) -> Tensor:
        """Return (sentences, E) of distinct sentences, filled up with -1."""
        shared = _prefixes(tokens).to(self.device)
        stream = self._embedding[shared.tokens].to(self._dtype) + self._positions[shared.places].to(self._dtype)
        for block in self._blocks[:-1]:
            stream = stream + block.merge(_attended(block, stream, shared))
            stream += block.feed(stream)
        last = self._blocks[-1]  # of which only the ends are read
        stream = stream[shared.ends] + last.merge(_attended(last, stream, shared)[shared.ends])
        return self._project(self._norm(stream + last.feed(stream)))


def _attended(block: Block, stream: Tensor, shared: _Prefixes) -> Tensor:
    """Return the values after a block's causal attention, of the distinct beginnings (beginnings, D)."""
    (sentences, longest), width = shared.paths.shape, 3 * stream.shape[1]
    fused = block.fused(block.norm_in(stream)).index_select(0, shared.paths.flatten())
    parts = fused.view(sentences, longest, 3, block.heads, width // (3 * block.heads)).permute(2, 0, 3, 1, 4)
    query, key, value = parts.unbind(0)
    values = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    return values.transpose(1, 2).reshape(sentences * longest, -1).index_select(0, shared.origin)


def _prefixes(tokens: Tensor) -> _Prefixes:
    """Find the distinct beginnings of sentences (sentences, longest), filled up with -1."""
    sentences, longest = tokens.shape
    everyone = torch.arange(sentences, device=tokens.device)
    paths, ends = torch.zeros_like(tokens), torch.zeros_like(everyone)
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    count = 0
    for place in range(longest):
        alive = everyone[tokens[:, place] >= 0]
        # a beginning is the one before it and a token
        pairs = torch.stack([ends[alive], tokens[alive, place]], 1)
        distinct, which = pairs.unique(dim=0, return_inverse=True)
        ends[alive] = paths[alive, place] = which + count
        first = torch.full_like(distinct[:, 0], sentences).scatter_reduce(0, which, alive, "amin")
        kept.append((distinct[:, 1], torch.full_like(first, place), first * longest + place))
        count += len(distinct)
    last, places, origin = (torch.cat(column) for column in zip(*kept, strict=True))
    return _Prefixes(last, places, paths, origin, ends)


@dataclass(frozen=True, slots=True)
class CacheKey:
    """All that vectors of names depend on beside the name."""

    model: str
    """Id of the model."""
    weights: str
    """sha256 of its weights, hexadecimal."""
    templates: str
    """Digest of the templates: :func:`geovl.segmenters.open_vocabulary.templates.digest`."""

    @property
    def folder(self) -> str:
        """Name of the folder that the vectors lie in."""
        text = f"{self.model}\n{self.weights}\n{self.templates}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class NameCache:
    """Vectors of names on disk, a small file each, for any number of processes at once.

    A file that is missing, damaged or of another name is a miss, and is written anew.

    Args:
        folder: Folder of all caches; made when something is kept.
        key: What the vectors depend on.
    """

    def __init__(self, folder: Path, key: CacheKey) -> None:
        self._folder = folder / key.folder

    def get(self, name: str) -> Tensor | None:
        """Return the float32 (E,) vector of a name, of unit length; None where there is no whole one."""
        try:
            with safe_open(self._path(name), framework="pt") as file:
                notes, vector = file.metadata() or {}, file.get_tensor("vector")
        except (OSError, SafetensorError):
            return None
        whole = notes.get("name") == name and notes.get("sha256") == _sha256(vector)
        return vector if whole and vector.dtype == torch.float32 and vector.ndim == 1 else None

    def put(self, name: str, vector: Tensor) -> None:
        """Keep the float32 (E,) vector of a name.

        Raises:
            OSError: The folder cannot be written to.
        """
        vector = vector.detach().to("cpu", torch.float32).contiguous()
        blob = save({"vector": vector}, {"name": name, "sha256": _sha256(vector)})
        target = self._path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.stem}.{secrets.token_hex(6)}")  # of this writer alone
        try:
            draft.write_bytes(blob)
            draft.replace(target)  # whoever reads sees the old file or the new one, never a part
        finally:
            draft.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.safetensors"


def _sha256(vector: Tensor) -> str:
    return hashlib.sha256(np.ascontiguousarray(vector.numpy()).tobytes()).hexdigest()


def embed_names(
    model: nn.Module | TextTower,
    tokenizer: Tokenizer,
    names: Sequence[str],
    templates: Sequence[str],
    cache: NameCache | None = None,
) -> Tensor:
    """Return one vector for each name: the mean over its sentences' unit vectors, of unit length again.

    Args:
        model: An open_clip model or its text tower.
        tokenizer: The model's.
        names: Any words; blanks around them mean nothing.
        templates: Sentences with one ``{}`` each.
        cache: Where vectors are looked up first and kept. A folder that cannot be written to is no
            error: the vectors are made anew next time.

    Returns:
        float32 (Q, E) on the model's device.

    Raises:
        PromptError: No name, or an empty one.
        ModelError: The model has no text tower.
    """
    cleaned = [" ".join(name.split()) for name in names]
    if not cleaned or not all(cleaned) or not templates:
        msg = f"{len(cleaned)} names, {cleaned.count('')} of them empty, and {len(templates)} templates were given."
        raise PromptError(msg, "Give at least one name and one template, and no empty name.")
    tower = model if isinstance(model, TextTower) else TextTower(model)
    kept = {name: None if cache is None else cache.get(name) for name in cleaned}
    missing = [name for name, vector in kept.items() if vector is None]
    found = {name: vector.to(tower.device) for name, vector in kept.items() if vector is not None}
    for first in range(0, len(missing), _NAMES):
        part = missing[first : first + _NAMES]
        for name, vector in zip(part, _ensembled(tower, tokenizer, part, templates), strict=True):
            found[name] = vector
            if cache is not None:
                with suppress(OSError):
                    cache.put(name, vector)
    return torch.stack([found[name] for name in cleaned])


def _ensembled(tower: TextTower, tokenizer: Tokenizer, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return float32 (names, E): unit vectors' means, of unit length."""
    tokens = tokenizer([fill(template, name) for name in names for template in templates]).to(tower.device)
    each = functional.normalize(tower.embed(tokens).float(), dim=-1)
    return functional.normalize(each.view(len(names), len(templates), -1).mean(1), dim=-1)
