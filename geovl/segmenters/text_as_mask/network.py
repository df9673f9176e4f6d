"""A language model of transformers, as the decoding loop sees it: tokens and positions in, scores out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from geovl.segmenters.text_as_mask.cache import Ragged, attending

_PLACEHOLDERS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """New tokens of one request."""

    ids: Sequence[int]
    positions: Tensor
    """int64 (axes, tokens)."""


class Network:
    """A causal language model, or one that takes pictures too.

    Args:
        model: Of transformers, with a head that scores tokens.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.parameters = frozenset(signature(model.forward).parameters)
        self.cache_name = "cache" if "cache" in self.parameters else "past_key_values"

    @cached_property
    def attending(self) -> list[torch.nn.Module]:
        """Layers of causal self-attention that put their keys into a cache."""
        return [
            part
            for part in self.model.modules()
            if getattr(part, "is_causal", False) and getattr(part, "layer_idx", None) is not None
        ]

    @cached_property
    def configs(self) -> list[Any]:
        """Configurations of these layers, each once."""
        return list({id(part.config): part.config for part in self.attending if hasattr(part, "config")}.values())

    @cached_property
    def text(self) -> Any:
        """Configuration of the language model."""
        return self.model.config.get_text_config()

    @cached_property
    def placeholders(self) -> frozenset[int]:
        """Ids that stand for pictures."""
        found = (getattr(self.model.config, name, None) for name in _PLACEHOLDERS)
        return frozenset(one for one in found if isinstance(one, int))

    @cached_property
    def stops(self) -> frozenset[int]:
        """Ids that end an answer, as the model's own settings say."""
        told = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        return frozenset([told] if isinstance(told, int) else told or [])

    @cached_property
    def _indexes(self) -> Any:
        """What gives positions on several axes, None where there is one axis."""
        owners: tuple[Any, ...] = (self.model, getattr(self.model, "model", None))
        return next((owner.get_rope_index for owner in owners if hasattr(owner, "get_rope_index")), None)

    @property
    def axes(self) -> int:
        """Axes that positions have: three where pictures have rows and columns."""
        return 1 if self._indexes is None else 3

    def positions(self, ids: Sequence[int], given: Mapping[str, Tensor]) -> Tensor:
        """Return the positions of a whole prompt, int64 (axes, tokens).

        Args:
            ids: Of the prompt.
            given: What the model takes of its pictures, and of its tokens.
        """
        if self._indexes is None or not given:
            return torch.arange(len(ids)).expand(self.axes, -1)
        known = signature(self._indexes).parameters
        row = torch.tensor([ids], device=self.model.device)
        told: dict[str, Any] = {name: value for name, value in given.items() if name in known}
        if "mm_token_type_ids" in known and "mm_token_type_ids" not in told:
            told["mm_token_type_ids"] = torch.isin(row, row.new_tensor(sorted(self.placeholders))).int()
        found: Tensor = self._indexes(row, **told)[0]
        return found[:, 0].cpu()

    def read(
        self, pieces: Sequence[Piece], cache: Ragged, last: Sequence[int], images: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Let the model read the tokens of a pass that the cache is ready for.

        Args:
            pieces: Tokens of each request of the pass.
            cache: Ready for them.
            last: The tokens, counted over all pieces, whose scores are wanted.
            images: What it takes of the pictures in these tokens, of all requests together.

        Returns:
            Scores of the next token, float32 (wanted, vocabulary).

        Raises:
            UnsuitableError: Its attention is not what the cache can give.
        """
        device = self.model.device
        ids = torch.tensor([[token for piece in pieces for token in piece.ids]], device=device)
        positions = torch.cat([piece.positions for piece in pieces], 1).to(device)
        given = {"input_ids": ids, "position_ids": positions if self.axes == 1 else positions[:, None]}
        kept = list(last) != list(range(ids.shape[1]))
        wanted = torch.tensor(last, device=device)
        narrowed = kept and "logits_to_keep" in self.parameters
        told = {"logits_to_keep": wanted} if narrowed else {}
        with attending(cache, self.configs):
            found = self.model(**given, **told, **(images or {}), **{self.cache_name: cache}, use_cache=True)
        logits: Tensor = found.logits[0]
        return (logits[wanted] if kept and not narrowed else logits).float()
