"""Puts a trained nano into the package and writes its hashes, sizes and measured figures into its record.

    python -m geovl.learn.nano.install --run DIR --data DATA --labels LABELS

The record (``catalog/models/nano.toml``) keeps what people wrote in it; ``[run.weights]``,
the sizes and every ``[[results]]`` are written anew. Run it in a checkout.
"""

import argparse
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

import geovl.segmenters.nano
from geovl.learn.nano import evaluate
from geovl.runs import sha256

PACKAGE = Path(geovl.segmenters.nano.__file__).parent
RECORD = PACKAGE.parents[2] / "catalog" / "models" / "nano.toml"
FILES = ("nano.onnx", "concepts.json", "text-table.npz", "vocab.txt")
_PLACES = {
    "dubai": ("Dubai land cover", "tiles 2 and 6, never trained on"),
    "buildings": ("OpenAerialMap Kampala", "a town never trained on"),
    "airports": ("GDIT Aerial Airport", "pictures from number 260"),
    "ucm": ("UC Merced with drawn masks", "pictures from number 82, harbours below 42"),
}


def results(report: Mapping[str, Mapping[str, object]]) -> str:
    """Return the ``[[results]]`` of an evaluation's report as TOML."""
    rows: list[tuple[str, str, object, str]] = []
    for name, found in report.items():
        place, _, prompt = name.partition(": ")
        if place == "dubai":
            rows += [
                ("mean IoU" if key == "mean" else f"IoU {key}", place, value, "highest of five prompts")
                for key, value in found.items()
            ]
        elif "iou" in found:
            setting = f"one prompt, threshold 0.5, {found['pictures']} pictures show it"
            rows.append((f"IoU {prompt}", place, found["iou"], setting))
    parts = []
    for metric, place, value, setting in rows:
        dataset, split = _PLACES[place]
        told = {"metric": metric, "value": round(float(str(value)), 3), "dataset": dataset, "split": split}
        told["setting"] = setting
        lines = (f"{key} = {json.dumps(item)}" for key, item in told.items())
        parts.append("\n[[results]]\n" + "\n".join(lines) + "\n")
    return "".join(parts)


def rewrite(record: str, weights: Mapping[str, str], parameters: int, size: int, measured: str) -> str:
    """Return a record's TOML with new hashes, sizes and results; everything else as it is."""
    listed = "".join(f'"{name}" = "{digest}"\n' for name, digest in weights.items())
    record = re.sub(r"(?m)^total_parameters = \d+$", f"total_parameters = {parameters}", record)
    record = re.sub(r"(?m)^memory_size = \d+$", f"memory_size = {size}", record)
    record = re.sub(r'(?m)^\[run\.weights\]\n(?:".*\n)*', lambda _: f"[run.weights]\n{listed}", record)
    return record.partition("\n[[results]]")[0].rstrip("\n") + "\n" + measured


def main() -> None:
    """Copy, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="what train wrote to --out")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    args = parser.parse_args()
    for name in FILES[:2]:
        shutil.copyfile(args.run / name, PACKAGE / name)
    graph = onnx.load(PACKAGE / "nano.onnx").graph
    parameters = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    weights = {name: sha256(PACKAGE / name) for name in FILES}
    size = sum((PACKAGE / name).stat().st_size for name in FILES)
    record = RECORD.read_text("utf-8")
    RECORD.write_text(rewrite(record, weights, parameters, size, ""), "utf-8")  # the hashes must fit to load it
    report = evaluate.measure(args.data, args.labels)
    RECORD.write_text(rewrite(record, weights, parameters, size, results(report)), "utf-8")
    print(json.dumps(report, indent=1))  # noqa: T201 - a script's answer


if __name__ == "__main__":
    main()
