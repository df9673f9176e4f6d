"""Checkpoints of the original code of LLaVA-1.5 (https://arxiv.org/abs/2310.03744), such as Text4Seg's demo.

Their networks are those of transformers under other names:

| in the files | in transformers |
| --- | --- |
| ``model.layers``, ``model.norm``, ``model.embed_tokens``, ``lm_head`` | the language model |
| ``model.mm_projector.0``, ``.2`` | ``multi_modal_projector.linear_1``, ``.linear_2`` |
| ``model.vision_tower.vision_tower`` | ``vision_tower`` |

The tower is in the files where it was saved with them; otherwise it is the checkpoint that ``mm_vision_tower`` names.
The code knows no token for pictures: it tokenizes what stands before and behind one each by itself, which is done here
too, and a row is added to the embedding for the placeholder.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geovl import weights
from geovl.errors import ModelError
from geovl.segmenters.open_vocabulary.tensors import CONFIG, read_json, read_tensors
from geovl.segmenters.text_as_mask.checkpoints import (
    SAFE,
    Checkpoint,
    Loaded,
    build,
    library,
    load_part,
    quiet,
    read_weights,
    told,
)
from geovl.weights import LacksFileError, Progress

IMAGE = "<image>"
"""What stands for a picture in a prompt."""

_LARGE = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
TOWERS = {
    "clip-vit-large-patch14-336": {**_LARGE, "image_size": 336},
    "clip-vit-large-patch14": {**_LARGE, "image_size": 224},
}
"""OpenAI's towers, for checkpoints that hold the weights of theirs but not its configuration."""
_INSIDE = "model.vision_tower.vision_tower."
_RENAMES = (
    (re.compile(r"^model\.mm_projector\.0\."), "multi_modal_projector.linear_1."),
    (re.compile(r"^model\.mm_projector\.2\."), "multi_modal_projector.linear_2."),
    (re.compile(rf"^{re.escape(_INSIDE)}"), "vision_tower."),
    (re.compile(r"^(?=model\.|lm_head\.)"), "language_model."),
)
_UNUSED = re.compile(r"rotary_emb\.inv_freq$|position_ids$|image_newline$")
_EMBEDDINGS = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")


def load_llava(checkpoint: Checkpoint, dtype: torch.dtype, progress: Progress | None = None) -> Loaded:
    """Load a checkpoint of the original code.

    Raises:
        NotThereError: The tower, or a part of the weights, is missing and cannot be downloaded.
        ModelError: It is of another version of LLaVA, damaged or incomplete.
    """
    _refuse_others(checkpoint)
    given, paths = read_weights(checkpoint, progress)
    inside = any(name.startswith(_INSIDE) for name in given)
    vision, tower, more = _tower(checkpoint, inside, progress)
    tokenizer = load_part(library().AutoTokenizer, checkpoint, "tokenizer")
    tensors = _with_placeholder({**tower, **renamed(given)}, tokenizer.unk_token_id or 0, checkpoint.source)
    with told(f"The {CONFIG} of {checkpoint.source} does not make sense"), quiet():
        config = _config(checkpoint, vision, rows=len(tensors[_EMBEDDINGS[0]]))
    network = library().LlavaForConditionalGeneration
    model = build(network, config, tensors, checkpoint.source, dtype)
    side = config.vision_config.image_size
    images = library().CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return Loaded(model, tokenizer, images, (*paths, *more))


def tokenized(tokenizer: Any, text: str, image_id: int, count: int) -> list[int]:
    """Return the ids of a prompt as the original code makes them.

    Args:
        tokenizer: The tokenizer.
        text: The prompt, with :data:`IMAGE` once.
        image_id: What stands for a token of the picture.
        count: How many of them there are.
    """
    before, behind = (tokenizer.encode(part, add_special_tokens=False) for part in text.split(IMAGE))
    return [tokenizer.bos_token_id, *before, *[image_id] * count, *behind]


def image_tokens(config: Any) -> int:
    """Return how many tokens a picture becomes."""
    vision = config.vision_config
    patches = int(vision.image_size) // int(vision.patch_size)
    return patches * patches + int(config.vision_feature_select_strategy == "full")


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the names that llava-hf's files have."""
    return {_renamed(name): tensor for name, tensor in tensors.items() if not _UNUSED.search(name)}


def _renamed(name: str) -> str:
    for pattern, replacement in _RENAMES:
        found, times = pattern.subn(replacement, name)
        if times:
            return found
    return name


