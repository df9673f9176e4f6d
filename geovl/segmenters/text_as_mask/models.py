"""Multimodal language models through transformers, and questions as they take them.

| ``model_type`` in config.json | the square it is given | asked as |
| --- | --- | --- |
| ``llava`` | its tower's, 336 pixels as published | its chat template says |
| ``llava_llama``, see :mod:`geovl.segmenters.text_as_mask.llava` | the same | the original code does |
| ``qwen2_vl``, ``qwen2_5_vl``, ``qwen3_vl`` | any of whole merged patches: ``side`` | its chat template says |
| ``internvl`` | its tower's, 448 pixels: one tile and no thumbnail | its chat template says |
| ``paligemma`` | its tower's | bare text; it attends both ways over the whole prompt |
| others of transformers | its tower's, before its processor does more to it | its chat template says |

Every chip is stretched to the same square (Text4Seg's code does so too), so that all chips of a batch have as many
tokens. Adapters (PEFT) are not read: merge them first.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from geovl.errors import ModelError, OutOfMemoryError, PromptError, UsageError
from geovl.segmenters.text_as_mask.checkpoints import KNOWN, Checkpoint, context, load_plain, locate, quiet, stops, told
from geovl.segmenters.text_as_mask.llava import IMAGE, image_tokens, load_llava, tokenized
from geovl.segmenters.text_as_mask.prompts import ENVELOPES, Envelope, Question, envelope_of, refuse_marks
from geovl.weights import Progress

Precision = Literal["float32", "bf16", "fp16"]
_TYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_FREE = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl"})
"""Families that take pictures of any size."""
_SQUARE = _FREE | {"llava", "internvl", "paligemma"}
"""Families whose processors need not resize what has the right side."""
_PREFIX = frozenset({"paligemma"})
"""Families that attend both ways over the whole prompt."""
_TOKENS = 16  # of a picture along a side where that is free: as many as the usual grid has cells
_SIDE = 448  # pixels, where nothing tells it
_ENVELOPE = f"Say what it was trained with: --set envelope=NAME, one of {', '.join(ENVELOPES)}."
_FIRST = "Leave the picture first: --set share=tile."
_PICTURE = {"type": "image"}
_BILINEAR, _BICUBIC = 2, 3  # as Pillow numbers them


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A question about a chip, as a model takes it."""

    ids: tuple[int, ...]
    """Of the prompt; every token of the picture has the id of its placeholder."""
    images: Mapping[str, Tensor]
    """What the model takes beside, by the names of its arguments: ``pixel_values``, ``image_grid_thw``, ... Joined
    along their first axis they stand for several chips."""
    token_types: Mapping[str, Tensor]
    """Arguments that have a value for each token, int64 (1, tokens): ``mm_token_type_ids``, ``token_type_ids``."""
    image_tokens: int
    """How many of the ids stand for the picture."""

    @property
    def inputs(self) -> dict[str, Tensor]:
        """All arguments of the model for this one question."""
        device = next(iter(self.images.values())).device
        return {"input_ids": torch.tensor([self.ids], device=device), **self.token_types, **self.images}


@dataclass(frozen=True, slots=True, eq=False)
class Mllm:
    """A multimodal language model with all that belongs to it."""

    name: str
    """Where it was loaded from, as messages call it."""
    family: str
    """``model_type`` of its configuration."""
    model: Any
    """Of transformers, without gradients."""
    tokenizer: Any
    processor: Any
    """Of texts and pictures; of pictures alone for ``llava_llama``."""
    envelope: Envelope | None
    """What stands around a question; None: what its chat template says."""
    image_token: str
    """What stands for a picture in a prompt."""
    image_id: int
    """What stands for each token of a picture in ids."""
    side: int
    """Pixels of a side of the square that it is given."""
    context: int | None
    """The most tokens that prompt and answer may have together, where it is told."""
    stops: tuple[int, ...]
    """Ids that end an answer."""
    files: tuple[Path, ...]
    """Its weights."""
    marks: tuple[str, ...] = ()
    """What its tokenizer reads as more than text."""

    @property
    def causal(self) -> bool:
        """Whether a token sees only those before it, so that what prompts begin with alike can be shared."""
        return self.family not in _PREFIX

    def check_context(self, ids: Sequence[int], new_tokens: int) -> None:
        """Refuse prompts that leave no room for their answer.

        Args:
            ids: Of the prompt.
            new_tokens: The most that the answer may have.

        Raises:
            PromptError: Both together are more than what the model was made for.
        """
        if self.context is not None and len(ids) + new_tokens > self.context:
            msg = (
                f"The prompt has {len(ids)} tokens and its answer up to {new_tokens}; {self.name} takes {self.context}"
                " together."
            )
            raise PromptError(msg, "Ask for fewer classes at once, or for a smaller grid.")


# Loading


