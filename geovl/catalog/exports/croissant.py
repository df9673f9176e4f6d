"""Data sets as Croissant 1.1, a JSON-LD vocabulary on top of schema.org, with GeoCroissant's spatial resolution.

geovl describes and does not pass on: ``distribution`` is empty. Croissant requires a creator, and the catalog knows no
people: the creator is said to be the authors of the paper that presents the data set, with a link to it.
"""

import json
from collections.abc import Sequence
from typing import Any

from geovl.catalog.book import Catalog
from geovl.catalog.exports import Refused, has_title, license_parts, paper_of, paper_url
from geovl.catalog.exports.bibtex import entry as bibtex_entry
from geovl.catalog.records import UNKNOWN, Dataset, Paper, Record

CROISSANT = "http://mlcommons.org/croissant/1.1"
GEO = "http://mlcommons.org/croissant/geo/1.0"

_TERMS = (
    "arrayShape citeAs column containedIn equivalentProperty extract field fileProperty fileObject fileSet format "
    "includes isArray isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace "
    "samplingRate separator source subField transform"
)
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in _TERMS.split()},
}


def jsonld(catalog: Catalog, records: Sequence[Record]) -> str:
    """Return the description of one data set.

    Raises:
        Refused: Description, licence, link, year or paper are unknown.
    """
    (dataset,) = records
    if not isinstance(dataset, Dataset):
        raise TypeError(dataset.type)
    paper = paper_of(catalog, dataset)
    lacking = {
        "description": not dataset.description,
        "license": dataset.license == UNKNOWN,
        "url": not dataset.url,
        "year": dataset.year is None,
        "paper": paper is None and paper_url(dataset.paper) is None,
    }
    if any(lacking.values()):
        raise Refused(dataset, "croissant", [field for field, gone in lacking.items() if gone])
    resolution = _resolution(dataset)
    context = _CONTEXT | ({"geocr": "http://mlcommons.org/croissant/geo/"} if resolution else {})
    values = {
        "@context": context,
        "@type": "sc:Dataset",
        "conformsTo": [CROISSANT, GEO] if resolution else CROISSANT,
        "name": dataset.name,
        "alternateName": list(dataset.aliases) or None,
        "description": _description(dataset),
        "license": [_license(catalog, part) for part in license_parts(dataset.license)],
        "url": dataset.url,
        "sameAs": _others(dataset) or None,
        "creator": _creator(dataset, paper),
        "datePublished": str(dataset.year),
        "citeAs": _citation(dataset, paper),
        "keywords": [*dataset.tasks, *dataset.modalities, dataset.kind],
        "geocr:spatialResolution": resolution,
        "distribution": [],
    }
    known = {key: value for key, value in values.items() if value is not None}
    return json.dumps(known, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _description(dataset: Dataset) -> str:
    """Return the description with what Croissant has no term for."""
    said = {
        "Access": dataset.access,
        "Images": dataset.images_said or dataset.images,
        "Samples": dataset.samples_said or dataset.samples,
        "Image size in pixels": dataset.image_size,
        "Sensors": dataset.sensors,
        "Classes": dataset.classes,
        "Splits": dataset.splits,
        "About the licence": dataset.license_note,
    }
    return "\n".join([dataset.description or "", *(f"{name}: {value}" for name, value in said.items() if value)])


def _license(catalog: Catalog, name: str) -> str | dict[str, str]:
    """Return a licence's page; where it has none, a work that has its name and says what it allows."""
    found = catalog.license(name)
    if found is not None and found.url:
        return found.url
    verdict = {"description": found.verdict} if found else {}
    return {"@type": "sc:CreativeWork", "name": name.removeprefix("LicenseRef-").replace("-", " "), **verdict}


def _others(dataset: Dataset) -> list[str]:
    pages = (dataset.code, dataset.project)
    return [page for page in pages if page and page != dataset.url]


def _creator(dataset: Dataset, paper: Paper | None) -> dict[str, str]:
    page = paper_url(dataset.paper) or (paper.url or paper_url(paper.paper) if paper else None)
    work = f"“{paper.name}”" if paper is not None and has_title(paper) else f"the paper of {dataset.name}"
    out = {"@type": "sc:Organization", "name": f"Authors of {work}"}
    return out | ({"url": page} if page else {})


def _citation(dataset: Dataset, paper: Paper | None) -> str | None:
    """Return how to cite the data set, as BibTeX where the catalog has its paper."""
    if paper is not None and has_title(paper) and paper.year is not None:
        return bibtex_entry(paper, dataset)
    return paper_url(dataset.paper) or (paper.url or paper_url(paper.paper) if paper else None)


def _resolution(dataset: Dataset) -> dict[str, Any] | None:
    """Return the ground sample distance in metres: one value, or finest and coarsest."""
    metres = sorted(set(dataset.gsd))
    if not metres:
        return None
    span = {"value": metres[0]} if len(metres) == 1 else {"minValue": metres[0], "maxValue": metres[-1]}
    return {"@type": "sc:QuantitativeValue", **span, "unitText": "m"}
