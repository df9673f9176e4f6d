"""Sentences into which names are put before a text tower reads them."""

import hashlib
from collections.abc import Sequence
from importlib import import_module

from geovl.errors import ModelError, UsageError

SLOT = "{}"
"""Stands for the name in a template."""

REMOTE_SENSING: tuple[str, ...] = (
    "an aerial image of {}.",
    "an aerial photograph showing {}.",
    "an orthophoto with {} in it.",
    "a satellite image of {}.",
    "a high-resolution satellite picture of the {}.",
    "a blurry satellite picture of {}.",
    "{} as seen by a satellite.",
    "an overhead view of {}.",
    "an overhead view of a scene with {}.",
    "{} from directly above.",
    "a bird's-eye view of {}.",
    "a drone image of {}.",
    "a picture of {} taken by a drone.",
    "{} on the ground, photographed from a plane.",
    "remote sensing imagery of {}.",
)
"""Views from above, in our own words."""

_PLAIN: tuple[str, ...] = ("a photo of a {}.",)

SETS = ("imagenet", "remote-sensing", "plain")
"""Names of the sets of templates: the 80 of the published results, :data:`REMOTE_SENSING`, a single photo."""


def templates(name: str = "imagenet") -> tuple[str, ...]:
    """Return a set of templates, each with one :data:`SLOT`.

    Raises:
        UsageError: No such set.
        ModelError: open_clip, which holds the 80, is not installed or has other ones.
    """
    if name not in SETS:
        msg = f"There is no set of templates {name!r}; known are {', '.join(SETS)}."
        raise UsageError(msg)
    return {"remote-sensing": REMOTE_SENSING, "plain": _PLAIN}.get(name) or _imagenet()


def _imagenet() -> tuple[str, ...]:
    try:
        module = import_module("open_clip.zero_shot_metadata")
    except ImportError as error:
        msg = f"The templates of ImageNet are part of open_clip, which cannot be loaded: {error}."
        raise ModelError(msg, 'Install it: pip install "geovl[torch]"') from error
    found = tuple(template(SLOT) for template in module.OPENAI_IMAGENET_TEMPLATES)
    if len(found) != 80 or any(template.count(SLOT) != 1 for template in found):
        msg = f"open_clip has {len(found)} templates of ImageNet; expected 80 with one place for a name each."
        raise ModelError(msg, "Install open_clip_torch 2.26 or later.")
    return found


def fill(template: str, name: str) -> str:
    """Put a name into a template; braces in the name mean nothing."""
    return template.replace(SLOT, name)


def digest(chosen: Sequence[str]) -> str:
    """Return a hex digest of templates that depends on their words but not on their order, which does not matter."""
    return hashlib.sha256("\n".join(sorted(chosen)).encode()).hexdigest()