def load(
    place: str | Path,
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "float32",
    envelope: str = "",
    side: int | None = None,
    progress: Progress | None = None,
) -> Mllm:
    """Load a multimodal language model.

    Args:
        place: A folder as transformers' ``save_pretrained`` or the code of LLaVA writes it, or a repository of the Hub,
            with or without ``hf-hub:`` before and ``@revision`` behind it.
        device: Where to put it.
        precision: The type to compute in.
        envelope: One of :data:`~geovl.segmenters.text_as_mask.prompts.ENVELOPES`, where the checkpoint was trained with
            another one than its chat template says.
        side: Pixels of a side of the square that it is given, for families that take any: a multiple of their merged
            patch. None is 16 tokens.
        progress: Told of downloads.

    Raises:
        NotThereError: A file is missing and cannot be downloaded.
        ModelError: transformers is missing; or what is there is no such model, is damaged or incomplete, needs code of
            its own, or has its weights only in a format that could run code.
        OutOfMemoryError: It does not fit into the memory of the device.
        UsageError: No such precision or envelope, or a side that the family does not take.
    """
    if precision not in _TYPES:
        msg = f"precision is {precision!r}; expected one of {', '.join(get_args(Precision))}."
        raise UsageError(msg)
    chosen = envelope_of(envelope) if envelope else None
    checkpoint = locate(str(place), progress)
    original = checkpoint.family == "llava_llama"
    found = (load_llava if original else load_plain)(checkpoint, _TYPES[precision], progress)
    config, processor = found.model.config, found.processor
    if chosen is None and (original or (checkpoint.family == "paligemma" and not processor.chat_template)):
        chosen = ENVELOPES["llava" if original else "bare"]
    with memory(str(place)):
        model = found.model.to(device).eval().requires_grad_(requires_grad=False)
    return Mllm(
        checkpoint.source, checkpoint.family, model, found.tokenizer, processor, chosen,
        IMAGE if original else _image_token(config, processor), int(config.image_token_id),
        _side(checkpoint, config, processor, side), context(config),
        stops(checkpoint, config, found.tokenizer), found.files, _marks(found.tokenizer),
    )  # fmt: skip


def _image_token(config: Any, processor: Any) -> str:
    found = getattr(processor, "image_token", None)
    return str(found or processor.tokenizer.convert_ids_to_tokens(config.image_token_id))


def _marks(tokenizer: Any) -> tuple[str, ...]:
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return tuple(dict.fromkeys([*added, *tokenizer.all_special_tokens]))


def _side(checkpoint: Checkpoint, config: Any, processor: Any, wanted: int | None) -> int:
    """Return the side of the square that a model is given, in pixels.

    Raises:
        UsageError: The family does not take the one that is wanted.
    """
    if checkpoint.family in _FREE:
        images = processor.image_processor
        step = int(images.patch_size) * int(images.merge_size)
        if wanted is not None and (wanted < step or wanted % step):
            near = max(round(wanted / step), 1) * step
            msg = f"side is {wanted}; {checkpoint.source} takes pictures of multiples of {step} pixels, such as {near}."
            raise UsageError(msg)
        return wanted or _TOKENS * step
    side = getattr(getattr(config, "vision_config", None), "image_size", None)
    own = int((side[0] if isinstance(side, list | tuple) else side) or _SIDE)
    if wanted not in {None, own}:
        msg = f"side is {wanted}; {checkpoint.source} takes pictures of {own} pixels."
        raise UsageError(msg, "Leave the side out.")
    return own


