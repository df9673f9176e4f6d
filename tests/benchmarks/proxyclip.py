"""Compare ProxyCLIP here with a straightforward one, on CPU seconds of one thread.

    OMP_WAIT_POLICY=PASSIVE python tests/benchmarks/proxyclip.py --windows 2

A random ViT-B/16 with a random DINO ViT-B/8, windows of 336 pixels every 112 over an image of
1024 x 1024, 20 names. The straightforward one does what the released code does: attention of the
vision network with explicit matrices, the proxy attention copied for every head, queries and keys
of the last block computed for nothing, every window's logits in a map of the whole image. Text
is left out of both.

With ``--windows`` fewer than all 64, encoding is measured on that many, after one to warm up, and
multiplied: ``extrapolated`` says so. What is done with maps is measured on all windows of ours,
and on as many as are encoded of the other, likewise multiplied. Prints JSON. ``floor`` is the time
that the needed products alone would take at the rate of the faster of both kinds of linear layer.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from geovl.segmenters.open_vocabulary.dense import Encoding, Options, Queries, cut, segment_image, spans
from geovl.segmenters.open_vocabulary.proxyclip import BETA, GAMMA, Grid, attended, proxy_tokens
from geovl.segmenters.open_vocabulary.tower import Linear, Tower, packing_pays
from geovl.segmenters.open_vocabulary.vision import VisionBackbone, load_vision, renormalised

SIDE, CROP, STRIDE, NAMES, SCALE = 1024, 336, 112, 20, 40.0
DEPTH, WIDTH, HEADS, EMBED = 12, 768, 12, 512
MULTIPLE = 56  # of the released code; 336 needs no padding


def spent(work: Callable[[], Any], repeats: int = 1) -> float:
    """The least CPU seconds of some runs."""
    found = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


@dataclass(frozen=True)
class Subject:
    """Both networks, plain and as we run them."""

    model: Any
    plain_tower: Tower
    tower: Tower
    plain_vision: VisionBackbone
    vision: VisionBackbone
    queries: Queries
    image: Tensor

    @classmethod
    def random(cls) -> "Subject":
        torch.manual_seed(0)
        model = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None).eval()
        network = timm.create_model("vit_base_patch8_224.dino", pretrained=False, num_classes=0)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "dino.safetensors"
            save_file(network.state_dict(), path)
            plain, ours = (load_vision(path, kind="dino", pack=pack) for pack in (False, packing_pays()))
        for block in plain._network.blocks:
            block.attn.fused_attn = False
        image = torch.randint(0, 256, (3, SIDE // 64, SIDE // 64), dtype=torch.uint8).repeat_interleave(64, 1)
        image = image.repeat_interleave(64, 2).float().add_(torch.randn(3, SIDE, SIDE) * 10).clamp_(0, 255).byte()
        queries = Queries(functional.normalize(torch.randn(NAMES, EMBED), dim=1), tuple(range(NAMES)))
        return cls(model, Tower(model), Tower(model, pack=packing_pays()), plain, ours, queries, image)

    def windows(self) -> Iterator[tuple[slice, slice, Tensor]]:
        for rows, columns in product(spans(SIDE, CROP, STRIDE), repeat=2):
            yield slice(*rows), slice(*columns), cut(self.image, rows, columns, MULTIPLE)[None]


# ------------------------------------------------------------------------------------- the straightforward one


def plain_stream(subject: Subject, x: Tensor) -> Tensor:
    visual = subject.model.visual
    stream = visual.conv1(x).flatten(2).transpose(1, 2)
    stream = torch.cat([visual.class_embedding.expand(1, 1, -1), stream], 1)
    stream = visual.ln_pre(stream + subject.plain_tower.positions((x.shape[2] // 16, x.shape[3] // 16)))
    for block in visual.transformer.resblocks[:-1]:
        stream = block(stream)
    return stream


def plain_proxy(subject: Subject, stream: Tensor, features: Tensor) -> Tensor:
    """Section by section as the method is written, one attention for each head."""
    last, (_, _, rows, cols) = subject.plain_tower.last, features.shape
    _, _, value = last.qkv(stream)
    side = CROP // subject.plain_tower.patch
    value = value[:, :, 1:].transpose(2, 3).reshape(1, WIDTH, side, side)
    value = functional.interpolate(value, (rows, cols), mode="bilinear").flatten(2).transpose(1, 2)
    value = value.view(1, -1, HEADS, WIDTH // HEADS).transpose(1, 2)
    unit = functional.normalize(features, dim=1).flatten(2)
    similarity = unit.transpose(1, 2) @ unit
    bias = (similarity - similarity.mean() * BETA) * GAMMA
    bias[bias < 0] = -torch.inf
    attention = bias[:, None].repeat(1, HEADS, 1, 1).softmax(-1)
    return subject.plain_tower.project(last.out(attention @ value))


def plain_encode(subject: Subject, x: Tensor) -> tuple[Tensor, Tensor]:
    features = subject.plain_vision.features(renormalised(x, subject.plain_vision))
    return plain_proxy(subject, plain_stream(subject, x), features), features


def plain_add(subject: Subject, total: Tensor, cover: Tensor, place: tuple[slice, slice], tokens: Tensor) -> Tensor:
    logits = functional.normalize(tokens, dim=-1) @ subject.queries.vectors.T
    side = int(logits.shape[1] ** 0.5)
    logits = logits.transpose(1, 2).reshape(1, NAMES, side, side)
    logits = functional.interpolate(logits, (CROP, CROP), mode="bilinear")
    rows, cols = place
    cover[:, :, rows, cols] += 1
    return total + functional.pad(logits, (cols.start, SIDE - cols.stop, rows.start, SIDE - rows.stop))


def plain_finish(total: Tensor, cover: Tensor) -> Tensor:
    logits = functional.interpolate(total / cover.clamp(min=1), (SIDE, SIDE), mode="bilinear")[0]
    return (logits * SCALE).softmax(0).argmax(0)


# ------------------------------------------------------------------------------------------------------- ours


def encode(subject: Subject, x: Tensor) -> Encoding:
    features = subject.vision.features(renormalised(x, subject.vision))
    return Encoding(proxy_tokens(subject.tower, x, features), (features.shape[2], features.shape[3]))


def gemm_rate() -> float:
    """FLOP a second of a hidden layer of a ViT-B on the tokens of one window."""
    x, weight = torch.randn(1765, WIDTH), torch.randn(4 * WIDTH, WIDTH)
    layers = [Linear.of(weight, None, pack=pack) for pack in (False, True)]
    return 2 * 1765 * weight.numel() / min(spent(lambda layer=layer: layer(x), 6) for layer in layers)


def needed(windows: int) -> dict[str, float]:
    """FLOP of the products that no implementation of equal output can leave out, of all windows."""

    def blocks(tokens: int, depth: int) -> int:
        return depth * (24 * tokens * WIDTH**2 + 4 * tokens**2 * WIDTH)

    fine, coarse = (CROP // 8) ** 2, (CROP // 16) ** 2
    vision = blocks(1 + fine, DEPTH) + 2 * fine * WIDTH * 3 * 8**2
    clip = blocks(1 + coarse, DEPTH - 1) + 2 * coarse * WIDTH * 3 * 16**2
    similar = 2 * fine * fine * WIDTH // 2  # it is symmetric
    proxy = similar + 2 * fine * coarse * WIDTH + 4 * coarse * WIDTH**2 + 2 * fine * WIDTH * EMBED
    parts = {"vision": vision, "clip": clip, "proxy": proxy, "logits": 2 * fine * EMBED * NAMES}
    return {name: float(windows * part) for name, part in parts.items()}


def measure(subject: Subject, count: int) -> dict[str, Any]:
    """CPU seconds of both for the whole image."""
    windows = list(subject.windows())
    factor = len(windows) / count
    step = len(windows) // count
    chosen = windows[::step][:count]
    report: dict[str, Any] = {"windows": len(windows), "encoded": count, "extrapolated": count < len(windows)}
    x = chosen[0][2]
    plain_encode(subject, x)
    encode(subject, x)

    plain, ours = dict.fromkeys(("vision", "clip", "proxy", "maps"), 0.0), {}
    plain_tokens, worst = [], 0.0
    spent_ours = dict.fromkeys(("vision", "clip and proxy"), 0.0)
    for _, _, x in chosen:
        started = time.process_time()
        features = subject.plain_vision.features(renormalised(x, subject.plain_vision))
        plain["vision"] += (after := time.process_time()) - started
        stream = plain_stream(subject, x)
        plain["clip"] += (later := time.process_time()) - after
        plain_tokens.append(plain_proxy(subject, stream, features))
        plain["proxy"] += time.process_time() - later

        started = time.process_time()
        mine = subject.vision.features(renormalised(x, subject.vision))
        spent_ours["vision"] += (after := time.process_time()) - started
        tokens = proxy_tokens(subject.tower, x, mine)
        spent_ours["clip and proxy"] += time.process_time() - after
        worst = max(worst, (tokens - plain_tokens[-1]).abs().max().item())
    values = torch.randn(1, 441, WIDTH)
    report["proxy attention alone, ours"] = round(
        spent(lambda: attended(mine, values, Grid(21, 21)), 3) * len(windows), 2
    )

    total, cover = torch.zeros(1, NAMES, SIDE, SIDE), torch.zeros(1, 1, SIDE, SIDE)
    started = time.process_time()
    for (rows, cols, _), tokens in zip(chosen, plain_tokens, strict=True):
        total = plain_add(subject, total, cover, (rows, cols), tokens)
    plain["maps"] = time.process_time() - started
    plain = {name: seconds * factor for name, seconds in plain.items()}
    plain["maps"] += spent(lambda: plain_finish(total, cover))

    options = Options(CROP, STRIDE, MULTIPLE, SCALE)
    known = Encoding(plain_tokens[0], (CROP // 8, CROP // 8))
    ours = {name: seconds * factor for name, seconds in spent_ours.items()}
    ours["maps"] = spent(lambda: segment_image(lambda _: known, subject.queries, subject.image, options))

    rate = gemm_rate()
    floor = {name: flop / rate for name, flop in needed(len(windows)).items()}
    sums = {"straightforward": sum(plain.values()), "ours": sum(ours.values()), "floor": sum(floor.values())}
    for name, parts in (("straightforward", plain), ("ours", ours), ("floor", floor)):
        report[name] = {"total": round(sums[name], 1)} | {part: round(seconds, 2) for part, seconds in parts.items()}
    return report | {
        "packed": packing_pays(),
        "GFLOP/s": round(rate / 1e9),
        "times faster": round(sums["straightforward"] / sums["ours"], 2),
        "ours over floor": round(sums["ours"] / sums["floor"], 2),
        "largest difference of tokens": worst,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=2, help="how many of the 64 windows to encode")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        print(json.dumps(measure(Subject.random(), min(max(options.windows, 1), 64)), indent=1))


if __name__ == "__main__":
    main()
