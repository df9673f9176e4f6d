"""What a text-as-mask model can be told, by its record or by ``--set name=value``."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from geovl.errors import UsageError
from geovl.segmenters.text_as_mask.dialects import DIALECTS
from geovl.segmenters.text_as_mask.prompts import ENVELOPES, SHARES, Share

Upsample = Literal["guided", "linear", "nearest"]
Relay = Literal["auto", "on", "off"]
Precision = Literal["float32", "bf16", "fp16"]
_YES, _NO = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


@dataclass(frozen=True, slots=True)
class Settings:
    """Options of the backend ``text-as-mask``.

    Raises:
        UsageError: A value out of its range.
    """

    grid: int = 16
    """Rows and columns of a mask: what the checkpoint was trained on."""
    dialect: str = "text4seg"
    """How it spells; see :mod:`~geovl.segmenters.text_as_mask.dialects`."""
    constrained: bool = True
    """Whether it is held to the grammar while it writes. Checkpoints that were trained on it may do without."""
    instructed: bool = True
    """Whether it is told the format: not needed by checkpoints that were trained on it."""
    lists_background: bool = True
    """Whether a list of classes begins with the word for the background."""
    envelope: str = ""
    """What stands around questions, where it is not what the chat template of the checkpoint says."""
    share: Share = "tile"
    """What stands first, and is computed once for all that have it: ``tile``, the picture, as models are trained;
    ``class-list``, the question."""
    relay: Relay = "auto"
    """Whether a shared beginning is read once for a whole batch at each step (relay attention)."""
    upsample: Upsample = "guided"
    """How cells become pixels."""
    sam: str = ""
    """Folder or repository of a SAM, SAM 2 or SAM 3 that draws the outlines; none: ``upsample`` does."""
    zoom: bool = False
    """Whether each thing that is found is asked again on a crop around it."""
    side: int = 0
    """Pixels of a side of the square that the model is shown, for models that take any; 0 is 16 tokens."""
    tokens: int = 0
    """Of an answer, at most; 0 is what the worst grid would take, 3069 at most."""
    precision: Precision = "float32"
    endpoint: str = ""
    """Address of a server that runs the model; empty: this process does."""
    served: str = ""
    """What the server calls the model, where it is not the name of its weights."""
    concurrency: int = 8
    """Questions that are under way to a server at once."""
    timeout: float = 300.0
    """Seconds for one answer of a server."""

    def __post_init__(self) -> None:
        words: dict[str, tuple[str, ...]] = {
            "dialect": tuple(DIALECTS), "envelope": ("", *ENVELOPES), "share": SHARES, "relay": get_args(Relay),
            "upsample": get_args(Upsample), "precision": get_args(Precision),
        }  # fmt: skip
        for name, allowed in words.items():
            if getattr(self, name) not in allowed:
                msg = f"{name} is {getattr(self, name)!r}; expected {', '.join(filter(None, allowed))}."
                raise UsageError(msg)
        for name, least, most in (("grid", 1, 64), ("side", 0, 4096), ("tokens", 0, 100_000), ("concurrency", 1, 1024)):
            if not least <= getattr(self, name) <= most:
                msg = f"{name} is {getattr(self, name)}; it is {least} to {most}."
                raise UsageError(msg)
        if not 0 < self.timeout < float("inf"):
            msg = f"timeout is {self.timeout}; it is in seconds, more than 0."
            raise UsageError(msg)


def settings_of(options: Mapping[str, Any]) -> Settings:
    """Return the settings that options give.

    Raises:
        UsageError: An option that does not exist, or whose value cannot be.
    """
    usual = Settings()
    known = {entry.name for entry in fields(Settings)}
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known:
            msg = f"text-as-mask has no option {name!r}."
            raise UsageError(msg, f"Options: {', '.join(sorted(known))}")
        values[name] = _parsed(name, value, getattr(usual, name))
    return replace(usual, **values)


def _parsed(name: str, value: Any, usual: Any) -> Any:
    """Return a value in the type of the usual one; options of the command line are text."""
    if isinstance(usual, bool):
        if isinstance(value, bool):
            return value
        word = str(value).strip().lower()
        if word not in _YES | _NO:
            msg = f"{name} is {value!r}; expected true or false."
            raise UsageError(msg)
        return word in _YES
    if isinstance(usual, str):
        return str(value).strip()
    try:
        return type(usual)(value)
    except (TypeError, ValueError):
        msg = f"{name} is {value!r}; expected a number."
        raise UsageError(msg) from None
