"""Every fault of a catalog folder: the form of each record, the vocabularies, and what records say of each other."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geovl.catalog import read, rules
from geovl.catalog.book import Catalog, key
from geovl.catalog.read import Fault
from geovl.catalog.records import Dataset, Paper, Record
from geovl.catalog.rules import Place


@dataclass
class _Shelves:
    """What was read of one folder: records, their files and their texts, and the faults of their form."""

    kinds: dict[str, dict[str, Any]] = field(default_factory=lambda: {shelf: {} for shelf in read.SHELVES})
    """Folder to records by id."""
    words: dict[str, dict[str, Any]] = field(default_factory=lambda: {"tasks": {}, "licenses": {}})
    records: dict[str, Record] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def add(self, shelf: str, path: Path) -> None:
        """Read one record."""
        record = read.checked(path, read.SHELVES[shelf])
        if isinstance(record, list):
            self.faults += record
        elif record.id in self.records:
            other = self.paths[record.id]
            self.faults.append(Fault(path, 1, "id", f"is taken: {record.id!r} is the id of {other} too"))
        else:
            self.records[record.id] = self.kinds[shelf][record.id] = record
            self.paths[record.id], self.texts[record.id] = path, path.read_text("utf-8")

    def tell(self, record: Record, place: Place, message: str) -> None:
        """Keep a fault of a record."""
        line = read.line_of(self.texts[record.id], place)
        self.faults.append(Fault(self.paths[record.id], line, ".".join(map(str, place)), message))


def check(folder: Path, base: Catalog | None = None) -> list[Fault]:
    """Return every fault of a catalog folder.

    Args:
        folder: Holds ``models/``, ``datasets/``, ``papers/`` and perhaps vocabularies.
        base: The catalog that it lies over; its records and vocabularies may be referred to.

    Returns:
        Faults, sorted by file and line.
    """
    shelves = _read(folder)
    below = base or Catalog()
    whole = Catalog(
        **{shelf: {**getattr(below, shelf), **found} for shelf, found in (shelves.kinds | shelves.words).items()}
    )
    for record in shelves.records.values():
        for place, message in rules.faults(record, whole):
            shelves.tell(record, place, message)
    for record, place, message in _between(whole):
        if record.id in shelves.records:
            shelves.tell(record, place, message)
    return sorted(shelves.faults, key=lambda fault: (str(fault.path), fault.line, fault.field))


def _read(folder: Path) -> _Shelves:
    """Read all that is below a folder."""
    shelves = _Shelves()
    for name, cls in read.VOCABULARIES.items():
        if (folder / name).is_file():
            found = read.vocabulary(folder / name, cls)
            if isinstance(found, list):
                shelves.faults += found
            else:
                shelves.words[name.removesuffix(".toml")] = found
    for shelf in read.SHELVES:
        for path in read.files(folder, shelf):
            shelves.add(shelf, path)
    return shelves


def _between(catalog: Catalog) -> Iterator[tuple[Record, Place, str]]:
    """Yield record, place and message of what is wrong between records."""
    yield from _names(catalog)
    yield from _numbers(catalog)
    yield from _counts(catalog)


def _names(catalog: Catalog) -> Iterator[tuple[Record, Place, str]]:
    """One word, one record: ids among all, names and aliases among records of a type."""
    ids: Mapping[str, Record] = {key(record.id): record for record in catalog}
    taken: dict[tuple[str, str], Record] = {}
    for record in catalog:
        if isinstance(record, Paper):
            continue
        for index, alias in enumerate(record.aliases):
            other = ids.get(key(alias))
            if other is not None and record.id not in {other.id, other.renamed_to}:
                yield record, ("aliases", index), f"{alias!r} is the id of {other.id!r}"
            holder = taken.setdefault((record.type, key(alias)), record)
            if holder is not record:
                yield record, ("aliases", index), f"{alias!r} is an alias of {holder.id!r} too"


def _numbers(catalog: Catalog) -> Iterator[tuple[Record, Place, str]]:
    """A number is one paper, and paper and entities name each other."""
    papers: dict[str, Paper] = {}
    for paper in catalog.papers.values():
        if paper.same_as is not None:
            continue
        for number in filter(None, (paper.paper, *paper.identifiers)):
            other = papers.setdefault(number, paper)
            if other is not paper:
                yield paper, ("paper",), f"{number} is the paper {other.id!r} too; say same_as where they are one"
    alone: dict[str, Record] = {}
    for record in (*catalog.models.values(), *catalog.datasets.values()):
        if record.paper is None:
            continue
        found = papers.get(record.paper)
        if found is not None and record.id not in found.entities:
            yield record, ("paper",), f"{record.paper} is {found.id!r}, whose entities do not name {record.id!r}"
            yield found, ("entities",), f"lacks {record.id!r}, which names this paper"
        if found is None:
            other_work = alone.setdefault(record.paper, record)
            if other_work is not record:
                message = f"{record.paper} is given for {other_work.id!r} too; add its paper with both as entities"
                yield record, ("paper",), message


def _counts(catalog: Catalog) -> Iterator[tuple[Record, Place, str]]:
    """Exact counts that are the same on two sets are mostly the same pictures, or a slip."""
    holders: dict[int, list[Dataset]] = defaultdict(list)
    for record in catalog.datasets.values():
        told = " ".join(str(part) for part in (record.images, record.images_said, record.samples, record.samples_said))
        for number in sorted({int(found) for found in re.findall(r"\b\d{4,}\b", told)}):
            if number % 500:  # round numbers meet by chance
                holders[number].append(record)
    for number, sets in holders.items():
        for index, record in enumerate(sets):
            for other in sets[:index]:
                if other.id not in record.overlaps and record.id not in other.overlaps:
                    place = "images" if str(number) in f"{record.images} {record.images_said}" else "samples"
                    message = f"{number} is a count of {other.id!r} too; name it in overlaps if that is so"
                    yield record, (place,), message
