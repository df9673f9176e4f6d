"""Ask each standard's own validator about a document; what it says is returned, not raised."""

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any

from geovl.catalog.exports import find, tables
from geovl.errors import CatalogError


def validate(form: str, document: str) -> list[str]:
    """Return what is wrong with a document, nothing if all is well. No network is used.

    ``json`` and ``csv`` are read back by geovl itself. The others are read by the packages that their communities
    use: bibtexparser; huggingface_hub; pystac with its own copy of STAC's schemas, and stac-model for what MLM adds;
    mlcroissant.

    Raises:
        UsageError: There is no such format.
        CatalogError: The package that knows the format is not installed.
    """
    found = find(form)
    checks: dict[str, Callable[[str], list[str]]] = {
        "json": tables.json_faults,
        "csv": tables.csv_faults,
        "bibtex": _bibtex,
        "hf-card": _hf_card,
        "stac-mlm": _stac_mlm,
        "croissant": _croissant,
    }
    return checks[found.name](document)


def _load(module: str, form: str) -> Any:
    """Import a validator's module."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        msg = f"{form} is checked with {module.partition('.')[0]}, which is not installed."
        raise CatalogError(msg, 'Install the validators: pip install "geovl[standards]"') from error


def _bibtex(document: str) -> list[str]:
    parser = _load("bibtexparser", "bibtex")
    library = parser.parse_string(document)
    faults = [f"line {block.start_line + 1}: {block.error}" for block in library.failed_blocks]
    faults += [f"line {block.start_line + 1}: text outside an entry" for block in library.comments]
    for entry in library.entries:
        faults += [f"{entry.key}: {key} is missing" for key in ("title", "year") if key not in entry]
    return faults


def _hf_card(document: str) -> list[str]:
    hub = _load("huggingface_hub", "hf-card")
    yaml = _load("yaml", "hf-card")
    kind = hub.DatasetCard if "\npretty_name:" in document.partition("\n---\n")[0] else hub.ModelCard
    try:
        data = kind(document).data.to_dict()
    except (ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        return [f"{type(error).__name__}: {error}"]
    faults = [] if document.startswith("---\n") and data else ["there is no YAML header"]
    faults += [] if isinstance(data.get("license"), str) else ["license is missing"]
    if data.get("license") == "other" and not data.get("license_name"):
        faults.append("license is other, and license_name is missing")
    for key in ("tags", "datasets", "task_categories"):
        values = data.get(key, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            faults.append(f"{key}: expected a list of texts, found {values!r}")
    return faults


def _object(document: str) -> tuple[dict[str, Any], list[str]]:
    try:
        found = json.loads(document)
    except json.JSONDecodeError as error:
        return {}, [str(error)]
    return (found, []) if isinstance(found, dict) else ({}, ["expected one JSON object"])


def _stac_mlm(document: str) -> list[str]:
    pystac = _load("pystac", "stac-mlm")
    stac = _load("pystac.validation.stac_validator", "stac-mlm")
    _load("jsonschema", "stac-mlm")  # without which pystac's validator cannot start
    schema = _load("stac_model.schema", "stac-mlm")
    pydantic = _load("pydantic", "stac-mlm")
    found, faults = _object(document)
    if faults:
        return faults
    if found.get("stac_version") != "1.1.0":  # the one whose schemas pystac brings along
        return [f"stac_version: expected 1.1.0, found {found.get('stac_version')!r}"]
    try:  # of the core only: the extensions' schemas would have to be downloaded
        validator = stac.JsonSchemaSTACValidator()
        validator.validate_core(found, pystac.STACObjectType.ITEM, "1.1.0")
        pystac.Item.from_dict(found, migrate=False)
    except pystac.errors.STACValidationError as error:
        faults += [f"{told.json_path}: {_short(told.message)}" for told in error.source or []] or [str(error)]
    except (pystac.errors.STACError, KeyError, TypeError, ValueError) as error:
        faults.append(f"{type(error).__name__}: {error}")
    try:
        schema.MLModelProperties.model_validate(found.get("properties", {}))
    except pydantic.ValidationError as error:
        faults += [f"properties.{'.'.join(map(str, told['loc']))}: {told['msg']}" for told in error.errors()]
    return faults + _mlm_rules(found)


def _short(message: str) -> str:
    """Return a message without the middle of the document that it repeats."""
    return message if len(message) <= 240 else f"{message[:120]} ... {message[-100:]}"


def _mlm_rules(item: dict[str, Any]) -> list[str]:
    """Return what MLM's schema asks for beyond the properties that stac-model looks at."""
    faults = []
    uris = item.get("stac_extensions") or []
    if not any(str(uri).startswith("https://stac-extensions.github.io/mlm/") for uri in uris):
        faults.append("stac_extensions: does not name the MLM extension")
    assets = [asset for asset in (item.get("assets") or {}).values() if isinstance(asset, dict)]
    models = [asset for asset in assets if "mlm:model" in asset.get("roles", ())]
    if not models:
        faults.append("assets: none has the role mlm:model")
    faults += [
        f"assets: {asset.get('href')} has no mlm:artifact_type" for asset in models if "mlm:artifact_type" not in asset
    ]
    properties = item.get("properties") or {}
    named = {band.get("name") for band in properties.get("bands") or [] if isinstance(band, dict)}
    for entry in properties.get("mlm:input") or []:
        bands = [band if isinstance(band, str) else band.get("name") for band in entry.get("bands") or []]
        faults += [f"mlm:input: band {band} is not among the bands of the Item" for band in bands if band not in named]
        if bool(bands) != ("bands" in (entry.get("input") or {}).get("dim_order", ())):
            faults.append("mlm:input: a dimension bands must be there exactly if bands are named")
    return faults


def _croissant(document: str) -> list[str]:
    mlcroissant = _load("mlcroissant", "croissant")
    found, faults = _object(document)
    if faults:
        return faults
    try:
        metadata = mlcroissant.Dataset(jsonld=found).metadata
    except mlcroissant.ValidationError as error:
        return str(error).strip().splitlines()
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # what it raises on nonsense
        return [f"{type(error).__name__}: {error}"]
    faults += sorted(metadata.ctx.issues.errors)
    required = ("name", "description", "license", "url", "creator", "datePublished", "conformsTo")
    return faults + [f"{key} is missing" for key in required if not found.get(key)]  # which mlcroissant lets pass
