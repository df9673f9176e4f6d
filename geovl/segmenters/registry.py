"""Backends by name: a table of import strings, merged with the entry points ``geovl.segmenters``.

Nothing heavy loads until a backend is used; other packages add theirs by an entry point. A
backend is called with a model's record and, unless it is ``auto``, the name of a device.
"""

from importlib import import_module
from importlib.metadata import entry_points
from typing import cast

from geovl.errors import ModelError, UsageError
from geovl.segmenters.base import Segmenter
from geovl.types import ModelRecord

_OPEN_VOCABULARY = "geovl.segmenters.open_vocabulary.segmenter:OpenVocabularySegmenter"

BUILTIN: dict[str, str] = {
    "nano": "geovl.segmenters.nano.segmenter:NanoSegmenter",
    "nano-text": "geovl.segmenters.nano_text.segmenter:NanoTextSegmenter",
    "clearclip": _OPEN_VOCABULARY,
    "proxyclip": _OPEN_VOCABULARY,
    "segearth-ov": _OPEN_VOCABULARY,
    "sclip": _OPEN_VOCABULARY,
    "maskclip": _OPEN_VOCABULARY,
    "text-as-mask": "geovl.segmenters.text_as_mask.segmenter:TextAsMaskSegmenter",
}

DEVICES = ("auto", "cpu", "cuda", "mps")


def known() -> dict[str, str]:
    """Return every backend: name to ``module:Class``. A built-in name cannot be taken over."""
    return {entry.name: entry.value for entry in entry_points(group="geovl.segmenters")} | BUILTIN


def load(record: ModelRecord, device: str = "auto") -> Segmenter:
    """Make the segmenter of a model.

    Args:
        record: The model.
        device: One of :data:`DEVICES`; ``auto`` is the fastest that is there.

    Raises:
        ModelError: The backend is unknown, what it needs is not installed, or it cannot use the device.
        UsageError: No such device.
    """
    if device not in DEVICES:
        msg = f"There is no device {device!r}; known are {', '.join(DEVICES)}."
        raise UsageError(msg)
    backends = known()
    if record.backend not in backends:
        msg = f"Model {record.id!r} needs the backend {record.backend!r}; known are {', '.join(sorted(backends))}."
        raise ModelError(msg)
    module, _, name = backends[record.backend].partition(":")
    try:
        factory = getattr(import_module(module), name)
    except ImportError as error:
        msg = f"Backend {record.backend!r} cannot be loaded: {error}."
        raise ModelError(msg, 'Install what it needs: pip install "geovl[torch]"') from error
    # a backend that has no choice of devices takes the record only
    return cast("Segmenter", factory(record) if device == "auto" else factory(record, device))
