"""Measures the exported model on places that it was never trained on.

    python -m geovl.learn.nano.evaluate --data DATA

Dubai: whole held-out tiles, the highest of five prompts at every labelled pixel. The
other sets: one prompt alone, at the default threshold of 0.5. What lies in
``DATA/evaluation-only`` and the share-alike SpaceNet pictures are measured where they are
there, and are trained on nowhere.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray

from geovl import catalog
from geovl.errors import PromptError
from geovl.learn.nano import concepts, data
from geovl.learn.nano.concepts import INDEX, UNKNOWN
from geovl.segmenters import registry
from geovl.segmenters.base import Segmenter
from geovl.types import Chip, Vocabulary, Window

LAND_COVER = ("building", "road", "vegetation", "water", "land")
BINS = 10
"""Steps of the score in which reliability is counted."""
PROMPTS = Path(__file__).parent / "prompts.json"
"""Phrases that nothing was fitted to."""


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


@dataclass(slots=True)
class Tally:
    """What one prompt got right, counted over pictures."""

    hits: int = 0
    union: int = 0
    shown: int = 0
    """Pictures that show the concept."""
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    """(BINS,): pixels by score."""
    right: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    """(BINS,): those that show the concept."""
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))
    """(BINS,): sum of their scores."""

    def add(self, score: NDArray[np.float32], truth: NDArray[np.uint8]) -> None:
        """Count one picture: scores (h, w) and what its pixels are told (h, w): 1, 0 or 255."""
        known = truth != UNKNOWN
        value, yes = score[known], truth[known] == 1
        found = value >= 0.5
        self.hits += int((found & yes).sum())
        self.union += int((found | yes).sum())
        self.shown += bool(yes.any())
        place = np.minimum((value * BINS).astype(np.int64), BINS - 1)
        self.pixels += np.bincount(place, minlength=BINS)
        self.right += np.bincount(place[yes], minlength=BINS)
        self.total += np.bincount(place, value, minlength=BINS)

    @property
    def iou(self) -> float:
        """Overlap at a score of 0.5, over all pictures together."""
        return self.hits / max(self.union, 1)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: mean distance of score and share of right pixels, by pixels."""
        return float(np.abs(self.total - self.right).sum() / max(int(self.pixels.sum()), 1))


def single(segmenter: Segmenter, samples: list[data.Sample], concept: str, prompt: str) -> Tally:
    """Count what one prompt gets right on all pictures that say something of a concept."""
    vocabulary = Vocabulary.from_prompts([prompt])
    tally = Tally()
    for sample in samples:
        truth = sample.table[:, INDEX[concept]][sample.codes]
        if (truth != UNKNOWN).any():
            tally.add(scores(segmenter, sample, vocabulary)[0], truth)
    return tally


_SINGLE = (
    ("buildings", "building", "building"), ("buildings", "building", "houses"),
    ("buildings", "building", "rooftops"), ("airports", "airplane", "airplane"),
    ("airports", "runway", "airport runways"), ("airports", "taxiway", "taxiway"), ("airports", "apron", "apron"),
    ("trees", "tree", "trees"), ("tags", "forest", "forest"), ("tags", "farmland", "farmland"),
    *(("ucm", c, c) for c in (
        "runway", "tennis court", "storage tank", "water", "tree", "airplane", "ship", "swimming pool", "car",
        "building", "road", "grass", "bare soil", "sand", "sea", "river", "farmland", "shrubland", "pavement",
        "dock", "mobile home", "parking lot", "overpass", "baseball diamond", "golf green", "sand trap", "forest",
        "taxiway", "apron", "lake",
    )),
    ("roads-epfl", "road", "road"), ("loveda", "building", "building"), ("loveda", "road", "road"),
    ("loveda", "water", "water"), ("spacenet", "building", "building"), ("choice", "bridge", "bridge"),
    ("choice", "ship", "ship"), ("choice", "storage tank", "storage tank"),
)  # fmt: skip
"""Source, concept and prompt of what is measured with one prompt alone."""
GROUPS = {
    "ucm: large": ("runway", "tennis court", "storage tank", "water", "tree"),
    "ucm: small": ("airplane", "ship", "swimming pool"),
}
"""Concepts whose mean overlap is stated."""


def _binary(name: str, pixels: NDArray[np.uint8], mask: NDArray[np.bool_], concept: str) -> data.Sample:
    """Make a picture (h, w, 3) whose every pixel is or is not a concept (h, w)."""
    table = np.stack([concepts.absent((concept,)), concepts.row(concept)])
    return data.Sample(name, pixels, mask.astype(np.uint16), table)


def elsewhere(root: Path) -> dict[str, list[data.Sample]]:
    """Read what may only be measured on; a folder that is not there gives no pictures.

    Args:
        root: Folder of the pictures.
    """
    return {
        "roads-epfl": list(_epfl(root / "evaluation-only/roads-epfl")),
        "loveda": list(_loveda(root / "evaluation-only/loveda")),
        "choice": list(_choice(root / "evaluation-only/refseg-choice")),
        "spacenet": list(_spacenet(root / "buildings-spacenet")),
    }


def _grey(path: Path) -> NDArray[np.uint8]:
    return data.read_rgb(path)[..., 0]


def _epfl(folder: Path) -> Iterator[data.Sample]:
    for path in sorted(folder.glob("images/*.png")):
        yield _binary(path.stem, data.read_rgb(path), _grey(folder / "groundtruth" / path.name) > 127, "road")


_LOVEDA = ("", "", "building", "road", "water", "bare soil", "forest", "farmland")


