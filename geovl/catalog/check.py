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

    unread: dict[str, set[str]] = field(default_factory=lambda: {shelf: set() for shelf in read.SHELVES})
    """Ids of records that could not be read: others may refer to them."""

    def add(self, shelf: str, path: Path) -> None:
        """Read one record."""
        record, faults = read.examined(path, read.SHELVES[shelf])
        self.faults += faults
        if record is None:
            self.unread[shelf].add(path.stem)
        elif path.stem in self.records:
            other = self.paths[path.stem]
            self.faults.append(Fault(path, 1, "id", f"is taken: {path.stem!r} is the id of {other} too"))
        else:
            self.records[path.stem] = self.kinds[shelf][path.stem] = record
            self.paths[path.stem], self.texts[path.stem] = path, path.read_text("utf-8-sig")

    def tell(self, record: Record, place: Place, message: str) -> None:
        """Keep a fault of a record."""
        name = next((stem for stem, mine in self.records.items() if mine is record), None)
        if name is not None:
            line = read.line_of(self.texts[name], place)
            self.faults.append(Fault(self.paths[name], line, ".".join(map(str, place)), message))


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
    known = rules.Known(whole, {shelf: frozenset(names) for shelf, names in shelves.unread.items()})
    for record in shelves.records.values():
        for place, message in rules.faults(record, known):
            shelves.tell(record, place, message)
    for record, place, message in _between(whole, below):
        shelves.tell(record, place, message)
    shelves.faults += _vocabularies(folder, shelves, whole)
    return sorted(set(shelves.faults), key=lambda fault: (str(fault.path), fault.line, fault.field))


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
    shelves.faults += _strays(folder)
    if not shelves.records and not shelves.faults:
        where = ", ".join(f"{shelf}/<id>.toml" for shelf in read.SHELVES)
        shelves.faults.append(Fault(folder, 1, "folder", f"holds no record; expected {where}"))
    return shelves


def _strays(folder: Path) -> Iterator[Fault]:
    """Yield files that look like records and lie where nobody reads them."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.suffix.lower() != ".toml" or path.is_dir():
            continue
        right = len(inside.parts) == 2 and inside.parts[0] in read.SHELVES and path.suffix == ".toml"
        if not right and str(inside) not in read.VOCABULARIES:
            yield Fault(path, 1, "file", f"is not read here; expected {', '.join(read.SHELVES)}/<id>.toml")


def _vocabularies(folder: Path, shelves: _Shelves, whole: Catalog) -> Iterator[Fault]:
    """Yield what is wrong with the words of a folder's own vocabularies."""
    holders: dict[str, str] = {}
    for task in whole.tasks.values():
        for word in (task.id, *task.synonyms):
            holders.setdefault(key(word), task.id)
    for name, task in shelves.words["tasks"].items():
        text = (folder / "tasks.toml").read_text("utf-8-sig")
        for field_name, message in rules.task_faults(task, holders):
            yield Fault(folder / "tasks.toml", read.line_of(text, (name, field_name)), f"{name}.{field_name}", message)
    for name, entry in shelves.words["licenses"].items():
        text = (folder / "licenses.toml").read_text("utf-8-sig")
        for alias in entry.aliases:
            other = next((known for known in whole.licenses if known.casefold() == alias.casefold()), name)
            if other != name:
                line = read.line_of(text, (name, "aliases"))
                yield Fault(
                    folder / "licenses.toml", line, f"{name}.aliases", f"{alias!r} is the licence {other} itself"
                )


_Told = Iterator[tuple[Record, Place, str]]


def _between(catalog: Catalog, below: Catalog) -> _Told:
    """Yield record, place and message of what is wrong between records; of two that disagree both are named."""
    yield from _names(catalog, below)
    yield from _renames(catalog)
    yield from _numbers(catalog, below)
    yield from _counts(catalog)


