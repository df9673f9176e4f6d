"""Text4Seg: descriptors, resampling, mask prompts and metrics."""
