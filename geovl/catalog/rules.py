"""What may be wrong with one record, given the catalog that it is part of."""

import difflib
import re
from collections.abc import Iterator, Mapping

from geovl.catalog import licenses
from geovl.catalog.book import Catalog, key
from geovl.catalog.records import UNKNOWN, Dataset, Model, Paper, Record, Result, Run, plain

_PLACEHOLDER = re.compile(
    r"YourOrg|your[-_ ]?(?:name|org|repo|username)\b|example\.(?:com|org)|\bx{4,}\b|\.x{3,}\b|\[your name\]|lorem ipsum"
    r"|\bTODO\b|\bTBD\b|\bFIXME\b",
    re.IGNORECASE,
)
_ARXIV = re.compile(r"\d{4}\.\d{4,5}")
_DOI = re.compile(r"10\.\d{4,9}/\S+")
_KEYED = re.compile(r"(?:ieee|pii|mdpi):\S+")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_URL = re.compile(r"https?://[^\s/]+\.[^\s/]+\S*")
_SOURCE = re.compile(r"(?:[\w.-]+/[\w.-]+:\S.*|arxiv:\S.*|hf:\S.*|doi:\S.*|geovl:\S.*|https?://\S+)")
_SOURCES = "owner/repository:path, arxiv:, hf:, doi: or geovl: and what was read, or a URL"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIRST, _LAST = 1990, 2100


Place = tuple[str | int, ...]
"""Keys and indices from the top of a record."""
Found = Iterator[tuple[Place, str]]
"""Places and what is wrong there."""


def faults(record: Record, catalog: Catalog) -> Found:
    """Yield place and message of what is wrong with one record, given the others."""
    yield from _texts(record)
    yield from _common(record, catalog)
    yield from _sources(record)
    if isinstance(record, Model):
        yield from _model(record, catalog)
    elif isinstance(record, Dataset):
        yield from _dataset(record, catalog)
    elif isinstance(record, Paper):
        yield from _paper(record, catalog)


def _texts(record: Record) -> Found:
    """Placeholders, and empty strings where a key should be left out."""
    stack: list[tuple[tuple[str | int, ...], object]] = [((), plain(record))]
    for name in type(record).__dataclass_fields__:
        if getattr(record, name) == "":
            yield (name,), "is empty; leave the key out where nothing is known"
    while stack:
        place, value = stack.pop()
        if isinstance(value, dict):
            stack += [((*place, name), item) for name, item in value.items()]
        elif isinstance(value, list):
            stack += [((*place, index), item) for index, item in enumerate(value)]
        elif isinstance(value, str) and (found := _PLACEHOLDER.search(value)):
            yield place, f"holds the placeholder {found[0]!r}; give what is true or leave the key out"


def _common(record: Record, catalog: Catalog) -> Found:
    for index, task in enumerate(record.tasks):
        if task not in catalog.tasks:
            yield ("tasks", index), f"is {task!r}; expected a task of tasks.toml: {_nearest(task, catalog.tasks)}"
    if record.year is not None and not _FIRST <= record.year <= _LAST:
        yield ("year",), f"is {record.year}; expected a year from {_FIRST} on"
    if record.paper is not None and not _number(record.paper):
        yield ("paper",), f"is {record.paper!r}; expected an arXiv number, a DOI, or ieee:, pii: or mdpi: and a key"
    for name in ("code", "project", "url"):
        value = getattr(record, name, None)
        if value is not None and not _URL.fullmatch(value):
            yield (name,), f"is {value!r}; expected a URL"
    yield from _successors(record, catalog)
    for list_name in ("tasks", "modalities", "aliases"):
        values = [key(value) if list_name == "aliases" else value for value in getattr(record, list_name)]
        for index, value in enumerate(values):
            if value in values[:index]:
                yield (list_name, index), "stands there twice"


def _successors(record: Record, catalog: Catalog) -> Found:
    for name in ("renamed_to", "superseded_by"):
        value = getattr(record, name)
        other = catalog.get(value or "")
        if value is not None and (other is None or other is record or other.type != record.type):
            yield (name,), f"is {value!r}; expected the id of another {record.type}"


def _sources(record: Record) -> Found:
    if not record.sources.get("entry"):
        yield ("sources",), "lacks entry: the list of where the record was read"
    for group, names in record.sources.items():
        for index, name in enumerate(names):
            if not _SOURCE.fullmatch(name):
                yield ("sources", group, index), f"is {name!r}; expected {_SOURCES}"


