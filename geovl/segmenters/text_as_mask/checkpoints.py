"""Checkpoints of multimodal language models: their files, and what transformers makes of them.

Nothing is loaded that could run code: weights are safetensors, and code that comes with a checkpoint is never run.
Every weight must be there, as transformers itself would fill up what is missing by chance.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geovl import weights
from geovl.errors import ModelError
from geovl.segmenters.open_vocabulary.tensors import CONFIG, read_json, read_tensors, weight_files
from geovl.weights import Origin, Progress

KNOWN = "Known are LLaVA-1.5, Qwen2-VL, Qwen2.5-VL, Qwen3-VL, InternVL and PaliGemma as transformers has them."
_, SAFE, _TOKENIZERS = weights.WHOLE_MODEL
"""Names of weights that hold nothing but tensors; the second names the parts that they are in."""

_EXTRA = 'pip install "geovl[torch]"'
_AGAIN = "Get it again."
_SAVED = "A folder as transformers' save_pretrained writes it is expected."
_CONVERT = "Where you trust it, load it with transformers and save_pretrained() it elsewhere."
_GENERATION = "generation_config.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_WRONG = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError, OSError, ImportError)
"""What transformers raises on files that are missing, damaged or do not fit each other."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The files of a model."""

    source: str
    """As messages call it."""
    folder: Path
    """Where all of them are."""
    what: Origin
    files: Mapping[str, Path]
    """Name to path."""
    config: Mapping[str, Any]
    """What ``config.json`` says."""

    @property
    def family(self) -> str:
        """``model_type``; that of early files of the original LLaVA code is also that of transformers' LLaVA."""
        kind = str(self.config.get("model_type"))
        return "llava_llama" if kind == "llava" and "mm_vision_tower" in self.config else kind


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """What transformers made of a checkpoint."""

    model: Any
    tokenizer: Any
    processor: Any
    """Of texts and pictures; of pictures alone where the checkpoint has no other."""
    files: tuple[Path, ...]
    """Its weights."""


def library() -> Any:
    """Return transformers.

    Raises:
        ModelError: It cannot be loaded, or is too old.
    """
    try:
        found = import_module("transformers")
    except ImportError as error:
        msg = f"Multimodal language models need the package transformers, which cannot be loaded: {error}."
        raise ModelError(msg, f"Install it: {_EXTRA}") from error
    if not hasattr(found, "Qwen3VLConfig"):
        msg = f"Multimodal language models need transformers 4.57 or later, here is {found.__version__}."
        raise ModelError(msg, 'Install a later one: pip install -U "transformers>=4.57"')
    return found


