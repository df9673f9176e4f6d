"""Trains nano from folders of pictures and labels, and exports it.

    python -m geovl.learn.nano.train --data DATA --labels LABELS --weights WEIGHTS --out DIR

Seeded: each step draws by the seed and its own number, so a run that was interrupted and
goes on from ``DIR/checkpoint.pt`` sees what it would have seen. A GPU is used when
there is one.
"""

import argparse
import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from geovl.learn.nano import augment, data, export, rendered, vocabulary
from geovl.learn.nano.concepts import CONCEPTS, UNKNOWN
from geovl.learn.nano.model import NanoNet, class_logits, load_encoder
from geovl.segmenters.nano.text import TextTable

log = logging.getLogger(__name__)

_CHECKPOINT_SECONDS = 120
LEAST_SAMPLES = 5
"""A concept with fewer labelled pictures is not offered by the exported model."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a training run depends on."""

    steps: int = 3000
    size: int = 256
    """Side of a training crop, pixels."""
    batch: int = 12
    rate: float = 1.5e-3
    encoder_rate: float = 0.25
    """Learning rate of the encoder, as a share of ``rate``."""
    decay: float = 0.998
    """Of the moving average of the weights, a step."""
    airfields: int = 240
    """Airfields to draw over real ground."""
    scenes: int = 900
    """Whole scenes to render."""
    choice: float = 0.4
    """Weight of the loss that sets concepts against each other."""
    calibration: int = 24
    """Batches that calibrate the scores."""
    seed: int = 0


class Trainee(torch.nn.Module):
    """The network with what only training needs: a scale and a bias per concept."""

    def __init__(self) -> None:
        super().__init__()
        self.net = NanoNet()
        self.scale = torch.nn.Parameter(torch.tensor(math.log(14.0)))
        self.bias = torch.nn.Parameter(torch.full((len(CONCEPTS),), -4.0))

    def forward(self, pixels: Tensor, text: Tensor) -> Tensor:
        """Map pixels (n, 3, h, w) and text (concepts, 128) to logits (n, concepts, h / 4, w / 4)."""
        return class_logits(self.net(pixels), text, self.bias, self.scale.exp())


def loss_of(logits: Tensor, targets: Tensor, choice: float = 0.4) -> Tensor:
    """Return the mean over concepts of weighted cross-entropy, plus soft Dice, plus a choice.

    Positive pixels are weighted by the root of their rarity, at most 5, so that thin and
    small things count; Dice ties each concept's loss to its overlap. The choice is a
    softmax over the concepts that a pixel tells about, so that the highest of several
    prompts is the right one.

    Args:
        logits: (n, concepts, h, w).
        targets: uint8 (n, concepts, h, w): 1 present, 0 absent, 255 unknown.
        choice: Weight of the choice.
    """
    known = targets != UNKNOWN
    truth = (targets == 1).float()
    count = known.sum((0, 2, 3)).float()
    positive = (truth * known).sum((0, 2, 3))
    weight = ((count - positive) / positive.clamp(min=1)).sqrt().clamp(1, 5)
    raw = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    raw = raw * known * (1 + truth * (weight[:, None, None] - 1))
    entropy = raw.sum((0, 2, 3)) / count.clamp(min=1)
    chance = logits.sigmoid() * known
    dice = 1 - (2 * (chance * truth).sum((0, 2, 3)) + 1) / (chance.sum((0, 2, 3)) + positive + 1)
    asked, seen = count > 0, positive > 50
    total: Tensor = entropy[asked].mean()
    if bool(seen.any()):
        total = total + 0.3 * dice[seen].mean()
    return total + choice * _choice(logits, known, truth.bool() & known)


def _choice(logits: Tensor, known: Tensor, truth: Tensor) -> Tensor:
    """Return the mean negative log share of the true concepts among those told, each true concept counting alike."""
    every = logits.masked_fill(~known, -30.0).logsumexp(1)  # (n, h, w)
    right = logits.masked_fill(~truth, -30.0).logsumexp(1)
    count = truth.sum((0, 2, 3)).float()  # (concepts,)
    # a pixel of a rare concept weighs up to five times one of the commonest
    rarity = (count.max() / count.clamp(min=1)).sqrt().clamp(max=5)
    weight = (truth * rarity[:, None, None]).amax(1)
    return ((every - right) * weight).sum() / weight.sum().clamp(min=1)


