"""Trains nano-text and exports it.

    python -m geovl.learn.nano_text.train --data DATA --cache DIR --out DIR

Makes the cache of crops and expressions first where it is missing. Seeded: each step draws by the seed and its own
number, so that a run which was interrupted and goes on from ``OUT/checkpoint.pt`` sees what it would have seen.
"""

import argparse
import json
import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

import geovl.segmenters.nano
from geovl.learn.nano import vocabulary
from geovl.learn.nano.data import MASKS
from geovl.learn.nano_text.data import CELLS, COARSE, Cache, build, training_sources
from geovl.learn.nano_text.model import NanoText
from geovl.learn.nano_text.wording import say
from geovl.segmenters.nano.text import TextTable
from geovl.segmenters.nano_text.segmenter import padded_words
from geovl.segmenters.nano_text.tokens import BEGIN, COUNT, OTHERS, ROW, TARGET, TOKENS, write

log = logging.getLogger(__name__)

FOLDER = Path(geovl.segmenters.nano.__file__).parent
_CHECKPOINT_SECONDS = 120
_SHARES = {"class": 0.4, "size": 0.15, "place": 0.2, "relation": 0.11, "absent": 0.14}
"""How often each kind of expression is drawn."""
_RENDERED = 0.5
"""How often a truth of a rendered scene is drawn, where a like one of a photograph is drawn once."""
_SCENES_SEED = 77
_LONGEST_ANSWER = 420
"""Tokens; longer answers are speckles that nobody could write down."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a training run depends on."""

    steps: int = 12_000
    batch: int = 24
    alone: int = 0
    """Steps, of the first, in which only cells are learnt: the writer begins with what they say, and costs half."""
    coarse: float = 0.3
    """Share of the batches at 16 x 16, which cost a quarter."""
    rate: float = 1.5e-3
    warm: int = 300
    decay: float = 0.9985
    """Of the moving average of the weights, a step."""
    cells: float = 1.0
    """Weight of the loss that every cell gives by itself."""
    smooth: float = 0.02
    """Of the odds of a token, spread over all that are allowed."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Some answers of one grid."""

    features: Tensor
    """float32 (n, 128, h, w)."""
    words: Tensor
    """float32 (n, t, 128)."""
    there: Tensor
    """bool (n, t)."""
    grid: Tensor
    """float32 (n, h, w) of 0 and 1."""
    tokens: Tensor
    """int64 (n, length); rows are padded with 0 behind their end."""
    row: Tensor
    col: Tensor
    decided: Tensor
    """bool (n, length), False for padding."""


