"""What a referring expression asks for, and which objects it means.

An expression is a thing, and what tells one of them from the others: size (*the largest building*), position
(*ships on the left*, *the northernmost tree*) and nearness (*buildings next to water*). A whole scene is seen in
windows, none of which knows what is the largest; so the models are asked for the thing, and :func:`chosen` settles the
rest over the objects of all windows. The same rules make the truth that nano-text is trained on.

An object is a connected region: houses that touch are one.
"""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geovl.errors import PromptError

Pick = Literal["largest", "smallest", "leftmost", "rightmost", "topmost", "bottommost", "nearest"]
Floats = NDArray[np.float64]

NEAR = 0.06
"""Two things are next to each other up to this gap, as a share of the longer side of the picture."""
CENTRE = (0.3, 0.7)
"""Where the middle of a picture begins and ends along each side."""

_PICKS: dict[str, Pick] = {
    "largest": "largest", "biggest": "largest", "smallest": "smallest", "tiniest": "smallest",
    "leftmost": "leftmost", "westernmost": "leftmost", "rightmost": "rightmost", "easternmost": "rightmost",
    "topmost": "topmost", "uppermost": "topmost", "northernmost": "topmost",
    "bottommost": "bottommost", "lowest": "bottommost", "lowermost": "bottommost", "southernmost": "bottommost",
}  # fmt: skip
_SIDES = {
    "top": "top", "upper": "top", "north": "top", "northern": "top",
    "bottom": "bottom", "lower": "bottom", "south": "bottom", "southern": "bottom",
    "left": "left", "west": "left", "western": "left", "right": "right", "east": "right", "eastern": "right",
}  # fmt: skip
_MIDDLE = ("middle", "centre", "center", "central part")
_SHORT = {
    f"{a}{b}": f"{c} {d}"
    for a, c in (("north", "top"), ("south", "bottom"))
    for b, d in (("east", "right"), ("west", "left"))
}
_SIDE = "|".join(sorted((*_SIDES, *_SHORT), key=len, reverse=True))
_PLACE = re.compile(
    rf"\s+(?:at|on|in|to|towards|near)\s+the\s+(?P<where>(?:{_SIDE})(?:[\s-]+(?:{_SIDE}))?|{'|'.join(_MIDDLE)})"
    r"(?:\s+(?:side|half|part|corner|edge|area|quarter))?(?:\s+of\s+the\s+(?:image|picture|scene|tile|map))?$"
)
_LEADING = re.compile(rf"^(?P<where>(?:{_SIDE})(?:[\s-]+(?:{_SIDE}))?)[\s-]+(?=\S)")
_NEAREST = re.compile(r"\s+(?:that\s+is\s+|which\s+is\s+)?(?:closest|nearest)\s+to\s+(?:the\s+|an?\s+)?(?P<other>.+)$")
_NEAR = re.compile(
    r"\s+(?:that\s+(?:is|are)\s+)?(?:next\s+to|close\s+to|adjacent\s+to|beside|near|by)\s+(?:the\s+|an?\s+|some\s+)?"
    r"(?P<other>.+)$"
)
_ARTICLE = re.compile(r"^(?:(?:all|every|each|any)\s+(?:of\s+)?(?:the\s+)?|the\s+|an?\s+|some\s+)")
_RANKING = (
    "first|second|third|fourth|fifth|next|last|two|three|four|five|six|seven|eight|nine|ten|[0-9]+|more|less|than|longest|"
    "tallest|oldest|newest|shortest|widest|narrowest|both|other|another"
)
"""Words of what only a whole scene can tell."""
_LOCAL = "not|no|without|except|between|behind|above|below|under|which|that|who|with"
"""Words of what a window may show to a model that reads any phrase, and no rule here settles."""
_BEYOND = re.compile(rf"\b(?:{_RANKING}|{_LOCAL})\b")
SUPPORTED = (
    "the largest or smallest THING, the leftmost, rightmost, topmost or bottommost (or northernmost ...) THING, THING"
    " at the top, bottom, left, right, in the middle, in the upper left corner, THING next to OTHER, THING closest to"
    " OTHER"
)
"""What :func:`parse` reads, for messages."""


@dataclass(frozen=True, slots=True)
class Expression:
    """What a prompt asks for."""

    head: str
    """The thing, in the words of the prompt, without article."""
    pick: Pick | None = None
    """Which one of them; None: all."""
    place: tuple[str, ...] = ()
    """``top`` or ``bottom``, ``left`` or ``right``, or ``middle``: where they must lie."""
    other: str | None = None
    """The thing that they must be next to, or, of ``nearest``, to which one of them is nearest."""

    @property
    def plain(self) -> bool:
        """Whether every one of the things is meant, so that there is nothing to settle over a scene."""
        return self.pick is None and not self.place and self.other is None


