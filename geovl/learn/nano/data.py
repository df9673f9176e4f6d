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
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray

from geovl.learn.nano import concepts
from geovl.learn.nano.concepts import INDEX, UNKNOWN

DUBAI_HELD_OUT = ("tile2", "tile6")
UCM_HELD_OUT_FROM = 82
HARBOURS_HELD_OUT_BELOW = 42
"""Harbours are held out from the other end: most of those with drawn ships have high numbers."""
AIRPORT_HELD_OUT_FROM = 260
TREES_HELD_OUT = "riverside"
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


def dubai(root: Path, *, held_out: bool) -> Iterator[Sample]:
    """Yield the dense land-cover maps of Dubai, of the held-out tiles or of the others."""
    table = np.stack([concepts.unknown(), *(concepts.row(name) for name in _DUBAI_COLOURS.values())])
    for path in sorted((root / "landcover-dubai").glob("tile*/images/*.jpg")):
        if (path.parts[-3] in DUBAI_HELD_OUT) != held_out:
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
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
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
        _overlay(targets, label, mask.astype(np.uint8), complete=complete)
    return targets


def ucm(root: Path, labels: Path, *, held_out: bool, masked: bool) -> Iterator[Sample]:
    """Yield UC Merced pictures: those with drawn masks, or those with image-level tags only."""
    names = {int(k): v for k, v in json.loads((labels / "part2/dense/classes.json").read_text()).items()}
    index = _mask_index(labels)
    with (root / "scenes-ucm/multilabels.tsv").open(newline="") as handle:
        tags = {line["IMAGE\\LABEL"]: line for line in csv.DictReader(handle, delimiter="\t")}
    for path in sorted((root / "scenes-ucm").glob("*/*.webp")):
        scene = path.parent.name
        entries = index.get(f"scenes-ucm/{scene}/{path.name}", [])
        number = int(path.stem[-2:])
        away = number < HARBOURS_HELD_OUT_BELOW if scene == "harbor" else number >= UCM_HELD_OUT_FROM
        if away != held_out or bool(entries) != masked:
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


def airports(root: Path, labels: Path, *, held_out: bool) -> Iterator[Sample]:
    """Yield airport pictures: aircraft from boxes, runways and taxiways where they were drawn."""
    index = _mask_index(labels)
    elsewhere = concepts.absent(("ship", "sea", "tennis court", "dock", "mobile home", "sand trap", "golf green"))
    for path in sorted((root / "airport-planes").glob("*.jpg")):
        if (int(path.stem.split("_")[1]) >= AIRPORT_HELD_OUT_FROM) != held_out:
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


def trees(root: Path, *, held_out: bool) -> Iterator[Sample]:
    """Yield NAIP pictures with tree points: a disc is tree, a ring around it unknown, the rest not tree."""
    table = np.stack([concepts.absent(("tree", "forest")), concepts.row("tree"), concepts.unknown()])
    for path in sorted((root / "trees-naip").glob("*.tif")):
        if path.stem.startswith(TREES_HELD_OUT) != held_out:
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


def buildings(root: Path, *, held_out: bool) -> Iterator[Sample]:
    """Yield mosaics of up to 4 x 4 map tiles with footprints; a rim of 2 px and missing tiles are unknown."""
    table = np.stack([concepts.absent(("building", "mobile home")), concepts.row("building"), concepts.unknown()])
    groups: dict[tuple[str, str, int, int], list[tuple[int, int, Path]]] = defaultdict(list)
    for label in sorted((root / "buildings-oam").glob("*/*.label.tif")):
        if (label.parent.name == BUILDINGS_HELD_OUT) != held_out:
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


def sources(root: Path, labels: Path, *, held_out: bool) -> list[Source]:
    """Read every source of one side of the split.

    Args:
        root: Folder of the training pictures.
        labels: Folder of the drawn masks.
        held_out: True for the validation side.
    """
    airfields = list(airports(root, labels, held_out=held_out))
    runway = INDEX["runway"]
    # few airports have their runways drawn: those come up more often, and by themselves
    drawn = [s for s in airfields if not held_out and bool((s.table[:, runway][s.codes] == 1).any())]
    found = [
        Source("dubai", 0.30, (0.5, 2.0), list(dubai(root, held_out=held_out))),
        Source("ucm", 0.30, (0.5, 1.8), list(ucm(root, labels, held_out=held_out, masked=True))),
        Source("tags", 0.08, (0.5, 1.8), list(ucm(root, labels, held_out=held_out, masked=False))),
        Source("airports", 0.15, (0.4, 2.0), airfields),
        Source("runways", 0.08, (0.4, 1.6), drawn),
        Source("buildings", 0.12, (0.5, 3.0), list(buildings(root, held_out=held_out))),
        Source("trees", 0.06, (0.4, 1.2), list(trees(root, held_out=held_out))),
    ]
    return [source for source in found if source.samples]
