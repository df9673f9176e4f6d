"""Crops of the training pictures as nano sees them, with expressions and their true grids; kept in files.

nano's encoder stays as it is, so each crop is encoded once. A cache is a folder: ``features.npy`` (float16 (crops, 128,
32, 32): mean and maximum of nano's features over each cell), ``grids.npy`` and ``coarse.npy`` (uint8 (truths, 128) and
(truths, 32): the bits of true 32 x 32 and 16 x 16 grids), ``crop.npy`` (int32 (truths,)) and ``truths.jsonl``.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

import geovl.segmenters.nano
from geovl.learn.nano import augment, rendered
from geovl.learn.nano.data import Sample, Source, sources
from geovl.learn.nano_text import truth
from geovl.learn.nano_text.truth import Truth
from geovl.segmenters.nano.text import WIDTH
from geovl.segmenters.nano_text.segmenter import cells
from geovl.segmenters.text_as_mask.expressions import Expression
from geovl.segmenters.text_as_mask.grid import to_grid

log = logging.getLogger(__name__)

CELLS = 32
"""Rows and columns of the finer grid."""
COARSE = 16
SIDES = (256, 384, 512)
"""Pixels of a crop; a cell has 8 to 16."""
_KEPT = {"class": 6, "size": 8, "place": 10, "relation": 8, "absent": 6}
"""Expressions of a kind kept for a crop, at most."""
_FOLDER = Path(geovl.segmenters.nano.__file__).parent


SHARES = {
    "dubai": 0.25, "ucm": 0.22, "tags": 0.03, "airports": 0.04, "runways": 0.06, "buildings": 0.07, "trees": 0.03,
    "rendered": 0.3,
}  # fmt: skip
"""How often a crop is of each source."""
_ZOOM = (0.6, 1.5)  # of rendered scenes


def training_sources(root: Path, labels: Path, scenes: int, seed: int) -> list[Source]:
    """Read what nano-text is trained on: the pictures that nano is, and rendered scenes.

    Args:
        root: Folder of the pictures.
        labels: Folder of the drawn masks.
        scenes: How many scenes to render.
        seed: Of the scenes.
    """
    found = [Source(s.name, SHARES[s.name], s.zoom, s.samples) for s in sources(root, labels, "train")]
    return [*found, Source("rendered", SHARES["rendered"], _ZOOM, rendered.scenes(scenes, seed))]


class Encoder:
    """nano's encoder, as far as the features that its vectors are made of."""

    def __init__(self, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(_FOLDER / "nano.onnx", options, providers=["CPUExecutionProvider"])

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode pixels uint8 (n, 3, h, w): float32 (n, 64, h / 4, w / 4)."""
        feed = {
            "pixels": pixels, "merge": np.array(False),
            "text": np.zeros((1, WIDTH), np.float32), "bias": np.zeros(1, np.float32),
        }  # fmt: skip
        (features,) = self._session.run(["features"], feed)
        return np.asarray(features, np.float32)


def _side(sample: Sample, zoom: tuple[float, float], rng: np.random.Generator) -> tuple[int, tuple[float, float]]:
    """Draw the side of a crop, and the zooms at which the picture fills it."""
    short = min(sample.codes.shape)
    fitting = [side for side in SIDES if short / side > zoom[0]]
    side = int(fitting[int(rng.integers(len(fitting)))]) if fitting else SIDES[0]
    return side, (zoom[0], max(min(zoom[1], short / side), zoom[0] * 1.01))


def crop(
    source: Source, rng: np.random.Generator, *, plain: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a crop: pixels uint8 (side, side, 3) and targets uint8 (side, side, concepts).

    Args:
        source: Pictures.
        rng: Source of chance.
        plain: Leave the colours as they are.
    """
    sample = source.pick(rng)
    side, zoom = _side(sample, source.zoom, rng)
    pixels, codes = augment.view(sample, zoom, side, rng)
    return pixels if plain else augment.colour(pixels, rng), sample.table[codes]


def kept(found: Sequence[Truth], rng: np.random.Generator) -> Iterator[Truth]:
    """Yield some of the truths of a crop: no more of each kind than :data:`_KEPT`."""
    for kind, most in _KEPT.items():
        mine = [one for one in found if one.kind == kind]
        # what lies between the middles of all cells cannot be written down
        order = rng.permutation(len(mine))[:most]
        yield from (mine[int(index)] for index in order)


def build(families: Sequence[Source], count: int, seed: int, out: Path, *, plain: bool = False) -> None:
    """Write a cache of ``count`` crops, each source with its share.

    Args:
        families: Pictures.
        count: Crops.
        seed: Decides everything.
        out: Folder to write.
        plain: Leave the colours as they are, as for evaluation.
    """
    out.mkdir(parents=True, exist_ok=True)
    encode, rng = Encoder(2), np.random.default_rng(seed)
    shape = (count, 2 * 64, CELLS, CELLS)
    features = np.lib.format.open_memmap(out / "features.npy", mode="w+", dtype=np.float16, shape=shape)
    share = np.array([source.share for source in families])
    grids, coarse, owners, lines = [], [], [], []
    for index in range(count):
        source = families[int(rng.choice(len(families), p=share / share.sum()))]
        pixels, targets = crop(source, rng, plain=plain)
        features[index] = cells(encode(np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]), CELLS)[0]
        for one in kept(list(truth.truths(targets)), rng):
            grids.append(np.packbits(to_grid(one.mask, (CELLS, CELLS))))
            coarse.append(np.packbits(to_grid(one.mask, (COARSE, COARSE))))
            owners.append(index)
            lines.append(json.dumps({"source": source.name, "kind": one.kind} | asdict(one.expression)))
        if index % 200 == 0:
            log.info("crop %d of %d, %d expressions", index, count, len(lines))
    features.flush()
    np.save(out / "grids.npy", np.array(grids))
    np.save(out / "coarse.npy", np.array(coarse))
    np.save(out / "crop.npy", np.array(owners, np.int32))
    (out / "truths.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


@dataclass(frozen=True)
class Cache:
    """What :func:`build` wrote."""

    folder: Path

    @cached_property
    def features(self) -> NDArray[np.float16]:
        """float16 (crops, 128, 32, 32), read from disk as needed."""
        return np.load(self.folder / "features.npy", mmap_mode="r")

    @cached_property
    def crop(self) -> NDArray[np.int32]:
        """int32 (truths,): the crop of each."""
        return np.load(self.folder / "crop.npy")

    @cached_property
    def told(self) -> list[dict[str, Any]]:
        """Source, kind and fields of the expression of each truth."""
        return [json.loads(line) for line in (self.folder / "truths.jsonl").read_text("utf-8").splitlines()]

    @cached_property
    def _bits(self) -> dict[int, NDArray[np.uint8]]:
        return {CELLS: np.load(self.folder / "grids.npy"), COARSE: np.load(self.folder / "coarse.npy")}

    def grid(self, index: int, side: int = CELLS) -> NDArray[np.uint8]:
        """Return a true grid, uint8 (side, side) of 0 and 1."""
        return np.unpackbits(self._bits[side][index]).reshape(side, side)

    def expression(self, index: int) -> Expression:
        """Return what a truth is about, in names of concepts."""
        told = self.told[index]
        return Expression(told["head"], told["pick"], tuple(told["place"]), told["other"])

    def __len__(self) -> int:
        return len(self.crop)