def _refuse_others(checkpoint: Checkpoint) -> None:
    """Refuse versions of LLaVA that are put together in another way."""
    told_of = checkpoint.config
    wanted = {
        "mm_projector_type": ("mlp2x_gelu",), "mm_use_im_start_end": (False, None),
        "image_aspect_ratio": ("pad", "square", None), "mm_vision_select_feature": ("patch", "cls_patch", None),
    }  # fmt: skip
    for name, known in wanted.items():
        if told_of.get(name) not in known:
            msg = (
                f"{checkpoint.source} has {name} {told_of.get(name)!r}, which LLaVA-1.5 has not; expected {known[0]!r}."
            )
            raise ModelError(msg, "Convert it: transformers/models/llava/convert_llava_weights_to_hf.py")


def _config(checkpoint: Checkpoint, vision: Mapping[str, Any], rows: int) -> Any:
    """Return the configuration in transformers; the last row of the embedding is the placeholder's."""
    told_of = checkpoint.config
    known = {*library().LlamaConfig().to_dict(), "rope_theta", "rope_scaling"} - {"transformers_version", "dtype"}
    text = {name: value for name, value in told_of.items() if name in known}
    return library().LlavaConfig(
        text_config={**text, "model_type": "llama", "vocab_size": rows},
        vision_config={**vision, "model_type": "clip_vision_model"},
        image_token_index=rows - 1,
        projector_hidden_act="gelu",
        vision_feature_layer=told_of.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="full" if told_of.get("mm_vision_select_feature") == "cls_patch" else "default",
    )


def _with_placeholder(tensors: dict[str, Tensor], like: int, source: str) -> dict[str, Tensor]:
    """Add a row for the placeholder: that of the unknown token, so that it is never more likely than a real one."""
    for name in _EMBEDDINGS:
        if name not in tensors:
            msg = f"{source} lacks {name.removeprefix('language_model.')}."
            raise ModelError(msg, "Get it again.")
        tensors[name] = torch.cat([tensors[name], tensors[name][like : like + 1]])
    return tensors


# The tower


def _tower(
    checkpoint: Checkpoint, inside: bool, progress: Progress | None
) -> tuple[Mapping[str, Any], dict[str, Tensor], tuple[Path, ...]]:
    """Return the configuration of the vision tower, and its weights and their file where they are not inside."""
    name = str(checkpoint.config.get("mm_vision_tower"))
    folder = next(
        (each for each in (Path(name), checkpoint.folder / Path(name).name) if (each / CONFIG).is_file()), None
    )
    if folder is None and inside and Path(name).name in TOWERS:
        return TOWERS[Path(name).name], {}, ()
    files = _files(checkpoint, name, folder, inside, progress)
    told_of = read_json(files[CONFIG])
    config: Mapping[str, Any] = told_of.get("vision_config") or told_of
    kind = config.get("model_type", "clip_vision_model")
    if kind != "clip_vision_model":
        msg = f"The tower {name} of {checkpoint.source} is of type {kind!r}; expected CLIP's."
        raise ModelError(msg, "Convert it: transformers/models/llava/convert_llava_weights_to_hf.py")
    if inside:
        return config, {}, ()
    return config, _tower_weights(read_tensors(files[SAFE[0]])), (files[SAFE[0]],)


def _files(
    checkpoint: Checkpoint, name: str, folder: Path | None, inside: bool, progress: Progress | None
) -> dict[str, Path]:
    """Return the files of a tower that are needed, downloaded where it is not here."""
    needed = ((CONFIG,),) if inside else ((CONFIG,), SAFE[:1])
    beside = f"Put {' and '.join(names[0] for names in needed)} of it into {checkpoint.folder / Path(name).name}."
    if folder is None and not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        msg = f"{checkpoint.source} sees through the tower {name}, which is not here."
        raise ModelError(msg, beside)
    try:
        what = weights.origin(folder, needed) if folder else replace(weights.origin(f"hf-hub:{name}"), needed=needed)
        return {file.name: file.path for file in weights.fetch(what, progress)}
    except LacksFileError as error:
        msg = f"{checkpoint.source} sees through the tower {name}, which is not to be had as safetensors."
        hint = f"Load {name} with transformers where you trust it, and save_pretrained() it. {beside}"
        raise ModelError(msg, hint) from error


def _tower_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the names that a tower has in llava-hf's files; those of CLIP's texts may be among them."""
    return {
        f"vision_tower.{name if name.startswith('vision_model.') else f'vision_model.{name}'}": tensor
        for name, tensor in tensors.items()
        if not _UNUSED.search(name)
    }
