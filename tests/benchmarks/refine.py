"""Measure refinement: what it costs, and whether it brings scores nearer to the truth.

    OMP_NUM_THREADS=1 python tests/benchmarks/refine.py
    OMP_NUM_THREADS=1 python tests/benchmarks/refine.py --data ../shared/data [--search]
    OMP_NUM_THREADS=1 python tests/benchmarks/refine.py --data ../shared/data --nano

Cost: CPU seconds of one thread on 1024 x 1024 random pixels, the least of five, and the peak of what is allocated.
"Straightforward" is our own plain writing of the paper in float64: sums over squares as differences of running totals,
a 3 x 3 matrix inverted for each pixel, all of it again for each class.

Truth: maps with a class at every pixel, of Dubai (the middle 640 x 640 pixels) and of UC Merced (drawn for this project,
256 x 256 at 0.3 m). They are averaged over squares of ``stride`` pixels, with ``smear`` blurred by 0.8 of these, as
neighbouring tokens of a transformer see the same things, given normal noise of 0.15, and brought back by linear
interpolation; then refined. Radius and epsilon were chosen on one half of the places (``--search``); without it the
other half is reported: IoU, mean over classes of all pixels together, in all of the picture and within 8 pixels of a
border between classes. The highest score wins, among the classes that the picture has.

``--nano`` asks nano for the classes of the pictures that it was not trained on, each alone (score from 0.5; in how
many connected regions is said, too) and all together (the highest wins).

Needs the extra ``train`` for the pictures, one line of JSON each.
"""

import argparse
import json
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import thread_time

import numpy as np
from numpy.typing import NDArray

from geovl.segmenters.refine import EPSILON, GRAIN, Guide, guided, sharpened
from geovl.stitch import enlarge

Floats = NDArray[np.float32]
Refine = Callable[[Floats, NDArray[np.uint8]], Floats]
BORDER, NOISE, SMEAR, UNCLEAR = 8, 0.15, 0.8, 255


# ---------------------------------------------------------------------------------------------------------------- cost


def straightforward(scores: Floats, pixels: NDArray[np.uint8], radius: int, epsilon: float) -> NDArray[np.float64]:
    """Filter one class, (height, width), as the paper is read."""
    guide = pixels / 255

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        for axis in (0, 1):
            length = values.shape[axis]
            total = np.insert(np.cumsum(values, axis), 0, 0, axis)
            stop = np.minimum(np.arange(length) + radius + 1, length)
            start = np.maximum(np.arange(length) - radius, 0)
            values = np.take(total, stop, axis) - np.take(total, start, axis)
        return values

    count = mean(np.ones(scores.shape))
    average = np.stack([mean(plane) / count for plane in guide])
    matrix = np.empty((*scores.shape, 3, 3))
    for i in range(3):
        for j in range(3):
            matrix[..., i, j] = mean(guide[i] * guide[j]) / count - average[i] * average[j] + epsilon * (i == j)
    plane = mean(scores.astype(float)) / count
    covariance = np.stack(
        [mean(channel * scores) / count - m * plane for channel, m in zip(guide, average, strict=True)]
    )
    slope = np.einsum("hwij,jhw->ihw", np.linalg.inv(matrix), covariance)
    offset = plane - (slope * average).sum(0)
    smooth = np.stack([mean(part) / count for part in slope])
    return np.clip((smooth * guide).sum(0) + mean(offset) / count, 0, 1)


def seconds(work: Callable[[], object], tries: int = 5) -> float:
    """CPU seconds of the quickest of some tries."""
    spent = []
    for _ in range(tries):
        start = thread_time()
        work()
        spent.append(thread_time() - start)
    return min(spent)


def megabytes(work: Callable[[], object]) -> float:
    """Peak of what is allocated while working."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def cost() -> None:
    """Print what refining takes, a line for each way."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 1024, 1024), dtype=np.uint8)
    scores = rng.random((1, 1024, 1024)).astype(np.float32)
    plain = seconds(lambda: straightforward(scores[0], pixels, 24, EPSILON), 2)
    print(json.dumps({"straightforward_s": round(plain, 2)}), flush=True)
    for subsample in (1, 2, 4, 8):

        def look(subsample: int = subsample) -> Guide:
            return Guide.of(pixels, 24, EPSILON, subsample=subsample)

        guide = look()
        picture, each = seconds(look), seconds(lambda guide=guide: guide.sharpen(scores))
        report = {
            "subsample": subsample,
            "guide_s_per_mp": picture / scores.size * 1e6,
            "class_s_per_mp": each / scores.size * 1e6,
            "times_quicker_1_class": plain / (picture + each),
            "times_quicker_20_classes": 20 * plain / (picture + 20 * each),
            "guide_peak_mb": megabytes(look),
            "class_peak_mb": megabytes(lambda guide=guide: guide.sharpen(scores)),
        }
        print(json.dumps({key: round(value, 3) for key, value in report.items()}), flush=True)


