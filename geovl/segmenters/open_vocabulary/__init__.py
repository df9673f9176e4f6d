"""Open-vocabulary segmentation: classes in any words, by a CLIP model's dense tokens. No training, no class list."""
