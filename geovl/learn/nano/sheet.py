"""Draws contact sheets of held-out pictures: what was found in colour, what is true in white.

    python -m geovl.learn.nano.sheet --data DATA --source airports --concept runway --out sheet.png

Look at these before any figure: a wrong label or a habit of the model shows at once.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from geovl import catalog
from geovl.learn.nano import data
from geovl.learn.nano.concepts import INDEX
from geovl.learn.nano.evaluate import scores
from geovl.segmenters import registry
from geovl.types import Vocabulary

CELL = 300
"""Side of a picture on the sheet, pixels."""


def _outline(picture: NDArray[np.uint8], mask: NDArray[np.bool_], colour: tuple[int, int, int], width: int) -> None:
    """Draw the border of a mask into a picture (h, w, 3), in place."""
    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, lines, -1, colour, width)


def cell(sample: data.Sample, found: NDArray[np.bool_], concept: str) -> NDArray[np.uint8]:
    """Draw one picture with truth (white, where it is told) and finding (red), uint8 (CELL, CELL, 3) RGB."""
    scale = CELL / max(sample.codes.shape)
    size = (round(sample.codes.shape[1] * scale), round(sample.codes.shape[0] * scale))
    picture = cv2.resize(sample.pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    truth = sample.table[:, INDEX[concept]][sample.codes] == 1
    for mask, colour, width in ((truth, (255, 255, 255), 2), (found, (255, 30, 30), 1)):
        _outline(picture, cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0, colour, width)
    out = np.zeros((CELL, CELL, 3), np.uint8)
    out[: size[1], : size[0]] = picture
    return out


def main() -> None:
    """Read the command line and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=Path, default=data.MASKS)
    parser.add_argument("--source", default="ucm", help="family of pictures, such as ucm, airports, dubai")
    parser.add_argument("--concept", default="building")
    parser.add_argument("--prompt", help="the concept when not given")
    parser.add_argument("--every", action="store_true", help="also pictures whose labels do not show the concept")
    parser.add_argument("--columns", type=int, default=5)
    parser.add_argument("--most", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    segmenter = registry.load(catalog.model("nano").record)
    vocabulary = Vocabulary.from_prompts([args.prompt or args.concept])
    held = {source.name: source.samples for source in data.sources(args.data, args.labels, "test")}
    index = INDEX[args.concept]
    shown = [s for s in held[args.source] if args.every or bool((s.table[:, index][s.codes] == 1).any())][: args.most]
    cells = [cell(s, scores(segmenter, s, vocabulary)[0] >= 0.5, args.concept) for s in shown]
    cells += [np.zeros((CELL, CELL, 3), np.uint8)] * (-len(cells) % args.columns)
    rows = [np.concatenate(cells[i : i + args.columns], axis=1) for i in range(0, len(cells), args.columns)]
    cv2.imwrite(str(args.out), np.concatenate(rows)[..., ::-1])


if __name__ == "__main__":
    main()