# --------------------------------------------------------------------------------------------------------------- truth


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture with a class at every pixel."""

    pixels: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    """(height, width): 0.. of ``names``, 255 unclear."""
    names: tuple[str, ...]


def dubai(data: Path, tiles: tuple[str, ...]) -> Iterator[Picture]:
    """Yield the middles of the pictures of some tiles."""
    import cv2

    names = {0x3C1098: "building", 0x8429F6: "land", 0x6EC1E4: "road", 0xFEDD3A: "vegetation", 0xE2A929: "water"}
    for tile in tiles:
        for path in sorted((data / "landcover-dubai" / tile / "images").glob("*.jpg")):
            image = cv2.imread(str(path))[:, :, ::-1]
            colour = cv2.imread(str(path.parents[1] / "masks" / f"{path.stem}.png"))[:, :, ::-1].astype(int)
            colour = colour @ (65536, 256, 1)
            truth = np.full(colour.shape, UNCLEAR, np.uint8)
            for index, value in enumerate(names):
                truth[colour == value] = index
            top, left = (max((side - 640) // 2, 0) for side in truth.shape)
            part = np.s_[top : top + 640, left : left + 640]
            yield Picture(np.ascontiguousarray(image[part].transpose(2, 0, 1)), truth[part], tuple(names.values()))


def merced(data: Path, first: int, stop: int) -> Iterator[Picture]:
    """Yield the dense maps drawn for this project of pictures with numbers from first to before stop."""
    import cv2

    import geovl.learn.nano.data

    folder = geovl.learn.nano.data.MASKS / "part2" / "dense"
    names = tuple(json.loads((folder / "classes.json").read_text()).values())
    for path in sorted(folder.glob("*.png")):
        place, number = path.stem.rstrip("0123456789"), int(path.stem[-2:])
        found = data / "scenes-ucm" / place / f"{path.stem}.webp"
        if first <= number < stop and found.exists():
            image, truth = cv2.imread(str(found))[:, :, ::-1], cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            if truth.shape == image.shape[:2]:
                yield Picture(np.ascontiguousarray(image.transpose(2, 0, 1)), truth, names)


def degraded(picture: Picture, stride: int, smear: float, rng: np.random.Generator) -> tuple[Floats, list[int]]:
    """Return the scores (channels, height, width) of a coarse and noisy model, and the classes of the channels."""
    import cv2

    height, width = picture.truth.shape
    there = [index for index in range(len(picture.names)) if (picture.truth == index).any()]
    exact = np.stack([picture.truth == index for index in there]).astype(np.float32)
    exact = np.pad(exact, ((0, 0), (0, -height % stride), (0, -width % stride)), mode="edge")
    rows, columns = (side // stride for side in exact.shape[1:])
    coarse = exact.reshape(len(there), rows, stride, columns, stride).mean((2, 4))
    if smear:
        coarse = np.stack([cv2.GaussianBlur(each, (0, 0), smear, borderType=cv2.BORDER_REPLICATE) for each in coarse])
    coarse = np.clip(coarse + rng.normal(0, NOISE, coarse.shape), 0, 1).astype(np.float32)
    return enlarge(coarse, exact.shape[1:], stride)[:, :height, :width], there


def near_border(truth: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where another class is within some pixels."""
    import cv2

    edge = np.zeros(truth.shape, np.uint8)
    edge[:, 1:] |= truth[:, 1:] != truth[:, :-1]
    edge[1:] |= truth[1:] != truth[:-1]
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * BORDER + 1, 2 * BORDER + 1))
    return cv2.dilate(edge, disc) > 0


class Tally:
    """Counts of pixels by true and found class; IoU in percent, mean over the classes with 200 true pixels and more."""

    def __init__(self, classes: int) -> None:
        self._counts = np.zeros((2, classes, classes), np.int64)

    def add(self, found: NDArray[np.integer], picture: Picture) -> None:
        """Count a picture."""
        classes = self._counts.shape[1]
        known = picture.truth < classes
        for row, part in enumerate((known, known & near_border(picture.truth))):
            pair = picture.truth[part].astype(int) * classes + found[part]
            self._counts[row] += np.bincount(pair, minlength=classes**2).reshape(classes, classes)

    def iou(self) -> tuple[float, float]:
        """Return the whole IoU and that near borders."""
        found = []
        for counts in self._counts:
            both = np.diag(counts)
            seen = counts.sum(1) >= 200
            either = counts.sum(0) + counts.sum(1) - both
            found.append(round(float(100 * (both[seen] / either[seen]).mean()), 2))
        return found[0], found[1]

    def class_iou(self, part: int, index: int = 1) -> float:
        """Return the IoU of one class in all of the pictures (0) or near borders (1); NaN where it is rare."""
        counts = self._counts[part]
        if counts[index].sum() < 200:
            return float("nan")
        return float(100 * counts[index, index] / (counts[index].sum() + counts[:, index].sum() - counts[index, index]))


