"""Reads the training pictures and turns every kind of label into one form.

A :class:`Sample` holds a code per pixel and a table that says, for each code, which
concepts are present, absent or unknown there. Splits go by place: whole Dubai tiles,
runs of picture numbers, whole towns.
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray

from geovl.learn.nano import concepts
from geovl.learn.nano.concepts import INDEX, UNKNOWN

MASKS = Path(__file__).parent / "masks"
"""Masks drawn for this project; see the README there."""
DUBAI_HELD_OUT = ("tile2", "tile6")
UCM_CALIBRATE_FROM = 76
UCM_HELD_OUT_FROM = 82
HARBOURS_HELD_OUT_BELOW = 42
HARBOURS_CALIBRATE_BELOW = 46
"""Harbours are held out from the other end: most of those with drawn ships have high numbers."""
AIRPORT_CALIBRATE_FROM = 245
AIRPORT_HELD_OUT_FROM = 260
TREES_HELD_OUT = "riverside"
TREES_CALIBRATE = "eureka"
BUILDINGS_HELD_OUT = "kampala"

_DUBAI_COLOURS = {
    0x3C1098: "coarse building",
    0x8429F6: "coarse land",
    0x6EC1E4: "coarse road",
    0xFEDD3A: "coarse vegetation",
    0xE2A929: "coarse water",
}
# image-level tag of UC Merced: concepts that are absent where the tag is 0
_TAGS = {
    "airplane": "airplane", "buildings": "building, mobile home", "cars": "car", "court": "tennis court",
    "dock": "dock", "field": "farmland", "grass": "grass", "mobile-home": "mobile home",
    "pavement": "road, pavement, parking lot, runway, taxiway, apron, overpass", "sea": "sea", "ship": "ship",
    "tanks": "storage tank", "trees": "tree, forest", "chaparral": "shrubland",
}  # fmt: skip
_WHOLE = {"agricultural": "farmland", "forest": "forest"}
_SPECIAL = {
    "runway": ("runway", "airplane"), "taxiway": ("runway", "airplane"), "apron": ("runway", "airplane"),
    "baseball diamond": ("baseballdiamond",), "golf green": ("golfcourse",), "sand trap": ("golfcourse",),
    "swimming pool": ("sparseresidential", "mediumresidential", "denseresidential", "tenniscourt", "buildings",
                      "mobilehomepark", "golfcourse"),
    "overpass": ("overpass", "freeway", "intersection"), "river": ("river",),
}  # fmt: skip

Side = Literal["train", "calibrate", "test"]
"""What a picture is for; pictures of one place are all on one side."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled picture."""

    name: str
    """Where it comes from, for reports."""
    pixels: NDArray[np.uint8]
    """uint8 (h, w, 3), RGB."""
    codes: NDArray[np.uint16]
    """uint16 (h, w), rows of ``table``."""
    table: NDArray[np.uint8]
    """uint8 (codes, concepts): 1 present, 0 absent, 255 unknown."""


@dataclass(frozen=True, slots=True)
class Source:
    """A family of samples and its share of the batches."""

    name: str
    share: float
    """Relative frequency in a batch."""
    zoom: tuple[float, float]
    """Source pixels per training pixel, from and to."""
    samples: list[Sample]
    chances: NDArray[np.float64] = field(init=False, repr=False)
    """(samples,), sum 1: how often each is drawn. What shows a rare concept comes up more often."""

    def __post_init__(self) -> None:
        shown = np.stack([present(sample) for sample in self.samples]) if self.samples else np.zeros((0, 1), np.bool_)
        worth = (shown / np.sqrt(np.maximum(shown.sum(axis=0), 1))).max(axis=1)
        worth = np.maximum(worth, 0.5 * max(len(worth), 1) ** -0.5)
        object.__setattr__(self, "chances", worth / max(worth.sum(), 1e-9))

    def pick(self, rng: np.random.Generator) -> Sample:
        """Draw a sample."""
        return self.samples[int(rng.choice(len(self.samples), p=self.chances))]


