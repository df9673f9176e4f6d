"""The grammar of descriptors as a logits processor, for whoever generates with transformers' own ``generate``.

geovl's own loop (:mod:`geovl.segmenters.text_as_mask.generate`) also leaves out the steps that have no choice.
"""

import torch
from torch import Tensor

from geovl.segmenters.text_as_mask.automaton import Automaton, State


class DescriptorLogitsProcessor:
    """Lets a model write nothing but a descriptor; fits ``logits_processor`` of any causal model of transformers.

    Args:
        automaton: What may be written.
        prompt_length: Tokens of the prompt, padding included: what follows them is the answer.
        stops: Ids that end an answer; the only ones that are left once it is complete.

    Example:
        ``model.generate(**inputs, logits_processor=[DescriptorLogitsProcessor(automaton, length, [stop])])``
    """

    def __init__(self, automaton: Automaton, prompt_length: int, stops: list[int]) -> None:
        self._automaton = automaton
        self._start = prompt_length
        self._stops = stops
        self._states: dict[tuple[int, ...], State | None] = {(): automaton.start()}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores (n, vocabulary) with all that may not follow input_ids (n, length) at minus infinity."""
        masked = torch.full_like(scores, -torch.inf)
        for row, ids in enumerate(input_ids[:, self._start :].tolist()):
            state = self._state(tuple(ids))
            allowed = list(self._automaton.allowed(state)) if state is not None else []
            places = allowed or self._stops
            masked[row, places] = scores[row, places]
        return masked

    def _state(self, written: tuple[int, ...]) -> State | None:
        """Return the state after tokens; None behind the end, where only ends and padding follow."""
        known = self._states.get(written)
        if known is not None or written in self._states:
            return known
        before = self._state(written[:-1])
        state = None
        if before is not None and written[-1] in self._automaton.allowed(before):
            state = self._automaton.advance(before, written[-1])
        self._states[written] = state
        return state