def ways(stride: int, *, search: bool) -> dict[str, Refine]:
    """Return the ways to refine that are compared."""

    def way(function: Callable[..., Floats], radius: int, epsilon: float, grain: int = GRAIN) -> Refine:
        subsample = max(min(4, radius // 3), 1)
        return lambda scores, pixels: function(scores, pixels, radius, epsilon, subsample=subsample, grain=grain)

    found: dict[str, Refine] = {"bilinear": lambda scores, _: scores}
    radii = (stride // 2, stride, stride * 3 // 2, stride * 2) if search else (stride, stride * 3 // 2)
    for radius in radii:
        for epsilon in (1e-4, 1e-3, 1e-2) if search else (EPSILON,):
            found[f"sharpened r={radius} e={epsilon:g}"] = way(sharpened, radius, epsilon)
    found["sharpened, defaults"] = sharpened
    found[f"sharpened r={stride * 3 // 2} grain=0"] = way(sharpened, stride * 3 // 2, EPSILON, 0)
    found[f"guided r={stride // 2} e=0.0001"] = way(guided, stride // 2, 1e-4, 0)  # the best of it
    return found


def compare(data: Path, *, search: bool) -> None:
    """Print IoU, a line for each set, stride and way."""
    sets = {
        "dubai": list(dubai(data, ("tile5", "tile7") if search else ("tile2", "tile6", "tile8"))),
        "merced": list(merced(data, 0, 50) if search else merced(data, 50, 100)),
    }
    for name, pictures in sets.items():
        for stride in (16, 8, 4):
            for smear in (0, SMEAR):
                rng = np.random.default_rng(0)
                tallies = {way: Tally(len(pictures[0].names)) for way in ways(stride, search=search)}
                for picture in pictures:
                    scores, there = degraded(picture, stride, smear, rng)
                    for way, refine in ways(stride, search=search).items():
                        best = np.array(there)[np.argmax(refine(scores, picture.pixels), axis=0)]
                        tallies[way].add(best, picture)
                for way, tally in tallies.items():
                    whole, border = tally.iou()
                    line = {"set": name, "stride": stride, "smear": smear, "way": way, "iou": whole, "border": border}
                    print(json.dumps(line), flush=True)


# ---------------------------------------------------------------------------------------------------------------- nano


def ask_nano(data: Path) -> None:
    """Print how refining changes nano, which works at stride 4."""
    import cv2

    from geovl.catalog import model
    from geovl.segmenters.registry import load
    from geovl.types import Chip, Vocabulary, Window

    nano = load(model("nano").record)
    sets = {"dubai": list(dubai(data, ("tile2", "tile6"))), "merced": list(merced(data, 82, 100))}
    for name, pictures in sets.items():
        names = pictures[0].names
        refine = {"as it is": ways(4, search=False)["bilinear"], "sharpened, defaults": sharpened}
        refine |= {
            f"sharpened, {key}={value}": partial(sharpened, **{key: value})
            for key, value in (("grain", 0), ("radius", 12))
        }
        refine["guided r=2 e=0.0001"] = ways(4, search=False)["guided r=2 e=0.0001"]
        together = {way: Tally(len(names)) for way in refine}
        regions = dict.fromkeys(refine, 0)
        alone = {way: [Tally(2) for _ in names] for way in refine}
        for picture in pictures:
            height, width = picture.truth.shape
            sides = ((0, 0), (0, -height % nano.multiple), (0, -width % nano.multiple))
            pixels = np.pad(picture.pixels, sides, mode="edge")
            chip = Chip(pixels, np.ones(pixels.shape[1:], bool), Window(0, 0, *pixels.shape[1:]), None)
            (scores,) = nano.segment([chip], Vocabulary.from_prompts(names))
            there = [index for index in range(len(names)) if (picture.truth == index).any()]
            values = scores.probabilities()[:, :height, :width]
            for way, function in refine.items():
                found = function(values, picture.pixels)
                together[way].add(np.array(there)[np.argmax(found[there], axis=0)], picture)
                for index in range(len(names)):
                    truth = np.where(picture.truth == UNCLEAR, UNCLEAR, picture.truth == index).astype(np.uint8)
                    one = Picture(picture.pixels, truth, ("no", "yes"))
                    yes = (found[index] >= 0.5).astype(np.uint8)
                    alone[way][index].add(yes, one)
                    regions[way] += cv2.connectedComponents(yes, connectivity=4)[0] - 1
        for way in refine:
            whole, border = together[way].iou()
            each = np.array([[tally.class_iou(part) for part in (0, 1)] for tally in alone[way]])
            line = {"nano on": name, "pictures": len(pictures), "way": way, "iou": whole, "border": border}
            line |= {"alone": round(np.nanmean(each[:, 0]), 2), "alone_border": round(np.nanmean(each[:, 1]), 2)}
            print(json.dumps(line | {"regions": regions[way]}), flush=True)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--nano", action="store_true")
    given = parser.parse_args()
    if given.data is None:
        cost()
    elif given.nano:
        ask_nano(given.data)
    else:
        compare(given.data, search=given.search)


if __name__ == "__main__":
    main()
