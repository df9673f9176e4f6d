"""Tiny multimodal language models of random weights, in the files in which the real ones come.

Every function writes a folder of its family: configuration, safetensors, tokenizer with the family's special tokens,
processor and chat template. The templates give what those of the published checkpoints give for one picture.
"""

import json
from pathlib import Path

SENTENCES = (
    "Segment only the ship in the image. Here is the mask of the ship:",
    "others *16| ship *3| a red roof *12\n others *1| water *9| ship *10\n",
    "A chat between a curious user and an artificial intelligence assistant. USER: ASSISTANT:",
    "You are a helpful assistant. system user assistant",
    "Answer with a grid of 16 rows and 16 columns, row by row. 0123456789 <seg> </seg> [image]",
)
"""What tokenizers are trained on."""

SIDE = {
    "llava": 42, "llava_next": 42, "llava_code": 42, "qwen2_vl": 56, "qwen2_5_vl": 56, "qwen3_vl": 64, "internvl": 56,
    "paligemma": 28,
}  # fmt: skip
"""Pixels of a side of what a model is given; Qwen's take any multiple of their merged patch."""

TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048,
}  # fmt: skip
CLIP = {
    "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 42,
    "patch_size": 14,
}  # fmt: skip

LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""Puts pictures before texts whatever their order, as llava-hf's does; a system turn has no role."""


def chatml(picture: str, system: str = "") -> str:
    """The template of Qwen and InternVL: keeps the order of parts."""
    first = (
        "{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\n"
        + system
        + "<|im_end|>\n' }}{% endif %}"
    )
    return (
        "{% for message in messages %}" + (first if system else "") + "{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '" + picture + "' }}"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


# Tokenizers

_UNKNOWN = {"unk_token": "<unk>"}
_TURNS = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen's tokenizer cuts a text: digits one by one, a blank before a word belongs to it."""


def _learned(pre_tokenizer, alphabet=(), normalizer=None):
    """Pieces and merges of a byte pair encoding trained on the sentences."""
    from tokenizers import Tokenizer, models, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=list(alphabet), show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    told = json.loads(tokenizer.to_str())["model"]
    pieces = sorted(told["vocab"], key=told["vocab"].get)
    return pieces, [tuple(pair) for pair in told["merges"]]


def _class(name):
    """The class of a tokenizer, which processors insist on before transformers 5."""
    import transformers

    return getattr(transformers, name if old() else "PreTrainedTokenizerFast")


def old():
    """Whether this is transformers 4."""
    import transformers

    return transformers.__version__ < "5"


def byte_level(special, **named):
    """A tokenizer over bytes, as Qwen's: no token begins a text, special tokens come last."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    split = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    pieces, merges = _learned(split, pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return _class("Qwen2TokenizerFast")(tokenizer_object=tokenizer, **named)


def piece_level(first, prefix, special=(), **named):
    """A tokenizer over characters with bytes behind them, as those of Llama and Gemma were made by SentencePiece.

    Args:
        first: Special tokens, which come before the bytes.
        prefix: Whether a blank is put before each text (and, as in the files of LLaVA, behind each special token).
        special: Tokens that were added later.
        named: What the tokenizer is told beside.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    blanks = [normalizers.Prepend("▁")] if prefix else []
    normalizer = normalizers.Sequence([*blanks, normalizers.Replace(" ", "▁")])
    digits = pre_tokenizers.Digits(individual_digits=True)
    split = pre_tokenizers.Sequence([pre_tokenizers.Split("▁", "merged_with_next"), digits])
    pieces, merges = _learned(split, normalizer=normalizer)
    raw = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {piece: i for i, piece in enumerate([*first, *raw, *pieces])}
    model = models.BPE(vocabulary, merges, fuse_unk=True, byte_fallback=True, **_UNKNOWN)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizer
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in (*first, *special)])
    bos = named["bos_token"]
    if prefix:  # Llama's begins every text; Gemma's is put by its processor
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])]
        )
    kind = "LlamaTokenizerFast" if prefix else "GemmaTokenizerFast"
    return _class(kind)(tokenizer_object=tokenizer, **named)


def llama_tokenizer(special=("<image>", "<pad>")):
    """Llama's, with the tokens that llava-hf added to it."""
    pad = "<pad>" if "<pad>" in special else "<unk>"
    return piece_level(
        ("<unk>", "<s>", "</s>"), prefix=True, special=special,
        **{**_UNKNOWN, "bos_token": "<s>", "eos_token": "</s>", "pad_token": pad},
    )  # fmt: skip


_CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN = (*_CHAT, "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")


# Families


def llava_folder(folder: Path, seed: int = 0, **text) -> Path:
    """LLaVA-1.5 as llava-hf publishes it."""
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = llama_tokenizer()
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "projection_dim": 16, **CLIP},
        text_config={"model_type": "llama", "vocab_size": _rows(tokenizer), **TEXT, **text},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=9,
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 42}, crop_size={"height": 42, "width": 42}), tokenizer,
        patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )  # fmt: skip
    return _written(folder, LlavaForConditionalGeneration, config, processor, seed, tokenizer.eos_token_id)


def llava_next_folder(folder: Path, seed: int = 0, **text) -> Path:
    """LLaVA-NeXT: one of the families of which nothing special is known."""
    from transformers import (
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    tokenizer = llama_tokenizer()
    pinpoints = [[42, 84], [84, 42], [84, 84]]
    config = LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", "projection_dim": 16, **CLIP},
        text_config={"model_type": "llama", "vocab_size": _rows(tokenizer), **TEXT, **text},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), image_grid_pinpoints=pinpoints,
        image_seq_length=9,
    )  # fmt: skip
    size = {"height": 42, "width": 42}
    images = LlavaNextImageProcessor(size={"shortest_edge": 42}, crop_size=size, image_grid_pinpoints=pinpoints)
    processor = LlavaNextProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )  # fmt: skip
    return _written(folder, LlavaNextForConditionalGeneration, config, processor, seed, tokenizer.eos_token_id)


def qwen2_vl_folder(folder: Path, seed: int = 0, **text) -> Path:
    """Qwen2-VL."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
    return _qwen(
        folder, Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor, vision, seed, rope=[1, 1, 2], **text
    )


def qwen2_5_vl_folder(folder: Path, seed: int = 0, **text) -> Path:
    """Qwen2.5-VL."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 14,
        "out_hidden_size": 32, "window_size": 56, "fullatt_block_indexes": [1],
    }  # fmt: skip
    return _qwen(
        folder, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, vision, seed,
        rope=[1, 1, 2], **text,
    )  # fmt: skip


def qwen3_vl_folder(folder: Path, seed: int = 0, **text) -> Path:
    """Qwen3-VL."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 16,
        "out_hidden_size": 32, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    return _qwen(
        folder, Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor, vision, seed,
        rope=[2, 1, 1], head_dim=8, **text,
    )  # fmt: skip


def internvl_folder(folder: Path, seed: int = 0, **text) -> Path:
    """InternVL, in the conversion for transformers."""
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    tokens = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    tokenizer = byte_level((*_CHAT, *tokens.values()), **_TURNS, extra_special_tokens=tokens)
    config = InternVLConfig(
        vision_config={
            "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": [56, 56], "patch_size": [14, 14],
        },
        text_config={"model_type": "qwen2", "vocab_size": _rows(tokenizer), **TEXT, **text},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )  # fmt: skip
    size = {"height": 56, "width": 56}
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=size, crop_to_patches=False), tokenizer, InternVLVideoProcessor(size=size),
        image_seq_length=4, chat_template=chatml("<IMG_CONTEXT>\n"),
    )  # fmt: skip
    return _written(folder, InternVLForConditionalGeneration, config, processor, seed, tokenizer.eos_token_id)


def paligemma_folder(folder: Path, seed: int = 0, **text) -> Path:
    """PaliGemma, which has no chat template."""
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessor,
    )

    tokenizer = piece_level(
        ("<pad>", "<eos>", "<bos>", "<unk>"), prefix=False,
        **{**_UNKNOWN, "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
    )  # fmt: skip
    images = SiglipImageProcessor(size={"height": 28, "width": 28})
    images.image_seq_length = 4
    processor = PaliGemmaProcessor(images, tokenizer)
    config = PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "vision_use_head": False,
        },
        text_config={"model_type": "gemma", "vocab_size": _rows(tokenizer), "head_dim": 8, **TEXT, **text},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        vocab_size=_rows(tokenizer),
    )  # fmt: skip
    return _written(folder, PaliGemmaForConditionalGeneration, config, processor, seed, tokenizer.eos_token_id)


def llava_code_folder(folder: Path, seed: int = 0, *, tower_inside: bool = True, **config) -> Path:
    """LLaVA-1.5 as the original code saves it: a Llama with a projector in it, and CLIP's tower inside or beside it."""
    from safetensors.torch import save_file

    language, tower, projector, tokenizer = llava_code_parts(seed)
    beside = folder / "tiny-clip-336"
    tower.save_pretrained(beside)
    tensors = dict(language.state_dict())
    tensors |= {f"model.mm_projector.{name}": tensor for name, tensor in projector.state_dict().items()}
    if tower_inside:
        inside = {f"model.vision_tower.vision_tower.{_vision(name)}": t for name, t in tower.state_dict().items()}
        tensors |= inside
        (beside / "model.safetensors").unlink()
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    told = {
        **language.config.to_dict(),
        "model_type": "llava_llama", "architectures": ["LlavaLlamaForCausalLM"], "mm_vision_tower": str(beside),
        "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
        "mm_hidden_size": 24, "mm_use_im_start_end": False, "mm_use_im_patch_token": False,
        "image_aspect_ratio": "pad", "use_mm_proj": True, **config,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(told))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "bos_token_id": 1}))
    tokenizer.save_pretrained(folder)
    return folder


