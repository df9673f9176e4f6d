"""Says an expression in words, in many ways that :func:`geovl.segmenters.text_as_mask.expressions.parse` reads back."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from geovl.segmenters.text_as_mask.expressions import Expression

_PICKS = {
    "largest": ("largest", "biggest"), "smallest": ("smallest", "tiniest"),
    "leftmost": ("leftmost", "westernmost"), "rightmost": ("rightmost", "easternmost"),
    "topmost": ("topmost", "uppermost", "northernmost"), "bottommost": ("bottommost", "lowest", "southernmost"),
}  # fmt: skip
_SIDES = {
    "top": ("top", "upper", "northern"), "bottom": ("bottom", "lower", "southern"),
    "left": ("left", "western"), "right": ("right", "eastern"), "middle": ("middle", "center", "centre"),
}  # fmt: skip
_NEAR = ("next to", "near", "close to", "beside")


def say(expression: Expression, phrases: Mapping[str, Sequence[str]], rng: np.random.Generator) -> str:
    """Return an expression in words.

    Args:
        expression: Of concepts.
        phrases: Other names of each concept, its own first; that is taken half of the time.
        rng: Source of chance.
    """

    def one(words: Sequence[str]) -> str:
        return str(words[int(rng.integers(len(words)))])

    def named(concept: str) -> str:
        names = phrases.get(concept, (concept,))
        return names[0] if rng.random() < 0.5 else one(names)

    words = named(expression.head)
    if expression.pick not in {None, "nearest"}:
        words = f"the {one(_PICKS[str(expression.pick)])} {words}"
    elif rng.random() < 0.4:
        words = f"{one(('the', 'all', 'all the'))} {words}"
    if expression.other is not None:
        link = "closest to" if expression.pick == "nearest" else one(_NEAR)
        words = f"{words} {link} {one(('the ', ''))}{named(expression.other)}"
    if expression.place:
        words = f"{words} {_placed(expression.place, one)}"
    return words


def _placed(place: tuple[str, ...], one: Callable[[Sequence[str]], str]) -> str:
    sides = [one(_SIDES[side]) for side in place]
    where = " ".join(sides)
    if place == ("middle",):
        return f"in the {where}"
    if len(place) == 2:
        return f"{one(('in', 'at'))} the {where}{one(('', ' corner', ' part'))}"
    compass = sides[0].endswith("ern") or sides[0] in {"upper", "lower"}
    tail = one((" side", " part", " half")) if compass else one(("", " side", " half"))
    return f"{one(('on', 'at', 'in'))} the {where}{tail}"
