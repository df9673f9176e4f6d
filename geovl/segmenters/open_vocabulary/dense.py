"""From dense tokens to label maps: windows over an image, logits of names, the best class of every pixel.

A window's logits are few: one for each name and patch. Everything after them is linear up to the
last step: bilinear interpolation to pixels, the mean over windows, the change to the output's
size. All of it acts on rows and columns separately, so that it comes down to two small matrices
for each window, in which the number of windows that cover a pixel is contained. Columns are
brought to the output's width as soon as a row of windows is encoded; rows a few at a time, when
no later window touches them, and straight into their labels. So no map of all names at the size
of the image is ever made, and the memory needed does not grow with the image's height.

:func:`image_logits` and :func:`reference_logits` are the same map made in both ways.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from geovl.errors import UsageError

MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Of red, green and blue in 0..1, as CLIP's towers were trained."""
STD = (0.26862954, 0.26130258, 0.27577711)
_BLOCK = {"cpu": 2**21}  # values of all names worked on at once: 8 MiB, near a core's own cache
_BLOCK_ELSEWHERE = 2**25


@dataclass(frozen=True, slots=True)
class Encoding:
    """What an encoder says about windows of one size."""

    tokens: Tensor
    """(B, rows * columns, E), row by row; not of unit length."""
    grid: tuple[int, int]
    """Rows and columns of tokens."""
    whole: Tensor | None = None
    """(B, E): one token for each whole window, where the encoder has one; needed for a bias."""


Encode = Callable[[Tensor], Encoding]
"""Encodes windows (B, 3, h, w), normalised and padded, sides multiples of ``Options.multiple``."""


@dataclass(frozen=True, slots=True)
class Queries:
    """The names to look for and the class that each belongs to.

    Raises:
        UsageError: The classes are not 0..C-1, each with a name, or do not fit the vectors.
    """

    vectors: Tensor
    """(Q, E) of unit length."""
    classes: tuple[int, ...]
    """The class of each name."""

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.classes):
            msg = f"{len(self.classes)} names were given with vectors of shape {tuple(self.vectors.shape)}."
            raise UsageError(msg)
        if not self.classes or set(self.classes) != set(range(max(self.classes) + 1)):
            msg = f"Names of classes {sorted(set(self.classes))} were given; expected at least one for each from 0."
            raise UsageError(msg)

    @property
    def count(self) -> int:
        """How many classes there are."""
        return max(self.classes) + 1

    def by_class(self) -> "Queries":
        """Return the same names, sorted by class and otherwise in their order."""
        order = sorted(range(len(self.classes)), key=self.classes.__getitem__)
        return Queries(self.vectors[order], tuple(self.classes[index] for index in order))


@dataclass(frozen=True, slots=True)
class Options:
    """How an image is read.

    Raises:
        UsageError: A value that can mean nothing.
    """

    crop: int
    """Side of a window in pixels; 0 for the whole image at once."""
    stride: int
    """Pixels from one window to the next; at most ``crop``."""
    multiple: int
    """Windows are padded to multiples of this, with the mean colour."""
    scale: float
    """Factor on cosines before the softmax over names."""
    bias: float = 0.0
    """Factor on the whole window's cosines, which are added to those of its every token; SegEarth-OV has -0.3."""
    threshold: float = 0.0
    """Where the best score is lower, the label is ``background``."""
    background: int = 0
    """A label: of a class, or one of its own."""
    batch: int = 1
    """Windows encoded at once. One is fastest on a CPU, where more only outgrow the cache."""

    def __post_init__(self) -> None:
        if self.crop < 0 or self.multiple < 1 or self.batch < 1:
            msg = f"Crop {self.crop}, multiple {self.multiple} and batch {self.batch} were given; none may be less."
            raise UsageError(msg, "A crop is 0 or more, the others are 1 or more.")
        if self.crop and not 1 <= self.stride <= self.crop:
            msg = f"A stride of {self.stride} was given for windows of {self.crop}; expected 1 to {self.crop}."
            raise UsageError(msg, "With a larger stride there would be pixels that no window covers.")
        if not (math.isfinite(self.scale) and self.scale > 0 and math.isfinite(self.bias)):
            msg = f"Scale {self.scale} and bias {self.bias} were given; expected finite ones and a scale above 0."
            raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class Band:
    """Finished rows of the output."""

    first: int
    """The first row."""
    labels: Tensor
    """int32 (rows, width): index of a class, or ``Options.background``."""
    score: Tensor
    """float32 (rows, width): of the best class, whatever the label; 0..1."""
    classes: Tensor | None
    """float32 (C, rows, width): the score of every class, where asked for."""


