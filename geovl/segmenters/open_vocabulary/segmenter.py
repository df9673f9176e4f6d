"""The open-vocabulary backends: CLIP's dense tokens against the vectors of prompts.

ClearCLIP (Lan et al., ECCV 2024), ProxyCLIP (Lan et al., ECCV 2024), the training-free parts of SegEarth-OV (Li et al.,
CVPR 2025), and the attentions of MaskCLIP and SCLIP with ClearCLIP's surgery, to compare with. All share windows,
text and the step from cosines to scores; they differ in what the last block of the image tower attends to.

A chip is one image of the published protocol: it is read in windows of ``crop`` pixels every ``stride`` pixels, whose
cosines are averaged. What lies beyond a chip is not seen; chips are blended where they overlap, as with every model.

The score of a class is how likely it is against the strongest of the background names, ``sigmoid(scale * (a - b))``
of the cosines of its best name and of theirs. So 0.5 means the same for any number of prompts: as much this as anything
else. Without a background it is the published softmax over all names, which depends on how many there are.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geovl import settings, weights
from geovl.errors import ModelError, OutOfMemoryError, PromptError, UsageError
from geovl.segmenters.devices import torch_device
from geovl.segmenters.open_vocabulary import dense, templates
from geovl.segmenters.open_vocabulary.attention import PAIRS, Variant, dense_tokens
from geovl.segmenters.open_vocabulary.clip import ClipModel, load_record
from geovl.segmenters.open_vocabulary.tensors import WEIGHTS
from geovl.segmenters.open_vocabulary.text import CacheKey, NameCache, embed_names
from geovl.segmenters.open_vocabulary.tower import Tower, packing_pays
from geovl.types import Chip, ModelRecord, PromptNote, Scores, Vocabulary

BACKGROUND = ("bare ground", "grass", "pavement", "road", "tree", "water", "cropland", "building")
"""What the ground is where it is nothing that was asked for: the classes of OpenEarthMap. A name that says the same as
a prompt is left out."""
NONE = "none"

Precision = Literal["float32", "bf16", "fp16"]
_TYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_MOST_NAMES = 4096
_BUDGET = 1.2e9  # bytes that the scores of a window may take on their way
_COPIES = 3  # of the scores of a window at once
_WIDEST = 1152  # pixels; side of a window of few classes


@dataclass(frozen=True, slots=True)
class Settings:
    """What an open-vocabulary model can be told, by its record or by ``--set name=value``."""

    attention: Variant = "qq"
    """What attends to what in the last block; see :data:`~geovl.segmenters.open_vocabulary.attention.PAIRS`."""
    residual: bool = False
    """Keep the last block's residual connection and feed-forward part."""
    bias: float = 0.0
    """Factor on the cosines of the whole window, added to those of its every token."""
    scale: float = 50.0
    """Factor on cosines before the softmax."""
    crop: int = 448
    """Side of a window in pixels."""
    stride: int = 224
    """Pixels from one window to the next."""
    templates: str = "imagenet"
    """Set of sentences around a name."""
    background: str = ", ".join(BACKGROUND)
    """Names that stand against the prompts, with commas; ``none`` for the published softmax over the prompts alone."""
    precision: Precision = "float32"
    vision: str = ""
    """Source of the vision network of ProxyCLIP; none for the other methods."""
    beta: float = 1.2
    """Threshold of ProxyCLIP on similarities, as a share of their mean."""
    gamma: float = 3.0
    """Inverse temperature of ProxyCLIP."""
    batch: int = 0
    """Windows encoded at once; 0 is one on a CPU, where more are slower, and eight elsewhere."""
    architecture: str = ""
    """Of open_clip, for weights that do not name theirs."""
    quick_gelu: bool | None = None
    """Activation, for weights that do not say theirs."""
    file: str = ""
    """Name of the weights in their repository or folder, where it is not the usual one."""


METHODS: Mapping[str, Settings] = {
    "clearclip": Settings(),
    "maskclip": Settings(attention="identity"),
    "sclip": Settings(attention="qq+kk"),
    "segearth-ov": Settings(attention="qq+kk+vv", bias=-0.3, crop=224, stride=112),
    "proxyclip": Settings(scale=40.0, crop=336, stride=112, vision="hf-hub:timm/vit_base_patch8_224.dino"),
}
"""Backend to what was published for it."""


