"""Full text over every field: SQLite's FTS5 in memory, ranked by BM25, with words that were misspelt."""

import difflib
import re
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from geovl.catalog.book import Catalog, key
from geovl.catalog.records import Dataset, Model, Paper, Record
from geovl.catalog.select import tasks_of
from geovl.errors import CatalogError, UsageError

_COLUMNS = {"names": 10.0, "tasks": 6.0, "description": 4.0, "data": 3.0, "rest": 1.0}
"""Columns of the index and how much a hit in each counts."""
_NEAR = 0.75
"""Least similarity of a word to the one that was typed (Ratcliff-Obershelp, 0 to 1)."""
_BESIDE = 0.06
"""How much less similar than the best a second guess may be."""
_PAPER = 0.7
"""Papers repeat the words of what they present, which comes first."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A record that was found."""

    record: Record
    score: float
    """BM25, higher is better; only its order means something."""
    excerpt: str
    """Where the words stand, between « and »."""


@dataclass(frozen=True, slots=True)
class Found:
    """The answer of a search."""

    hits: tuple[Hit, ...]
    corrected: tuple[tuple[str, str], ...] = ()
    """Words that stand in no record, and what was looked for instead."""
    all_words: bool = True
    """False where no record has all words, and those with some were taken."""


def search(catalog: Catalog, words: str, limit: int = 20) -> Found:
    """Find records by words, best first.

    Names, aliases, tasks with their synonyms, descriptions, data, sources and all other fields are looked at. Words are
    stemmed; a word that stands nowhere is replaced by those most like it.

    Args:
        catalog: Where to look.
        words: What to look for.
        limit: Most hits.

    Raises:
        UsageError: There is no word in it.
        CatalogError: This Python's SQLite was built without FTS5.
    """
    terms = re.findall(r"\w+", words.casefold())
    if not terms:
        raise UsageError(f"There is no word in {words!r}.", "Give words, such as: geovl catalog search flood damage")
    records = list(catalog)
    with _index(catalog, records) as index:
        vocabulary = [row[0] for row in index.execute("SELECT term FROM words")]
        chosen, corrected = [], []
        for term in terms:
            options = _options(index, term, vocabulary)
            if options != [term]:
                corrected.append((term, " or ".join(options) or "nothing"))
            chosen.append(options)
        parts = ["(" + " OR ".join(map(_quoted, options)) + ")" for options in chosen if options]
        rows, all_words = _match(index, " AND ".join(parts)), len(parts) == len(terms)
        if not rows and len(parts) > 1:
            rows, all_words = _match(index, " OR ".join(parts)), False
    hits = [Hit(records[row - 1], -rank, excerpt) for row, rank, excerpt in rows]
    return Found(
        tuple(_ranked(hits, {words, " ".join(options[0] for options in chosen if options)})[:limit]),
        tuple(corrected),
        all_words,
    )


def _quoted(word: str) -> str:
    """Return a word as FTS5 wants it; of longer words the beginning is enough."""
    return f'"{word}" OR "{word}"*' if len(word) > 3 else f'"{word}"'


def _ranked(hits: Sequence[Hit], words: Collection[str]) -> list[Hit]:
    """Return hits best first: what is called just that, then by score, papers behind what they present."""
    there = {hit.record.id for hit in hits}
    names = set(map(key, words))

    def place(hit: Hit) -> tuple[bool, float]:
        record = hit.record
        called = not names.isdisjoint({key(record.id), key(record.name), *map(key, record.aliases)})
        return (not called, -hit.score * (_PAPER if isinstance(record, Paper) else 1.0))

    twice = {hit.record.id for hit in hits if isinstance(hit.record, Paper) and hit.record.same_as in there}
    return sorted((hit for hit in hits if hit.record.id not in twice), key=place)


