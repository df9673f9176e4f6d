"""A catalog in memory: its records by id, and how names people use lead to them."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from geovl.catalog.records import Dataset, License, Model, Paper, Record, Task
from geovl.errors import CatalogError


class AmbiguousError(CatalogError):
    """A name that means several records."""


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
        kinds, asked = tuple(among), bare(name)
        found = self._meant(asked, kinds)
        if not as_is:
            found = list({self.current(record).id: self.current(record) for record in found}.values())
        if not found:
            msg = f"Nothing in the catalog is called {name!r}."
            raise CatalogError(msg, self._hint(asked, kinds))
        if len(found) > 1:
            msg = f"{name!r} means {len(found)} records: {', '.join(record.id for record in found)}."
            raise AmbiguousError(msg, f"Give the id, such as {found[0].id}.")
        return found[0]

    def _meant(self, name: str, kinds: tuple[str, ...]) -> list[Record]:
        """Return what a name means: by its id, its name, an alias, any of these in other letters, a number.

        Some rows of the survey's list name a paper by what it presents, which is what people mean: papers come last.
        """
        exact = self.get(name)
        if exact is not None and exact.type in kinds:
            return [exact]
        for group in (tuple(kind for kind in kinds if kind != "paper"), kinds):
            for shelf in self._shelves:
                for word in (name, key(name)):
                    if found := [record for record in shelf.get(word, ()) if record.type in group]:
                        return found
        return []

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
    def _shelves(self) -> tuple[dict[str, list[Record]], ...]:
        """Words to records, the surest first: names as written, aliases, ids and names in other letters, numbers."""
        written, aliases, loose, numbers = shelves = tuple({} for _ in range(4))  # type: ignore[var-annotated]
        for record in self:
            _put(written, record.name, record)
            for alias in record.aliases:
                _put(aliases, alias, record)
            for word in (record.id, record.name, *record.aliases):
                _put(loose, key(word), record)
            for place in record.weights if isinstance(record, Model) else ():
                _put(numbers, key(place), record)
            if isinstance(record, Paper):  # a number means the paper, not each thing that it presents
                for number in (record.paper or "", *record.identifiers):
                    _put(numbers, key(number), record)
        for record in self:
            if record.paper and key(record.paper) not in numbers:
                _put(numbers, key(record.paper), record)
        return shelves

    def _hint(self, name: str, kinds: tuple[str, ...]) -> str:
        """Return what to do about a name that means nothing."""
        task = self._tasks.get(key(name))
        about = f"{name} is a task, {task.id}: geovl catalog list --task {task.id}. " if task is not None else ""
        words = {
            word: [record for record in found if record.type in kinds]
            for shelf in self._shelves[2:]
            for word, found in shelf.items()
        }
        inside = [word for word, found in words.items() if found and len(key(name)) > 2 and key(name) in word]
        inside.sort(key=lambda word: (not word.startswith(key(name)), len(word), word))
        near = difflib.get_close_matches(key(name), [word for word, found in words.items() if found], n=3)
        ids = dict.fromkeys(record.id for word in (*inside[:2], *near) for record in words[word])
        search = f'Search all fields with: geovl catalog search "{name}"'
        guess = f"Did you mean {', '.join(list(ids)[:5])}? " if ids else ""
        return about + guess + ("" if about else search)


def _put(shelf: dict[str, list[Record]], word: str, record: Record) -> None:
    if word:
        found = shelf.setdefault(word, [])
        if record not in found:
            found.append(record)


_ADDRESS = re.compile(
    r"(?:https?://)?(?:www\.)?(?:arxiv\.org/(?:abs|pdf|html)/|(?:dx\.)?doi\.org/|huggingface\.co/(?:datasets/)?)"
    r"|(?:arxiv|doi|hf|hf-hub):\s*",
    re.IGNORECASE,
)


def bare(name: str) -> str:
    """Return an id or number without the address around it: of arXiv, DOI or hub."""
    word = _ADDRESS.sub("", name.strip(), count=1).removesuffix(".pdf").rstrip("/")
    word = re.sub(r"^10\.48550/arxiv\.", "", word, flags=re.IGNORECASE)
    return re.sub(r"^(\d{4}\.\d{4,5})v\d+$", r"\1", word)
