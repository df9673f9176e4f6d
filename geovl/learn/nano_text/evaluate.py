"""Measures nano-text on places that it was never trained on.

    python -m geovl.learn.nano_text.evaluate --data DATA

*Tiles* are crops of held-out pictures with expressions about them whose truth is plain (see truth.py), answered as
``geovl segment`` does: the model is asked for the things, and which of them are meant is settled by rules. *Read whole*
is what the model writes where it is given the whole expression and no rule helps. *Scenes* are whole held-out pictures
in windows, as ``geovl segment`` sees them. Beside each figure stands the grid oracle: the truth itself, written as a
descriptor and read back.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from affine import Affine
from numpy.typing import NDArray

from geovl import catalog
from geovl.evaluate.referring import Referring, beside_oracle
from geovl.jobs import Job, SegmentOptions, Silent
from geovl.learn.nano import data
from geovl.learn.nano_text.data import CELLS, crop, kept
from geovl.learn.nano_text.truth import Truth, truths
from geovl.learn.nano_text.wording import say
from geovl.runs import RunStore
from geovl.segmenters.nano_text.segmenter import NanoTextSegmenter
from geovl.segmenters.text_as_mask.grid import to_grid, to_pixels
from geovl.settling import rejected, settlement, smallest
from geovl.sources import Source
from geovl.stitch import Band
from geovl.types import Chip, GeoBox, Vocabulary, Window

PLACES = ("dubai", "ucm")
"""Sources whose figures are the headline; others are told beside."""
_CROPS = {"dubai": 80, "ucm": 100, "airports": 25, "buildings": 15}
"""Tiles of each source."""
_SCENE_EXPRESSIONS = 8  # of each whole picture, at most
_SEED = 20
_LEAST = 0.5
"""Chance from which a pixel is of a class, as in every run without ``--threshold``."""


@dataclass(slots=True)
class Tally:
    """What was answered, and what the grid would allow."""

    model: Referring = field(default_factory=Referring)
    oracle: Referring = field(default_factory=Referring)
    coarse: Referring = field(default_factory=Referring)
    """The grid as it was written, enlarged without any filter; of answers that are written whole."""
    named: int = 0
    """Answers that name the thing if, and only if, it is on the true grid."""

    def add(self, truth: NDArray[np.bool_], found: NDArray[np.bool_], grid: NDArray[np.uint8] | None = None) -> None:
        """Count an answer: true and found pixels (h, w), and the grid where that was written."""
        size = (truth.shape[0], truth.shape[1])
        told = to_grid(found.astype(np.uint8), (CELLS, CELLS)) if grid is None else grid
        right = to_grid(truth, (told.shape[0], told.shape[1]))
        self.model.add(truth, found)
        self.oracle.add(truth, to_pixels(right, size))
        if grid is not None:
            self.coarse.add(truth, to_pixels(grid > 0, size))
        self.named += bool(right.any()) == bool(told.any())

    def report(self) -> dict[str, Any]:
        """Return the figures; only expressions that have a target count for IoU."""
        shown = [index for index, one in enumerate(self.model.expressions) if one.true_box is not None]
        model, coarse, oracle = (
            Referring([some.expressions[index] for index in shown if some.expressions])
            for some in (self.model, self.coarse, self.oracle)
        )
        out: dict[str, Any] = {"expressions": len(self.model.expressions), "with target": len(shown)}
        if shown:
            out |= beside_oracle(model, oracle)
        if coarse.expressions:
            out["unfiltered"] = coarse.mean_iou()
        if len(shown) < len(self.model.expressions):
            out["N-acc"] = self.model.no_target_accuracy()
        out["named right"] = self.named / max(len(self.model.expressions), 1)
        return out


@dataclass(frozen=True, slots=True)
class Answered:
    """What was found for an expression about a crop (h, w)."""

    truth: Truth
    settled: NDArray[np.bool_]
    """bool (h, w): pixels, as ``geovl segment`` finds them."""
    whole: NDArray[np.bool_]
    """bool (h, w): pixels that the model finds, given the whole expression."""
    grid: NDArray[np.uint8]
    """uint8 (cells, cells): the grid that it wrote for the whole expression."""


def tiles(segmenter: NanoTextSegmenter, sources: Sequence[data.Source], count: int | None = None) -> dict[str, Any]:
    """Measure expressions about crops.

    Args:
        segmenter: The model.
        sources: Held-out pictures.
        count: Crops of each source; as usual where None.

    Returns:
        Figures by source and by kind of expression, and of :data:`PLACES` together, also where expressions are read
        whole.
    """
    tallies: dict[str, Tally] = defaultdict(Tally)
    for source in sources:
        rng = np.random.default_rng(_SEED)
        for _ in range(count or _CROPS.get(source.name, 0)):
            pixels, targets = crop(source, rng, plain=True)
            for one in _answered(segmenter, pixels, list(kept(list(truths(targets)), rng)), rng):
                _tally(tallies, source.name, one)
    return {name: tally.report() for name, tally in sorted(tallies.items())}


def _tally(tallies: dict[str, Tally], source: str, one: Answered) -> None:
    names = [f"tiles, {source}", f"tiles, {source}: {one.truth.kind}"]
    whole = [f"tiles, {source}, read whole"]
    if source in PLACES:
        names += ["tiles", f"tiles: {one.truth.kind}"]
        whole += ["tiles, read whole", f"tiles, read whole: {one.truth.kind}"]
    for name in names:
        tallies[name].add(one.truth.mask, one.settled)
    for name in whole:
        tallies[name].add(one.truth.mask, one.whole, one.grid)


def _answered(
    segmenter: NanoTextSegmenter, pixels: NDArray[np.uint8], asked: Sequence[Truth], rng: np.random.Generator
) -> Iterator[Answered]:
    """Ask all expressions about pixels uint8 (h, w, 3)."""
    if not asked:
        return
    height, width = pixels.shape[:2]
    image = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    chip = Chip(image, np.ones((height, width), np.bool_), Window(0, 0, height, width), None)
    said = [say(one.expression, {}, rng) for one in asked]
    plans = [settlement(Vocabulary.from_prompts([phrase])) for phrase in said]
    things = [entry.phrases[0] for plan in plans for entry in plan.asked.classes]
    vocabulary = Vocabulary.from_prompts(list(dict.fromkeys([*said, *things])))
    chances = dict(zip(vocabulary.names, segmenter.segment([chip], vocabulary)[0].values, strict=True))
    grids = dict(zip(vocabulary.names, segmenter.answers([chip], vocabulary.names)[0], strict=True))
    least = smallest(max(height, width) / segmenter.cells)
    for one, phrase in zip(asked, said, strict=True):
        yield Answered(one, settled(phrase, chances, least), chances[phrase] >= _LEAST, grids[phrase].grid)


def settled(phrase: str, chances: Mapping[str, NDArray[np.float32]], least: float = 0.0) -> NDArray[np.bool_]:
    """Return what ``geovl segment`` finds for a phrase in one window.

    Args:
        phrase: A referring expression.
        chances: Of each thing that its settlement asks for, float32 (h, w).
        least: Pixels of the smallest region that is a thing.

    Returns:
        bool (h, w).
    """
    plan = settlement(Vocabulary.from_prompts([phrase]))
    scores = np.stack([chances[entry.phrases[0]] for entry in plan.asked.classes])
    best = scores.max(0)
    labels = np.where(best >= _LEAST, scores.argmax(0) + 1, 0).astype(np.uint8)
    if plan.settles:
        sure = np.round(best * 254).astype(np.uint8)
        shape = (labels.shape[0], labels.shape[1])
        box = GeoBox(shape, Affine.identity(), None)
        regions = rejected(plan, lambda a, b: labels[a:b], lambda a, b: sure[a:b], box, 255, least)
        (band,) = regions.erase(iter([Band(0, Window(0, 0, *shape), labels, sure, None, None, None)]), shape)
        return np.asarray(band.labels == 1)
    return labels == 1


def scenes(segmenter: NanoTextSegmenter, samples: Sequence[data.Sample]) -> dict[str, Any]:
    """Measure expressions about whole pictures, in windows: figures by kind of expression and of all."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    with tempfile.TemporaryDirectory() as folder:
        for index, sample in enumerate(samples):
            rng = np.random.default_rng((_SEED, index))
            path = Path(folder) / f"{index}.png"
            cv2.imwrite(str(path), sample.pixels[..., ::-1])
            asked = [one for one in kept(list(truths(sample.table[sample.codes])), rng) if one.kind != "absent"]
            for place in rng.permutation(len(asked))[:_SCENE_EXPRESSIONS]:
                one = asked[int(place)]
                found = _over_scene(segmenter, path, say(one.expression, {}, rng), Path(folder) / "store")
                for name in ("scenes", f"scenes: {one.kind}"):
                    tallies[name].add(one.mask, found)
    return {name: tally.report() for name, tally in sorted(tallies.items())}