class _index:  # noqa: N801 - used like a function
    """The index, closed when left."""

    def __init__(self, catalog: Catalog, records: Sequence[Record]) -> None:
        self.base = sqlite3.connect(":memory:")
        columns = ", ".join(_COLUMNS)
        try:
            self.base.execute(
                f"CREATE VIRTUAL TABLE found USING fts5({columns}, tokenize='porter unicode61 remove_diacritics 2')"
            )
        except sqlite3.OperationalError as error:
            self.base.close()
            msg = f"This Python's SQLite {sqlite3.sqlite_version} cannot search full text: {error}."
            raise CatalogError(msg, "Use a Python whose SQLite has FTS5, or: geovl catalog list --json") from error
        # words as they are written: stems would give odd corrections
        self.base.execute(f"CREATE VIRTUAL TABLE spelt USING fts5({columns}, tokenize='unicode61 remove_diacritics 2')")
        self.base.execute("CREATE VIRTUAL TABLE words USING fts5vocab(spelt, row)")
        marks = ", ".join("?" * len(_COLUMNS))
        rows = [tuple(_fields(record, catalog)) for record in records]
        for table in ("found", "spelt"):
            self.base.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608 - names of our own

    def __enter__(self) -> sqlite3.Connection:
        return self.base

    def __exit__(self, *_: object) -> None:
        self.base.close()


def _match(index: sqlite3.Connection, query: str) -> list[tuple[int, float, str]]:
    if not query:
        return []
    weights = ", ".join(map(str, _COLUMNS.values()))
    return index.execute(
        f"SELECT rowid, bm25(found, {weights}) AS rank, snippet(found, -1, '«', '»', '…', 12) FROM found"  # noqa: S608
        " WHERE found MATCH ? ORDER BY rank, rowid",
        (query,),
    ).fetchall()


def _options(index: sqlite3.Connection, term: str, vocabulary: Sequence[str]) -> list[str]:
    """Return the words to look for in place of one: itself where its stem stands anywhere, else those most like it."""
    if index.execute("SELECT 1 FROM found WHERE found MATCH ? LIMIT 1", (f'"{term}"',)).fetchone():
        return [term]
    if starts := [word for word in vocabulary if len(term) > 3 and word.startswith(term)]:
        return starts[:8]
    if inside := [word for word in vocabulary if len(term) > 4 and term in word]:
        return inside[:8]
    # a short word is like many others
    near = difflib.get_close_matches(term, vocabulary, n=3, cutoff=_NEAR) if len(term) > 3 else []
    alike = {word: difflib.SequenceMatcher(None, term, word).ratio() for word in near}
    return [word for word in near if alike[word] > max(alike.values()) - _BESIDE]


def _fields(record: Record, catalog: Catalog) -> Iterator[str]:
    """Yield the text of each column."""
    yield " ; ".join((record.id, record.name, *record.aliases))
    tasks = [catalog.tasks[name] for name in sorted(tasks_of(record, catalog)) if name in catalog.tasks]
    yield " ; ".join(word for task in tasks for word in (task.id.replace("-", " "), *task.synonyms, task.meaning))
    yield record.description or ""
    yield " ; ".join(_data(record, catalog))
    yield " ; ".join(_rest(record))


def _data(record: Record, catalog: Catalog) -> Iterator[str]:
    """What it was trained and measured on, shows or presents, by id and name."""
    if isinstance(record, Model):
        ids = (*record.training_data, *(name for result in record.results for name in result.dataset))
    elif isinstance(record, Paper):
        ids = record.entities
    else:
        ids = ()
    for name in dict.fromkeys(ids):
        other = catalog.get(name)
        yield f"{name} {other.name if other else ''}"
    yield " ".join(record.modalities)
    if isinstance(record, Dataset):
        yield record.sensors or ""


def _rest(record: Record) -> Iterator[str]:
    """Everything else, in words."""
    stack: list[object] = [record.to_dict()]
    seen = {"id", "name", "aliases", "description", "tasks", "modalities"}
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            stack += [item for name, item in value.items() if name not in seen]
        elif isinstance(value, list):
            stack += value
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            yield str(value)