class Drawer:
    """Draws batches from a cache."""

    def __init__(self, cache: Cache, recipe: Recipe) -> None:
        self.cache, self.recipe = cache, recipe
        self.text = TextTable.load(FOLDER)
        self.phrases = vocabulary.phrases(FOLDER / "lexicon.json")
        kinds = np.array([told["kind"] for told in cache.told])
        self._of = {kind: np.flatnonzero(kinds == kind) for kind in _SHARES}
        self._chance = {kind: self._weights(index) for kind, index in self._of.items()}

    def _weights(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Draw rare things more often: by one over the root of how often their kind of thing is there."""
        heads = np.array([self.cache.told[i]["head"] for i in index])
        names, inverse, counts = np.unique(heads, return_inverse=True, return_counts=True)
        del names
        weight = counts[inverse] ** -0.5 if len(index) else np.zeros(0)
        rendered = np.array([self.cache.told[i]["source"] == "rendered" for i in index], np.bool_)
        weight = weight * np.where(rendered, _RENDERED, 1.0)
        return np.asarray(weight / max(weight.sum(), 1e-9), np.float64)

    def draw(self, step: int) -> Batch:
        """Draw the batch of a step."""
        rng = np.random.default_rng((self.recipe.seed, step))
        side = COARSE if rng.random() < self.recipe.coarse else CELLS
        count = self.recipe.batch * (2 if side == COARSE else 1)
        kinds = rng.choice(list(_SHARES), count, p=list(_SHARES.values()))
        index = [int(rng.choice(self._of[kind], p=self._chance[kind])) for kind in kinds]
        said = [say(self.cache.expression(i), self.phrases, rng) for i in index]
        return self.batch(index, said, side)

    def batch(self, index: list[int], said: list[str], side: int) -> Batch:
        """Put truths and their wordings together."""
        written = [write(self.cache.grid(i, side)) for i in index]
        keep = [k for k, one in enumerate(written) if len(one.tokens) <= _LONGEST_ANSWER] or [0]
        index, said, written = [index[k] for k in keep], [said[k] for k in keep], [written[k] for k in keep]
        length = max(len(one.tokens) for one in written)

        def pad(name: str) -> Tensor:
            rows = [np.asarray(getattr(one, name)) for one in written]
            # padding is spread over all rows: those with many tokens cost most
            fill = np.arange(length) % side if name == "row" else np.zeros(length, rows[0].dtype)
            return torch.from_numpy(np.stack([np.concatenate([row, fill[: length - len(row)]]) for row in rows]))

        grid = torch.from_numpy(np.stack([self.cache.grid(i, side) for i in index]).astype(np.float32))
        arrays = [pad(name) for name in ("tokens", "row", "col", "decided")]
        features, words, there = map(torch.from_numpy, self.read(index, said, side))
        return Batch(features, words, there, grid, *arrays)

    def read(
        self, index: list[int], said: list[str], side: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """Return what the network reads where phrases are said about the crops of truths.

        Returns:
            Features float32 (n, 128, side, side), word pieces float32 (n, t, 128) and bool (n, t) where they are.
        """
        features = np.stack([self.cache.features[self.cache.crop[i]] for i in index]).astype(np.float32)
        if side == COARSE:
            n, channels = features.shape[:2]
            blocks = features.reshape(n, channels, COARSE, 2, COARSE, 2)
            half = channels // 2
            features = np.concatenate([blocks[:, :half].mean((3, 5)), blocks[:, half:].max((3, 5))], 1)
        return features, *padded_words([self.text.vectors(phrase) for phrase in said])


def allowed(tokens: Tensor, col: Tensor, width: int) -> Tensor:
    """Tell what may follow tokens (n, t) where the writer decides: bool (n, t, TOKENS).

    After the beginning or a row a label, after a label a count up to the end of the row.
    """
    choices = torch.arange(TOKENS, device=tokens.device)
    label = (choices == OTHERS) | (choices == TARGET)
    count = (choices > COUNT) & (choices < ROW) & (choices - COUNT <= width - col[..., None])
    starts = (tokens == BEGIN) | (tokens == ROW)
    return torch.where(starts[..., None], label, count)


def losses(net: NanoText, batch: Batch, recipe: Recipe, *, writing: bool = True) -> tuple[Tensor, Tensor]:
    """Return the losses of the writer and of the cells, means; of the writer nothing unless ``writing``."""
    fused = net.fusion(batch.features, batch.words, batch.there)
    cell = net.fusion.logits(fused).float()
    truth = batch.grid
    dice = 1 - (2 * (cell.sigmoid() * truth).sum((1, 2)) + 1) / (cell.sigmoid().sum((1, 2)) + truth.sum((1, 2)) + 1)
    cells = functional.binary_cross_entropy_with_logits(cell, truth) + dice.mean()
    if not writing:
        return cells.new_zeros(()), cells
    # what cells say by themselves is learnt from cells alone
    logits = net.writer(batch.tokens, batch.row, batch.col, fused, cell.detach()).float()[:, :-1]
    may = allowed(batch.tokens, batch.col, fused.shape[2])[:, :-1]
    odds = logits.masked_fill(~may, -1e4).log_softmax(-1)
    right = odds.gather(2, batch.tokens[:, 1:, None])[..., 0]
    even = (odds * may).sum(-1) / may.sum(-1).clamp(min=1)
    told = batch.decided[:, :-1]
    nats = -((1 - recipe.smooth) * right + recipe.smooth * even)
    # each answer counts the same, however long it is; what is rare in it, the target, as much as the rest
    return (nats * told).sum() / told.sum(), cells


def _rate(recipe: Recipe, step: int) -> float:
    if step < recipe.warm:
        return recipe.rate * (step + 1) / recipe.warm
    share = (step - recipe.warm) / max(recipe.steps - recipe.warm, 1)
    return recipe.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(share, 1))))


def initial(recipe: Recipe) -> NanoText:
    """Return a network that has learnt nothing but how nano compares pixels with words."""
    import onnx  # noqa: PLC0415 - only here
    from onnx import numpy_helper  # noqa: PLC0415 - only here

    torch.manual_seed(recipe.seed)
    net = NanoText()
    graph = onnx.load(FOLDER / "nano.onnx").graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    kernel, shift = (weights[node.input[1]] for node in graph.node if node.op_type == "MatMul" and "text" in node.input)
    # both carry the scale of the cosine, which normalising takes out again
    net.fusion.embed.weight.data = torch.from_numpy(kernel.astype(np.float32))[:, :, None, None]
    net.fusion.embed.bias.data = torch.from_numpy(shift.astype(np.float32)[:, 0])
    net.fusion.embed.requires_grad_(requires_grad=False)
    return net


def train(
    cache: Path, out: Path, recipe: Recipe, threads: int, seconds: float = math.inf, start: Path | None = None
) -> NanoText:
    """Train, going on from a checkpoint where there is one, and return the averaged network.

    Args:
        cache: Of :func:`geovl.learn.nano_text.data.build`.
        out: Folder of the checkpoint.
        recipe: How.
        threads: Of torch.
        seconds: Stop after these, as if the steps were done.
        start: Checkpoint of another run, whose averaged weights are the first of this one.
    """
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    drawer, net, mean = Drawer(Cache(cache), recipe), initial(recipe), initial(recipe)
    free = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(free, lr=recipe.rate, weight_decay=0.02, betas=(0.9, 0.98))
    first, path = 0, out / "checkpoint.pt"
    if path.exists():
        state = torch.load(path, weights_only=True)
        for part, name in ((net, "net"), (mean, "mean"), (optimizer, "optimizer")):
            part.load_state_dict(state[name])
        first = state["step"]
    elif start is not None:
        state = torch.load(start, weights_only=True)
        for part in (net, mean):
            part.load_state_dict(state["mean"])
    began = kept = time.monotonic()
    sums = np.zeros(2)
    for step in range(first, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = _rate(recipe, step)
        batch = drawer.draw(step)
        with torch.autocast("cpu", torch.bfloat16):
            writer, cells = losses(net, batch, recipe, writing=step >= recipe.alone)
        optimizer.zero_grad()
        (writer + recipe.cells * cells).backward()
        torch.nn.utils.clip_grad_norm_(free, 1.0)
        optimizer.step()
        _average(mean, net, min(recipe.decay, (step + 1) / (step + 10)))
        sums += (float(writer.detach()), float(cells.detach()))
        if (step + 1) % 100 == 0:
            log.info(
                "step %d: writer %.4f, cells %.4f, %.2f s",
                step + 1,
                *(sums / 100),
                (time.monotonic() - began) / (step + 1 - first),
            )
            sums[:] = 0
        late = time.monotonic() - began > seconds
        if late or step + 1 == recipe.steps or time.monotonic() - kept > _CHECKPOINT_SECONDS:
            kept = time.monotonic()
            state = {"net": net.state_dict(), "mean": mean.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state | {"step": step + 1}, out / "writing.pt")
            (out / "writing.pt").replace(path)
        if late:
            break
    (out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1) + "\n", "utf-8")
    return mean


def _average(mean: NanoText, net: NanoText, decay: float) -> None:
    with torch.no_grad():
        for slow, fast in zip(mean.parameters(), net.parameters(), strict=True):
            slow.lerp_(fast, 1 - decay)


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the pictures; needed where there is no cache yet")
    parser.add_argument("--labels", type=Path, default=MASKS)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--crops", type=int, default=4000, help="in the cache")
    parser.add_argument("--scenes", type=int, default=700, help="to render for it")
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--alone", type=int, default=Recipe().alone, help="steps in which only cells are learnt")
    parser.add_argument("--start", type=Path, help="checkpoint of another run to begin with")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if not (args.cache / "truths.jsonl").exists():
        if args.data is None:
            parser.error(f"there is no cache in {args.cache}: give --data")
        build(training_sources(args.data, args.labels, args.scenes, _SCENES_SEED), args.crops, 0, args.cache)
    recipe = Recipe(steps=args.steps, alone=args.alone)
    train(args.cache, args.out, recipe, args.threads, start=args.start)


if __name__ == "__main__":
    main()
