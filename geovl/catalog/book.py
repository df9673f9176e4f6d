"""A catalog in memory: its records by id, and how names people use lead to them."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from geovl.catalog.records import Dataset, License, Model, Paper, Record, Task
from geovl.errors import CatalogError


def key(name: str) -> str:
    """Return a name as it is compared: case, spaces and signs do not matter."""
    return "".join(character for character in name.casefold() if character.isalnum())


@dataclass(frozen=True)
class Catalog:
    """Every record, by id."""

    models: Mapping[str, Model] = field(default_factory=dict)
    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    papers: Mapping[str, Paper] = field(default_factory=dict)
    tasks: Mapping[str, Task] = field(default_factory=dict)
    licenses: Mapping[str, License] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Record]:
        """Yield models, data sets and papers, each sorted by id."""
        for shelf in (self.models, self.datasets, self.papers):
            yield from (shelf[name] for name in sorted(shelf))

    def __len__(self) -> int:
        return len(self.models) + len(self.datasets) + len(self.papers)

    def get(self, record_id: str) -> Record | None:
        """Return the record of exactly this id."""
        return self.models.get(record_id) or self.datasets.get(record_id) or self.papers.get(record_id)

    def find(self, name: str, among: Iterable[str] = ("model", "dataset", "paper"), *, as_is: bool = False) -> Record:
        """Return the record that a name means.

        An id is taken first, then names and aliases, without regard to case, spaces and signs, then an arXiv number,
        DOI or hub id. A record that was renamed leads to its successor.

        Args:
            name: Id, name, alias, arXiv number, DOI, ``owner/name`` of the hub.
            among: Types of record to look at.
            as_is: Return a renamed record itself.

        Raises:
            CatalogError: No record is called that, or more than one; near ones are named.
        """
        kinds = tuple(among)
        exact = self.get(name.strip())
        found = [exact] if exact else self._called(name.strip()) or self._names.get(key(name), [])
        found = [record for record in found if record.type in kinds]
        # some rows of the survey's list name a paper by what it presents, which is what people mean
        found = [record for record in found if not isinstance(record, Paper)] or found
        if not as_is:
            found = list({self.current(record).id: self.current(record) for record in found}.values())
        if not found:
            msg = f"Nothing in the catalog is called {name!r}."
            raise CatalogError(msg, self._nearest(name, kinds))
        if len(found) > 1:
            msg = f"{name!r} means {len(found)} records: {', '.join(record.id for record in found)}."
            raise CatalogError(msg, f"Give the id, such as {found[0].id}.")
        return found[0]

    def current(self, record: Record) -> Record:
        """Return the record under which a record goes now, itself in most cases."""
        paper = record.same_as if isinstance(record, Paper) else None
        return self.get(record.renamed_to or paper or "") or record

    def task(self, name: str) -> Task:
        """Return the task that a name or synonym means.

        Raises:
            CatalogError: It is in no vocabulary, which is listed.
        """
        found = self._tasks.get(key(name))
        if found is None:
            words = difflib.get_close_matches(key(name), self._tasks, n=3)
            words += [word for word in self._tasks if len(key(name)) > 2 and key(name) in word]
            near = [self._tasks[word].id for word in words]
            guess = f"Did you mean {', '.join(dict.fromkeys(near))}? " if near else ""
            msg = f"There is no task {name!r}. {guess}".rstrip()
            raise CatalogError(msg, "Tasks: " + ", ".join(sorted(self.tasks)))
        return found

    def license(self, name: str) -> License | None:
        """Return the licence of this id, without regard to case."""
        return self._licenses.get(name.casefold())

    @cached_property
    def _licenses(self) -> dict[str, License]:
        return {word.casefold(): entry for entry in self.licenses.values() for word in (*entry.aliases, entry.id)}

    @cached_property
    def _tasks(self) -> dict[str, Task]:
        words = {key(word): entry for entry in self.tasks.values() for word in entry.synonyms}
        return words | {key(entry.id): entry for entry in self.tasks.values()}

    @cached_property
    def _names(self) -> dict[str, list[Record]]:
        """Compared name to records: what is nearest to an id wins."""
        shelves: list[dict[str, list[Record]]] = [{} for _ in range(3)]
        for record in self:
            numbers = record.identifiers if isinstance(record, Paper) else ()
            hub = record.weights if isinstance(record, Model) else ()
            for shelf, words in zip(shelves, ((record.id,), (record.name, *record.aliases), hub), strict=True):
                for word in words:
                    _put(shelf, word, record)
            if isinstance(record, Paper):  # a number means the paper, not each thing that it presents
                for number in (record.paper or "", *numbers):
                    _put(shelves[2], number, record)
        for record in self:
            if record.paper and key(record.paper) not in shelves[2]:
                _put(shelves[2], record.paper, record)
        return shelves[2] | shelves[1] | shelves[0]

    def _called(self, name: str) -> list[Record]:
        """Return the records of exactly this name, else alias: RSCLIP and RS-CLIP are two models."""
        named = [record for record in self if name == record.name]
        return named or [record for record in self if name in record.aliases]

    def _nearest(self, name: str, kinds: tuple[str, ...]) -> str:
        words = {word: found for word, found in self._names.items() if any(r.type in kinds for r in found)}
        near = difflib.get_close_matches(key(name), words, n=3, cutoff=0.6)
        near = near or [word for word in words if len(key(name)) > 2 and key(name) in word][:3]
        ids = dict.fromkeys(record.id for word in near for record in words[word] if record.type in kinds)
        search = f'Search all fields with: geovl catalog search "{name}"'
        return f"Did you mean {', '.join(ids)}? {search}" if ids else search


def _put(shelf: dict[str, list[Record]], word: str, record: Record) -> None:
    if key(word):
        found = shelf.setdefault(key(word), [])
        if record not in found:
            found.append(record)
