"""Measures nano-text on places that it was never trained on.

    python -m geovl.learn.nano_text.evaluate --data DATA

*Tiles* are crops of held-out pictures with expressions about them whose truth is plain (see truth.py); the model reads
each expression whole. *Scenes* are whole held-out pictures in windows: the model is asked for the things, and which of
them are meant is settled over all windows. Beside each figure stands the grid oracle: the truth itself, written as a
descriptor and read back.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from geovl import catalog
from geovl.evaluate.referring import Referring, beside_oracle
from geovl.jobs import Job, SegmentOptions, Silent
from geovl.learn.nano import data
from geovl.learn.nano_text.data import crop, kept
from geovl.learn.nano_text.truth import Truth, truths
from geovl.learn.nano_text.wording import say
from geovl.runs import RunStore
from geovl.segmenters.nano_text.segmenter import NanoTextSegmenter
from geovl.segmenters.text_as_mask.grid import to_grid, to_pixels
from geovl.sources import Source
from geovl.types import Chip, Vocabulary, Window

PLACES = ("dubai", "ucm")
"""Sources whose figures are the headline; others are told beside."""
_CROPS = {"dubai": 80, "ucm": 100, "airports": 25, "buildings": 15}
"""Tiles of each source."""
_SCENE_EXPRESSIONS = 8  # of each whole picture, at most
_SEED = 20


@dataclass(slots=True)
class Tally:
    """What was answered, and what the grid would allow."""

    model: Referring = field(default_factory=Referring)
    coarse: Referring = field(default_factory=Referring)
    """The grid as it was written, enlarged without any filter."""
    oracle: Referring = field(default_factory=Referring)
    named: int = 0
    """Answers that name the thing if, and only if, it is on the true grid."""

    def add(self, truth: NDArray[np.bool_], found: NDArray[np.bool_], grid: NDArray[np.uint8]) -> None:
        """Count an answer: true and found pixels (h, w), and the grid that was written."""
        size = (truth.shape[0], truth.shape[1])
        right = to_grid(truth, (grid.shape[0], grid.shape[1]))
        self.model.add(truth, found)
        self.coarse.add(truth, to_pixels(grid > 0, size))
        self.oracle.add(truth, to_pixels(right, size))
        self.named += bool(right.any()) == bool(grid.any())

    def report(self) -> dict[str, Any]:
        """Return the figures; only expressions that have a target count for IoU."""
        shown = [index for index, one in enumerate(self.model.expressions) if one.true_box is not None]
        model, coarse, oracle = (
            Referring([some.expressions[index] for index in shown]) for some in (self.model, self.coarse, self.oracle)
        )
        out: dict[str, Any] = {"expressions": len(self.model.expressions), "with target": len(shown)}
        if shown:
            out |= beside_oracle(model, oracle)
            out["unfiltered"] = coarse.mean_iou()
        if len(shown) < len(self.model.expressions):
            out["N-acc"] = self.model.no_target_accuracy()
        out["named right"] = self.named / max(len(self.model.expressions), 1)
        return out


def tiles(segmenter: NanoTextSegmenter, sources: Sequence[data.Source], count: int | None = None) -> dict[str, Any]:
    """Measure expressions about crops.

    Args:
        segmenter: The model.
        sources: Held-out pictures.
        count: Crops of each source; as usual where None.

    Returns:
        Figures by source, by kind of expression, and of :data:`PLACES` together.
    """
    tallies: dict[str, Tally] = defaultdict(Tally)
    for source in sources:
        rng = np.random.default_rng(_SEED)
        for _ in range(count or _CROPS.get(source.name, 0)):
            pixels, targets = crop(source, rng, plain=True)
            for truth, found, grid in _answered(segmenter, pixels, list(kept(list(truths(targets)), rng)), rng):
                names = [f"tiles, {source.name}", f"tiles, {source.name}: {truth.kind}"]
                for name in names + (["tiles"] if source.name in PLACES else []):
                    tallies[name].add(truth.mask, found, grid)
    return {name: tally.report() for name, tally in sorted(tallies.items())}


def _answered(
    segmenter: NanoTextSegmenter, pixels: NDArray[np.uint8], asked: Sequence[Truth], rng: np.random.Generator
) -> Iterator[tuple[Truth, NDArray[np.bool_], NDArray[np.uint8]]]:
    """Yield each truth with the pixels and the grid that the model finds; pixels uint8 (h, w, 3)."""
    if not asked:
        return
    height, width = pixels.shape[:2]
    image = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    chip = Chip(image, np.ones((height, width), np.bool_), Window(0, 0, height, width), None)
    said = [say(one.expression, {}, rng) for one in asked]
    vocabulary = Vocabulary.from_prompts(list(dict.fromkeys(said)))
    order = [list(vocabulary.names).index(phrase) for phrase in said]
    scores = segmenter.segment([chip], vocabulary)[0].values
    answers = segmenter.answers([chip], vocabulary.names)[0]
    for one, index in zip(asked, order, strict=True):
        yield one, scores[index] >= 0.5, answers[index].grid


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
                grid = to_grid(found.astype(np.uint8), (32, 32))
                for name in ("scenes", f"scenes: {one.kind}"):
                    tallies[name].add(one.mask, found, grid)
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
