"""The nano network: a MobileNetV2 encoder and a light decoder that embeds every fourth pixel.

The network knows nothing of classes. It gives each location a vector of the text space,
and :func:`class_logits` compares those with whatever phrases were asked for.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

EMBED = 128
"""Width of the text space, and of the vector of each location."""
STRIDE = 4
"""Pixels per location."""
MULTIPLE = 32
"""Sides of an input must be multiples of this."""

# (expansion, width, repeats, stride) of MobileNetV2 1.0, https://arxiv.org/abs/1801.04381, table 2
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
TAPS = (2, 5, 12, 16)
"""Blocks whose outputs feed the decoder, at strides 4, 8, 16 and 32."""


class SameConv(nn.Module):
    """A convolution with TensorFlow's "same" padding: at stride 2, below and to the right only."""

    def __init__(self, inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2 if stride == 1 else 0, groups=groups)
        self.stride = stride

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h / stride, w / stride); sides must be even at stride 2."""
        if self.stride == 2:
            features = functional.pad(features, (0, 1, 0, 1))
        result: Tensor = self.conv(features)
        return result


class Block(nn.Module):
    """An inverted residual of MobileNetV2 with batch norms folded away."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = SameConv(inputs, inner, 1) if expansion > 1 else None
        self.depthwise = SameConv(inner, inner, 3, stride=stride, groups=inner)
        self.project = SameConv(inner, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        inner = features if self.expand is None else functional.relu6(self.expand(features))
        result: Tensor = self.project(functional.relu6(self.depthwise(inner)))
        return features + result if self.residual else result


class Fuse(nn.Module):
    """A depthwise and a pointwise convolution that mix one level of the decoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = SameConv(width, width, 3, groups=width)
        self.point = SameConv(width, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, width, h, w) to the same shape."""
        return functional.relu(self.point(self.depthwise(features))) + features


class NanoNet(nn.Module):
    """Pixels to vectors of the text space.

    Args:
        width: Channels of the decoder.
    """

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.width = width
        self.stem = SameConv(3, 32, 3, stride=2)
        blocks: list[Block] = []
        inputs = 32
        for expansion, outputs, repeats, stride in STAGES:
            for index in range(repeats):
                blocks.append(Block(inputs, outputs, expansion=expansion, stride=stride if index == 0 else 1))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.lateral = nn.ModuleList(SameConv(channels, width, 1) for channels in (24, 32, 96, 320))
        self.fuse = nn.ModuleList(Fuse(width) for _ in TAPS)
        self.embed = SameConv(width, EMBED, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed pixels.

        Args:
            pixels: uint8 or float (n, 3, h, w) in 0..255, sides multiples of 32.

        Returns:
            Float (n, 128, h / 4, w / 4), not normalised.
        """
        features = functional.relu6(self.stem(pixels.float() / 127.5 - 1))  # (n, 32, h/2, w/2)
        taps: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            features = block(features)
            if index in TAPS:
                taps.append(features)
        merged: Tensor | None = None
        for level in (3, 2, 1, 0):  # strides 32, 16, 8, 4
            side = self.lateral[level](taps[level])
            if merged is not None:
                side = side + functional.interpolate(merged, scale_factor=2.0, mode="nearest")
            merged = self.fuse[level](functional.relu(side))
        result: Tensor = self.embed(merged)
        return result


def class_logits(embedding: Tensor, text: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
    """Compare locations with phrases.

    Args:
        embedding: (n, 128, h, w), any length.
        text: (classes, 128), unit length.
        bias: (classes,).
        scale: Scalar, what a cosine is multiplied by.

    Returns:
        (n, classes, h, w): ``scale * cosine + bias``.
    """
    unit = functional.normalize(embedding.float(), dim=1, eps=1e-6)
    return scale * torch.einsum("nchw,kc->nkhw", unit, text) + bias[:, None, None]


def load_encoder(net: NanoNet, path: Path) -> None:
    """Fill the encoder of ``net`` with folded ImageNet weights, in place.

    Args:
        net: The network.
        path: safetensors file with keys ``stem.*`` and ``blocks.*``.
    """
    state = {k: v.float() for k, v in load_file(path).items() if k.startswith(("stem.", "blocks."))}
    missing, unexpected = net.load_state_dict(state, strict=False)
    wrong = [key for key in missing if key.startswith(("stem.", "blocks."))]
    if wrong or unexpected:
        msg = f"{path} does not hold the encoder: missing {wrong[:3]}, unexpected {unexpected[:3]}"
        raise ValueError(msg)
