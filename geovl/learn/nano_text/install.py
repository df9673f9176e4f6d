"""Puts a trained nano-text into the package and writes its hashes, sizes and measured figures into its record.

    python -m geovl.learn.nano_text.install --run DIR --cache DIR --data DATA

The record (``catalog/models/nano-text.toml``) keeps what people wrote in it; ``[run.weights]``, the sizes and every
``[[results]]`` are written anew. Run it in a checkout.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import geovl.segmenters.nano_text
from geovl.evaluate.referring import CUMULATIVE, MEAN
from geovl.learn.nano import data
from geovl.learn.nano.install import rewrite
from geovl.learn.nano_text import evaluate
from geovl.learn.nano_text.calibrate import fit
from geovl.learn.nano_text.export import FILES, export, set_threshold
from geovl.learn.nano_text.model import NanoText
from geovl.runs import sha256

PACKAGE = Path(geovl.segmenters.nano_text.__file__).parent
RECORD = PACKAGE.parents[2] / "catalog" / "models" / "nano-text.toml"
_TOLD = (CUMULATIVE, MEAN, "Pr@0.5")
_SETS = {
    "dubai": ("Dubai land cover", "tiles 2 and 6, never trained on"),
    "ucm": ("UC Merced with drawn masks", "pictures from number 82, harbours below 42"),
    "airports": ("GDIT Aerial Airport", "pictures from number 260"),
    "buildings": ("OpenAerialMap Kampala", "a town never trained on"),
}
_WHOLE = ", read whole"
_ABSENT = "absent"


def results(report: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the ``[[results]]`` of an evaluation's report as TOML."""
    parts = []
    for name, found in report.items():
        place, _, kind = name.partition(": ")
        whole = place.endswith(_WHOLE)
        source = place.removesuffix(_WHOLE).removeprefix("tiles, ")
        if source in _SETS and (whole or kind == _ABSENT):  # those of all places tell enough
            continue
        dataset, split = _SETS.get(source, ("Dubai and UC Merced", "held-out places"))
        if place.startswith("scenes"):
            dataset, split = _SETS["dubai"][0], _SETS["dubai"][1] + "; whole pictures, settled over all windows"
        setting = f"{found['expressions']} expressions" + (f", {kind}" if kind else "")
        setting += ", read whole by the model" if whole else ""
        parts += [_row(metric, value, dataset, split, setting) for metric, value in _figures(found, brief=bool(kind))]
    return "".join(parts)


def _figures(found: Mapping[str, Any], *, brief: bool) -> list[tuple[str, float]]:
    """Return what a record tells of a set; of one kind of expression only the mean and its oracle."""
    out = []
    for metric, value in found.items():
        if isinstance(value, dict):
            if value["model"] is None or metric not in ((MEAN,) if brief else _TOLD):
                continue
            out.append((metric, value["model"]))
            if metric == MEAN:
                out.append((f"{metric}, grid oracle", value["grid oracle"]))
        elif metric == "unfiltered" and not brief:
            out.append((f"{MEAN}, without guided filter", value))
        elif metric in {"N-acc", "named right"}:
            out.append((metric, value))
    return out


def _row(metric: str, value: float, dataset: str, split: str, setting: str) -> str:
    told = {"metric": metric, "value": round(float(value), 3), "dataset_name": dataset, "split": split}
    told["setting"] = setting
    return "\n[[results]]\n" + "\n".join(f"{key} = {json.dumps(item)}" for key, item in told.items()) + "\n"


def _put(report: Mapping[str, Mapping[str, Any]], parameters: int) -> None:
    """Write hashes, sizes and what a report says into the record."""
    digests = {name: sha256(PACKAGE / name) for name in FILES}
    size = sum((PACKAGE / name).stat().st_size for name in FILES)
    record = RECORD.read_text("utf-8")
    RECORD.write_text(rewrite(record, digests, parameters, size, results(report)), "utf-8")


def main() -> None:
    """Export, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="what train wrote to --out")
    parser.add_argument("--cache", type=Path, required=True, help="what it was trained on")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=Path, default=data.MASKS)
    parser.add_argument("--crops", type=int, help="of each source, for a quick look")
    args = parser.parse_args()
    net = NanoText()
    net.load_state_dict(torch.load(args.run / "checkpoint.pt", weights_only=True)["mean"])
    export(net, PACKAGE)
    set_threshold(PACKAGE / FILES[1], fit(PACKAGE, args.cache))
    parameters = sum(value.numel() for value in net.parameters())
    record = RECORD.read_text("utf-8")
    _put({}, parameters)  # the hashes must fit before the model can be loaded and measured
    try:
        report = evaluate.measure(args.data, args.labels, count=args.crops)
    except BaseException:
        RECORD.write_text(record, "utf-8")
        raise
    _put(report, parameters)
    print(json.dumps(report, indent=1))  # noqa: T201 - a script's answer


if __name__ == "__main__":
    main()