def present(sample: Sample) -> NDArray[np.bool_]:
    """Tell which concepts a picture shows, at more than 20 pixels: bool (concepts,)."""
    used = np.bincount(sample.codes.ravel(), minlength=len(sample.table)) > 20
    return np.asarray((sample.table[used[: len(sample.table)]] == 1).any(axis=0))


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Return a picture as uint8 (h, w, 3), RGB."""
    if path.suffix == ".tif":
        with rasterio.open(path) as source:
            return np.ascontiguousarray(source.read([1, 2, 3]).transpose(1, 2, 0))
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        msg = f"{path} is not a readable picture"
        raise ValueError(msg)
    return np.ascontiguousarray(picture[..., ::-1]).astype(np.uint8)


def pack(targets: NDArray[np.uint8]) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Split targets uint8 (h, w, concepts) into codes (h, w) and their table (codes, concepts)."""
    flat = np.ascontiguousarray(targets.reshape(-1, targets.shape[-1]))
    rows, inverse = np.unique(flat.view(f"V{flat.shape[1]}").ravel(), return_inverse=True)
    table = rows.view(np.uint8).reshape(len(rows), flat.shape[1])
    return inverse.reshape(targets.shape[:2]).astype(np.uint16), table


def dubai(root: Path, side: Side) -> Iterator[Sample]:
    """Yield the dense land-cover maps of Dubai: of the held-out tiles to test, of the others to train."""
    table = np.stack([concepts.unknown(), *(concepts.row(name) for name in _DUBAI_COLOURS.values())])
    for path in sorted((root / "landcover-dubai").glob("tile*/images/*.jpg")):
        if side != ("test" if path.parts[-3] in DUBAI_HELD_OUT else "train"):
            continue
        mask = read_rgb(path.parent.parent / "masks" / f"{path.stem}.png").astype(np.uint32)
        colour = (mask[..., 0] << 16) | (mask[..., 1] << 8) | mask[..., 2]
        codes = np.zeros(colour.shape, np.uint16)
        for index, value in enumerate(_DUBAI_COLOURS):
            codes[colour == value] = index + 1
        yield Sample(f"dubai/{path.parts[-3]}/{path.stem}", read_rgb(path), codes, table)


def _overlay(targets: NDArray[np.uint8], label: str, mask: NDArray[np.uint8], *, complete: bool) -> None:
    """Write one binary mask into targets (h, w, concepts), in place; 255 in the mask tells nothing."""
    name = concepts.canonical(label)
    row = concepts.row(name)
    inside = mask == 1
    here = targets[inside]
    here[:, row == 1] = 1
    closed = here[:, row == 0]
    here[:, row == 0] = np.where(closed == UNKNOWN, 0, closed)
    targets[inside] = here
    index = INDEX.get(name)
    if complete and index is not None:
        outside = (mask == 0) & (targets[..., index] == UNKNOWN)
        targets[outside, index] = 0


def _mask_index(labels: Path) -> dict[str, list[tuple[str, Path, bool]]]:
    """Collect (concept, mask file, complete) by image, dense maps first."""
    found: dict[str, list[tuple[str, Path, bool]]] = defaultdict(list)
    for index in sorted(labels.glob("part*/index.csv")):
        with index.open(newline="") as handle:
            for line in csv.DictReader(handle):
                entry = (line["concept"], index.parent / line["mask"], line["complete"] == "yes")
                found[line["image"]].append(entry)
    order = {"dense": 0, "car": 1, "airplane": 1, "taxiway": 2}
    return {image: sorted(entries, key=lambda e: order.get(e[0], 3)) for image, entries in found.items()}


def _masked(shape: tuple[int, int], entries: list[tuple[str, Path, bool]], names: dict[int, str]) -> NDArray[np.uint8]:
    """Merge the masks of one picture into targets uint8 (h, w, concepts)."""
    targets = np.full((*shape, len(concepts.CONCEPTS)), UNKNOWN, np.uint8)
    taxi: NDArray[np.uint8] | None = None
    for label, path, complete in entries:
        whole = mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if mask is None or mask.shape[:2] != shape:
            continue
        if label == "dense":
            for value, name in names.items():
                targets[mask == value] = concepts.row(name)
            continue
        if label == "taxiway":
            taxi = mask
        elif label == "runway" and taxi is not None:
            mask = np.where(taxi == 1, 0, mask)  # the drawn runway includes its taxiways
            mask = np.where((taxi == UNKNOWN) & (mask == 1), UNKNOWN, mask)
        if label == "runway" and complete:  # drawn with its taxiways: where it is not, there are none either
            layer = targets[..., INDEX["taxiway"]]
            layer[(layer == UNKNOWN) & (whole == 0)] = 0
        _overlay(targets, label, mask.astype(np.uint8), complete=complete)
    return targets