def _loveda(folder: Path) -> Iterator[data.Sample]:
    told = ("building", "road", "water")
    rows = [concepts.unknown()] + [
        np.where(np.isin(concepts.CONCEPTS, told), concepts.row(name) if name else 0, UNKNOWN) for name in _LOVEDA[1:]
    ]
    for path in sorted(folder.glob("img_dir/*.png")):
        codes = cv2.imread(str(folder / "ann_dir" / path.name), cv2.IMREAD_UNCHANGED)
        if codes is not None:
            yield data.Sample(path.stem, data.read_rgb(path), codes.astype(np.uint16), np.stack(rows).astype(np.uint8))


def _choice(folder: Path) -> Iterator[data.Sample]:
    """Yield the pictures whose expression asks for every instance of something that is taught."""
    listed = folder / "expressions.json"
    for entry in json.loads(listed.read_text("utf-8")) if listed.exists() else []:
        asked = str(entry["question"])
        words = ("all bridges", "the three ships", "the storage tanks")
        found = next((w for w in words if w in asked), None)
        if found:
            mask = _grey(folder / entry["mask"]) > 127
            concept = {"all bridges": "bridge", "the three ships": "ship"}.get(found, "storage tank")
            yield _binary(entry["image"], data.read_rgb(folder / entry["image"]), mask, concept)


def _spacenet(folder: Path) -> Iterator[data.Sample]:
    import geopandas as gpd  # noqa: PLC0415 - only here
    from rasterio.features import rasterize  # noqa: PLC0415 - only here

    for picture, truth in (("atlanta_rgbnir", "atlanta_buildings.geojson"), ("vegas_rgb", "vegas_buildings.gpkg")):
        path = folder / f"{picture}.tif"
        if not path.exists():
            continue
        with rasterio.open(path) as source:
            shapes = gpd.read_file(folder / truth).to_crs(source.crs).geometry
            shapes = [shape for shape in shapes if shape is not None and not shape.is_empty]
            mask = rasterize(shapes, source.shape, transform=source.transform).astype(np.bool_)
        yield _binary(picture, data.read_rgb(path), mask, "building")


def text(segmenter: Segmenter) -> dict[str, float | int]:
    """Measure prompts that nothing was fitted to.

    Returns:
        ``accepted``: share of phrases of the field that are answered; ``right``: share whose nearest concept is
        the one meant; ``refused``: share of phrases outside the field that are refused; and how many of each.
    """
    told = json.loads(PROMPTS.read_text("utf-8"))
    accepted = right = 0
    inside = [(phrase, concept) for concept, phrases in told["inside"].items() for phrase in phrases]
    for phrase, concept in inside:
        near = _nearest(segmenter, phrase)
        accepted += near is not None
        right += near == concept
    refused = sum(_nearest(segmenter, phrase) is None for phrase in told["outside"])
    return {
        "accepted": accepted / len(inside), "right": right / len(inside), "inside": len(inside),
        "refused": refused / len(told["outside"]), "outside": len(told["outside"]),
    }  # fmt: skip


def _nearest(segmenter: Segmenter, phrase: str) -> str | None:
    try:
        return segmenter.understand(Vocabulary.from_prompts([phrase]))[0].nearest[0]
    except PromptError:
        return None


def measure(root: Path, labels: Path) -> dict[str, dict[str, Any]]:
    """Measure the bundled model on everything that was held out.

    Args:
        root: Folder of the pictures.
        labels: Folder of the drawn masks.

    Returns:
        ``dubai``: IoU of each land-cover class and their mean. ``source: prompt``: ``iou``, ``ece``
        and the number of ``pictures`` that show it, or why it was ``refused``; left out where no picture
        shows it. ``ucm: large`` and ``ucm: small``: mean IoU of a group. ``reliability``: all prompts
        together, pixels and share of right ones by score. ``text``: see :func:`text`.
    """
    segmenter = registry.load(catalog.model("nano").record)
    found = {source.name: source.samples for source in data.sources(root, labels, "test")} | elsewhere(root)
    report: dict[str, dict[str, Any]] = {"dubai": land_cover(segmenter, found["dubai"])}
    every = Tally()
    for name, concept, prompt in _SINGLE:
        key = f"{name}: {prompt}"
        try:
            tally = single(segmenter, found.get(name, []), concept, prompt)
        except PromptError as error:
            report[key] = {"refused": error.message}
            continue
        if not tally.shown:
            continue
        report[key] = {
            "iou": round(tally.iou, 3), "ece": round(tally.calibration_error, 4), "pictures": tally.shown,
            "concept": concept,
        }  # fmt: skip
        every.pixels += tally.pixels
        every.right += tally.right
        every.total += tally.total
    for group, members in GROUPS.items():
        values = [report[f"ucm: {name}"]["iou"] for name in members if "iou" in report.get(f"ucm: {name}", {})]
        if len(values) == len(members):
            report[group] = {"mean": round(float(np.mean(values)), 3)}
    report["reliability"] = {
        "ece": round(every.calibration_error, 4),
        "score": [round(float(t / max(n, 1)), 3) for t, n in zip(every.total, every.pixels, strict=True)],
        "share": [round(float(r / max(n, 1)), 3) for r, n in zip(every.right, every.pixels, strict=True)],
        "pixels": every.pixels.tolist(),
    }
    report["text"] = dict(text(segmenter))
    return report


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=Path, default=data.MASKS)
    args = parser.parse_args()
    print(json.dumps(measure(args.data, args.labels), indent=1))  # noqa: T201 - a script's answer


if __name__ == "__main__":
    main()
