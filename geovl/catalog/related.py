"""What records have to do with each other, and what can be compared."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from geovl.catalog.book import Catalog
from geovl.catalog.records import Dataset, Model, Paper, Record, Result


def related(record: Record, catalog: Catalog) -> dict[str, list[str]]:
    """Return ids of other records by what they are to this one."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, other in _links(record, catalog):
        if other != record.id and other not in found[name]:
            found[name].append(other)
    return {name: sorted(ids) if "overlap" in name else ids for name, ids in found.items() if ids}


def paper_of(record: Record, catalog: Catalog) -> Paper | None:
    """Return the paper that presents a record; itself, or the one it is the same as, for a paper."""
    if isinstance(record, Paper):
        found = catalog.current(record)
        return found if isinstance(found, Paper) else record
    papers = [paper for paper in catalog.papers.values() if record.id in paper.entities and paper.same_as is None]
    with_number = [paper for paper in papers if record.paper in (paper.paper, *paper.identifiers)]
    return next(iter(with_number or papers), None)


def _links(record: Record, catalog: Catalog) -> Iterator[tuple[str, str]]:
    """Yield what another record is to this one, and its id."""
    yield from _measures(record, catalog)
    paper = paper_of(record, catalog)
    if paper is not None:
        yield "paper", paper.id
        yield from (("presented with" if record is not paper else "presents", name) for name in paper.entities)
        yield from (("also listed as", other.id) for other in catalog.papers.values() if other.same_as == paper.id)
    shelf = catalog.models if isinstance(record, Model) else catalog.datasets
    yield from (("earlier name", other.id) for other in shelf.values() if other.renamed_to == record.id)
    yield from (("supersedes", other.id) for other in shelf.values() if other.superseded_by == record.id)
    yield from (("now", name) for name in (record.renamed_to,) if name)
    yield from (("superseded by", name) for name in (record.superseded_by,) if name)


def _measures(record: Record, catalog: Catalog) -> Iterator[tuple[str, str]]:
    """Yield what a model was trained and measured on, or what a data set trains and measures."""
    if isinstance(record, Model):
        yield from (("trained on", name) for name in record.training_data)
        yield from (("measured on", name) for result in record.results for name in result.dataset)
    if isinstance(record, Dataset):
        for model in catalog.models.values():
            if record.id in model.training_data:
                yield "trains", model.id
            if any(record.id in result.dataset for result in model.results):
                yield "measures", model.id
        near = _overlapping(record, catalog)
        yield from (("overlaps with", name) for name in near)
        for name in near:  # two sets made of a third may hold the same of its pictures
            parent = catalog.datasets[name]
            yield from ((f"may overlap through {name}", other) for other in _overlapping(parent, catalog) - near)


def _overlapping(record: Dataset, catalog: Catalog) -> set[str]:
    """Return the data sets that a record names as overlapping, or that name it."""
    return {
        other.id for other in catalog.datasets.values() if record.id in other.overlaps or other.id in record.overlaps
    }


def measured_on(record: Dataset, catalog: Catalog) -> list[tuple[Model, Result]]:
    """Return every published figure on a data set alone, by metric and then from the highest."""
    found = [
        (model, result)
        for model in catalog.models.values()
        for result in model.results
        if result.dataset == (record.id,)
    ]
    return sorted(found, key=lambda pair: (pair[1].metric, pair[1].split or "", -pair[1].value))


@dataclass(frozen=True, slots=True)
class Row:
    """Figures that may stand side by side: one metric on one split of one data set in one setting."""

    metric: str
    dataset: str
    split: str | None
    setting: str | None
    values: tuple[tuple[Result, ...], ...]
    """For each record its figures, one for each checkpoint."""

    @property
    def stated(self) -> bool:
        """Whether the sources say split and setting; where none does, they agree only in saying nothing."""
        return self.split is not None and self.setting is not None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What records have in common, and what was left out."""

    rows: tuple[Row, ...]
    left_out: int
    """Figures on data sets which another of the records was measured on too, but elsewhere or otherwise."""
    alone: int
    """Figures on data sets that no other of the records was measured on."""


def compare(records: Sequence[Record]) -> Comparison:
    """Put results side by side where metric, data sets, split and setting are the same for at least two records."""
    groups: dict[tuple[str, str, str | None, str | None], list[list[Result]]] = {}
    sets: dict[str, set[int]] = defaultdict(set)
    for place, record in enumerate(records):
        for result in record.results if isinstance(record, Model) else ():
            same = (result.metric, result.where, result.split, result.setting)
            groups.setdefault(same, [[] for _ in records])[place].append(result)
            sets[result.where].add(place)
    rows, left_out, alone = [], 0, 0
    for (metric, where, split, setting), values in groups.items():
        count = sum(map(len, values))
        if sum(map(bool, values)) > 1:
            rows.append(Row(metric, where, split, setting, tuple(map(tuple, values))))
        elif len(sets[where]) > 1:
            left_out += count
        else:
            alone += count
    return Comparison(tuple(sorted(rows, key=lambda row: (row.dataset, row.metric))), left_out, alone)