class Span(NamedTuple):
    """Pixels [first, stop) of an axis."""

    first: int
    stop: int


class Reach(NamedTuple):
    """What a window contributes along one axis of the output."""

    first: int
    """First pixel of the output that it reaches."""
    weights: Tensor
    """(pixels, grid): how much each of its grid's lines adds to each pixel."""

    @property
    def stop(self) -> int:
        """The pixel after the last one that it reaches."""
        return self.first + len(self.weights)


def normalise(image: Tensor) -> Tensor:
    """Bring bytes (3, H, W) to the range that CLIP's towers were trained on; anything else is returned as it is."""
    if image.dtype != torch.uint8:
        return image
    mean, std = (torch.tensor(values, device=image.device).view(3, 1, 1) for values in (MEAN, STD))
    return (image / 255 - mean) / std


def spans(length: int, crop: int, stride: int) -> tuple[Span, ...]:
    """Return the windows along an axis: ``crop`` long, the last one moved back so that it ends with the axis.

    An axis shorter than ``crop`` has one window, of its own length; so has any where ``crop`` is 0.
    """
    if not crop or length <= crop:
        return (Span(0, length),)
    stops = [min(i * stride + crop, length) for i in range(math.ceil((length - crop) / stride) + 1)]
    return tuple(Span(stop - crop, stop) for stop in stops)


def margins(side: int, multiple: int) -> tuple[int, int]:
    """Return the pixels to add before and after a side so that it is a multiple; the odd one goes after."""
    missing = -side % multiple
    return missing // 2, missing - missing // 2


def cut(image: Tensor, rows: Span, columns: Span, multiple: int) -> Tensor:
    """Return a window (3, h, w) of an image (3, H, W), normalised and padded to multiples with zeros."""
    window = normalise(image[:, slice(*rows), slice(*columns)])
    upper, lower = margins(rows.stop - rows.first, multiple)
    left, right = margins(columns.stop - columns.first, multiple)
    return functional.pad(window, (left, right, upper, lower)) if upper or lower or left or right else window


def name_logits(encoding: Encoding, vectors: Tensor, bias: float = 0.0) -> Tensor:
    """Return cosines of names and tokens, (B, rows, columns, Q), plus ``bias`` times those of the whole window.

    A token of no length has cosines of 0.

    Raises:
        UsageError: A bias, but no token of the whole window.
    """
    found = _cosines(encoding.tokens, vectors)
    if bias:
        if encoding.whole is None:
            msg = f"A bias of {bias} was given, but the encoder has no token of the whole window."
            raise UsageError(msg)
        found += bias * _cosines(encoding.whole[:, None], vectors)
    return found.view(len(found), *encoding.grid, -1)


def _cosines(tokens: Tensor, vectors: Tensor) -> Tensor:
    """Return (B, n, Q) of tokens (B, n, E); in float32, whatever the encoder's precision."""
    return functional.normalize(tokens.float(), dim=-1) @ vectors.float().T


# --- the fast path ---------------------------------------------------------------------------------------------------


def segment_image(
    encode: Encode,
    queries: Queries,
    image: Tensor,
    options: Options,
    size: tuple[int, int] | None = None,
    *,
    class_scores: bool = False,
) -> Band:
    """Label an image.

    Args:
        encode: Gives the dense tokens of windows.
        queries: The names and their classes.
        image: (3, H, W): bytes 0..255, or floats normalised as CLIP's towers expect.
        options: How to read it.
        size: Height and width of the output where they are not the image's.
        class_scores: Return the score of every class also; it is as large as C images.

    Returns:
        The whole output as one band. Scores are a softmax over names at every pixel; of a class
        with several names the highest counts, so that they need not add up to 1.

    Raises:
        ModelError: The encoder does not take windows of that size.
        UsageError: An image without pixels or whose sides do not suit the options.
    """
    height, width = size or (image.shape[1], image.shape[2])
    device = queries.vectors.device
    labels = torch.empty(height, width, dtype=torch.int32, device=device)
    score = torch.empty(height, width, device=device)
    classes = torch.empty(queries.count, height, width, device=device) if class_scores else None
    for band in segment_bands(encode, queries, image, options, size, class_scores=class_scores):
        rows = slice(band.first, band.first + len(band.labels))
        labels[rows], score[rows] = band.labels, band.score
        if classes is not None and band.classes is not None:
            classes[:, rows] = band.classes
    return Band(0, labels, score, classes)