def _ucm_side(scene: str, number: int) -> Side:
    if scene == "harbor":
        number = 99 if number < HARBOURS_HELD_OUT_BELOW else 80 if number < HARBOURS_CALIBRATE_BELOW else 0
    return "test" if number >= UCM_HELD_OUT_FROM else "calibrate" if number >= UCM_CALIBRATE_FROM else "train"


def ucm(root: Path, labels: Path, side: Side, *, masked: bool) -> Iterator[Sample]:
    """Yield UC Merced pictures: those with drawn masks, or those with image-level tags only."""
    names = {int(k): v for k, v in json.loads((labels / "part2/dense/classes.json").read_text()).items()}
    index = _mask_index(labels)
    with (root / "scenes-ucm/multilabels.tsv").open(newline="") as handle:
        tags = {line["IMAGE\\LABEL"]: line for line in csv.DictReader(handle, delimiter="\t")}
    for path in sorted((root / "scenes-ucm").glob("*/*.webp")):
        scene = path.parent.name
        entries = index.get(f"scenes-ucm/{scene}/{path.name}", [])
        if _ucm_side(scene, int(path.stem[-2:])) != side or bool(entries) != masked:
            continue
        pixels = read_rgb(path)
        targets = _masked(pixels.shape[:2], entries, names)
        line = tags.get(path.stem, {})
        gone = {c.strip() for tag, held in _TAGS.items() if line.get(tag) == "0" for c in held.split(",")}
        gone |= {name for name, scenes in _SPECIAL.items() if scene not in scenes}
        if not entries and scene in _WHOLE:
            targets[:] = concepts.row(_WHOLE[scene])
        for name in gone:
            layer = targets[..., INDEX[name]]
            layer[layer == UNKNOWN] = 0
        yield Sample(f"ucm/{path.stem}", pixels, *pack(targets))


def airports(root: Path, labels: Path, side: Side) -> Iterator[Sample]:
    """Yield airport pictures: aircraft from boxes, runways and taxiways where they were drawn."""
    index = _mask_index(labels)
    elsewhere = concepts.absent(("ship", "sea", "tennis court", "dock", "mobile home", "sand trap", "golf green"))
    for path in sorted((root / "airport-planes").glob("*.jpg")):
        number = int(path.stem.split("_")[1])
        mine = "train" if number < AIRPORT_CALIBRATE_FROM else "calibrate"
        if side != ("test" if number >= AIRPORT_HELD_OUT_FROM else mine):
            continue
        pixels = read_rgb(path)
        targets = _masked(pixels.shape[:2], index.get(f"airport-planes/{path.name}", []), {})
        planes = np.zeros(pixels.shape[:2], np.uint8)
        boxes = path.with_suffix(".txt")
        for line in boxes.read_text().splitlines() if boxes.exists() else []:
            corners = np.array(line.split()[:8], float).reshape(4, 2)
            low, high = corners.min(0), corners.max(0)
            cv2.rectangle(planes, np.int32(low - 2).tolist(), np.int32(high + 3).tolist(), 255, -1)
        for line in boxes.read_text().splitlines() if boxes.exists() else []:
            corners = np.array(line.split()[:8], float).reshape(4, 2)
            centre, size = corners.mean(0), np.ptp(corners, axis=0)
            axes = np.maximum(1, size * 0.27).astype(int).tolist()
            cv2.ellipse(planes, np.int32(centre).tolist(), axes, 0, 0, 360, 1, -1)
        _overlay(targets, "airplane", planes, complete=True)
        targets = np.where((targets == UNKNOWN) & (elsewhere == 0), 0, targets).astype(np.uint8)
        yield Sample(f"airport/{path.stem}", pixels, *pack(targets))


