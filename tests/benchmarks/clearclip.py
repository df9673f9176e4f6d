"""Compare ClearCLIP here with the method step by step as it was released: the same labels, CPU seconds of one thread.

    OMP_NUM_THREADS=1 python tests/benchmarks/clearclip.py --windows 2

ViT-B/16 with random weights, a random image of 1024 x 1024, windows of 448 every 224 (16 of them). "Released" is our
own plain writing of the released order of work: sentences of 77 tokens, the last block as trained beside the modified
one, explicit attention matrices, a map of all names at full size for each window, a softmax over all names at every
pixel, and the best name of a class through a product of classes, names and pixels.

Encoding is measured on ``--windows`` windows and multiplied by 16; the maps of all 16 are measured in full, from the
tokens of one window; released text is measured on one name and multiplied, ours in full for 20 names and, without
``--full``, multiplied for 150. "Floor" is the time of the matrix products that nobody can leave out, at the speed that
this machine's own matrix product reaches at the same moment: the sum over the same sizes, nothing else.

Prints one line of JSON for each vocabulary, one on how far both differ, and one for each lower precision of the image
tower: how much faster it encodes a window, and how far cosines and labels of that window are from those of float32, on
``--image`` or on noise. Random weights have no class that stands out, so that more labels change with them than need
with trained ones; cosines tell more.
"""

import argparse
import json
import logging
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from time import thread_time

import open_clip
import rasterio
import torch
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from torch import Tensor
from torch.nn import functional

from geovl.segmenters.open_vocabulary import dense, templates, text
from geovl.segmenters.open_vocabulary.attention import dense_tokens
from geovl.segmenters.open_vocabulary.tower import Tower

SIDE, CROP, STRIDE, SCALE = 1024, 448, 224, 50.0
OPTIONS = dense.Options(CROP, STRIDE, 16, SCALE, threshold=0.1)


# ------------------------------------------------------------------------------------------------------------ released


def released_text(model: torch.nn.Module, tokenizer: Callable[[list[str]], Tensor], names: list[str]) -> Tensor:
    """Unit vectors of names, (Q, E)."""
    found = []
    for name in names:
        tokens = tokenizer([templates.fill(template, name) for template in templates.templates()])
        each = functional.normalize(model.encode_text(tokens), dim=-1)
        found.append(functional.normalize(each.mean(0), dim=0))
    return torch.stack(found)


def released_tokens(model: torch.nn.Module, tower: Tower, x: Tensor) -> Tensor:
    """Dense tokens (B, N, E): the model's own blocks, then the last one twice."""
    visual = model.visual
    stream = visual.conv1(x).flatten(2).transpose(1, 2)
    stream = torch.cat([visual.class_embedding.expand(len(x), 1, -1), stream], 1)
    stream = visual.ln_pre(stream + tower.positions(tower.grid(*x.shape[2:])))
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        stream = block(stream)
    weights, bias = last.attn.in_proj_weight, last.attn.in_proj_bias
    query, _, value = functional.linear(last.ln_1(stream), weights, bias).chunk(3, dim=-1)
    query, value = (part.unflatten(2, (tower.heads, -1)).transpose(1, 2).flatten(0, 1) for part in (query, value))
    attention = torch.softmax(torch.bmm(query * query.shape[-1] ** -0.5, query.transpose(1, 2)), dim=-1)
    values = torch.bmm(attention, value).unflatten(0, (len(x), tower.heads)).transpose(1, 2).flatten(2)
    modified = last.attn.out_proj(values)
    last(stream)  # as trained, and thrown away
    return visual.ln_post(modified)[:, 1:] @ visual.proj


def released_image(encode: dense.Encode, queries: dense.Queries, image: Tensor) -> tuple[Tensor, Tensor]:
    """Labels and scores (H, W)."""
    height, width = image.shape[1:]
    image = dense.normalise(image)
    total = torch.zeros(1, len(queries.classes), height, width)
    cover = torch.zeros(1, 1, height, width)
    for rows in dense.spans(height, CROP, STRIDE):
        for columns in dense.spans(width, CROP, STRIDE):
            window = image[None, :, slice(*rows), slice(*columns)]
            tokens, grid = (found := encode(window)).tokens, found.grid
            tokens = tokens / tokens.norm(dim=-1, keepdim=True)
            logits = (tokens @ queries.vectors.T).permute(0, 2, 1).reshape(1, -1, *grid)
            logits = functional.interpolate(logits, window.shape[2:], mode="bilinear")
            around = (columns.first, width - columns.stop, rows.first, height - rows.stop)
            total += functional.pad(logits, around)
            cover[:, :, slice(*rows), slice(*columns)] += 1
    logits = functional.interpolate(total / cover, (height, width), mode="bilinear")[0]
    chances = (logits * SCALE).softmax(0)
    if queries.count != len(queries.classes):
        member = functional.one_hot(torch.tensor(queries.classes)).T[:, :, None, None]
        chances = (chances[None] * member).max(1)[0]
    score, labels = chances.max(0)
    labels[score < OPTIONS.threshold] = OPTIONS.background
    return labels, score


