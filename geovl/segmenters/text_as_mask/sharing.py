"""What requests may share, and which models let them: checked, never assumed.

Keys of a token depend on all tokens before it, so that a beginning can be shared where its ids are the same from
position 0 on, where it holds no picture but the same one, and where the model attends causally.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from geovl.segmenters.text_as_mask.cache import Prefix, Ragged, UnsuitableError
from geovl.segmenters.text_as_mask.network import Network, Piece

Share = Literal["class-list", "tile"]
"""What requests share: the text before the picture, or the picture and all that comes before it too."""

FAMILIES = frozenset({"llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"})
"""Families that take pictures and are known to attend causally, to pictures too."""

_BOTH_WAYS = frozenset({"paligemma"})
_STATEFUL = frozenset({"linear_attention", "conv", "mamba", "hybrid", "hybrid_sliding", "indexed_attention"})
_WINDOWED = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
_LENGTHWISE = frozenset({"dynamic", "longrope"})

_log = logging.getLogger(__name__)
_verdicts: WeakKeyDictionary[torch.nn.Module, str | None] = WeakKeyDictionary()
_warned: WeakKeyDictionary[torch.nn.Module, set[str]] = WeakKeyDictionary()


def warn_once(model: torch.nn.Module, reason: str) -> None:
    """Say once for each model and reason that requests take the plain way, and why."""
    told = _warned.setdefault(model, set())
    if reason not in told:
        told.add(reason)
        _log.warning("Requests are decoded without sharing: %s.", reason)


def shared_length(
    prompts: Sequence[Sequence[int]], images: Sequence[Mapping[str, Tensor]], placeholders: frozenset[int],
    share: Share | None = None,
) -> int:  # fmt: skip
    """Return how many tokens all prompts begin with and may share; each keeps at least one of its own.

    Args:
        prompts: Ids of whole prompts, none empty.
        images: What the model takes of each prompt's pictures.
        placeholders: Ids that stand for pictures.
        share: ``tile``: with the picture, if it is the same everywhere. ``class-list``: only what stands before
            pictures. None: whichever is longer.
    """
    some = [tuple(ids) for ids in prompts]
    low, high = min(some), max(some)
    same = next((place for place, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    same = min(same, *(len(ids) - 1 for ids in some))
    if not any(images):
        return same
    if not placeholders:  # nothing tells where pictures are
        return 0
    before = next((place for place in range(same) if low[place] in placeholders), same)
    whole = not any(placeholders.intersection(ids[same:]) for ids in some)
    if share != "class-list" and whole and all(same_images(images[0], other) for other in images):
        return same
    return before


def why_nothing(images: Sequence[Mapping[str, Tensor]], placeholders: frozenset[int]) -> str:
    """Return why requests have no beginning that can be shared."""
    if any(images) and not placeholders:
        return "the model's configuration does not tell which tokens stand for pictures"
    if any(images) and not all(same_images(images[0], other) for other in images):
        return "prompts differ before the picture, or begin with it, and pictures are not the same"
    return "prompts begin with different tokens"


def same_images(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    """Tell whether two requests are about the same picture."""
    return some.keys() == others.keys() and all(
        one is others[name] or torch.equal(one, others[name]) for name, one in some.items()
    )


# ------------------------------------------------------------------------------------------------------ which models do


def unsuitable(network: Network, tokens: int) -> str | None:
    """Return why a model's requests can neither share nor be read side by side, None where they can.

    Args:
        network: The model.
        tokens: The most that a prompt and its answer have.
    """
    reasons = (_unlike(network), _unsteady(network.text, tokens))
    found = next((reason for reason in reasons if reason), None)
    return found or verified(network)


def _unlike(network: Network) -> str | None:
    """Tell what is wrong with how a model attends at all."""
    model, config, text = network.model, network.model.config, network.text
    family = str(getattr(config, "model_type", "it"))
    if family in _BOTH_WAYS or getattr(text, "use_bidirectional_attention", None):
        return f"{family} attends both ways over the whole prompt, so that its keys depend on the picture"
    if getattr(config, "is_encoder_decoder", False):
        return f"{family} has an encoder for the prompt"
    if text is not config and family not in FAMILIES:
        return f"{family} is not known to attend causally, as {', '.join(sorted(FAMILIES))} do"
    if not getattr(model, "_supports_attention_backend", False):
        return f"the attention of {family} cannot be replaced"
    if len(network.attending) != text.num_hidden_layers:
        return f"{len(network.attending)} of the {text.num_hidden_layers} layers of {family} attend causally"
    return None


def _unsteady(text: Any, tokens: int) -> str | None:
    """Tell what is wrong with layers that do not see everything, or not always the same."""
    kinds = set(getattr(text, "layer_types", None) or ())
    if stateful := sorted(kinds & _STATEFUL):
        return f"some of its layers keep a state instead of keys ({', '.join(stateful)})"
    window = _window(text, kinds)
    if window is not None and window < tokens:
        return f"its layers see {window} tokens back, fewer than prompt and answer may have"
    if getattr(text, "alibi", False) or getattr(text, "attn_logit_softcapping", None):
        return "its scores are changed before the softmax"
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    if rope.get("rope_type", rope.get("type")) in _LENGTHWISE:
        return "its positions depend on how long the text is"
    return None


def _window(text: Any, kinds: set[str]) -> int | None:
    """Return how many tokens back the shortest-sighted layer sees, None for all."""
    if not kinds:
        return getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    told = [getattr(text, name, None) for kind, name in _WINDOWED.items() if kind in kinds]
    return min((window for window in told if window is not None), default=None)


def verified(network: Network) -> str | None:
    """Return None if a model says here what it says by itself, or what is wrong; found out once for each model.

    Two short rows of random tokens are read with a beginning that both share, once by relay and once with a copy each,
    and by the model alone.
    """
    if network.model not in _verdicts:
        _verdicts[network.model] = _verify(network)
    return _verdicts[network.model]


def _verify(network: Network) -> str | None:
    random = torch.Generator().manual_seed(0)
    known = [token for token in range(network.text.vocab_size) if token not in network.placeholders]
    picks = torch.randint(len(known), (15,), generator=random).tolist()
    start, *ends = ([known[pick] for pick in some] for some in (picks[:6], picks[6:10], picks[10:]))
    with torch.inference_mode():
        expected = torch.stack([_alone(network, start + end) for end in ends])
        try:
            found = [_together(network, start, ends, relay=relay) for relay in (True, False)]
        except UnsuitableError as error:
            return str(error)
    allowed = (1e-3 if network.model.dtype == torch.float32 else 0.1) * float(expected.abs().max())
    worst = max(float((one - expected).abs().max()) for one in found)
    return None if worst <= allowed else f"its scores would differ by {worst:.2g}"


def _alone(network: Network, ids: list[int]) -> Tensor:
    """Return the scores behind a row, by the model's own attention."""
    row = torch.tensor([ids], device=network.model.device)
    logits: Tensor = network.model(input_ids=row, use_cache=False).logits
    return logits[0, -1].float()