def _model(record: Model, catalog: Catalog) -> Found:
    for name in ("license_code", "license_weights"):
        yield from _license(record, name, getattr(record, name), catalog)
    for index, place in enumerate(record.weights):
        if not (place == "bundled" or _URL.fullmatch(place) or _HUB.fullmatch(place)):
            yield ("weights", index), f"is {place!r}; expected owner/name of the hub, a URL, or bundled"
    for index, name in enumerate(record.training_data):
        if name not in catalog.datasets:
            yield ("training_data", index), f"is {name!r}; expected a data set: {_nearest(name, catalog.datasets)}"
    for index, result in enumerate(record.results):
        yield from _result(record, index, result, catalog)
    if record.run is not None:
        yield from _run(record, record.run)
    told = record.reliability
    if told is not None and not len(told.score) == len(told.share) == len(told.pixels):
        yield ("reliability",), "score, share and pixels must have one value for each step"


def _result(record: Model, index: int, result: Result, catalog: Catalog) -> Found:
    if not result.dataset and not result.dataset_name:
        yield ("results", index), "names no data set; give dataset (ids), or dataset_name where it has no record"
    for at, name in enumerate(result.dataset):
        if name not in catalog.datasets:
            expected = f"expected a data set: {_nearest(name, catalog.datasets)}; else dataset_name"
            yield ("results", index, "dataset", at), f"is {name!r}; {expected}"
    if result.source is None and not record.sources.get("results") and not record.figures_from:
        yield ("results", index), "has no source: give source here, or results in [sources]"


def _run(record: Model, run: Run) -> Found:
    for name, digest in run.weights.items():
        if not _SHA256.fullmatch(digest):
            yield ("run", "weights", name), "expected a sha256: 64 digits from 0 to f"
    for name in ("mean", "std"):
        values = getattr(run, name)
        if values is not None and len(values) != len(run.bands):
            yield ("run", name), f"has {len(values)} values for {len(run.bands)} bands"
    if run.gsd_min is not None and run.gsd_max is not None and not 0 < run.gsd_min <= run.gsd_max:
        yield ("run", "gsd_min"), f"is {run.gsd_min} beside gsd_max {run.gsd_max}; expected metres, finest first"
    if record.license_weights == UNKNOWN:
        yield ("license_weights",), "is unknown; a model that geovl runs must say its weights' licence"


def _dataset(record: Dataset, catalog: Catalog) -> Found:
    yield from _license(record, "license", record.license, catalog)
    for name in ("images", "samples", "classes"):
        value = getattr(record, name)
        if isinstance(value, str) and value.isdigit():
            yield (name,), f"is {value!r}; write an exact number without quotes"
        if isinstance(value, int) and value < 1:
            yield (name,), f"is {value}; expected 1 or more"
    if record.gsd and not (len(record.gsd) < 3 and 0 < record.gsd[0] <= record.gsd[-1]):
        yield ("gsd",), f"is {list(record.gsd)}; expected metres per pixel: one value, or finest and coarsest"
    for index, name in enumerate(record.overlaps):
        if name not in catalog.datasets or name == record.id:
            yield ("overlaps", index), f"is {name!r}; expected another data set: {_nearest(name, catalog.datasets)}"


def _paper(record: Paper, catalog: Catalog) -> Found:
    for index, name in enumerate(record.identifiers):
        if not _number(name):
            yield (
                ("identifiers", index),
                f"is {name!r}; expected an arXiv number, a DOI, or ieee:, pii:, mdpi: and a key",
            )
    if record.same_as is not None and (record.same_as not in catalog.papers or record.same_as == record.id):
        yield ("same_as",), f"is {record.same_as!r}; expected another paper: {_nearest(record.same_as, catalog.papers)}"
    numbers = {record.paper, *record.identifiers}
    for index, name in enumerate(record.entities):
        entity = catalog.models.get(name) or catalog.datasets.get(name)
        if entity is None:
            known = {**catalog.models, **catalog.datasets}
            yield ("entities", index), f"is {name!r}; expected a model or data set: {_nearest(name, known)}"
        elif record.same_as is None and entity.paper is not None and entity.paper not in numbers:
            yield (
                ("entities", index),
                f"{name!r} names another paper, {entity.paper}; give it in identifiers or leave it out",
            )


def _license(record: Model | Dataset, name: str, value: str, catalog: Catalog) -> Found:
    wrong = next((part for part in licenses.parts(value) if part not in catalog.licenses), None)
    if wrong is not None:
        entry = catalog.license(wrong)
        expected = entry.id if entry else f"{_nearest(wrong, catalog.licenses)}, or unknown"
        yield (name,), f"is {value!r}; {wrong!r} is not in licenses.toml: expected {expected}"
    if value != UNKNOWN and not record.sources.get("license"):
        yield (name,), f"is {value!r} without a source: give license in [sources], the file where it was read"


def _number(name: str) -> bool:
    return any(form.fullmatch(name) for form in (_ARXIV, _DOI, _KEYED))


def _nearest(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name.lower(), [word.lower() for word in known], n=3, cutoff=0.5)
    words = {word.lower(): word for word in known}
    return " or ".join(words[word] for word in near) if near else f"one of {len(known)}"