def _names(catalog: Catalog, below: Catalog) -> _Told:
    """One word, one record: ids among all, names and aliases among models and data sets of a type."""
    ids: Mapping[str, Record] = {key(record.id): record for record in catalog}
    taken: dict[tuple[str, str], Record] = {}
    for record in catalog:
        other_type = next((entry for entry in below if entry.id == record.id and entry.type != record.type), None)
        if other_type is not None:
            yield record, ("id",), f"{record.id!r} is the id of a {other_type.type} of geovl's"
        if isinstance(record, Paper):
            continue
        for index, alias in enumerate(record.aliases):
            other = ids.get(key(alias))
            if other is not None and record.id not in {other.id, other.renamed_to}:
                yield record, ("aliases", index), f"{alias!r} is the id of {other.id!r}"
            holder = taken.setdefault((record.type, key(alias)), record)
            if holder is not record:
                yield record, ("aliases", index), f"{alias!r} is an alias of {holder.id!r} too"
                where = next((at for at, word in enumerate(holder.aliases) if key(word) == key(alias)), 0)
                yield holder, ("aliases", where), f"{alias!r} is an alias of {record.id!r} too"
        named = taken.setdefault((record.type, f"={record.name}"), record)
        if named is not record:
            yield record, ("name",), f"{record.name!r} is the name of {named.id!r} too"
            yield named, ("name",), f"{record.name!r} is the name of {record.id!r} too"


def _renames(catalog: Catalog) -> _Told:
    """A record that was renamed leads to one that was not."""
    for record in catalog:
        other = catalog.get(record.renamed_to or "")
        if other is not None and other is not record and other.renamed_to:
            yield record, ("renamed_to",), f"{other.id!r} was renamed itself, to {other.renamed_to!r}; name that"


def _numbers(catalog: Catalog, below: Catalog) -> _Told:
    """A number is one paper, and paper and entities name each other."""
    papers: dict[str, Paper] = {}
    for paper in catalog.papers.values():
        if paper.same_as is not None:
            continue
        for number in (part.casefold() for part in (paper.paper, *paper.identifiers) if part):
            other = papers.setdefault(number, paper)
            if other is not paper:
                yield paper, ("paper",), f"{number} is the paper {other.id!r} too; say same_as where they are one"
                yield other, ("paper",), f"{number} is the paper {paper.id!r} too; say same_as where they are one"
    alone: dict[str, Record] = {}
    for record in (*catalog.models.values(), *catalog.datasets.values()):
        if record.paper is None:
            continue
        found = papers.get(record.paper.casefold())
        # a record of one's own may be made from the paper of another, which need not know of it
        if (
            found is not None
            and record.id not in found.entities
            and (found.id in below.papers) == (below.get(record.id) is record)
        ):
            yield record, ("paper",), f"{record.paper} is {found.id!r}, whose entities do not name {record.id!r}"
            yield found, ("entities",), f"lacks {record.id!r}, which names this paper"
        if found is None:
            other_work = alone.setdefault(record.paper.casefold(), record)
            if other_work is not record:
                message = f"{record.paper} is given for {other_work.id!r} too; add its paper with both as entities"
                yield record, ("paper",), message


def _counts(catalog: Catalog) -> _Told:
    """Exact counts that are the same on two sets are mostly the same pictures, or a slip.

    Numbers below 1000 and multiples of 500 meet by chance.
    """
    holders: dict[int, list[Dataset]] = defaultdict(list)
    for record in catalog.datasets.values():
        told = " ".join(str(part) for part in (record.images, record.images_said, record.samples, record.samples_said))
        found = re.findall(r"\b\d{1,3}(?:,\d{3})+\b|\b\d{4,}\b", told)
        for number in sorted({int(part.replace(",", "")) for part in found}):
            if number > 999 and number % 500:
                holders[number].append(record)
    for number, sets in holders.items():
        for index, record in enumerate(sets):
            for other in sets[:index]:
                if other.id not in record.overlaps and record.id not in other.overlaps:
                    for mine, theirs in ((record, other), (other, record)):
                        place = "images" if str(number) in f"{mine.images} {mine.images_said}" else "samples"
                        message = f"{number} is a count of {theirs.id!r} too; name it in overlaps if that is so"
                        yield mine, (place,), message
