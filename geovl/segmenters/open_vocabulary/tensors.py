"""Files of weights of any network: tensors by name without running code, and the files that are saved beside them.

Where files come from, and what is told when they are not there, is :mod:`geovl.weights`'.
"""

import json
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from geovl import weights
from geovl.errors import ModelError
from geovl.weights import Origin, Progress

Triple = tuple[float, float, float]
CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin", INDEX)
"""Names of weights as transformers and timm save them; the last one names the parts that they are in."""
FORMATS = (".safetensors", ".bin", ".pt", ".pth")
"""Endings of files of tensors."""
_DAMAGED = (
    *(SafetensorError, zipfile.BadZipFile, struct.error, EOFError, OSError),
    *(RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError),
)
"""What the readers raise on damaged files; the second row is a pickle's machine that was led astray."""
_SAVED = "Get the .safetensors file, or save its state_dict alone where you trust it."


def read_tensors(path: Path, nested: Sequence[str] = ("state_dict",), scripted: str = _SAVED) -> dict[str, Tensor]:
    """Read tensors by name, and run no code.

    Tensors may stay mapped to the file. Prefixes of wrappers (``module.``, ``_orig_mod.``) are removed.

    Args:
        path: Safetensors, or what torch.save made of tensors alone or of a checkpoint of training.
        nested: Under which keys a checkpoint of training has the tensors.
        scripted: What to do about a TorchScript archive, which holds code.

    Raises:
        ModelError: It is damaged, would run code, or holds no tensors by name.
    """
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            archive = zipfile.is_zipfile(path)
            if archive:
                _refuse_archive(path, scripted)
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        msg = f"{path} holds more than tensors, or is no checkpoint: it is not read, as that could run code from it."
        raise ModelError(msg, _SAVED) from error
    except _DAMAGED as error:
        told = str(error).strip().partition("\n")[0] or type(error).__name__
        msg = f"{path} is damaged or no file of weights: {told}."
        raise ModelError(msg, "Get the file again.") from error
    for key in nested:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    named = found if isinstance(found, dict) else {}
    tensors = {_unwrapped(str(name)): value for name, value in named.items() if isinstance(value, Tensor)}
    if not tensors:
        msg = f"{path} holds no tensors by name."
        raise ModelError(msg, f"Expected a state_dict, alone or under the key {' or '.join(nested)}.")
    return tensors


def _refuse_archive(path: Path, scripted: str) -> None:
    """Refuse zip archives that are not what torch.save writes."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        msg = f"{path} is a TorchScript archive, which holds code: it is not loaded."
        raise ModelError(msg, scripted)
    if not any(name.endswith("data.pkl") for name in names):
        inside = [name for name in names if name.endswith(FORMATS)]
        msg = f"{path} is an archive{f' that holds {inside[0]}' if inside else ''}, no checkpoint."
        raise ModelError(msg, "Unpack it, and name the checkpoint that is in it.")


def _unwrapped(name: str) -> str:
    return re.sub(r"^(?:module\.|_orig_mod\.)+", "", name)


def read_json(path: Path) -> dict[str, Any]:
    """Read an object.

    Raises:
        ModelError: There is none.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror or error}."
        raise ModelError(msg, "Check the path.") from error
    except ValueError as error:
        msg = f"{path} cannot be read, it is not JSON: {error}."
        raise ModelError(msg, "Get the file again.") from error
    if not isinstance(found, dict):
        msg = f"{path} holds no object."
        raise ModelError(msg, "Get the file again.")
    return found


def weight_files(what: Origin, files: Mapping[str, Path], progress: Progress | None = None) -> tuple[Path, ...]:
    """Return the file of weights, or all parts that their index names, downloaded where they are not here.

    Args:
        what: Where the files are from.
        files: Those that are here by name, one of :data:`WEIGHTS` among them.
        progress: Told of downloads.

    Raises:
        NotThereError: A part is not there.
        ModelError: The index names no parts.
    """
    name = next(name for name in WEIGHTS if name in files)
    if name != INDEX:
        return (files[name],)
    needed = tuple((part,) for part in weights.parts(files[name]))
    return tuple(file.path for file in weights.fetch(replace(what, needed=needed, optional=()), progress))


def triple(values: Sequence[float] | None, default: Triple) -> Triple:
    """Return means or deviations of red, green and blue as files and records tell them.

    Raises:
        ModelError: They are not three.
    """
    if values is None:
        return default
    if len(values) != 3:
        msg = f"{len(values)} means or deviations were given; expected 3, of red, green and blue."
        raise ModelError(msg, "See config.json, preprocessor_config.json, open_clip_config.json or the record.")
    return float(values[0]), float(values[1]), float(values[2])