def trees(root: Path, side: Side) -> Iterator[Sample]:
    """Yield NAIP pictures with tree points: a disc is tree, a ring around it unknown, the rest not tree."""
    table = np.stack([concepts.absent(("tree", "forest")), concepts.row("tree"), concepts.unknown()])
    for path in sorted((root / "trees-naip").glob("*.tif")):
        town = path.stem.split("_")[0]
        if side != {TREES_HELD_OUT: "test", TREES_CALIBRATE: "calibrate"}.get(town, "train"):
            continue
        points = path.with_suffix(".geojson")
        features = json.loads(points.read_text())["features"] if points.exists() else []
        with rasterio.open(path) as source:
            inverse = ~source.transform
            spots = [inverse * tuple(f["geometry"]["coordinates"][:2]) for f in features]
        pixels = read_rgb(path)
        codes = np.zeros(pixels.shape[:2], np.uint8)
        for radius, code in ((8, 2), (3, 1)):
            for x, y in spots:
                cv2.circle(codes, (int(x), int(y)), radius, code, -1)
        yield Sample(f"trees/{path.stem}", pixels, codes.astype(np.uint16), table)


def buildings(root: Path, side: Side) -> Iterator[Sample]:
    """Yield mosaics of up to 4 x 4 map tiles with footprints; a rim of 2 px and missing tiles are unknown."""
    table = np.stack([concepts.absent(("building", "mobile home")), concepts.row("building"), concepts.unknown()])
    groups: dict[tuple[str, str, int, int], list[tuple[int, int, Path]]] = defaultdict(list)
    for label in sorted((root / "buildings-oam").glob("*/*.label.tif")):
        if side != ("test" if label.parent.name == BUILDINGS_HELD_OUT else "train"):
            continue
        match = re.fullmatch(r"OAM-(\d+)-(\d+)-(\d+)\.label", label.stem)
        if match is None:
            continue
        x, y, zoom = int(match[1]), int(match[2]), match[3]
        groups[label.parent.name, zoom, x // 4, y // 4].append((x % 4, y % 4, label))
    for (place, zoom, column, line), members in groups.items():
        left, top = min(m[0] for m in members), min(m[1] for m in members)
        width, height = max(m[0] for m in members) - left + 1, max(m[1] for m in members) - top + 1
        pixels = np.zeros((height * 256, width * 256, 3), np.uint8)
        codes = np.full(pixels.shape[:2], 2, np.uint8)
        for x, y, label in members:
            stem = label.name.removesuffix(".label.tif")
            picture = next(p for p in (label.parent / f"{stem}.png", label.parent / f"{stem}.tif") if p.exists())
            with rasterio.open(label) as source:
                mask = (source.read(1) > 0).astype(np.uint8)
            place_at = np.s_[(y - top) * 256 : (y - top + 1) * 256, (x - left) * 256 : (x - left + 1) * 256]
            pixels[place_at] = read_rgb(picture)[:256, :256]
            kernel = np.ones((5, 5), np.uint8)
            rim = cv2.dilate(mask, kernel) != cv2.erode(mask, kernel)
            codes[place_at] = np.where(rim, 2, mask)
        yield Sample(f"buildings/{place}-{zoom}-{column}-{line}", pixels, codes.astype(np.uint16), table)


def sources(root: Path, labels: Path, side: Side) -> list[Source]:
    """Read every source of one side of the split; those without any picture are left out.

    Args:
        root: Folder of the training pictures.
        labels: Folder of the drawn masks.
        side: What the pictures are for.
    """
    airfields = list(airports(root, labels, side))
    runway = INDEX["runway"]
    # few airports have their runways drawn: those come up more often, and by themselves
    drawn = [s for s in airfields if side != "test" and bool((s.table[:, runway][s.codes] != UNKNOWN).any())]
    found = [
        Source("dubai", 0.34, (0.4, 2.2), list(dubai(root, side))),
        Source("ucm", 0.32, (0.4, 2.0), list(ucm(root, labels, side, masked=True))),
        Source("tags", 0.06, (0.5, 1.8), list(ucm(root, labels, side, masked=False))),
        Source("airports", 0.09, (0.4, 2.0), airfields),
        Source("runways", 0.13, (0.4, 2.0), drawn),
        Source("buildings", 0.11, (0.5, 3.0), list(buildings(root, side))),
        Source("trees", 0.05, (0.4, 1.2), list(trees(root, side))),
    ]
    return [source for source in found if source.samples]