@contextmanager
def memory(name: str) -> Iterator[None]:
    """Tell what torch raises when memory is short, which is an error of its own on CUDA only."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or re.search(r"out of memory|n't allocate", str(error)):
            msg = f"{name} does not fit into the memory of the device: {str(error).partition('.')[0]}."
            raise OutOfMemoryError(msg, "Use --set precision=bf16, a smaller model, or --device cpu.") from error
        raise


# Questions


def prepare(mllm: Mllm, pixels: NDArray[np.uint8], question: Question) -> Prepared:
    """Return a question about a chip as a model takes it.

    Args:
        mllm: The model.
        pixels: uint8 RGB (3, height, width) of any size, which are stretched to the model's square.
        question: What is asked.

    Raises:
        PromptError: The prompt is longer than the model takes, or a name holds what is more than text to it.
        ModelError: Nothing tells how the model is asked, or its template or processor does not fit it.
        UsageError: The question shall come first, and the model cannot be asked so.
        ValueError: Pixels of another shape or type.
    """
    refuse_marks(question, (*mllm.marks, mllm.image_token))
    given = _tokenized(mllm, prompt(mllm, question), squared(pixels, mllm.side, _images(mllm)))
    ids = tuple(int(token) for token in given.pop("input_ids")[0])
    mllm.check_context(ids, 1)
    count = ids.count(mllm.image_id)
    if not count:
        msg = f"The prompt of {mllm.name} has no tokens of the picture: its processor does not fit it."
        raise ModelError(msg, KNOWN)
    taken = {name: _placed(mllm, value) for name, value in given.items() if name in _arguments(mllm)}
    types = {name: value for name, value in taken.items() if name.endswith("token_type_ids")}
    images = {name: value for name, value in taken.items() if name not in types}
    return Prepared(ids, images, types, count)


def prompt(mllm: Mllm, question: Question) -> str:
    """Return the text of a prompt, with the word for a picture at its place.

    Raises:
        ModelError: Nothing tells how the model is asked, or its template drops the question or the picture.
        UsageError: The question shall come first, and the model cannot be asked so, or it would be of no use.
    """
    if question.share == "class-list" and not mllm.causal:
        msg = f"{mllm.name} sees the whole prompt at once: nothing of it can be shared, whatever comes first."
        raise UsageError(msg, _FIRST)
    if mllm.envelope is not None:
        return mllm.envelope.around(question, mllm.image_token)
    for conversation in _conversations(question):
        text = _templated(mllm, conversation)
        if text is not None and _in_order(mllm, text, question):
            return text
    msg = f"The chat template of {mllm.name} puts pictures before questions."
    raise UsageError(msg, _FIRST)


def squared(pixels: NDArray[np.uint8], side: int, images: Any) -> NDArray[np.uint8]:
    """Return pixels stretched to a square, by the arithmetic with which a processor resizes.

    Args:
        pixels: uint8 (3, height, width).
        side: Pixels.
        images: The processor of pictures; of torch or of Pillow.

    Returns:
        uint8 (3, side, side).

    Raises:
        ValueError: Pixels of another shape or type.
    """
    if pixels.ndim != 3 or pixels.shape[0] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        msg = f"Pixels must be uint8 (3, height, width), got {pixels.dtype} {pixels.shape}"
        raise ValueError(msg)
    if pixels.shape[1:] == (side, side):
        return pixels
    resample = int(getattr(images, "resample", None) or _BICUBIC)
    if {"TorchvisionBackend", "BaseImageProcessorFast"} & {base.__name__ for base in type(images).__mro__}:
        mode = "bilinear" if resample == _BILINEAR else "bicubic"
        given = torch.tensor(np.ascontiguousarray(pixels))[None]
        found: NDArray[np.uint8] = functional.interpolate(given, (side, side), mode=mode, antialias=True)[0].numpy()
        return found
    return np.asarray(_picture(pixels).resize((side, side), resample)).transpose(2, 0, 1)


def _picture(pixels: NDArray[np.uint8]) -> Any:
    """Return pixels (3, height, width) as Pillow has them."""
    return import_module("PIL.Image").fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _conversations(question: Question) -> Iterator[list[dict[str, Any]]]:
    """Yield ways to say a question; one that comes first can be the system's turn, or in the user's."""
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in question.parts(_PICTURE)]
    if question.share == "class-list":
        # templates such as LLaVA's put pictures before all texts of their turn
        yield [{"role": "system", "content": parts[:1]}, {"role": "user", "content": parts[1:]}]
    yield [{"role": "user", "content": parts}]


def _templated(mllm: Mllm, conversation: list[dict[str, Any]]) -> str | None:
    """Return a conversation as the chat template writes it, None where it refuses the turn of a system."""
    if not getattr(mllm.processor, "chat_template", None):
        msg = f"{mllm.name} has no chat template, so nothing tells how it is asked."
        raise ModelError(msg, _ENVELOPE)
    faults = (import_module("jinja2").TemplateError, TypeError, ValueError, LookupError)
    try:
        return str(mllm.processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False))
    except faults as error:
        if len(conversation) > 1:
            return None
        msg = f"The chat template of {mllm.name} cannot be used: {error}."
        raise ModelError(msg, _ENVELOPE) from error


def _in_order(mllm: Mllm, text: str, question: Question) -> bool:
    """Tell whether the picture and the question stand in a prompt as is wanted."""
    picture, asked = text.find(mllm.image_token), text.find(question.text)
    if min(picture, asked) < 0:
        msg = f"The chat template of {mllm.name} drops the {'picture' if picture < 0 else 'question'}."
        raise ModelError(msg, _ENVELOPE)
    return question.share == "tile" or asked < picture


def _tokenized(mllm: Mllm, text: str, pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Return what the processor makes of a prompt and a square picture (3, side, side)."""
    picture = _picture(pixels)
    if mllm.family == "llava_llama":
        ids = tokenized(mllm.tokenizer, text, mllm.image_id, image_tokens(mllm.model.config))
        return {"input_ids": [ids], **mllm.processor(picture, return_tensors="pt")}
    options: dict[str, Any] = {"do_resize": False} if mllm.family in _SQUARE else {}
    if mllm.tokenizer.bos_token and text.startswith(mllm.tokenizer.bos_token):
        options["add_special_tokens"] = False  # the template has put it
    with told(f"The processor of {mllm.name} does not fit it"), quiet():
        return dict(mllm.processor(images=[picture], text=[text], return_tensors="pt", **options))


def _images(mllm: Mllm) -> Any:
    """Return the processor of pictures alone."""
    return getattr(mllm.processor, "image_processor", mllm.processor)


def _arguments(mllm: Mllm) -> set[str]:
    """Return what the model takes that a processor can give."""
    return set(signature(mllm.model.forward).parameters) - {"attention_mask", "labels"}


def _placed(mllm: Mllm, value: Tensor) -> Tensor:
    """Put a tensor where the model is, fractions in its type."""
    return value.to(mllm.model.device, mllm.model.dtype if value.is_floating_point() else None)