# --------------------------------------------------------------------------------------------------------------- floor


def multiplications(tower: Tower, layers: int, names: int) -> float:
    """How many multiply-adds the products of one window need, times two."""
    tokens, width = 1 + (CROP // tower.patch) ** 2, tower.width
    attention = 2 * tokens**2 * width
    plain = 12 * tokens * width**2 + attention
    last = 3 * tokens * width**2 + attention  # queries, values and the output projection
    ends = (tokens - 1) * width * 3 * tower.patch**2 + (tokens - 1) * tower.embed_dim * (width + names)
    return 2.0 * ((layers - 1) * plain + last + ends)


def text_multiplications(tower: text.TextTower, tokens: Tensor, layers: int) -> float:
    """The same for sentences: each distinct beginning once, of the last block the feed-forward part for ends only."""
    lengths = tokens.argmax(1) + 1
    beginnings = {
        tuple(row[:n]) for row, end in zip(tokens.tolist(), lengths.tolist(), strict=True) for n in range(1, end + 1)
    }
    width = tower._positions.shape[1]
    return 2.0 * width**2 * (len(beginnings) * (12 * layers - 9) + 9 * len(tokens))


def product_rate() -> float:
    """Operations a second of a product of a layer's size."""
    x, weight = torch.randn(785, 768), torch.randn(768, 3072)
    return 2 * 785 * 768 * 3072 / best(lambda: x @ weight, 7)


# ------------------------------------------------------------------------------------------------------------ measuring


def best(work: Callable[[], object], times: int = 1) -> float:
    """CPU seconds of the fastest of some runs."""
    spent = []
    for _ in range(times):
        started = thread_time()
        work()
        spent.append(thread_time() - started)
    return min(spent)


@dataclass(frozen=True)
class Parts:
    """CPU seconds."""

    text: float
    window: float
    maps: float

    def total(self, windows: int, *, cold: bool) -> float:
        """Of an image, with its names' vectors or without."""
        return windows * self.window + self.maps + (self.text if cold else 0.0)


def line(names: int, classes: int, windows: int, released: Parts, ours: Parts, floor: Parts) -> dict[str, object]:
    """What is printed for a vocabulary."""
    found: dict[str, object] = {"names": names, "classes": classes}
    for state in ("warm", "cold"):
        totals = [parts.total(windows, cold=state == "cold") for parts in (released, ours, floor)]
        found[state] = dict(zip(("released", "ours", "floor"), (round(t, 2) for t in totals), strict=True))
        found[f"{state} ratio"] = round(totals[0] / totals[1], 2)
    for name, parts in (("released", released), ("ours", ours), ("floor", floor)):
        found[f"{name} parts"] = {key: round(value, 3) for key, value in vars(parts).items()}
    # released, every image anew: the vectors are not kept
    found["ratio where ours are kept"] = round(released.total(windows, cold=True) / ours.total(windows, cold=False), 2)
    return found


def lower_precisions(model: torch.nn.Module, tower: Tower, x: Sequence[Tensor]) -> None:
    """Print what lower precisions of the image tower cost and gain, on windows (1, 3, CROP, CROP)."""
    vectors = functional.normalize(torch.randn(20, tower.embed_dim), dim=-1)

    def cosines(tower: Tower, window: Tensor) -> Tensor:
        encoding = dense.Encoding(dense_tokens(tower, window)[0], tower.grid(*window.shape[2:]))
        return functional.interpolate(dense.name_logits(encoding, vectors).permute(0, 3, 1, 2), window.shape[2:])

    exact = torch.cat([cosines(tower, window) for window in x])
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        low = Tower(deepcopy(model.visual).to(dtype))
        spent = [best(partial(dense_tokens, which, x[0]), 3) for which in (tower, low)]
        off = (found := torch.cat([cosines(low, window) for window in x])) - exact
        told = {
            "precision": name, "times as fast": round(spent[0] / spent[1], 2),
            "cosines off by, mean": float(off.abs().mean()), "most": float(off.abs().max()),
            "spread of cosines over names": float(exact.std(1).mean()),
            "labels that agree": round(float((found.argmax(1) == exact.argmax(1)).float().mean()), 4),
        }  # fmt: skip
        print(json.dumps(told), flush=True)


def read(path: str) -> Tensor:
    """Return a picture as uint8 (3, SIDE, SIDE)."""
    with rasterio.open(path) as source:
        pixels = source.read((1, 2, 3), out_shape=(3, SIDE, SIDE))
    return torch.from_numpy(pixels)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=2, help="windows that are encoded by both, of 16")
    parser.add_argument("--full", action="store_true", help="measure our text for 150 names in full")
    parser.add_argument("--pack", action="store_true", help="weights packed for oneDNN")
    parser.add_argument("--image", help="picture of 8 bits in place of noise")
    parser.add_argument("--precisions", action="store_true", help="only the lines on lower precisions")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # of random weights
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16-quickgelu").eval()
    tokenizer = open_clip.get_tokenizer("ViT-B-16-quickgelu")
    tower, words = Tower(model, pack=arguments.pack), text.TextTower(model, pack=arguments.pack)
    layers, names = len(model.visual.transformer.resblocks), list(IMAGENET_CLASSNAMES[:150])
    noise = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8)
    image = read(arguments.image) if arguments.image else noise
    windows = len(dense.spans(SIDE, CROP, STRIDE)) ** 2
    x = [dense.normalise(image[:, i : i + CROP, i : i + CROP])[None] for i in range(arguments.windows)]

    def released_encode(window: Tensor) -> dense.Encoding:
        return dense.Encoding(released_tokens(model, tower, window), tower.grid(*window.shape[2:]))

    def our_encode(window: Tensor) -> dense.Encoding:
        return dense.Encoding(dense_tokens(tower, window)[0], tower.grid(*window.shape[2:]))

    with torch.inference_mode():
        if arguments.precisions:
            lower_precisions(model, tower, x)
            return
        rate = product_rate()
        pairs = [(best(partial(released_encode, window)), best(partial(our_encode, window))) for window in x]
        encoded = [math.fsum(column) / len(pairs) for column in zip(*pairs, strict=True)]
        slow_text = best(lambda: released_text(model, tokenizer, names[:1]))
        counts = (20, 150) if arguments.full else (20,)
        sentences = templates.templates()
        our_text = {n: best(partial(text.embed_names, words, tokenizer, names[:n], sentences)) for n in counts}
        rate = max(rate, product_rate())
        kept = our_encode(x[0])
        for count, classes in ((20, 20), (30, 10), (150, 150)):
            vectors = functional.normalize(torch.randn(count, tower.embed_dim), dim=-1)
            queries = dense.Queries(vectors, tuple(i * classes // count for i in range(count)))
            maps = [best(partial(released_image, lambda _: kept, queries, image))]
            maps += [best(partial(dense.segment_image, lambda _: kept, queries, image, OPTIONS), 2)]
            cold = our_text.get(count, our_text[20] * count / 20)
            tokens = tokenizer([templates.fill(t, name) for name in names[:count] for t in templates.templates()])
            floor_text = text_multiplications(words, tokens, layers) / rate
            floor = Parts(floor_text, multiplications(tower, layers, count) / rate, 0.0)
            found = line(
                count,
                classes,
                windows,
                Parts(slow_text * count, encoded[0], maps[0]),
                Parts(cold, encoded[1], maps[1]),
                floor,
            )
            print(json.dumps(found | {"GFLOP/s": round(rate / 1e9)}), flush=True)
        part = image[:, :CROP, : CROP + STRIDE]  # two windows, encoded by each its own way
        labels, score = released_image(released_encode, queries, part)
        band = dense.segment_image(our_encode, queries, part, OPTIONS)
        differ = int((labels != band.labels).sum())
        found = {
            "pixels": labels.numel(),
            "labels that differ": differ,
            "score": float((score - band.score).abs().max()),
        }
        print(json.dumps(found))
        lower_precisions(model, tower, x)


if __name__ == "__main__":
    main()
