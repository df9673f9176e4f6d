"""Light, air and sensor: what happens to a picture between the ground and the file."""

from typing import TYPE_CHECKING

import numpy as np

from geovl.scenes import texture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geovl.scenes.texture import Plane


def develop(rgb: "Plane", rng: np.random.Generator) -> "NDArray[np.uint8]":
    """Turn bare ground (3, h, w) into a picture: tint, contrast, haze, blur, noise, and at times block noise."""
    grey = rgb.mean(0)
    rgb = grey + (rgb - grey) * np.float32(rng.uniform(0.6, 1.4))
    tint = rng.normal(1, 0.05, 3)
    gain = tint * rng.uniform(0.75, 1.2)
    middle = rng.uniform(95, 130)
    contrast = rng.uniform(0.75, 1.25)
    rgb = (rgb * gain.astype(np.float32)[:, None, None] - middle) * np.float32(contrast) + np.float32(middle)
    if rng.random() < 0.4:
        veil = np.array([150, 160, 172], np.float32)[:, None, None]
        haze = np.float32(rng.uniform(0.05, 0.3))
        rgb = rgb * (1 - haze) + veil * haze
    rgb = texture.blur(rgb.astype(np.float32), rng.uniform(0, 0.85))
    sharpen = rng.uniform(0, 0.8)
    if sharpen > 0.4:
        rgb = rgb + np.float32(sharpen) * (rgb - texture.blur(rgb, 1.0))
    spread = np.float32(rng.uniform(0.5, 5))
    rgb = rgb + spread * rng.standard_normal(rgb.shape[1:], np.float32)
    if rng.random() < 0.35:
        rgb = texture.block_noise(rgb, rng.uniform(4, 18))
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