def _together(network: Network, start: list[int], ends: list[list[int]], *, relay: bool) -> Tensor:
    """Return the scores behind rows with the same start; their last tokens are read in a step of their own."""
    rows = range(len(ends))
    prefix = read_prefix(network, start, _places(network, 0, len(start)), {})
    cache = Ragged(len(ends), 8, prefix, relay=relay, device=network.model.device)
    now = cache.plan([len(end) - 1 for end in ends], rows)
    pieces = [Piece(end[:-1], _places(network, len(start), len(end) - 1)) for end in ends]
    network.read(pieces, cache, now.last)
    now = cache.plan([1] * len(ends))
    pieces = [Piece(end[-1:], _places(network, len(start) + len(end) - 1, 1)) for end in ends]
    return network.read(pieces, cache, now.last)


def _places(network: Network, first: int, count: int) -> Tensor:
    return torch.arange(first, first + count).expand(network.axes, -1)


def read_prefix(network: Network, ids: Sequence[int], positions: Tensor, images: Mapping[str, Tensor]) -> Prefix:
    """Let a model read what requests begin with.

    Args:
        network: The model.
        ids: The tokens.
        positions: int64 (axes, tokens).
        images: What it takes of the pictures in them.
    """
    cache = Ragged(1, len(ids), device=network.model.device)
    cache.plan([len(ids)], [0])
    network.read([Piece(ids, positions)], cache, [len(ids) - 1], images)
    keys, values = (tuple(one[:, :, : len(ids)] for one in store) for store in (cache.keys, cache.values))
    return Prefix(tuple(ids), dict(images), keys, values)
