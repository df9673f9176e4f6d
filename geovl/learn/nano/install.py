"""Puts a trained nano into the package and writes its hashes, sizes and measured figures into its record.

    python -m geovl.learn.nano.install --run DIR --data DATA

The record (``catalog/models/nano.toml``) keeps what people wrote in it; ``[run.weights]``,
the sizes and every ``[[results]]`` are written anew. Run it in a checkout.
"""

import argparse
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx

import geovl.segmenters.nano
from geovl.learn.nano import data, evaluate
from geovl.runs import sha256

PACKAGE = Path(geovl.segmenters.nano.__file__).parent
RECORD = PACKAGE.parents[2] / "catalog" / "models" / "nano.toml"
FILES = ("nano.onnx", "concepts.json", "text-table.npz", "vocab.txt")
_PLACES = {
    "dubai": ("Dubai land cover", "tiles 2 and 6, never trained on"),
    "buildings": ("OpenAerialMap Kampala", "a town never trained on"),
    "airports": ("GDIT Aerial Airport", "pictures from number 260"),
    "trees": ("Urban Tree Detection Data", "Riverside; discs around points"),
    "tags": ("UC Merced by scene", "pictures from number 82, whole pictures of forest or fields"),
    "ucm": ("UC Merced with drawn masks", "pictures from number 82, harbours below 42"),
    "roads-epfl": ("EPFL road extraction", "measured only"),
    "loveda": ("LoveDA", "one picture, measured only"),
    "choice": ("CHOICE", "pictures that ask for every instance, measured only"),
    "spacenet": ("SpaceNet Atlanta and Las Vegas", "two crops, measured only"),
}
_OWN = ("dubai", "buildings", "airports", "trees", "tags", "ucm")
"""Sets that decide whether a concept is experimental."""
POOR = 0.25
"""IoU below which a concept is experimental."""


def results(report: Mapping[str, Mapping[str, object]]) -> str:
    """Return the ``[[results]]`` and ``[reliability]`` of an evaluation's report as TOML."""
    rows: list[tuple[str, str, str, object, str]] = []
    for name, found in report.items():
        place, _, prompt = name.partition(": ")
        if place == "dubai":
            rows += [
                ("mean IoU" if key == "mean" else f"IoU {key}", *_PLACES[place], value, "highest of five prompts")
                for key, value in found.items()
            ]
        elif "mean" in found:
            members = ", ".join(evaluate.GROUPS[name])
            rows.append((f"mean IoU, {prompt} things", *_PLACES[place], found["mean"], members))
        elif "iou" in found:
            ece = f", calibration error {found['ece']}" if "ece" in found else ""
            setting = f"one prompt, threshold 0.5, {found['pictures']} pictures show it{ece}"
            rows.append((f"IoU {prompt}", *_PLACES[place], found["iou"], setting))
        elif place == "text":
            told = (("accepted", "inside", "inside the field"), ("right", "inside", "nearest is the one meant"),
                    ("refused", "outside", "outside the field"))  # fmt: skip
            rows += [
                (f"prompts {key}", "geovl prompts", "not in the lexicon", found[key], f"{found[count]} phrases, {what}")
                for key, count, what in told
            ]
    parts = []
    for metric, dataset, split, value, setting in rows:
        told_row = {"metric": metric, "value": round(float(str(value)), 3), "dataset_name": dataset, "split": split}
        told_row["setting"] = setting
        lines = (f"{key} = {json.dumps(item)}" for key, item in told_row.items())
        parts.append("\n[[results]]\n" + "\n".join(lines) + "\n")
    if "reliability" in report:
        lines = (f"{key} = {json.dumps(item)}" for key, item in report["reliability"].items())
        parts.append("\n[reliability]\n" + "\n".join(lines) + "\n")
    return "".join(parts)


def experimental(report: Mapping[str, Mapping[str, object]], names: Iterable[str]) -> list[str]:
    """Return which concepts are poor on every held-out set that shows them, or shown by none."""
    best: dict[str, float] = {}
    for key, found in report.items():
        place, _, prompt = key.partition(": ")
        if place not in _OWN:
            continue
        pairs = [(str(found.get("concept", prompt)), found["iou"])] if "iou" in found else []
        if place == "dubai":
            pairs = list(found.items())
        for concept, value in pairs:
            best[concept] = max(best.get(concept, 0.0), float(str(value)))
    return [name for name in names if best.get(name, 0.0) < POOR]


def rewrite(
    record: str, weights: Mapping[str, str], parameters: int, size: int, measured: str, poor: Iterable[str] = ()
) -> str:
    """Return a record's TOML with new hashes, sizes, results and poor concepts; everything else as it is."""
    listed = "".join(f'"{name}" = "{digest}"\n' for name, digest in weights.items())
    record = re.sub(r"(?m)^total_parameters = \d+$", f"total_parameters = {parameters}", record)
    record = re.sub(r"(?m)^memory_size = \d+$", f"memory_size = {size}", record)
    record = re.sub(r"(?m)^experimental = .*$", lambda _: f"experimental = {json.dumps(list(poor))}", record)
    record = re.sub(r'(?m)^\[run\.weights\]\n(?:".*\n)*', lambda _: f"[run.weights]\n{listed}", record)
    return record.partition("\n[[results]]")[0].rstrip("\n") + "\n" + measured


def _put(report: Mapping[str, Mapping[str, object]]) -> None:
    """Write hashes and what a report says into the package and its record."""
    path = PACKAGE / "concepts.json"
    told = json.loads(path.read_text("utf-8"))
    poor = experimental(report, told) if report else []
    for name, entry in told.items():
        entry["experimental"] = name in poor
    path.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    graph = onnx.load(PACKAGE / "nano.onnx").graph
    parameters = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    weights = {name: sha256(PACKAGE / name) for name in FILES}
    size = sum((PACKAGE / name).stat().st_size for name in FILES)
    record = RECORD.read_text("utf-8")
    RECORD.write_text(rewrite(record, weights, parameters, size, results(report), poor), "utf-8")


def main() -> None:
    """Copy, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="what train wrote to --out")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=Path, default=data.MASKS)
    args = parser.parse_args()
    for name in FILES[:2]:
        shutil.copyfile(args.run / name, PACKAGE / name)
    record = RECORD.read_text("utf-8")
    _put({})  # the hashes must fit before the model can be loaded and measured
    try:
        report = evaluate.measure(args.data, args.labels)
    except BaseException:
        RECORD.write_text(record, "utf-8")
        raise
    _put(report)
    print(json.dumps(report, indent=1))  # noqa: T201 - a script's answer


if __name__ == "__main__":
    main()