def llava_code_parts(seed: int = 0):
    """The networks that a folder of the original code is made of, and its tokenizer."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    tokenizer = llama_tokenizer(())
    torch.manual_seed(seed)
    language = LlamaForCausalLM(LlamaConfig(vocab_size=_rows(tokenizer), **TEXT)).eval()
    tower = CLIPVisionModel(CLIPVisionConfig(projection_dim=16, **CLIP)).eval()
    projector = torch.nn.Sequential(torch.nn.Linear(24, 32), torch.nn.GELU(), torch.nn.Linear(32, 32)).eval()
    for network in (language, tower, projector):
        _shaken(network)
    return language, tower, projector, tokenizer


def _vision(name: str) -> str:
    """The name that published files have for a tensor of CLIP's tower."""
    return name if name.startswith("vision_model.") else f"vision_model.{name}"


FAMILIES = {
    "llava": llava_folder,
    "qwen2_vl": qwen2_vl_folder,
    "qwen2_5_vl": qwen2_5_vl_folder,
    "qwen3_vl": qwen3_vl_folder,
    "internvl": internvl_folder,
    "paligemma": paligemma_folder,
}
"""Family, as configurations call it, to what writes a folder of it."""


def _qwen(folder, config_class, model_class, processor_class, vision, seed, *, rope, **text):
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor, Qwen3VLVideoProcessor

    tokenizer = byte_level(_QWEN, **_TURNS)
    ids = tokenizer.convert_tokens_to_ids
    three = config_class.model_type == "qwen3_vl"
    config = config_class(
        vision_config={"spatial_merge_size": 2, "temporal_patch_size": 2, **vision},
        text_config={
            "vocab_size": _rows(tokenizer), "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, **TEXT,
            "rope_scaling" if old() else "rope_parameters": {"rope_type": "default", "mrope_section": rope, "rope_theta": 1e4}, **text,
        },
        image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"), vision_end_token_id=ids("<|vision_end|>"),
    )  # fmt: skip
    patch = vision["patch_size"]
    videos = (Qwen3VLVideoProcessor if three else Qwen2VLVideoProcessor)(patch_size=patch)
    processor = processor_class(
        Qwen2VLImageProcessor(patch_size=patch, size={"shortest_edge": 56 * 56, "longest_edge": 1024 * 1024}),
        tokenizer, videos,
        chat_template=chatml(
            "<|vision_start|><|image_pad|><|vision_end|>", "" if three else "You are a helpful assistant."
        ),
    )  # fmt: skip
    return _written(folder, model_class, config, processor, seed, tokenizer.eos_token_id)


def _rows(tokenizer) -> int:
    """Rows of the embedding: somewhat more than the tokenizer has, as in most checkpoints."""
    return len(tokenizer) + 5


def _written(folder: Path, model_class, config, processor, seed: int, stop: int) -> Path:
    import torch

    torch.manual_seed(seed)
    model = model_class(config).eval()
    _shaken(model)
    model.generation_config.eos_token_id = [stop]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _shaken(network) -> None:
    """Move weights apart, so that texts and pictures matter."""
    import torch

    with torch.no_grad():
        for tensor in network.parameters():
            tensor.add_(torch.randn_like(tensor) * (0.3 if tensor.ndim > 1 else 0.05))