def draw(
    sources: list[data.Source], recipe: Recipe, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one batch: pixels uint8 (n, 3, s, s), targets uint8 (n, concepts, s / 4, s / 4)."""
    shares = np.array([source.share for source in sources])
    picked = rng.choice(len(sources), recipe.batch, p=shares / shares.sum())
    pairs = []
    for index in picked:
        source = sources[index]
        sample = source.samples[int(rng.integers(len(source.samples)))]
        pairs.append(augment.crop(sample, source.zoom, recipe.size, rng))
    return np.stack([p for p, _ in pairs]), np.stack([t for _, t in pairs])


def taught(sources: list[data.Source]) -> tuple[str, ...]:
    """Return the concepts that enough training pictures show."""
    count = np.zeros(len(CONCEPTS), int)
    for source in sources:
        for sample in source.samples:
            used = np.bincount(sample.codes.ravel(), minlength=len(sample.table)) > 20
            count += (sample.table[used[: len(sample.table)]] == 1).any(axis=0)
    return tuple(name for name, seen in zip(CONCEPTS, count, strict=True) if seen >= LEAST_SAMPLES)


def text_batch(table: TextTable, words: dict[str, tuple[str, ...]], rng: np.random.Generator | None) -> Tensor:
    """Return a vector per concept, (concepts, 128): of its name, or of a phrase drawn by ``rng``."""
    rows = []
    for concept in CONCEPTS:
        options = words[concept]
        # the name itself half of the time: it is what people type most
        phrase = options[0] if rng is None or rng.random() < 0.5 else options[int(rng.integers(len(options)))]
        vector = table.embed(phrase)
        if vector is None:
            vector = table.embed(concept)
        rows.append(vector if vector is not None else np.zeros(128, np.float32))
    return torch.from_numpy(np.stack(rows))


def calibrate(net: Trainee, sources: list[data.Source], text: Tensor, recipe: Recipe) -> NDArray[np.float32]:
    """Return the bias per concept that puts the best overlap on training pictures at a score of 0.5.

    Training pictures, newly cropped, are used, so that held-out figures stay honest.
    """
    rng = np.random.default_rng(recipe.seed + 1)
    grid = np.linspace(-4, 4, 81)
    hits, union = np.zeros((len(CONCEPTS), 81)), np.zeros((len(CONCEPTS), 81))
    device = next(net.parameters()).device
    for _ in range(recipe.calibration):
        pixels, targets = draw(sources, recipe, rng)
        with torch.inference_mode():
            logits = net(torch.from_numpy(pixels).to(device), text.to(device)).cpu()
        for index in range(len(CONCEPTS)):
            truth = targets[:, index]
            known = truth != UNKNOWN
            value, yes = logits[:, index].numpy()[known], truth[known] == 1
            edges = [-np.inf, *grid, np.inf]
            good = np.histogram(value[yes], edges)[0]
            bad = np.histogram(value[~yes], edges)[0]
            above_good = good[::-1].cumsum()[::-1][1:]
            above_bad = bad[::-1].cumsum()[::-1][1:]
            hits[index] += above_good
            union[index] += yes.sum() + above_bad
    best = (hits / np.maximum(union, 1)).argmax(axis=1)
    shift = np.where(hits.max(axis=1) > 0, grid[best], 0.0)
    bias: NDArray[np.float32] = net.bias.detach().cpu().numpy() - shift.astype(np.float32)
    return bias


def save(net: Trainee, sources: list[data.Source], table: TextTable, recipe: Recipe, lexicon: Path, out: Path) -> None:
    """Write ``nano.onnx`` and ``concepts.json`` to ``out``."""
    words = vocabulary.phrases(lexicon)
    net.eval()
    export.round_weights(net.net)  # so that what is calibrated is what is written
    bias = calibrate(net, sources, text_batch(table, words, None), recipe)
    export.export(net.net, float(net.scale.exp()), out / "nano.onnx")
    names = taught(sources)
    record = {
        name: {"bias": round(float(bias[CONCEPTS.index(name)]), 4), "phrases": list(words[name])} for name in names
    }
    (out / "concepts.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def train(  # noqa: PLR0915 - one loop, read from top to bottom
    root: Path, labels: Path, weights: Path, text: Path, out: Path, recipe: Recipe
) -> None:
    """Train, with a checkpoint every two minutes and at the end, and export the moving average of the weights.

    Args:
        root: Folder of the training pictures.
        labels: Folder of the drawn masks.
        weights: safetensors file of the encoder's start.
        text: Folder with ``text-table.npz``, ``vocab.txt`` and ``lexicon.json``.
        out: Folder for checkpoint and export.
        recipe: The dials.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sources = data.sources(root, labels, held_out=False)
    ground = [sample for source in sources if source.name == "tags" for sample in source.samples]
    drawn = list(rendered.airfields(ground, recipe.airfields, recipe.seed))
    sources.append(data.Source("airfields", 0.12, (0.5, 2.0), drawn))
    sources.append(data.Source("scenes", 0.28, (0.5, 1.6), list(rendered.scenes(recipe.scenes, recipe.seed))))
    sources = [source for source in sources if source.samples]
    log.info("%s", {source.name: len(source.samples) for source in sources})
    table, words = TextTable.load(text), vocabulary.phrases(text / "lexicon.json")
    live, mean = Trainee().to(device), Trainee().to(device)
    load_encoder(live.net, weights)
    mean.load_state_dict(live.state_dict())
    encoder = [p for n, p in live.named_parameters() if n.startswith(("net.stem", "net.blocks"))]
    rest = [p for n, p in live.named_parameters() if not n.startswith(("net.stem", "net.blocks"))]
    groups = [{"params": encoder, "share": recipe.encoder_rate}, {"params": rest, "share": 1.0}]
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-4)
    step = 0
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        live.load_state_dict(state["live"])
        mean.load_state_dict(state["mean"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    saved, running = time.monotonic(), 0.0
    while step < recipe.steps:
        rng = np.random.default_rng((recipe.seed, step))
        share = step / recipe.steps
        rate = recipe.rate * min(1.0, (step + 1) / 60) * (0.02 + 0.98 * (1 + math.cos(math.pi * share)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        pixels, targets = draw(sources, recipe, rng)
        logits = live(torch.from_numpy(pixels).to(device), text_batch(table, words, rng).to(device))
        loss = loss_of(logits, torch.from_numpy(targets).to(device), recipe.choice)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(live.parameters(), 5.0)
        optimizer.step()
        keep = min(recipe.decay, (1 + step) / (20 + step))
        with torch.no_grad():
            for average, current in zip(mean.parameters(), live.parameters(), strict=True):
                average.lerp_(current, 1 - keep)
        running = float(loss) if step == 0 else 0.98 * running + 0.02 * float(loss)
        step += 1
        if step % 20 == 0:
            log.info("step %d of %d, loss %.4f", step, recipe.steps, running)
        if time.monotonic() - saved > _CHECKPOINT_SECONDS or step == recipe.steps:
            state = {"live": live.state_dict(), "mean": mean.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state | {"step": step}, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
            saved = time.monotonic()
    save(mean, sources, table, recipe, text / "lexicon.json", out)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of training pictures")
    parser.add_argument("--labels", type=Path, required=True, help="folder of drawn masks")
    parser.add_argument("--weights", type=Path, required=True, help="safetensors file of the encoder's start")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint and export")
    parser.add_argument("--steps", type=int, default=Recipe().steps, help="some 0.7 s each on two cores")
    parser.add_argument("--seed", type=int, default=Recipe().seed)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    import geovl.segmenters.nano  # noqa: PLC0415 - its folder holds the text table

    text = Path(geovl.segmenters.nano.__file__).parent
    train(args.data, args.labels, args.weights, text, args.out, Recipe(steps=args.steps, seed=args.seed))


if __name__ == "__main__":
    main()
