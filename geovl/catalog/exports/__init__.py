"""The catalog in other people's formats.

Nothing is invented: where a format requires what nobody has read anywhere, the record is :class:`Refused` and says
which fields it lacks. What a format has no room for is left out; ``json`` has room for everything.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module

from geovl.catalog.book import Catalog
from geovl.catalog.records import Paper, Record
from geovl.errors import CatalogError, UsageError


class Refused(CatalogError):  # noqa: N818 - says what happens
    """A record that lacks what a format requires.

    Args:
        record: The record.
        form: Name of the format.
        fields: Keys of the record that are unknown and required; with a reason in brackets where the key is not enough.
    """

    def __init__(self, record: Record, form: str, fields: Sequence[str]) -> None:
        what = ", ".join(fields)
        msg = f"{record.id} cannot be written as {form}: the format requires what its record does not know: {what}."
        # a field of the record's paper stands in the paper's own file
        where = next((f"papers/{found[1]}.toml" for found in (re.search(r"of paper ([^)]+)", what),) if found), None)
        hint = (
            f"Add {what} to {where or f'{record.type}s/{record.id}.toml'} with a source. As json it can be written "
            f"as it is: geovl catalog export {record.id} --format json"
        )
        super().__init__(msg, hint)
        self.record_id = record.id
        self.form = form
        self.fields = tuple(fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format that records can be written in."""

    name: str
    suffix: str
    """Of its files, with the dot."""
    about: str
    """One line."""
    takes: tuple[str, ...]
    """Types of record."""
    many: bool
    """Whether one document holds many records, or each record has its own."""
    writer: str
    """Module and function of this package."""

    @property
    def write(self) -> Callable[[Catalog, Sequence[Record]], str]:
        """The function that writes records; its module is loaded now."""
        module, _, function = self.writer.partition(":")
        found: Callable[[Catalog, Sequence[Record]], str] = getattr(import_module(f"{__name__}.{module}"), function)
        return found


_ALL = ("model", "dataset", "paper")

FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format(
            name="json",
            suffix=".json",
            about="All that the catalog knows, one object for all records, for programs.",
            takes=_ALL,
            many=True,
            writer="tables:json_text",
        ),
        Format(
            name="csv",
            suffix=".csv",
            about="One row a record, for spreadsheets; tables such as results are counted only.",
            takes=_ALL,
            many=True,
            writer="tables:csv_text",
        ),
        Format(
            name="bibtex",
            suffix=".bib",
            about="One entry for each paper, or for the paper of each model and data set.",
            takes=_ALL,
            many=True,
            writer="bibtex:bibliography",
        ),
        Format(
            name="hf-card",
            suffix=".md",
            about="Model or data set card of the Hugging Face hub: YAML header and text.",
            takes=("model", "dataset"),
            many=False,
            writer="hf_card:card",
        ),
        Format(
            name="stac-mlm",
            suffix=".json",
            about="STAC 1.1 Item with the Machine Learning Model extension, for models that geovl runs.",
            takes=("model",),
            many=False,
            writer="stac_mlm:item",
        ),
        Format(
            name="croissant",
            suffix=".json",
            about="Croissant 1.1 (JSON-LD), with GeoCroissant's resolution: describes a data set, holds none of it.",
            takes=("dataset",),
            many=False,
            writer="croissant:jsonld",
        ),
    )
}
"""Name to format."""


def find(name: str) -> Format:
    """Return the format of this name.

    Raises:
        UsageError: There is none; all are named.
    """
    if name not in FORMATS:
        msg = f"There is no export format {name!r}."
        raise UsageError(msg, "Formats: " + ", ".join(FORMATS))
    return FORMATS[name]


def write(catalog: Catalog, records: Sequence[Record], form: str) -> str:
    """Return records as one document.

    Args:
        catalog: Where ids of the records lead to.
        records: What to write; their order does not matter, and one that is there twice is written once.
        form: Name of a format.

    Returns:
        The document, line ends as the format wants them: write it to a file with ``newline=""``.

    Raises:
        UsageError: There is no such format, it has no place for a record's type, or it takes exactly one record.
        Refused: A record lacks what the format requires.
    """
    found = find(form)
    for record in records:
        if record.type not in found.takes:
            fit = ", ".join(entry.name for entry in FORMATS.values() if record.type in entry.takes)
            msg = f"{record.id} is a {record.type}; {form} is for: {', '.join(found.takes)}."
            raise UsageError(msg, f"Formats for a {record.type}: {fit}")
    if not found.many and len(records) != 1:
        msg = f"A document of {form} describes one record, got {len(records)}."
        raise UsageError(msg, "Write one document for each record.")
    return found.write(catalog, records)


