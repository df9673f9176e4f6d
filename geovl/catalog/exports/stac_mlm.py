"""Models as STAC Items with the Machine Learning Model extension (MLM), for the models that geovl runs.

MLM requires bands, shapes and types of what goes in and comes out. The catalog knows these where a model has a
``[run]``: its bands, and what every segmenter of geovl takes and gives. Every other model is refused.

What the standards leave open, and how it is filled:

- *Place and time.* A model has neither: the geometry is null, which STAC allows and which forbids a bbox. Time must be
  there: it is the year of publication, as the record knows no day.
- *Tasks* are MLM's own words, the nearest for each task; its schema takes no others. The catalog's own are keywords.
- *Outputs.* What geovl's segmenter gives: one float32 score a pixel for each prompt. Sides, batch and number of prompts
  vary, which MLM writes -1.
- *Bundled weights* have links relative to the folder that holds the package ``geovl``.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from geovl.catalog.book import Catalog
from geovl.catalog.exports import Refused, is_doi, paper_of, paper_url
from geovl.catalog.records import UNKNOWN, Model, Record, Run

MLM = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
EO = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
SCIENTIFIC = "https://stac-extensions.github.io/scientific/v1.0.0/schema.json"

_BAND_WORDS = (
    "pan coastal blue green green05 yellow red rededge rededge071 rededge075 rededge078 nir nir08 nir09 cirrus swir16 "
    "swir22 lwir lwir11 lwir12"
)
_BANDS = frozenset(_BAND_WORDS.split())
"""Common names of the eo extension."""
_ARTIFACTS = {
    ".onnx": "onnx",
    ".safetensors": "safetensors.torch.save_file",
    ".pt": "torch.save",
    ".pth": "torch.save",
    ".bin": "torch.save",
    ".ckpt": "torch.save",
}
"""End of a weights file to ``mlm:artifact_type``."""
_FRAMEWORKS = {"pytorch": "PyTorch", "torch": "PyTorch", "onnx": "ONNX", "tensorflow": "TensorFlow", "jax": "JAX"}
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]")
"""What ``mlm:name`` may be."""


def item(catalog: Catalog, records: Sequence[Record]) -> str:
    """Return the Item of one model.

    Raises:
        Refused: Bands, architecture, tasks, year or weights files are unknown.
    """
    (model,) = records
    if not isinstance(model, Model):
        raise TypeError(model.type)
    architecture = model.architecture or " + ".join(model.vision_backbone)
    name = next((word for word in (model.name, model.id) if _NAME.fullmatch(word)), None)
    lacking = {
        "run (bands, inputs and outputs)": model.run is None,
        "run.weights (a file with a known ending)": model.run is not None and not _main(model.run),
        "architecture": not architecture,
        "tasks": not model.tasks,
        "year": model.year is None,
        "name (letters, digits, dots, hyphens and blanks, three at least)": name is None,
    }
    if model.run is None or any(lacking.values()):
        raise Refused(model, "stac-mlm", [field for field, gone in lacking.items() if gone])
    properties = _properties(catalog, model, model.run)
    properties |= {"mlm:name": name, "mlm:architecture": architecture, **_mlm(catalog, model, model.run)}
    assets = _assets(model, model.run)
    doi = model.paper if is_doi(model.paper) else None
    if doi:
        properties["sci:doi"] = doi
    used = {
        MLM: True,
        EO: any("eo:common_name" in band for band in properties["bands"]),
        FILE: any("file:checksum" in asset for asset in assets.values()),
        SCIENTIFIC: doi is not None,
    }
    out = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [uri for uri, there in used.items() if there],
        "id": model.id,
        "geometry": None,
        "properties": properties,
        "links": _links(catalog, model),
        "assets": assets,
    }
    return json.dumps(out, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _properties(catalog: Catalog, model: Model, run: Run) -> dict[str, Any]:
    spdx = _spdx(catalog, model.license_weights)
    said = {
        "title": model.name,
        "description": model.description,
        "datetime": None,
        "start_datetime": f"{model.year:04d}-01-01T00:00:00Z",
        "end_datetime": f"{model.year:04d}-12-31T23:59:59Z",
        "license": spdx,
        "keywords": [*model.tasks, *model.modalities, model.kind],
        "gsd": run.gsd_min if run.gsd_min == run.gsd_max else None,  # STAC has room for one value
        "bands": [_band(name) for name in run.bands],
    }
    return {key: value for key, value in said.items() if value is not None or key == "datetime"}


def _band(name: str) -> dict[str, str]:
    return {"name": name, **({"eo:common_name": name} if name in _BANDS else {})}


def _spdx(catalog: Catalog, name: str) -> str | None:
    """Return a licence as STAC wants it: SPDX, ``other`` where SPDX has none, None where nobody has read it."""
    found = catalog.license(name)
    known = found.id if found else name
    if known == UNKNOWN:
        return None
    return "other" if known.startswith("LicenseRef-") or not re.fullmatch(r"[A-Za-z0-9.+-]+", known) else known


def _mlm(catalog: Catalog, model: Model, run: Run) -> dict[str, Any]:
    near = [catalog.tasks[name].mlm for name in model.tasks if name in catalog.tasks]
    values = {
        "mlm:tasks": list(dict.fromkeys(word for word in ("semantic-segmentation", *near) if word)),
        "mlm:framework": _FRAMEWORKS.get((model.framework or "").lower(), model.framework),
        "mlm:total_parameters": model.total_parameters,
        "mlm:memory_size": model.memory_size,
        "mlm:pretrained": True if model.pretrained_source else None,
        "mlm:pretrained_source": model.pretrained_source,
        "mlm:input": [_input(run)],
        "mlm:output": [_OUTPUT],
        "mlm:hyperparameters": _hyperparameters(model, run) or None,
    }
    return {key: value for key, value in values.items() if value is not None}


def _input(run: Run) -> dict[str, Any]:
    scaled = run.mean is not None and run.std is not None
    pixels: dict[str, Any] = {
        "name": "pictures",
        "description": "Bands in this order, 0 to 255, sides a multiple of what the model asks for.",
        "bands": list(run.bands),
        "input": {
            "shape": [-1, len(run.bands), -1, -1],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32" if scaled else "uint8",
        },
    }
    if run.mean is not None and run.std is not None:  # the record's are of pixels in 0..1
        pairs = zip(run.mean, run.std, strict=True)
        pixels["value_scaling"] = [{"type": "z-score", "mean": 255 * m, "stddev": 255 * s} for m, s in pairs]
    return pixels


_OUTPUT: Mapping[str, Any] = {
    "name": "scores",
    "description": "One score a pixel for each prompt, as geovl's segmenters give them.",
    "bands": [],
    "tasks": ["semantic-segmentation"],
    "result": {
        "shape": [-1, -1, -1, -1],
        "dim_order": ["batch", "class", "height", "width"],
        "data_type": "float32",
    },
}


def _hyperparameters(model: Model, run: Run) -> dict[str, Any]:
    values = {
        "image_resolution": model.image_resolution,
        "text_backbone": list(model.text_backbone) or None,
        "gsd_min": run.gsd_min,
        "gsd_max": run.gsd_max,
        "templates": run.templates,
        **{f"{run.backend}.{key}": value for key, value in run.options.items()},
    }
    return {re.sub(r"[^0-9a-zA-Z_.-]", "_", key): value for key, value in values.items() if value is not None}


def _ending(file: str) -> str:
    return "." + file.rpartition(".")[2].lower() if "." in file else ""


def _main(run: Run) -> list[str]:
    """Return the files that hold the model itself, not its vocabulary and the like."""
    return [file for file in run.weights if _ending(file) in _ARTIFACTS]


def _href(run: Run, file: str) -> str:
    scheme, colon, place = run.source.partition(":")
    if scheme == "hf-hub" and colon:
        return f"https://huggingface.co/{place}/resolve/{run.revision or 'main'}/{file}"
    if scheme in {"http", "https"}:
        return run.source if run.source.endswith(f"/{file}") else f"{run.source.rstrip('/')}/{file}"
    return f"geovl/segmenters/{run.backend}/{file}"


def _assets(model: Model, run: Run) -> dict[str, dict[str, Any]]:
    assets: dict[str, dict[str, Any]] = {}
    main = _main(run)
    for file, digest in run.weights.items():
        is_main = file in main
        asset = {
            "href": _href(run, file),
            "title": file,
            "type": None if is_main else _media_type(file),
            "roles": ["mlm:model", "mlm:weights", "data"] if is_main else ["data"],
            "mlm:artifact_type": _ARTIFACTS[_ending(file)] if is_main else None,
            "bands": [{"name": name} for name in run.bands] if is_main else None,  # STAC: not in properties alone
            "file:checksum": f"1220{digest}" if re.fullmatch(r"[0-9a-f]{64}", digest) else None,  # multihash: sha256
        }
        if is_main:
            asset["type"] = f"application/octet-stream; framework={'onnx' if _ending(file) == '.onnx' else 'pytorch'}"
        assets["model" if file == main[0] else file] = {key: word for key, word in asset.items() if word is not None}
    if model.code:
        roles = ["mlm:source_code", "code", "metadata"]
        assets["source_code"] = {"href": model.code, "title": "Code", "type": "text/html", "roles": roles}
    return assets


def _media_type(file: str) -> str | None:
    return {".json": "application/json", ".txt": "text/plain", ".npz": "application/zip"}.get(_ending(file))


def _links(catalog: Catalog, model: Model) -> list[dict[str, str]]:
    paper = paper_of(catalog, model)
    licence = catalog.license(model.license_weights)
    page = paper_url(model.paper) or (paper.url if paper else None)
    sets = [catalog.datasets[name] for name in model.training_data if name in catalog.datasets]
    links = [
        ("cite-as", page, paper.name if paper else "Paper"),
        ("license", licence.url if licence else None, "Licence of the weights"),
        ("about", model.project, "Project"),
        *(("related", entry.url, f"Trained on: {entry.name}") for entry in sets),
    ]
    return [{"rel": rel, "href": href, "type": "text/html", "title": title} for rel, href, title in links if href]
