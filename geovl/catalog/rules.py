"""What may be wrong with one record, given the catalog that it is part of."""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from geovl.catalog import licenses
from geovl.catalog.book import Catalog, bare, key
from geovl.catalog.records import UNKNOWN, Dataset, Model, Paper, Record, Result, Run, Task, plain

_PLACEHOLDER = re.compile(
    r"YourOrg|your[-_ ]?(?:name|org|repo|username)\b|\bexample\.(?:com|org|net)|\bx{3,}\b|\[your name\]|<[a-z_ -]+>"
    r"|lorem ipsum|^(?:TODO|TBD|FIXME|N/?A)[:.]?$|^[?-]+$|\b(?:TODO|FIXME):|^\s+$",
    re.IGNORECASE,
)
_ARXIV = re.compile(r"\d{4}\.\d{4,5}")
_DOI = re.compile(r"10\.\d{4,9}/\S+")
_KEYED = re.compile(r"(?:ieee|pii|mdpi):\S+")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LOCAL = re.compile(r"(?:/|~/|[A-Za-z]:[\\/]).+")
_URL = re.compile(r"https?://[^\s/]+\.[^\s/]+\S*")
_SOURCE = re.compile(r"(?:[\w.-]+/[\w.-]+:\S.*|arxiv:\S.*|hf:\S.*|doi:\S.*|geovl:\S.*|https?://\S+)")
_SOURCES = "owner/repository:path, arxiv:, hf:, doi: or geovl: and what was read, or a URL"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FEW = 60  # words that a message may list
_FIRST, _LAST = 1990, 2100


@dataclass(frozen=True, slots=True)
class Known:
    """What a record may refer to."""

    catalog: Catalog
    unread: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Shelf to ids of records that are there but could not be read."""

    def datasets(self) -> Mapping[str, object]:
        """Return the data sets by id."""
        return {**dict.fromkeys(self.unread.get("datasets", ())), **self.catalog.datasets}

    def entities(self) -> Mapping[str, object]:
        """Return models and data sets by id."""
        return {**dict.fromkeys(self.unread.get("models", ())), **self.catalog.models, **self.datasets()}

    def papers(self) -> Mapping[str, object]:
        """Return the papers by id."""
        return {**dict.fromkeys(self.unread.get("papers", ())), **self.catalog.papers}


Place = tuple[str | int, ...]
"""Keys and indices from the top of a record."""
Found = Iterator[tuple[Place, str]]
"""Places and what is wrong there."""


def faults(record: Record, known: Known) -> Found:
    """Yield place and message of what is wrong with one record, given the others."""
    yield from _texts(record)
    yield from _common(record, known.catalog)
    yield from _sources(record)
    if isinstance(record, Model):
        yield from _model(record, known)
    elif isinstance(record, Dataset):
        yield from _dataset(record, known)
    elif isinstance(record, Paper):
        yield from _paper(record, known)


def task_faults(task: Task, holders: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield key and message of what is wrong with a task.

    Args:
        task: A word of the vocabulary.
        holders: Compared word to the task that has it first.
    """
    if not re.fullmatch(r"[a-z0-9]+(?:-[a-z0-9]+)*", task.id):
        yield "id", f"is {task.id!r}; expected lower case letters, digits and single hyphens"
    if not task.meaning.strip():
        yield "meaning", "is empty"
    if task.mlm is not None and task.mlm not in MLM_TASKS:
        yield "mlm", f"is {task.mlm!r}; expected one of {', '.join(MLM_TASKS)}"
    for word in task.synonyms:
        if holders.get(key(word), task.id) != task.id:
            yield "synonyms", f"{word!r} means {holders[key(word)]!r} already"


MLM_TASKS = (
    "regression", "classification", "scene-classification", "detection", "object-detection", "segmentation",
    "semantic-segmentation", "instance-segmentation", "panoptic-segmentation", "similarity-search", "generative",
    "image-captioning", "super-resolution",
)  # fmt: skip
"""Values of ``mlm:tasks``."""


def _texts(record: Record) -> Found:
    """Placeholders, and empty strings where a key should be left out."""
    stack: list[tuple[tuple[str | int, ...], object]] = [((), plain(record))]
    for name in type(record).__dataclass_fields__:
        if getattr(record, name) == "":
            yield (name,), "is empty; leave the key out where nothing is known"
    if record.description is None and not isinstance(record, Paper):
        yield ("description",), "is missing: say in a sentence of your own what it is"
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
        expected = (
            bare(record.paper)
            if _number(bare(record.paper))
            else "an arXiv number, a DOI, or ieee:, pii:, mdpi: and a key"
        )
        yield ("paper",), f"is {record.paper!r}; expected {expected}"
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