def settings_of(backend: str, options: Mapping[str, Any]) -> Settings:
    """Return what a backend is told, options over what was published.

    Raises:
        UsageError: An option that does not exist, or whose value cannot be.
    """
    other = _OF_CLIP if backend == "proxyclip" else _OF_PROXY
    known = [entry.name for entry in fields(Settings) if entry.name not in other]
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known:
            msg = f"{backend} has no option {name!r}."
            raise UsageError(msg, f"Options: {', '.join(known)}")
        values[name] = _parsed(name, value, getattr(METHODS[backend], name))
    if "crop" in values and "stride" not in values:  # as densely as published
        values["stride"] = max(round(values["crop"] * METHODS[backend].stride / METHODS[backend].crop), 1)
    chosen = replace(METHODS[backend], **values)
    if backend == "proxyclip" and not chosen.vision.strip():
        msg = "proxyclip needs a vision network, and vision is empty."
        raise UsageError(msg, "For example --set vision=hf-hub:timm/vit_base_patch16_224.dino")
    words = {"attention": tuple(PAIRS), "templates": templates.SETS, "precision": get_args(Precision)}
    for name, allowed in words.items():
        if getattr(chosen, name) not in allowed:
            msg = f"{name} is {getattr(chosen, name)!r}; expected one of {', '.join(allowed)}."
            raise UsageError(msg)
    if chosen.crop < 1:
        msg = f"crop is {chosen.crop}; expected pixels, 1 or more."
        raise UsageError(msg)
    return chosen


_OF_PROXY = frozenset({"vision", "beta", "gamma"})
_OF_CLIP = frozenset({"attention", "residual", "bias"})


def told_of(backend: str, chosen: Settings) -> dict[str, str | int | float | bool]:
    """Return what of settings decides the result and is not as published: the same however it was said."""
    published = METHODS[backend]
    return {
        entry.name: getattr(chosen, entry.name)
        for entry in fields(Settings)
        if entry.name != "batch" and getattr(chosen, entry.name) != getattr(published, entry.name)
    }


def _parsed(name: str, value: Any, default: Any) -> Any:
    """Return an option's value in the type that it has; words come from the command line."""
    try:
        if isinstance(default, bool) or name == "quick_gelu":
            return None if value is None else {"true": True, "false": False}[str(value).lower()]
        if isinstance(default, int | float):
            number = float(value)
            if not isfinite(number) or (isinstance(default, int) and number != int(number)):
                raise ValueError
            return type(default)(number)
        if isinstance(value, list | tuple):
            return ", ".join(map(str, value))
        return str(value)
    except (KeyError, ValueError, TypeError):
        msg = f"{name} is {value!r}; expected a value like {default if default is not None else 'true'}."
        raise UsageError(msg) from None


