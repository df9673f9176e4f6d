"""Measures the exported model on places that it was never trained on.

    python -m geovl.learn.nano.evaluate --data DATA --labels LABELS

Dubai: whole held-out tiles, the highest of five prompts at every labelled pixel. The
other sets: one prompt alone, at the default threshold of 0.5.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geovl import catalog
from geovl.errors import PromptError
from geovl.learn.nano import data
from geovl.learn.nano.concepts import INDEX, UNKNOWN
from geovl.segmenters import registry
from geovl.segmenters.base import Segmenter
from geovl.types import Chip, Vocabulary, Window

LAND_COVER = ("building", "road", "vegetation", "water", "land")


def scores(segmenter: Segmenter, sample: data.Sample, vocabulary: Vocabulary) -> NDArray[np.float32]:
    """Score one picture whole: float32 (classes, h, w)."""
    height, width = sample.codes.shape
    pad = ((0, 0), (0, -height % segmenter.multiple), (0, -width % segmenter.multiple))
    pixels = np.pad(sample.pixels.transpose(2, 0, 1), pad, mode="edge")
    chip = Chip(pixels, np.ones(pixels.shape[1:], np.bool_), Window(0, 0, height, width), None)
    return segmenter.segment([chip], vocabulary)[0].probabilities()[:, :height, :width]


def land_cover(segmenter: Segmenter, samples: list[data.Sample]) -> dict[str, float]:
    """Return the IoU of each land-cover class over all pictures together, by the highest score."""
    vocabulary = Vocabulary.from_prompts(list(LAND_COVER))
    confusion = np.zeros((len(LAND_COVER), len(LAND_COVER)), np.int64)
    for sample in samples:
        told = sample.table[:, [INDEX[name] for name in LAND_COVER]]
        truth = np.where((told == 1).any(axis=1), (told == 1).argmax(axis=1), -1)[sample.codes]
        found = scores(segmenter, sample, vocabulary).argmax(axis=0)
        known = truth >= 0
        confusion += np.bincount(truth[known] * len(LAND_COVER) + found[known], minlength=len(LAND_COVER) ** 2).reshape(
            confusion.shape
        )
    hits = np.diag(confusion)
    iou = hits / (confusion.sum(0) + confusion.sum(1) - hits)
    return dict(zip(LAND_COVER, iou.tolist(), strict=True)) | {"mean": float(iou.mean())}


def single(segmenter: Segmenter, samples: list[data.Sample], concept: str, prompt: str) -> tuple[float, int]:
    """Return the IoU of one prompt over all pictures that say something of a concept, and how many show it."""
    vocabulary = Vocabulary.from_prompts([prompt])
    hits = union = shown = 0
    for sample in samples:
        truth = sample.table[:, INDEX[concept]][sample.codes]
        known = truth != UNKNOWN
        if not known.any():
            continue
        found = scores(segmenter, sample, vocabulary)[0] >= 0.5
        yes = truth == 1
        shown += bool(yes.any())
        hits += int((found & yes & known).sum())
        union += int(((found | yes) & known).sum())
    return hits / max(union, 1), shown


_SINGLE = (
    ("buildings", "building", "building"), ("buildings", "building", "houses"),
    ("buildings", "building", "rooftops"), ("airports", "airplane", "airplane"),
    ("airports", "runway", "airport runways"),
    *(("ucm", c, c) for c in ("runway", "tennis court", "storage tank", "water", "tree", "airplane", "ship",
                              "swimming pool", "car", "building", "road")),
)  # fmt: skip
"""Source, concept and prompt of what is measured with one prompt alone."""


def measure(root: Path, labels: Path) -> dict[str, dict[str, Any]]:
    """Measure the bundled model on everything that was held out.

    Args:
        root: Folder of the pictures.
        labels: Folder of the drawn masks.

    Returns:
        ``dubai``: IoU of each land-cover class and their mean. ``source: prompt``: ``iou``
        and the number of ``pictures`` that show it, or why it was ``refused``.
    """
    segmenter = registry.load(catalog.model("nano").record)
    found = {source.name: source.samples for source in data.sources(root, labels, held_out=True)}
    report: dict[str, dict[str, Any]] = {"dubai": land_cover(segmenter, found["dubai"])}
    for name, concept, prompt in _SINGLE:
        try:
            iou, shown = single(segmenter, found[name], concept, prompt)
            report[f"{name}: {prompt}"] = {"iou": round(iou, 3), "pictures": shown}
        except PromptError as error:
            report[f"{name}: {prompt}"] = {"refused": error.message}
    return report


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    args = parser.parse_args()
    print(json.dumps(measure(args.data, args.labels), indent=1))  # noqa: T201 - a script's answer


if __name__ == "__main__":
    main()