def _model(record: Model, known: Known) -> Found:
    catalog, datasets = known.catalog, known.datasets()
    for name in ("license_code", "license_weights"):
        yield from _license(record, name, getattr(record, name), catalog)
    for index, place in enumerate(record.weights):
        if not (place == "bundled" or any(form.fullmatch(place) for form in (_URL, _HUB, _LOCAL))):
            yield (
                ("weights", index),
                f"is {place!r}; expected owner/name of the hub, a URL, an absolute path, or bundled",
            )
    for index, name in enumerate(record.training_data):
        if name not in datasets:
            yield ("training_data", index), f"is {name!r}; expected a data set: {_nearest(name, datasets)}"
    for index, result in enumerate(record.results):
        yield from _result(record, index, result, datasets)
    if record.run is not None:
        yield from _run(record.run)
    told = record.reliability
    if told is not None and not len(told.score) == len(told.share) == len(told.pixels):
        yield ("reliability",), "score, share and pixels must have one value for each step"


def _result(record: Model, index: int, result: Result, datasets: Mapping[str, object]) -> Found:
    if not result.dataset and not result.dataset_name:
        yield ("results", index), "names no data set; give dataset (ids), or dataset_name where it has no record"
    for at, name in enumerate(result.dataset):
        if name not in datasets:
            expected = f"expected a data set: {_nearest(name, datasets)}; else dataset_name"
            yield ("results", index, "dataset", at), f"is {name!r}; {expected}"
    if result.source is None and not record.sources.get("results") and not record.figures_from:
        yield ("results", index), "has no source: give source here, or results in [sources]"


def _run(run: Run) -> Found:
    for name, digest in run.weights.items():
        if not _SHA256.fullmatch(digest):
            yield ("run", "weights", name), "expected a sha256: 64 digits from 0 to f"
    for name in ("mean", "std"):
        values = getattr(run, name)
        if values is not None and len(values) != len(run.bands):
            yield ("run", name), f"has {len(values)} values for {len(run.bands)} bands"
    if run.gsd_min is not None and run.gsd_max is not None and not 0 < run.gsd_min <= run.gsd_max:
        yield ("run", "gsd_min"), f"is {run.gsd_min} beside gsd_max {run.gsd_max}; expected metres, finest first"


def _dataset(record: Dataset, known: Known) -> Found:
    catalog, datasets = known.catalog, known.datasets()
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
        if name not in datasets or name == record.id:
            yield ("overlaps", index), f"is {name!r}; expected another data set: {_nearest(name, datasets)}"


def _paper(record: Paper, known: Known) -> Found:
    catalog, papers, entities = known.catalog, known.papers(), known.entities()
    for index, name in enumerate(record.identifiers):
        if not _number(name):
            yield (
                ("identifiers", index),
                f"is {name!r}; expected an arXiv number, a DOI, or ieee:, pii:, mdpi: and a key",
            )
    if record.same_as is not None and (record.same_as not in papers or record.same_as == record.id):
        yield ("same_as",), f"is {record.same_as!r}; expected another paper: {_nearest(record.same_as, papers)}"
    numbers = {record.paper, *record.identifiers}
    for index, name in enumerate(record.entities):
        entity = catalog.models.get(name) or catalog.datasets.get(name)
        if name not in entities:
            yield ("entities", index), f"is {name!r}; expected a model or data set: {_nearest(name, entities)}"
        elif entity is None:
            continue
        elif record.same_as is None and entity.paper is not None and not numbers & {entity.paper, bare(entity.paper)}:
            yield (
                ("entities", index),
                f"{name!r} names another paper, {entity.paper}; give it in identifiers or leave it out",
            )


def _license(record: Model | Dataset, name: str, value: str, catalog: Catalog) -> Found:
    if not licenses.well_formed(value):
        yield (name,), f"is {value!r}; expected licences of licenses.toml with AND or OR between them"
        return
    wrong = next((part for part in licenses.parts(value) if part not in catalog.licenses), None)
    if wrong is not None:
        entry = catalog.license(wrong)
        expected = entry.id if entry else f"{_nearest(wrong, catalog.licenses)}, or unknown"
        yield (name,), f"is {value!r}; {wrong!r} is not in licenses.toml: expected {expected}"
    if value != UNKNOWN and not record.sources.get("license"):
        yield (name,), f"is {value!r} without a source: give license in [sources], the file where it was read"


def _number(name: str) -> bool:
    return name == bare(name) and any(form.fullmatch(name) for form in (_ARXIV, _DOI, _KEYED))


def _nearest(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name.lower(), [word.lower() for word in known], n=3, cutoff=0.5)
    words = {word.lower(): word for word in known}
    if not near and len(known) <= _FEW:
        return "one of " + ", ".join(sorted(known))
    return " or ".join(words[word] for word in near) if near else f"one of {len(known)}"