def _over_scene(segmenter: NanoTextSegmenter, path: Path, phrase: str, store: Path) -> NDArray[np.bool_]:
    vocabulary, source = Vocabulary.from_prompts([phrase]), Source(path.name, str(path))
    notes, options = segmenter.understand(vocabulary), SegmentOptions()
    with Job.begin(source, vocabulary, segmenter, notes, options, RunStore(store), None, shared=False) as job:
        job.begin_work(anew=True)
        job.make(segmenter, job.rows_to_make(0, job.rows), Silent())
        return job.finish(Silent()).labels() == 1


def measure(root: Path, labels: Path, count: int | None = None) -> dict[str, Any]:
    """Measure the bundled model.

    Args:
        root: Folder of the pictures.
        labels: Folder of the drawn masks.
        count: Crops of each source; as usual where None.
    """
    segmenter = NanoTextSegmenter(catalog.model("nano-text").record)
    found = [source for source in data.sources(root, labels, "test") if source.name in _CROPS]
    whole = [sample for source in found if source.name == "dubai" for sample in source.samples]
    return tiles(segmenter, found, count) | scenes(segmenter, whole[:count])


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=Path, default=data.MASKS)
    parser.add_argument("--crops", type=int, help="of each source, for a quick look")
    args = parser.parse_args()
    print(json.dumps(measure(args.data, args.labels, count=args.crops), indent=1))  # noqa: T201 - a script's answer


if __name__ == "__main__":
    main()