def segment_bands(
    encode: Encode,
    queries: Queries,
    image: Tensor,
    options: Options,
    size: tuple[int, int] | None = None,
    *,
    class_scores: bool = False,
) -> Iterator[Band]:
    """Label an image from top to bottom, a band of rows for each row of windows; see :func:`segment_image`."""
    queries = queries.by_class()
    for first, blocks in _rows(encode, queries.vectors, image, options, size):
        parts = [finish(logits, queries, options, class_scores=class_scores) for logits in blocks]
        classes = torch.cat([part.classes for part in parts if part.classes is not None], 1) if class_scores else None
        yield Band(
            first, torch.cat([part.labels for part in parts]), torch.cat([part.score for part in parts]), classes
        )


def image_logits(
    encode: Encode, queries: Queries, image: Tensor, options: Options, size: tuple[int, int] | None = None
) -> Tensor:
    """Return the cosines of all names at every pixel of the output, (Q, height, width), before scale and softmax.

    For looking at; :func:`segment_image` never makes this map.
    """
    blocks = (block for _, found in _rows(encode, queries.vectors, image, options, size) for block in found)
    return torch.cat([block.transpose(0, 1) for block in blocks], 1)


def class_logits(encode: Encode, queries: Queries, image: Tensor, options: Options) -> Tensor:
    """Return the cosine of the best name of every class at every pixel, float32 (C, H, W), before scale and softmax.

    Arguments and errors are those of :func:`segment_image`. As large as C images, and no map of all names is made.
    """
    queries = queries.by_class()
    stops = [sum(place <= index for place in queries.classes) for index in range(queries.count)]
    out = torch.empty(queries.count, *image.shape[1:], device=queries.vectors.device)
    for first, blocks in _rows(encode, queries.vectors, image, options, None):
        upper = first
        for block in blocks:
            lower = upper + len(block)
            begin = 0
            for found, stop in zip(out, stops, strict=True):
                torch.amax(block[:, begin:stop], 1, out=found[upper:lower])
                begin = stop
            upper = lower
    return out


def finish(logits: Tensor, queries: Queries, options: Options, *, class_scores: bool = False) -> Band:
    """Label pixels by the cosines of names.

    Args:
        logits: (rows, Q, width); overwritten.
        queries: Sorted by class.
        options: Scale, threshold and background.
        class_scores: As for :func:`segment_image`.

    Returns:
        The rows, counted from 0.
    """
    with torch.inference_mode():
        best, index = logits.max(1)
        labels = torch.tensor(queries.classes, dtype=torch.int32, device=logits.device)[index]
        # the softmax of the best name is 1 / sum of exp(scale * (others - best)): nothing overflows
        odds = logits.sub_(best[:, None]).mul_(options.scale).exp_()
        score = odds.sum(1).reciprocal_()
        labels[score < options.threshold] = options.background
        classes = _class_scores(odds, score, queries) if class_scores else None
    return Band(0, labels, score, classes)


def _class_scores(odds: Tensor, score: Tensor, queries: Queries) -> Tensor:
    """Return (C, rows, width): for each class the best of its names, which are neighbours; may overwrite ``odds``."""
    if queries.count == len(queries.classes):
        return odds.mul_(score[:, None]).transpose(0, 1)
    found = score.new_empty(queries.count, *score.shape)
    first = 0
    for index, out in enumerate(found):
        stop = first + queries.classes.count(index)
        torch.mul(odds[:, first:stop].amax(1), score, out=out)
        first = stop
    return found


