"""The nano network: a MobileNetV2 encoder and a light decoder that embeds every fourth pixel.

The network knows nothing of classes. It gives each location a vector of the text space,
and :func:`class_logits` compares those with whatever phrases were asked for.
"""

from itertools import pairwise
from pathlib import Path

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
CHANNELS = (24, 32, 96, 320)
"""Channels of the taps."""
WIDTHS = (64, 96, 128, 128)
"""Channels of the decoder, finest first."""
DILATIONS = (2, 4)
"""Of the convolutions that look around, at stride 16."""


class SameConv(nn.Module):
    """A convolution with TensorFlow's "same" padding: at stride 2, below and to the right only."""

    def __init__(
        self, inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        padding = size // 2 * dilation if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, dilation, groups)
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

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise = SameConv(width, width, 3, groups=width, dilation=dilation)
        self.point = SameConv(width, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, width, h, w) to the same shape."""
        return functional.relu(self.point(self.depthwise(features))) + features


class NanoNet(nn.Module):
    """Pixels to vectors of the text space.

    The decoder is wide where pixels are few and narrow where they are many. At stride 16
    it looks around with dilated convolutions: what a surface is often shows by what lies
    a hundred pixels away.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, 32, 3, stride=2)
        blocks: list[Block] = []
        inputs = 32
        for expansion, outputs, repeats, stride in STAGES:
            for index in range(repeats):
                blocks.append(Block(inputs, outputs, expansion=expansion, stride=stride if index == 0 else 1))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.lateral = nn.ModuleList(SameConv(taps, width, 1) for taps, width in zip(CHANNELS, WIDTHS, strict=True))
        self.fuse = nn.ModuleList(Fuse(width) for width in WIDTHS)
        self.around = nn.ModuleList(Fuse(WIDTHS[2], dilation) for dilation in DILATIONS)
        self.narrow = nn.ModuleList(SameConv(coarse, fine, 1) for fine, coarse in pairwise(WIDTHS[:3]))
        self.embed = SameConv(WIDTHS[0], EMBED, 1)

    def features(self, pixels: Tensor) -> Tensor:
        """Return what the vectors are made of: float (n, WIDTHS[0], h / 4, w / 4) for pixels as in :meth:`forward`."""
        features = functional.relu6(self.stem(pixels.float() / 127.5 - 1))  # (n, 32, h/2, w/2)
        taps: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            features = block(features)
            if index in TAPS:
                taps.append(features)
        merged: Tensor = self.fuse[3](functional.relu(self.lateral[3](taps[3])))
        for level in (2, 1, 0):  # strides 16, 8, 4
            side = self.lateral[level](taps[level])
            narrowed = self.narrow[level](merged) if level < 2 else merged
            side = side + functional.interpolate(narrowed, scale_factor=2.0, mode="nearest")
            merged = self.fuse[level](functional.relu(side))
            if level == 2:
                for around in self.around:
                    merged = around(merged)
        return merged

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed pixels.

        Args:
            pixels: uint8 or float (n, 3, h, w) in 0..255, sides multiples of 32.

        Returns:
            Float (n, 128, h / 4, w / 4), not normalised.
        """
        result: Tensor = self.embed(self.features(pixels))
        return result


def class_logits(embedding: Tensor, text: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
    """Compare locations with phrases.

    Args:
        embedding: (n, 128, h, w), any length.
        text: (classes, 128); of unit length in training, as long as its slope once calibrated.
        bias: (classes,).
        scale: Scalar, what a cosine is multiplied by.

    Returns:
        (n, classes, h, w): ``scale * |text| * cosine + bias``.
    """
    unit = functional.normalize(embedding.float(), dim=1, eps=1e-6).to(embedding.dtype)
    kernel = (scale * text)[:, :, None, None]  # (classes, 128, 1, 1)
    return functional.conv2d(unit, kernel.to(embedding.dtype), bias.to(embedding.dtype))


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