def parse(prompt: str, *, strict: bool = True) -> Expression:
    """Read a prompt.

    Args:
        prompt: In words.
        strict: False leaves what a window may show, and no rule settles, to the model: the whole prompt is the thing.

    Raises:
        PromptError: It asks for something that no rule here can settle: counting, comparing, negation, other relations.
    """
    rest = " ".join(prompt.lower().split()).rstrip(".?!")
    place: tuple[str, ...] = ()
    if found := _PLACE.search(rest):
        place, rest = _place(found["where"]), rest[: found.start()]
    other: str | None = None
    pick: Pick | None = None
    if found := _NEAREST.search(rest):
        other, pick, rest = found["other"], "nearest", rest[: found.start()]
    elif found := _NEAR.search(rest):
        other, rest = found["other"], rest[: found.start()]
    rest, pick = _superlative(_ARTICLE.sub("", rest), pick, prompt)
    if not place and (found := _LEADING.match(rest)):
        place, rest = _place(found["where"]), rest[found.end() :]
    head = _ARTICLE.sub("", rest).strip()
    other = None if other is None else _ARTICLE.sub("", other).strip()
    local = re.search(rf"\b(?:{_LOCAL})\b", prompt.lower()) and not re.search(rf"\b(?:{_RANKING})\b", head)
    if local and not strict and pick is None and not place:
        return Expression(" ".join(prompt.split()))
    _refuse(prompt, head, other)
    return Expression(head, pick, place, other)


def _superlative(rest: str, pick: Pick | None, prompt: str) -> tuple[str, Pick | None]:
    word, _, thing = rest.partition(" ")
    if word not in _PICKS:
        return rest, pick
    if pick is not None:
        msg = f"Prompt {prompt!r} has two superlatives; which counts first cannot be told."
        raise PromptError(msg, f"geovl settles {SUPPORTED}.")
    return thing, _PICKS[word]


def _place(words: str) -> tuple[str, ...]:
    """Return the sides that words name, rows before columns."""
    if words in _MIDDLE:
        return ("middle",)
    sides = {side for word in re.split(r"[\s-]+", words) for side in _SHORT.get(word, _SIDES.get(word, "")).split()}
    return tuple(side for side in ("top", "bottom", "left", "right") if side in sides)


def _refuse(prompt: str, head: str, other: str | None) -> None:
    """Raise for what is left that no rule reads."""
    found = next((m for part in (head, other or "") if (m := _BEYOND.search(part))), None)
    if found or not head or other == "":
        what = f"holds {found[0]!r}" if found else "names no thing"
        msg = f"Prompt {prompt!r} {what}, which geovl cannot settle."
        raise PromptError(msg, f"It settles {SUPPORTED}.")


@dataclass(frozen=True, slots=True)
class Objects:
    """Things of one kind in a scene; each array is float64 (n,)."""

    area: Floats
    """In any unit."""
    x: Floats
    """Of the centroid, 0 at the left border to 1 at the right one."""
    y: Floats
    """0 at the top to 1 at the bottom."""
    gap: Floats
    """Distance to the nearest of the other things, as a share of the longer side; infinity where there is none."""


def chosen(expression: Expression, objects: Objects) -> NDArray[np.bool_]:
    """Return which objects an expression means: bool (n,).

    Nearness is asked first, then place, then the superlative among what is left. Of equals the first is taken.
    """
    keep = np.ones(len(objects.area), np.bool_)
    if expression.other is not None and expression.pick != "nearest":
        keep &= objects.gap <= NEAR
    for side in expression.place:
        keep &= _lies(side, objects)
    if expression.pick is not None and keep.any():
        keys = _keys(expression.pick, objects)
        best = int(np.flatnonzero(keep)[np.argmin(keys[keep])])
        keep = (np.arange(len(keep)) == best) & bool(np.isfinite(keys[best]))
    return keep


def _lies(side: str, objects: Objects) -> NDArray[np.bool_]:
    if side == "middle":
        low, high = CENTRE
        return (low <= objects.x) & (objects.x <= high) & (low <= objects.y) & (objects.y <= high)
    along = objects.x if side in {"left", "right"} else objects.y
    return along < 0.5 if side in {"left", "top"} else along > 0.5


def _keys(pick: Pick, objects: Objects) -> Floats:
    """Return what is least for the object that a superlative means, float64 (n,)."""
    keys: dict[Pick, Floats] = {
        "largest": -objects.area, "smallest": objects.area, "leftmost": objects.x, "rightmost": -objects.x,
        "topmost": objects.y, "bottommost": -objects.y, "nearest": objects.gap,
    }  # fmt: skip
    return keys[pick]