def _rows(
    encode: Encode, vectors: Tensor, image: Tensor, options: Options, size: tuple[int, int] | None
) -> Iterator[tuple[int, Iterator[Tensor]]]:
    """Yield the rows of the output that no later window touches: the first one, and their cosines in blocks.

    The blocks are (some rows, Q, width). They must be used up before the next rows are asked for.
    """
    height, width = _sides(image, options)
    tall, wide = size or (height, width)
    if min(tall, wide) < 1:
        msg = f"An output of {tall} x {wide} pixels was asked for."
        raise UsageError(msg)
    across, down = (spans(length, options.crop, options.stride) for length in (width, height))
    live: list[tuple[Reach, Tensor]] = []
    reaches: list[Reach] = []
    first = 0
    for index, rows in enumerate(down):
        with torch.inference_mode():
            logits = _encoded(encode, vectors, image, rows, across, options)
            grid = (logits.shape[1], logits.shape[2])
            if not reaches:
                reaches = _reaches(down, height, grid[0], tall, options, vectors.device)
                columns = _reaches(across, width, grid[1], wide, options, vectors.device)
            live.append((reaches[index], _widened(logits, columns, wide)))
        stop = min(reach.first for reach in reaches[index + 1 :]) if index + 1 < len(down) else tall
        if stop > first:
            yield first, _blocks(live, first, stop)
        first = max(first, stop)
        live = [(reach, lines) for reach, lines in live if reach.stop > first]


def _sides(image: Tensor, options: Options) -> tuple[int, int]:
    """Return height and width of an image that the options suit."""
    if image.ndim != 3 or len(image) != 3 or not image.numel():
        msg = f"An image of shape {tuple(image.shape)} was given; expected (3, height, width)."
        raise UsageError(msg)
    height, width = image.shape[1:]
    if not options.crop and (height % options.multiple or width % options.multiple):
        msg = f"A whole image of {height} x {width} was given; expected multiples of {options.multiple}."
        raise UsageError(msg, "Read it in windows, which are padded, or pad it.")
    return height, width


def _encoded(
    encode: Encode, vectors: Tensor, image: Tensor, rows: Span, across: Sequence[Span], options: Options
) -> Tensor:
    """Return the cosines of a row of windows, (windows, grid rows, grid columns, Q)."""
    found = []
    for first in range(0, len(across), options.batch):
        windows = [cut(image, rows, columns, options.multiple) for columns in across[first : first + options.batch]]
        found.append(name_logits(encode(torch.stack(windows).to(vectors.device)), vectors, options.bias))
    return torch.cat(found)


def _widened(logits: Tensor, columns: Sequence[Reach], width: int) -> Tensor:
    """Bring a row of windows (windows, grid rows, grid columns, Q) to the output's columns: (grid rows, Q, width)."""
    lines, names = logits.shape[1], logits.shape[3]
    out = logits.new_zeros(lines * names, width)
    for window, reach in zip(logits, columns, strict=True):
        out[:, reach.first : reach.stop] += window.transpose(1, 2).reshape(lines * names, -1) @ reach.weights.T
    return out.view(lines, names, width)


