"""Trains nano from folders of pictures and labels, and exports it.

    python -m geovl.learn.nano.train --data DATA --weights WEIGHTS --out DIR

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
from typing import Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from geovl.learn.nano import augment, calibrate, data, export, rendered, vocabulary
from geovl.learn.nano.concepts import CONCEPTS, UNKNOWN
from geovl.learn.nano.model import NanoNet, class_logits, load_encoder
from geovl.segmenters.nano.text import TextTable

log = logging.getLogger(__name__)

_CHECKPOINT_SECONDS = 120
_STICKY = ("ucm", "tags", "airports", "runways")
"""Sources over whose pictures rendered objects are pasted."""
LEAST_SAMPLES = 5
"""A concept with fewer labelled pictures is not offered by the exported model."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a training run depends on."""

    steps: int = 6000
    size: int = 256
    """Side of a training crop, pixels."""
    batch: int = 12
    finish: int = 1300
    """Steps after these, on crops as they are: nothing is mixed or pasted."""
    rate: float = 1.5e-3
    finish_rate: float = 8e-4
    """The rate with which the finish begins."""
    encoder_rate: float = 0.25
    """Learning rate of the encoder, as a share of ``rate``."""
    decay: float = 0.998
    """Of the moving average of the weights, a step."""
    airfields: int = 300
    """Airfields to draw over real ground."""
    scenes: int = 1800
    """Whole scenes to render."""
    stickers: float = 0.15
    """Share of real crops over which rendered objects are pasted."""
    mixed: float = 0.3
    """Share of crops of which a rectangle is another crop's."""
    distractors: int = 4
    """Phrases asked at every step that no picture shows."""
    choice: float = 0.4
    """Weight of the loss that sets concepts against each other."""
    calibration: int = 60
    """Batches that calibrate the scores."""
    bf16: bool = True
    """Compute convolutions in bfloat16: on processors and GPUs that have it, twice as fast."""
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step: a short rise, then down a half cosine, once for each part."""
        late = step >= self.steps
        done, length = (step - self.steps, self.finish) if late else (step, self.steps)
        return cosine(self.finish_rate if late else self.rate, done, done / max(length, 1))


def cosine(rate: float, step: int, share: float) -> float:
    """Return a rate that rises over 60 steps and falls to a fiftieth as ``share`` goes from 0 to 1."""
    return rate * min(1.0, (step + 1) / 60) * (0.02 + 0.98 * (1 + math.cos(math.pi * share)) / 2)


class Trainee(torch.nn.Module):
    """The network with what only training needs: a scale and a bias per concept."""

    def __init__(self) -> None:
        super().__init__()
        self.net = NanoNet()
        self.scale = torch.nn.Parameter(torch.tensor(math.log(14.0)))
        self.bias = torch.nn.Parameter(torch.full((len(CONCEPTS),), -4.0))

    def forward(self, pixels: Tensor, text: Tensor) -> Tensor:
        """Compare locations with phrases.

        Args:
            pixels: (n, 3, h, w).
            text: (concepts + others, 128): one phrase for each concept, then any others.

        Returns:
            Logits (n, concepts + others, h / 4, w / 4).
        """
        others = self.bias.mean().expand(len(text) - len(self.bias))
        return class_logits(self.net(pixels), text, torch.cat([self.bias, others]), self.scale.exp())


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
    sources: list[data.Source],
    recipe: Recipe,
    rng: np.random.Generator,
    stickers: augment.Stickers | None = None,
    *,
    mixed: float = 0.0,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one batch: pixels uint8 (n, 3, s, s), targets uint8 (n, concepts, s / 4, s / 4)."""
    shares = np.array([source.share for source in sources])
    pairs = []
    for index in rng.choice(len(sources), recipe.batch, p=shares / shares.sum()):
        source = sources[index]
        sticky = stickers is not None and source.name in _STICKY and rng.random() < recipe.stickers
        over = stickers if sticky else None
        pairs.append(augment.crop(source.pick(rng), source.zoom, recipe.size, rng, over))
    pixels, targets = np.stack([p for p, _ in pairs]), np.stack([t for _, t in pairs])
    if mixed > 0:
        augment.mix(pixels, targets, mixed, rng)
    return pixels, targets


def taught(sources: list[data.Source]) -> tuple[str, ...]:
    """Return the concepts that enough training pictures show."""
    count = np.sum([data.present(sample) for source in sources for sample in source.samples], axis=0)
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