class OpenVocabularySegmenter:
    """CLIP as a segmenter; see the module.

    Args:
        record: Names backend, source of the weights and options.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        ModelError: The weights are missing, damaged or of another kind, or the device is not there.
        UsageError: An option that cannot be.
    """

    multiple = 1  # windows inside a chip are padded, chips need not be

    def __init__(self, record: ModelRecord, device: str = "auto") -> None:
        self.settings = settings_of(record.backend, record.options)
        self._device = torch_device(device)
        dtype = _TYPES[self.settings.precision]
        told: dict[str, Any] = {name: getattr(self.settings, name) for name in ("architecture", "quick_gelu", "file")}
        self._clip: ClipModel = load_record(replace(record, options=told), device=self._device)
        pack = self._device.type == "cpu" and packing_pays()
        # the text tower stays float32: its vectors are kept and shared by all precisions
        self._tower = Tower(_cast(self._clip.model, dtype), pack=pack)
        self._vision = _vision(self.settings, self._device, dtype, pack=pack)
        self.halo = self._tower.patch
        step = self._tower.patch
        if self._vision is not None:
            from geovl.segmenters.open_vocabulary.proxyclip import common_multiple  # noqa: PLC0415

            step = common_multiple(step, self._vision.multiple)
        self._reading = dense.Options(
            self.settings.crop, self.settings.stride, step, self.settings.scale, self.settings.bias,
            batch=self.settings.batch or (1 if self._device.type == "cpu" else 8),
        )  # fmt: skip
        digest = self._clip.digest + _vision_digest(self.settings.vision)
        if record.digest not in {"", digest}:
            msg = f"The weights of {record.id} are not those with which the run was begun."
            raise ModelError(msg, "Put those back, or start anew with --no-resume.")
        self.record = replace(record, digest=digest, options=told_of(record.backend, self.settings))
        self._queries: dict[Vocabulary, dense.Queries] = {}

    def windows(self, classes: int) -> tuple[int, int]:
        """Return side and overlap of chips: whole windows of the method, as many as the scores of all classes allow."""
        crop, stride = self.settings.crop, self.settings.stride
        widest = min(_WIDEST, int((_BUDGET / (4 * _COPIES * (classes + 1))) ** 0.5))
        side = crop + max(0, (widest - crop) // stride) * stride
        return side, min(64 if classes <= 32 else 32, side // 3)

    def understand(self, vocabulary: Vocabulary) -> tuple[PromptNote, ...]:
        """Say that CLIP takes any words.

        Raises:
            PromptError: Too many names, or one longer than the text tower reads.
        """
        self._asked(vocabulary)
        return tuple(PromptNote(entry.name, "known", (), 1.0) for entry in vocabulary.classes)

    def segment(self, chips: Sequence[Chip], vocabulary: Vocabulary) -> list[Scores]:
        """Score chips; see :class:`geovl.segmenters.base.Segmenter`."""
        queries = self._asked(vocabulary)
        try:
            return [Scores(self._scored(chip, queries, len(vocabulary)), "probability") for chip in chips]
        except RuntimeError as error:  # torch has an error of its own for CUDA only
            if isinstance(error, torch.OutOfMemoryError) or re.search(r"out of memory|n't allocate", str(error)):
                raise OutOfMemoryError(
                    str(error).partition(".")[0], "Use a smaller --window, or --device cpu."
                ) from error
            raise

    def _scored(self, chip: Chip, queries: dense.Queries, classes: int) -> NDArray[np.float32]:
        """Return float32 (classes, height, width) in 0..1; 0 where the chip has no data."""
        image = self._image(chip)
        scores: Tensor
        if queries.count == classes:
            found = dense.segment_image(self._encode, queries, image, self._reading, class_scores=True).classes
            assert found is not None  # noqa: S101 - asked for
            scores = found
        else:
            cosines = dense.class_logits(self._encode, queries, image, self._reading)  # (classes + 1, h, w)
            against = cosines[classes].clone()
            scores = cosines[:classes].sub_(against).mul_(self.settings.scale).sigmoid_()
        out: NDArray[np.float32] = scores.float().cpu().numpy()
        if not chip.valid.all():
            out *= chip.valid
        return out

    def _image(self, chip: Chip) -> Tensor:
        """Return pixels as the image tower was trained on them, (3, h, w); those without data are the mean colour."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self._clip.mean, self._clip.std))
        image = (torch.from_numpy(chip.pixels).float().div_(255) - mean) / std
        return image * torch.from_numpy(chip.valid) if not chip.valid.all() else image

    def _encode(self, x: Tensor) -> dense.Encoding:
        """Encode windows (B, 3, h, w)."""
        if self._vision is None:
            tokens, whole = dense_tokens(self._tower, x, self.settings.attention, self.settings.residual)
            return dense.Encoding(tokens, self._tower.grid(*x.shape[2:]), whole)
        from geovl.segmenters.open_vocabulary.proxyclip import proxy_tokens  # noqa: PLC0415
        from geovl.segmenters.open_vocabulary.vision import renormalised  # noqa: PLC0415

        features = self._vision.features(renormalised(x, self._vision, self._clip.mean, self._clip.std))
        tokens = proxy_tokens(self._tower, x, features, self.settings.beta, self.settings.gamma)
        return dense.Encoding(tokens, (features.shape[2], features.shape[3]))

    def _asked(self, vocabulary: Vocabulary) -> dense.Queries:
        """Return the vectors of a vocabulary's names, and of the background's as one class more."""
        if vocabulary not in self._queries:
            names = [phrase for entry in vocabulary.classes for phrase in entry.phrases]
            places = [place for place, entry in enumerate(vocabulary.classes) for _ in entry.phrases]
            others = background(self.settings.background, names)
            names += others
            places += [len(vocabulary)] * len(others)
            if len(names) > _MOST_NAMES:
                msg = f"{len(names)} names were given; {self.record.id} takes {_MOST_NAMES} at once."
                raise PromptError(msg, "Ask in parts.")
            self._refuse_long(names)
            chosen = templates.templates(self.settings.templates)
            cache = NameCache(
                settings.cache_dir() / "names",
                CacheKey(self._clip.name, self._clip.digest, templates.digest(chosen)),
            )
            vectors = embed_names(self._clip.model, self._clip.tokenizer, names, chosen, cache)
            self._queries = {vocabulary: dense.Queries(vectors, tuple(places))}  # one run asks for one
        return self._queries[vocabulary]

    def _refuse_long(self, names: Sequence[str]) -> None:
        """Refuse names of which the text tower would read only the beginning."""
        longest = max(templates.templates(self.settings.templates), key=len)
        tokens = self._clip.tokenizer([templates.fill(longest, name) for name in names])
        for name, line in zip(names, tokens, strict=True):
            if int(line[-1]) != 0:  # the end of text reached the last place: what followed was cut off
                msg = f"{name[:60]!r}… is longer than the text tower of {self.record.id} reads."
                raise PromptError(msg, "Say it in fewer words.")


def background(told: str, names: Sequence[str]) -> list[str]:
    """Return the names that stand against those that were asked for.

    Args:
        told: Names with commas, or ``none``.
        names: What was asked for.

    Returns:
        Names; none where the published softmax over the prompts is wanted, or where the prompts name all of the
        ground themselves.

    Raises:
        PromptError: A name is empty, or the names say only what was asked for.
    """
    if told.strip().casefold() == NONE:
        return []
    words = list(dict.fromkeys(" ".join(word.split()) for word in told.split(",")))
    if not all(words):
        msg = f"The background {told!r} has an empty name."
        raise PromptError(msg, "Write names with commas between them, or none.")
    own = set(words) != set(BACKGROUND)
    # a contrast that says the same as a prompt would halve its every score; of names that somebody chose only the very
    # same are left out
    asked = {_singular(name) if own else _stem(name) for name in names}
    kept = [word for word in words if (_singular(word) if own else _stem(word)) not in asked]
    if own and not kept:
        msg = f"The background {told!r} names only what was asked for."
        raise PromptError(msg, "Name something else that the ground is, or none for the softmax over the prompts.")
    return kept


_SAME = {
    kind: name
    for name, kinds in {
        "bare ground": ("barren", "bareland", "bare land", "bare soil", "bare earth", "soil"),
        "grass": ("lawn", "meadow", "grassland", "pasture"),
        "pavement": ("asphalt", "paved surface", "runway", "taxiway", "apron"),
        "road": ("street", "highway", "motorway"),
        "tree": ("forest", "woodland", "woods"),
        "water": ("river", "lake", "sea", "pond", "water body"),
        "cropland": ("farmland", "field", "crop", "agricultural", "agriculture"),
        "building": ("house", "roof", "rooftop", "building footprint"),
    }.items()
    for kind in kinds
}
"""What says the same as a name of :data:`BACKGROUND`, or is all of it that is to be seen."""


def _singular(name: str) -> str:
    """Return a name without case and plural."""
    return " ".join(name.casefold().split()).removesuffix("s")


def _stem(name: str) -> str:
    """Return a name as the background calls it: by all of its words, or by the last."""
    word = " ".join(name.casefold().split())
    last = word.rpartition(" ")[2]
    for whole in (word, last):
        for candidate in (whole, whole.removesuffix("s"), whole.removesuffix("es")):
            if candidate in _SAME or candidate in BACKGROUND:
                return _SAME.get(candidate, candidate)
    return word


def _cast(model: Any, dtype: torch.dtype) -> Any:
    """Return the image tower in a type; a copy where that is not its own, as the text tower keeps its."""
    if dtype == torch.float32:
        return model
    from copy import deepcopy  # noqa: PLC0415

    return deepcopy(model.visual).to(dtype)


def _vision_digest(source: str) -> str:
    """Return a sha256 over the files of a vision network's weights, empty for none."""
    if not source:
        return ""
    path = Path(source).expanduser()
    if path.exists():
        kinds = {".safetensors", ".bin", ".pt", ".pth"}
        files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix in kinds)
    else:
        what = weights.origin(source if ":" in source else f"hf-hub:timm/{source}", [WEIGHTS])
        files = [file.path for file in weights.find(what) or ()]
    return hashlib.sha256("\n".join(weights.digest(file) for file in files).encode()).hexdigest()


def _vision(chosen: Settings, device: torch.device, dtype: torch.dtype, *, pack: bool) -> Any:
    """Return the vision network of ProxyCLIP, None for other methods."""
    if not chosen.vision:
        return None
    from geovl.segmenters.open_vocabulary.vision import load_vision  # noqa: PLC0415 - timm takes seconds to load

    return load_vision(chosen.vision, device=device, dtype=dtype, pack=pack)
