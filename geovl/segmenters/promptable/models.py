"""The networks of the SAM family through transformers: loaded from a folder or the Hub, asked in batches.

| ``model_type`` in config.json | network | picture on its canvas |
| --- | --- | --- |
| ``sam`` | SAM | keeps its shape, padded below or to the right |
| ``sam2``, ``sam2_video`` | SAM 2 and 2.1 | stretched to the square |
| ``sam3_tracker``, ``sam3_video`` | the part of SAM 3 that is asked by points | stretched to the square |

Weights are read without running code and every one of them must be there: transformers itself would fill up what is
missing by chance. Pictures are prepared as transformers' processors do it.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from geovl import weights
from geovl.errors import ModelError, OutOfMemoryError
from geovl.segmenters.open_vocabulary.checkpoints import IMAGENET_MEAN, IMAGENET_STD
from geovl.segmenters.open_vocabulary.tensors import (
    CONFIG,
    PREPROCESSOR,
    WEIGHTS,
    Triple,
    read_json,
    read_tensors,
    triple,
    weight_files,
)
from geovl.segmenters.promptable.prompts import Prompt, fitted
from geovl.weights import Origin, Progress

_HALVES: Triple = (0.5, 0.5, 0.5)
_KNOWN = (
    "Known are SAM, SAM 2 and SAM 3, for example hf-hub:facebook/sam-vit-huge or hf-hub:facebook/sam2.1-hiera-large."
)
_EXTRA = 'pip install "geovl[torch]"'
_BATCH = 8  # objects asked about at once; SAM's decoder takes some 50 MB for each


@dataclass(frozen=True, slots=True)
class _Family:
    network: str
    """The class in transformers."""
    since: str
    """The version of transformers that has it."""
    padded: bool
    mean: Triple
    """Per channel of RGB in [0, 1], where no file tells it."""
    std: Triple


_SAM = _Family("SamModel", "4.44", padded=True, mean=IMAGENET_MEAN, std=IMAGENET_STD)
_SAM2 = _Family("Sam2Model", "4.56", padded=False, mean=IMAGENET_MEAN, std=IMAGENET_STD)
_SAM3 = _Family("Sam3TrackerModel", "5.0", padded=False, mean=_HALVES, std=_HALVES)
_FAMILIES = {"sam": _SAM, "sam2": _SAM2, "sam2_video": _SAM2, "sam3_tracker": _SAM3, "sam3_video": _SAM3}


@dataclass(frozen=True, slots=True)
class Frame:
    """How a picture lies on the square canvas of a network."""

    side: int
    """Of the canvas, in pixels of the network's input."""
    logits: int
    """Side of the canvas of logits, which covers the same ground."""
    padded: bool
    """Whether pictures keep their shape and the rest is padding; they are stretched otherwise."""

    def content(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the canvas that a picture of height and width ``size`` takes, from the corner."""
        return fitted(size, self.side) if self.padded else (self.side, self.side)

    def placed(self, places: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.float32]:
        """Return where pixels (..., 2), x first, of a picture lie on the canvas."""
        height, width = self.content(size)
        scale = np.array([width / size[1], height / size[0]])
        return np.asarray(places * scale, np.float32)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a network says about one prompt."""

    logits: Tensor
    """float32 (side, side) of the canvas of logits, above 0 inside."""
    predicted_iou: float
    """What the network believes the IoU of its mask with the truth to be; SAM may say somewhat more than 1."""


class Picture:
    """A picture that can be asked about; the network looks at it once, when something is first asked."""

    def __init__(self, segmenter: "PromptableSegmenter", pixels: NDArray[np.uint8]) -> None:
        if pixels.ndim != 3 or pixels.shape[0] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            msg = f"Pixels must be uint8 (3, height, width), got {pixels.dtype} {pixels.shape}"
            raise ValueError(msg)
        self._segmenter = segmenter
        self._pixels = pixels
        self.size: tuple[int, int] = (pixels.shape[1], pixels.shape[2])

    @cached_property
    def features(self) -> tuple[Tensor, ...]:
        """What the network keeps of it: maps (1, channels, rows, columns), finest first."""
        found: tuple[Tensor, ...] = self._segmenter.features(self._pixels)
        return found


class PromptableSegmenter:
    """A network of the SAM family.

    Args:
        network: The network, as transformers has it.
        frame: How pictures lie on its canvas.
        mean: Per channel of RGB in [0, 1].
        std: Per channel.
    """

    def __init__(self, network: Any, frame: Frame, mean: Triple, std: Triple) -> None:
        self.frame = frame
        self._network = network
        self._mean, self._std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))

    def embed(self, pixels: NDArray[np.uint8]) -> Picture:
        """Return a picture, uint8 RGB (3, height, width), that can be asked about any number of times.

        Raises:
            ValueError: Pixels of another shape or type.
        """
        return Picture(self, pixels)

    def features(self, pixels: NDArray[np.uint8]) -> tuple[Tensor, ...]:
        """Look at a picture, uint8 RGB (3, height, width); this is the expensive part.

        Raises:
            OutOfMemoryError: The picture does not fit into the memory of the device.
        """
        with _memory(), torch.no_grad():
            found = self._network.get_image_embeddings(
                self._prepared(pixels).to(self._network.device, self._network.dtype)
            )
        return (found,) if isinstance(found, Tensor) else tuple(found)

    def _prepared(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Return a picture as the network takes it: float32 (1, 3, side, side), 0 in the padding."""
        given = torch.tensor(np.ascontiguousarray(pixels))[None]
        height, width = self.frame.content((pixels.shape[1], pixels.shape[2]))
        # whole numbers are resampled, as the processors do it and the original code of SAM did
        resized = functional.interpolate(given, (height, width), mode="bilinear", antialias=True)
        canvas = torch.zeros(1, 3, self.frame.side, self.frame.side)
        canvas[..., :height, :width] = (resized / 255 - self._mean) / self._std
        return canvas

    def predict(self, picture: Picture, prompts: Sequence[Prompt], rounds: int = 3) -> list[Answer]:
        """Ask about objects, each by itself.

        Args:
            picture: What :meth:`embed` gave.
            prompts: One for each object; their logits of side ``frame.logits``.
            rounds: How often each is asked, at least once; the logits of an answer take the place of the prompt's.

        Returns:
            One for each prompt.

        Raises:
            OutOfMemoryError: A batch does not fit into the memory of the device.
        """
        found: dict[int, Answer] = {}
        for batch in _batches(prompts):
            with _memory(), torch.no_grad():
                answers = self._asked(picture, [prompts[index] for index in batch], rounds)
            found |= zip(batch, answers, strict=True)
        return [found[index] for index in range(len(prompts))]

    def _asked(self, picture: Picture, prompts: Sequence[Prompt], rounds: int) -> list[Answer]:
        """Ask about objects that have the same number of points."""
        given = self._inputs(picture, prompts)
        for _ in range(rounds):
            said = self._network(**given, multimask_output=False)
            given["input_masks"] = said.pred_masks[:, 0]  # (objects, 1, side, side)
        logits, scores = said.pred_masks[:, 0, 0].float(), said.iou_scores.flatten().tolist()
        return [Answer(*answer) for answer in zip(logits, scores, strict=True)]

    def _inputs(self, picture: Picture, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Return what the network is called with: every object is a picture of its own with the same features."""
        count, to = len(prompts), {"device": self._network.device}
        places = np.stack([np.concatenate([prompt.positives, prompt.negatives]) for prompt in prompts])
        corners = np.array([prompt.box for prompt in prompts]).reshape(count, 2, 2)
        labels = [[1] * len(prompt.positives) + [0] * len(prompt.negatives) for prompt in prompts]
        logits = torch.tensor(np.stack([prompt.logits for prompt in prompts]))
        features = [level.expand(count, -1, -1, -1) for level in picture.features]
        return {
            "input_points": torch.tensor(self.frame.placed(places, picture.size), **to)[:, None],
            "input_labels": torch.tensor(labels, dtype=torch.int64, **to)[:, None],
            "input_boxes": torch.tensor(self.frame.placed(corners, picture.size), **to).view(count, 1, 4),
            "input_masks": logits[:, None].to(self._network.device, self._network.dtype),
            "image_embeddings": features if len(features) > 1 else features[0],
        }

    def enlarged(self, logits: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
        """Return the logits of an answer, (side, side), at the pixels of the picture: float32 (height, width)."""
        whole = logits[None, None]
        if self.frame.padded:
            height, width = self.frame.content(size)
            whole = _resized(whole, (self.frame.side, self.frame.side))[..., :height, :width]
        found: NDArray[np.float32] = _resized(whole, size)[0, 0].cpu().numpy()
        return found


def _resized(values: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(values, size, mode="bilinear", align_corners=False)


def _batches(prompts: Sequence[Prompt]) -> Iterator[list[int]]:
    """Put together prompts with the same number of points: points that only fill up would be attended to."""
    alike = defaultdict(list)
    for index, prompt in enumerate(prompts):
        alike[len(prompt.positives), len(prompt.negatives)].append(index)
    for indices in alike.values():
        for begin in range(0, len(indices), _BATCH):
            yield indices[begin : begin + _BATCH]


@contextmanager
def _memory() -> Iterator[None]:
    """Tell what torch raises when memory is short, which is an error of its own on CUDA only."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or re.search(r"out of memory|n't allocate", str(error)):
            msg = f"SAM does not fit into the memory of the device: {str(error).partition('.')[0]}."
            raise OutOfMemoryError(msg, "Use a smaller SAM, or --device cpu.") from error
        raise


# ------------------------------------------------------------------------------------------------------------- loading


def load(
    source: str | Path,
    device: str | torch.device = "cpu",
    *,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> PromptableSegmenter:
    """Load a network of the SAM family.

    Args:
        source: A folder as transformers' ``save_pretrained`` writes it, or a repository of the Hub, with or without
            ``hf-hub:`` before and ``@revision`` behind it.
        device: Where to put it.
        dtype: The type to compute in.
        progress: Told of downloads.

    Raises:
        NotThereError: A file is missing and cannot be downloaded.
        ModelError: transformers is missing or too old, or what is there is no such network, is damaged or incomplete.
    """
    what, files = _located(str(source), progress)
    config = read_json(files[CONFIG])
    family = _family(config, str(source))
    tensors: dict[str, Tensor] = {}
    for path in weight_files(what, files, progress):
        tensors |= read_tensors(path)
    network = _built(_network_class(family), config, tensors, str(source)).to(device=device, dtype=dtype).eval()
    told = read_json(files[PREPROCESSOR]) if PREPROCESSOR in files else {}
    mean, std = triple(told.get("image_mean"), family.mean), triple(told.get("image_std"), family.std)
    return PromptableSegmenter(network.requires_grad_(requires_grad=False), _frame(network.config, family), mean, std)


def _located(source: str, progress: Progress | None) -> tuple[Origin, dict[str, Path]]:
    """Return where a network is from, and its files by name: a configuration and weights at least."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        here = [name for name in (CONFIG, *WEIGHTS, PREPROCESSOR) if (folder / name).is_file()]
        _complete(here, source)
        return weights.origin(folder), {name: folder / name for name in here}
    if folder.exists() or not re.fullmatch(r"(hf-hub:)?\w[\w.-]*/[\w.-]+(@[\w.-]+)?", source):
        msg = f"{source!r} is no folder and no hf-hub:owner/name."
        raise ModelError(msg, f"Name a folder as transformers' save_pretrained writes it. {_KNOWN}")
    named = weights.origin(f"hf-hub:{source.removeprefix('hf-hub:')}")
    what = replace(named, needed=((CONFIG,), WEIGHTS), optional=(PREPROCESSOR,))
    return what, {file.name: file.path for file in weights.fetch(what, progress)}


def _complete(names: Iterable[str], source: str) -> None:
    names = set(names)
    if CONFIG not in names:
        msg = f"There is no {CONFIG} in {source}."
        raise ModelError(msg, f"Name a folder as transformers' save_pretrained writes it. {_KNOWN}")
    if not names & set(WEIGHTS):
        msg = f"There are no weights in {source}; expected {' or '.join(WEIGHTS)}."
        raise ModelError(msg, f"Put the file beside {CONFIG}.")


def _family(config: Mapping[str, Any], source: str) -> _Family:
    kind = config.get("model_type")
    if kind not in _FAMILIES:
        msg = f"{source} is a model of type {kind!r}; expected {', '.join(_FAMILIES)}."
        raise ModelError(msg, _KNOWN)
    return _FAMILIES[kind]


def _network_class(family: _Family) -> Any:
    try:
        library = import_module("transformers")
    except ImportError as error:
        msg = f"SAM needs the package transformers, which cannot be loaded: {error}."
        raise ModelError(msg, f"Install it: {_EXTRA}") from error
    if not hasattr(library, family.network):
        msg = f"transformers {library.__version__} has no {family.network}; expected {family.since} or later."
        raise ModelError(msg, f'Install a later one: pip install -U "transformers>={family.since}"')
    return getattr(library, family.network)


def _built(network: Any, config: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> Any:
    """Make a network of a configuration and weights, and see that all its weights are there."""
    strict = import_module("huggingface_hub.errors")
    wrong = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError)
    wrong += (strict.StrictDataclassError,) if hasattr(strict, "StrictDataclassError") else ()
    try:
        with _quiet():
            built, report = network.from_pretrained(
                None,
                config=network.config_class.from_dict(dict(config)),
                state_dict=dict(tensors),
                output_loading_info=True,
            )
    except wrong as error:
        told = str(error).strip().partition("\n")[0] or type(error).__name__
        msg = f"{source} is damaged: its {CONFIG} and its weights do not make a {network.__name__}: {told}."
        raise ModelError(msg, "Get it again.") from error
    missing = sorted(report["missing_keys"])
    if missing:
        msg = f"{source} lacks {len(missing)} of the weights of a {network.__name__}, {missing[0]} among them."
        raise ModelError(msg, "Get it again.")
    return built


def _frame(config: Any, family: _Family) -> Frame:
    """Return the geometry that a configuration tells: four logits along each side of a patch."""
    prompts = config.prompt_encoder_config
    side, patch = (value if isinstance(value, int) else value[0] for value in (prompts.image_size, prompts.patch_size))
    return Frame(side, 4 * side // patch, family.padded)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from telling what is told here in words of ours, or is of no use."""
    told = import_module("transformers.utils.logging")
    level, bars = told.get_verbosity(), told.is_progress_bar_enabled()
    told.set_verbosity(told.CRITICAL)
    told.disable_progress_bar()
    try:
        yield
    finally:
        told.set_verbosity(level)
        if bars:
            told.enable_progress_bar()