def distract(table: TextTable, count: int, rng: np.random.Generator) -> Tensor:
    """Return the vectors of ``count`` phrases that no training picture shows, (count, 128)."""
    picked = rng.choice(len(vocabulary.DISTRACTORS), count, replace=False)
    rows = [table.embed(vocabulary.DISTRACTORS[index]) for index in picked]
    return torch.from_numpy(np.stack([np.zeros(128, np.float32) if row is None else row for row in rows]))


def save(
    net: Trainee, sides: dict[data.Side, list[data.Source]], table: TextTable, recipe: Recipe, lexicon: Path, out: Path
) -> None:
    """Write ``nano.onnx`` and ``concepts.json`` to ``out``.

    Args:
        net: The trained network.
        sides: What it was trained on, and pictures kept aside. Scores are calibrated on new crops of both, as
            many of each: few pictures are kept aside, and many concepts are on none of them.
        table: Phrases to vectors.
        recipe: The dials.
        lexicon: Synonyms.
        out: Folder.
    """
    words = vocabulary.phrases(lexicon)
    net.eval()
    export.round_weights(net.net)  # so that what is calibrated is what is written
    text = text_batch(table, words, None)

    def count(side: data.Side) -> calibrate.Counts:
        def drawn(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
            return draw(sides[side], recipe, rng)

        return calibrate.Counts.of(net, drawn, text, recipe.calibration, recipe.seed + 1)

    fitted = calibrate.fit(count("calibrate") + count("train"))
    export.export(net.net, float(net.scale.detach().exp()), out / "nano.onnx")
    bias = net.bias.detach().cpu().numpy()
    record = {}
    for name in taught(sides["train"]):
        index = CONCEPTS.index(name)
        slope, middle = float(fitted.slope[index]), float(fitted.middle[index])
        record[name] = {
            "slope": round(slope, 4),
            "bias": round(slope * (float(bias[index]) - middle), 4),
            "phrases": list(words[name]),
        }
    (out / "concepts.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def autocast(device: torch.device, recipe: Recipe) -> torch.autocast:
    """Return the context in which the network is run."""
    able = device.type == "cuda" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16 and able)


def gather(root: Path, labels: Path, recipe: Recipe) -> dict[data.Side, list[data.Source]]:
    """Read and render what to train on and what to calibrate on."""
    sides: dict[data.Side, list[data.Source]] = {}
    sides["train"] = data.sources(root, labels, "train")
    ground = [sample for source in sides["train"] if source.name == "tags" for sample in source.samples]
    drawn = list(rendered.airfields(ground, recipe.airfields, recipe.seed))
    sides["train"].append(data.Source("airfields", 0.08, (0.5, 2.0), drawn))
    whole = rendered.scenes(recipe.scenes, recipe.seed)
    sides["train"].append(data.Source("scenes", 0.28, (0.5, 1.6), whole))
    sides["train"] = [source for source in sides["train"] if source.samples]
    fresh = rendered.scenes(recipe.scenes // 12, recipe.seed + 1)
    sides["calibrate"] = [*data.sources(root, labels, "calibrate"), data.Source("scenes", 0.28, (0.5, 1.6), fresh)]
    # a source of which nothing is kept aside is calibrated on its training pictures
    kept = {source.name for source in sides["calibrate"]}
    sides["calibrate"] += [source for source in sides["train"] if source.name not in kept]
    sides["calibrate"] = [source for source in sides["calibrate"] if source.samples]
    return sides


class Training:
    """A network on its way: weights, their moving average, and the optimizer.

    Args:
        recipe: The dials.
        weights: safetensors file of the encoder's start.
    """

    def __init__(self, recipe: Recipe, weights: Path) -> None:
        self.recipe = recipe
        self.step = 0
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(recipe.seed)
        self.live, self.mean = (Trainee().to(self.device, memory_format=torch.channels_last) for _ in range(2))
        load_encoder(self.live.net, weights)
        self.mean.load_state_dict(self.live.state_dict())
        encoder: list[torch.nn.Parameter] = []
        rest: list[torch.nn.Parameter] = []
        for name, value in self.live.named_parameters():
            (encoder if name.startswith(("net.stem", "net.blocks")) else rest).append(value)
        groups = [{"params": encoder, "share": recipe.encoder_rate}, {"params": rest, "share": 1.0}]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=1e-4)

    def advance(self, pixels: NDArray[np.uint8], targets: NDArray[np.uint8], phrases: Tensor, rate: float) -> float:
        """Learn from one batch and return its loss.

        Args:
            pixels: (n, 3, s, s).
            targets: (n, concepts, s / 4, s / 4): 1 present, 0 absent, 255 unknown.
            phrases: (concepts + others, 128); the others are shown nowhere.
            rate: Learning rate.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        others = len(phrases) - targets.shape[1]
        truth = functional.pad(torch.from_numpy(targets), (0, 0, 0, 0, 0, others)).to(self.device)
        with autocast(self.device, self.recipe):
            logits = self.live(torch.from_numpy(pixels).to(self.device), phrases.to(self.device))
        loss = loss_of(logits.float(), truth, self.recipe.choice)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.live.parameters(), 5.0)
        self.optimizer.step()
        keep = min(self.recipe.decay, (1 + self.step) / (20 + self.step))
        with torch.no_grad():
            for average, current in zip(self.mean.parameters(), self.live.parameters(), strict=True):
                average.lerp_(current, 1 - keep)
        self.step += 1
        return float(loss.detach())

    def save(self, path: Path) -> None:
        """Write everything that going on needs; the file is whole or the old one."""
        parts = {"live": self.live, "mean": self.mean, "optimizer": self.optimizer}
        torch.save(
            {name: part.state_dict() for name, part in parts.items()} | {"step": self.step}, path.with_suffix(".new")
        )
        path.with_suffix(".new").replace(path)

    def load(self, path: Path) -> None:
        """Go on from what :meth:`save` wrote."""
        state = torch.load(path, weights_only=True, map_location=self.device)
        self.live.load_state_dict(state["live"])
        self.mean.load_state_dict(state["mean"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


@dataclass(frozen=True, slots=True)
class Lessons:
    """Where batches come from: pictures, phrases, and objects to paste."""

    sides: dict[data.Side, list[data.Source]]
    table: TextTable
    words: dict[str, tuple[str, ...]]
    stickers: augment.Stickers | None

    @classmethod
    def read(cls, root: Path, labels: Path, text: Path, recipe: Recipe) -> Self:
        """Read and render everything; arguments as for :func:`train`."""
        cv2.setNumThreads(1)  # crops are small; the cores are the network's
        sides = gather(root, labels, recipe)
        log.info("%s", {source.name: len(source.samples) for source in sides["train"]})
        scenes = [sample for source in sides["train"] if source.name == "scenes" for sample in source.samples]
        stickers = augment.Stickers(scenes, rendered.OBJECTS, (0.5, 1.6)) if scenes else None
        return cls(sides, TextTable.load(text), vocabulary.phrases(text / "lexicon.json"), stickers)

    def batch(self, recipe: Recipe, step: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Tensor]:
        """Return the pixels, targets and phrases of a step: always the same for a seed."""
        rng = np.random.default_rng((recipe.seed, step))
        late = step >= recipe.steps
        stickers, mixed = (None, 0.0) if late else (self.stickers, recipe.mixed)
        pixels, targets = draw(self.sides["train"], recipe, rng, stickers, mixed=mixed)
        asked = text_batch(self.table, self.words, rng)
        return pixels, targets, torch.cat([asked, distract(self.table, recipe.distractors, rng)])


def train(root: Path, labels: Path, weights: Path, text: Path, out: Path, recipe: Recipe) -> None:
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
    lessons, training, checkpoint = (
        Lessons.read(root, labels, text, recipe),
        Training(recipe, weights),
        out / "checkpoint.pt",
    )
    if checkpoint.exists():
        training.load(checkpoint)
    saved, running = time.monotonic(), None
    total = recipe.steps + recipe.finish
    while training.step < total:
        loss = training.advance(*lessons.batch(recipe, training.step), recipe.rate_at(training.step))
        running = loss if running is None else 0.98 * running + 0.02 * loss
        if training.step % 20 == 0:
            log.info("step %d of %d, loss %.4f", training.step, total, running)
        if time.monotonic() - saved > _CHECKPOINT_SECONDS or training.step == total:
            training.save(checkpoint)
            saved = time.monotonic()
    save(training.mean, lessons.sides, lessons.table, recipe, text / "lexicon.json", out)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of training pictures")
    parser.add_argument("--labels", type=Path, default=data.MASKS, help="folder of drawn masks")
    parser.add_argument("--weights", type=Path, required=True, help="safetensors file of the encoder's start")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint and export")
    parser.add_argument("--steps", type=int, default=Recipe().steps, help="some 0.5 s each on two cores with bf16")
    parser.add_argument("--seed", type=int, default=Recipe().seed)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    import geovl.segmenters.nano  # noqa: PLC0415 - its folder holds the text table

    text = Path(geovl.segmenters.nano.__file__).parent
    train(args.data, args.labels, args.weights, text, args.out, Recipe(steps=args.steps, seed=args.seed))


if __name__ == "__main__":
    main()