def _blocks(live: Sequence[tuple[Reach, Tensor]], first: int, stop: int) -> Iterator[Tensor]:
    """Yield rows [first, stop) of the output, a few at a time, (rows, Q, width)."""
    names, width = live[0][1].shape[1:]
    step = max(1, _BLOCK.get(live[0][1].device.type, _BLOCK_ELSEWHERE) // (names * width))
    for upper in range(first, stop, step):
        lower = min(upper + step, stop)
        with torch.inference_mode():  # not around the yield, where it would hold for the caller too
            weights, lines = zip(*_touching(live, upper, lower), strict=True)
            block = (torch.cat(weights, 1) @ torch.cat(lines).flatten(1)).view(lower - upper, names, width)
        yield block


def _touching(live: Sequence[tuple[Reach, Tensor]], upper: int, lower: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for every window row its weights on rows [upper, lower) and the grid's lines that they belong to."""
    for reach, lines in live:
        begin, end = max(upper, reach.first), min(lower, reach.stop)
        if begin >= end:
            continue
        weights = reach.weights[begin - reach.first : end - reach.first]
        used = weights.any(0).nonzero()[:, 0]
        kept = slice(int(used[0]), int(used[-1]) + 1)
        yield functional.pad(weights[:, kept], (0, 0, begin - upper, lower - end)), lines[kept]


def _reaches(
    along: Sequence[Span], length: int, grid: int, out: int, options: Options, device: torch.device
) -> list[Reach]:
    """Return what each window along an axis of ``length`` pixels adds to an output of ``out`` pixels.

    Interpolation from the grid to the padded window, the cut of its padding, the mean over windows
    and the interpolation to the output, in one matrix for each window.
    """
    if not options.crop:  # straight from the grid to the output
        return [Reach(0, interpolation(grid, out).float().to(device))]
    cover = torch.zeros(length, dtype=torch.float64)
    for span in along:
        cover[slice(*span)] += 1
    before, after = margins(along[0].stop - along[0].first, options.multiple)
    side = along[0].stop - along[0].first
    pixels = interpolation(grid, before + side + after)[before : before + side]
    low, high, share = _taps(length, out)
    found = []
    for span in along:
        weights = pixels / cover[slice(*span), None]
        used = [(tap >= span.first) & (tap < span.stop) & (part > 0) for tap, part in ((low, 1 - share), (high, share))]
        touched = (used[0] | used[1]).nonzero()[:, 0]
        if not len(touched):  # in an output much smaller than the image
            found.append(Reach(out, torch.zeros(0, grid, device=device)))
            continue
        begin, end = int(touched[0]), int(touched[-1]) + 1
        total = torch.zeros(end - begin, grid, dtype=torch.float64)
        for index, part in ((low, 1 - share), (high, share)):
            near = index[begin:end] - span.first
            inside = (near >= 0) & (near < side)
            total[inside] += part[begin:end][inside, None] * weights[near[inside]]
        found.append(Reach(begin, total.float().to(device)))
    return found


def interpolation(inner: int, outer: int) -> Tensor:
    """Return the float64 matrix (outer, inner) of bilinear interpolation along an axis.

    Pixel centres lie at halves, borders are held, nothing is smoothed where it shrinks.
    """
    low, high, share = _taps(inner, outer)
    matrix = torch.zeros(outer, inner, dtype=torch.float64)
    rows = torch.arange(outer)
    matrix[rows, low] += 1 - share
    matrix[rows, high] += share
    return matrix


def _taps(inner: int, outer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two source pixels of each of ``outer`` pixels and the second one's share, 0..1."""
    place = ((torch.arange(outer, dtype=torch.float64) + 0.5) * (inner / outer) - 0.5).clamp_(min=0)
    low = place.floor().long().clamp_(max=inner - 1)
    return low, (low + 1).clamp_(max=inner - 1), place - low


# --- the same, step by step ------------------------------------------------------------------------------------------


def reference_logits(
    encode: Encode, queries: Queries, image: Tensor, options: Options, size: tuple[int, int] | None = None
) -> Tensor:
    """Return what :func:`image_logits` does, by one full map for each step: to compare with, not to use."""
    height, width = _sides(image, options)
    total = torch.zeros(len(queries.classes), height, width, device=queries.vectors.device)
    cover = total.new_zeros(height, width)
    with torch.inference_mode():
        for rows in spans(height, options.crop, options.stride):
            for columns in spans(width, options.crop, options.stride):
                window = cut(image, rows, columns, options.multiple).to(total.device)
                logits = name_logits(encode(window[None]), queries.vectors, options.bias).permute(0, 3, 1, 2)
                if not options.crop:
                    return _resized(logits, size or (height, width))[0]
                upper, left = (margins(span.stop - span.first, options.multiple)[0] for span in (rows, columns))
                full = _resized(logits, (window.shape[1], window.shape[2]))[0, :, upper:, left:]
                part = (slice(*rows), slice(*columns))
                total[:, *part] += full[:, : rows.stop - rows.first, : columns.stop - columns.first]
                cover[part] += 1
        return _resized((total / cover)[None], size or (height, width))[0]


def reference_finish(logits: Tensor, queries: Queries, options: Options) -> Band:
    """Return what :func:`finish` does of (Q, height, width), by the softmax over all names."""
    chances = (logits * options.scale).softmax(0)
    names = torch.tensor(queries.classes, device=logits.device)
    classes = torch.stack([chances[names == index].amax(0) for index in range(queries.count)])
    score, labels = classes.max(0)
    labels = torch.where(score < options.threshold, options.background, labels)
    return Band(0, labels.to(torch.int32), score, classes)


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)
