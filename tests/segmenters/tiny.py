"""Tiny checkpoints in the formats of the real ones, with random weights."""

import json
from pathlib import Path

CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 48, "layers": 3, "head_width": 16, "mlp_ratio": 2.0},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    "quick_gelu": True,
}


def clip_folder(folder: Path, seed: int = 0) -> Path:
    """A CLIP as open_clip pushes it to the Hub."""
    import open_clip.model
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    told = dict(CLIP)
    model = open_clip.model.CLIP(
        told["embed_dim"], told["vision_cfg"], told["text_cfg"], quick_gelu=told["quick_gelu"], output_dict=True
    ).eval()
    with torch.no_grad():
        for tensor in model.parameters():  # apart enough that names and patches differ
            tensor.add_(torch.randn_like(tensor) * 0.08)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()},
              folder / "open_clip_model.safetensors")  # fmt: skip
    preprocess = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": told, "preprocess_cfg": preprocess}))
    return folder


def dino_folder(folder: Path, seed: int = 0) -> Path:
    """A DINO as transformers saves it."""
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, patch_size=8, image_size=64,
    )  # fmt: skip
    model = ViTModel(config, add_pooling_layer=False)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.1)
    model.save_pretrained(folder)
    return folder