def refusals(catalog: Catalog, records: Sequence[Record], form: str) -> Iterator[Refused]:
    """Yield why records cannot be written in a format, in their order; those that can yield nothing.

    Records of a type that the format has no place for are passed over.

    Raises:
        UsageError: There is no such format.
    """
    for record in records:
        if record.type in find(form).takes:
            try:
                write(catalog, [record], form)
            except Refused as refused:
                yield refused


def paper_of(catalog: Catalog, record: Record) -> Paper | None:
    """Return the paper of a record: itself, the one of its number, or the one that says it presents it.

    Where several have its number, those whose title is known come first. One that is the same as another gives that.
    """
    if isinstance(record, Paper):
        found: Paper | None = record
    else:
        papers = [catalog.papers[name] for name in sorted(catalog.papers)]
        same = [entry for entry in papers if record.paper and record.paper in (entry.paper, *entry.identifiers)]
        named = [] if record.paper else [entry for entry in papers if record.id in entry.entities]
        named.sort(key=lambda entry: entry.kind != record.type)  # its own paper before one that only uses it
        found = next(iter(sorted(same, key=lambda entry: not has_title(entry)) + named), None)
    seen: set[str] = set()
    while found is not None and found.id not in seen:
        seen.add(found.id)
        current = catalog.current(found)
        found = current if isinstance(current, Paper) else found
    return found


_LISTED = re.compile(r"\S+( & \S+)*( dataset| report)?", re.IGNORECASE)


def has_title(paper: Paper) -> bool:
    """Return whether a paper's name is its title, not just what it presents, as in lists (``RSICap & RSIEval``)."""
    return bool(paper.name.strip()) and _LISTED.fullmatch(paper.name.strip()) is None


_ARXIV = re.compile(r"\d{4}\.\d{4,5}(v\d+)?|[a-z-]+(\.[A-Z]{2})?/\d{7}(v\d+)?")


def is_arxiv(number: str | None) -> bool:
    """Return whether a paper's number is one of arXiv."""
    return number is not None and _ARXIV.fullmatch(number) is not None


def is_doi(number: str | None) -> bool:
    """Return whether a paper's number is a DOI."""
    return number is not None and re.fullmatch(r"10\.\d{4,9}/\S+", number) is not None


def paper_url(number: str | None) -> str | None:
    """Return the page of a paper's number, or None where there is no rule for it."""
    if number is None:
        return None
    if is_arxiv(number):
        return f"https://arxiv.org/abs/{number}"
    if is_doi(number):
        return f"https://doi.org/{number}"
    publishers = {
        "ieee": "https://ieeexplore.ieee.org/document/",
        "pii": "https://www.sciencedirect.com/science/article/pii/",
        "mdpi": "https://www.mdpi.com/",
    }
    publisher, colon, rest = number.partition(":")
    return publishers[publisher] + rest if colon and publisher in publishers else None


_REPOSITORY = re.compile(r"([A-Za-z0-9][\w-]*/[\w.-]+):(\S+)")
_HUB = re.compile(r"hf:([\w.-]+/[\w.-]+)(?: \(.*\))?")


def source_url(source: str | None) -> str | None:
    """Return the page that a record's source means, or None where it has none."""
    if source is None:
        return None
    if re.fullmatch(r"https?://\S+", source):
        return source
    if source.startswith("arxiv:"):
        return paper_url(source.removeprefix("arxiv:").split(" ")[0])
    if found := _HUB.fullmatch(source):
        return f"https://huggingface.co/{found[1]}"
    if found := _REPOSITORY.fullmatch(source):
        return f"https://github.com/{found[1]}/blob/HEAD/{found[2]}"
    return None


_HUB_DATASET = re.compile(r"https?://huggingface\.co/datasets/([\w.-]+/[\w.-]+)/?(?:tree/main/?)?")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def hub_dataset(url: str | None) -> str | None:
    """Return ``owner/name`` of a data set's page on the hub, or None for any other page."""
    found = _HUB_DATASET.fullmatch(url or "")
    return found[1] if found else None


def weights_url(place: str) -> str | None:
    """Return the page of one of a model's ``weights``, or None for what is bundled."""
    if place.startswith(("https://", "http://")):
        return place
    return f"https://huggingface.co/{place}" if _HUB_ID.fullmatch(place) else None


def license_parts(expression: str) -> list[str]:
    """Return the licences that all hold, of ``A AND B``; any other expression stays one."""
    plain = not re.search(r"[()]| OR | WITH ", expression)
    return expression.split(" AND ") if plain else [expression]
