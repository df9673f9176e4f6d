"""Devices of torch by the names that people give."""

import torch

from geovl.errors import ModelError


def torch_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` is a GPU where there is one.

    Raises:
        ModelError: It is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    if not there.get(name, False):
        have = ", ".join(kind for kind, found in there.items() if found)
        msg = f"The device {name!r} is not there; there is {have}."
        raise ModelError(msg, "Use --device auto.")
    return torch.device(name)