def locate(source: str, progress: Progress | None = None) -> Checkpoint:
    """Return the files of a checkpoint, downloaded where they are not here: all but parts of weights.

    Args:
        source: A folder, or a repository of the Hub with or without ``hf-hub:`` before and ``@revision`` behind it.
        progress: Told of downloads.

    Raises:
        NotThereError: A file is missing and cannot be downloaded.
        ModelError: There is nothing, or not all that belongs to a model.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        what = weights.origin(folder)
        files = {path.name: path for path in folder.iterdir() if path.is_file()}
    else:
        what = _on_hub(source)
        files = {file.name: file.path for file in weights.fetch(what, progress)}
        folder = _common(source, files)
    if "adapter_config.json" in files and CONFIG not in files:
        msg = f"{source} is an adapter, not a model."
        raise ModelError(msg, "Merge it into its model first: PEFT's merge_and_unload(), then save_pretrained().")
    for names, part in (((CONFIG,), "configuration"), (SAFE, "weights"), (_TOKENIZERS, "tokenizer")):
        if not any(name in files for name in names):
            raise _missing(source, names, part, files)
    return Checkpoint(source, folder, what, files, read_json(files[CONFIG]))


def _on_hub(source: str) -> Origin:
    name = source.removeprefix("hf-hub:")
    if name == source and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        msg = f"{source!r} is no folder and no hf-hub:owner/name."
        raise ModelError(msg, _SAVED)
    return weights.whole_model(f"hf-hub:{name}")


def _common(source: str, files: Mapping[str, Path]) -> Path:
    """Return the folder that all files are in: transformers reads one."""
    folders = sorted({path.parent for path in files.values()})
    if len(folders) > 1:
        msg = f"The files of {source} are in {' and '.join(map(str, folders))}; expected one folder."
        raise ModelError(msg, f"Put all of them into {folders[0]}.")
    return folders[0]


def _missing(source: str, names: Sequence[str], part: str, files: Mapping[str, Path]) -> ModelError:
    pickled = next((name for name in _PICKLES if name in files), None)
    if names == SAFE and pickled is not None:
        msg = f"The weights of {source} are in {pickled}, which could run code; expected {' or '.join(names)}."
        return ModelError(msg, _CONVERT)
    return ModelError(f"There is no {' or '.join(names)} in {source}: no {part}.", f"{_SAVED} {KNOWN}")


# Weights


def read_weights(
    checkpoint: Checkpoint, progress: Progress | None = None
) -> tuple[dict[str, Tensor], tuple[Path, ...]]:
    """Return the tensors of a checkpoint by name, and the files they are in.

    Raises:
        NotThereError: A part is missing.
        ModelError: A file is damaged, or no safetensors.
    """
    safe = {name: checkpoint.files[name] for name in SAFE if name in checkpoint.files}
    paths = weight_files(checkpoint.what, safe, progress)
    tensors: dict[str, Tensor] = {}
    for path in paths:
        if path.suffix != ".safetensors":
            msg = f"The weights of {checkpoint.source} are in {path.name}, which could run code; expected safetensors."
            raise ModelError(msg, _CONVERT)
        tensors |= read_tensors(path)
    return tensors, paths


def build(network: Any, config: Any, tensors: Mapping[str, Tensor], source: str, dtype: torch.dtype) -> Any:
    """Make a network of a configuration and weights, and see that all its weights are there.

    Args:
        network: Its class in transformers.
        config: Its configuration.
        tensors: Its weights by name.
        source: As messages call it.
        dtype: The type to compute in. Tables of rotary positions stay float32.

    Raises:
        ModelError: They do not fit, or some are missing.
    """
    with told(f"{source} is damaged: its {CONFIG} and its weights do not make a {network.__name__}"), quiet():
        model, report = network.from_pretrained(
            None, config=config, state_dict=dict(tensors), dtype=dtype, output_loading_info=True
        )
    missing = sorted(report["missing_keys"])
    if missing:
        msg = f"{source} lacks {len(missing)} of the weights of a {network.__name__}, {missing[0]} among them."
        raise ModelError(msg, _AGAIN)
    return model


def load_part(kind: Any, checkpoint: Checkpoint, part: str) -> Any:
    """Return what belongs to a checkpoint beside its network.

    Args:
        kind: One of transformers' auto classes.
        checkpoint: The checkpoint.
        part: Word for it.

    Raises:
        ModelError: It cannot be loaded.
    """
    pieces = "tokenizer.json" not in checkpoint.files and "tokenizer.model" in checkpoint.files
    hint = "To read tokenizer.model packages are needed: pip install sentencepiece protobuf" if pieces else _AGAIN
    with told(f"The {part} of {checkpoint.source} cannot be loaded", hint), quiet():
        return kind.from_pretrained(checkpoint.folder, trust_remote_code=False, local_files_only=True)


def load_plain(checkpoint: Checkpoint, dtype: torch.dtype, progress: Progress | None = None) -> Loaded:
    """Load a checkpoint as transformers' ``save_pretrained`` writes it.

    Raises:
        NotThereError: A part of its weights is missing and cannot be downloaded.
        ModelError: It is no multimodal language model, needs code of its own, is damaged or incomplete.
    """
    config, network = _classes(checkpoint)
    processor = load_part(library().AutoProcessor, checkpoint, "processor")
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or getattr(processor, "image_processor", None) is None:
        msg = f"{checkpoint.source} has no processor of texts and pictures, only a {type(processor).__name__}."
        raise ModelError(msg, "Put its processor_config.json or preprocessor_config.json beside its weights.")
    if getattr(config, "image_token_id", None) is None:
        msg = f"The {CONFIG} of {checkpoint.source} does not say which token stands for pictures: image_token_id."
        raise ModelError(msg, KNOWN)
    tensors, paths = read_weights(checkpoint, progress)
    return Loaded(build(network, config, tensors, checkpoint.source, dtype), tokenizer, processor, paths)


def _classes(checkpoint: Checkpoint) -> tuple[Any, Any]:
    """Return the configuration of a checkpoint and the class of its network."""
    kind, source = checkpoint.config.get("model_type"), checkpoint.source
    configs, networks = library().CONFIG_MAPPING, library().MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if kind not in configs or configs[kind] not in networks:
        if "auto_map" in checkpoint.config:
            msg = f"{source} is a model of type {kind!r} that needs code of its own, which is never run."
            raise ModelError(msg, f"Take its conversion for transformers, often called -hf. {KNOWN}")
        msg = f"{source} is a model of type {kind!r}; expected a multimodal language model of transformers."
        raise ModelError(msg, f"{KNOWN} Here is transformers {library().__version__}.")
    with told(f"The {CONFIG} of {source} does not make sense"), quiet():
        config = configs[kind].from_dict(dict(checkpoint.config))
    return config, networks[configs[kind]]


# What configurations say


def context(config: Any) -> int | None:
    """Return the most tokens that a language model was made for, where its configuration tells it."""
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(found) if found else None


def stops(checkpoint: Checkpoint, config: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return the ids that end an answer, of whatever says some.

    Raises:
        ModelError: A file cannot be read.
    """
    named = read_json(checkpoint.files[_GENERATION]) if _GENERATION in checkpoint.files else {}
    ids = named.get("eos_token_id")
    if ids is None:
        ids = getattr(config.get_text_config(), "eos_token_id", None)
    found = [*(ids if isinstance(ids, list) else [ids]), tokenizer.eos_token_id]
    return tuple(sorted({int(each) for each in found if each is not None}))


# Words


@contextmanager
def told(what: str, hint: str = _AGAIN) -> Iterator[None]:
    """Turn what transformers raises on bad files into a sentence that begins with ``what``.

    Raises:
        ModelError: Something was raised.
    """
    strict = getattr(import_module("huggingface_hub.errors"), "StrictDataclassError", ValueError)
    try:
        yield
    except (*_WRONG, strict) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        msg = f"{what}: {reason.rstrip('.')}."
        raise ModelError(msg, hint) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from telling what is told here in words of ours, or is of no use."""
    log = import_module("transformers.utils.logging")
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
