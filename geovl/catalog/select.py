"""Choose and sort records."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from geovl.catalog import licenses
from geovl.catalog.book import Catalog
from geovl.catalog.records import (
    UNKNOWN,
    Dataset,
    DatasetKind,
    Modality,
    Model,
    ModelKind,
    Paper,
    PaperKind,
    Record,
)
from geovl.errors import CatalogError, UsageError


@dataclass(frozen=True, slots=True)
class Choice:
    """What somebody is looking for; ``()`` and None mean anything.

    Several values of one field are alternatives, fields are all to be met.
    """

    tasks: tuple[str, ...] = ()
    """Ids or synonyms."""
    kinds: tuple[str, ...] = ()
    """``model``, ``dataset``, ``paper``, or the kinds of these."""
    modalities: tuple[str, ...] = ()
    licenses: tuple[str, ...] = ()
    """SPDX identifiers or families."""
    years: str | None = None
    """``2024``, ``2024..``, ``..2022`` or ``2022..2024``."""
    trained_on: tuple[str, ...] = ()
    evaluated_on: tuple[str, ...] = ()
    open_weights: bool = False
    runnable: bool = False


def types(choice: Choice) -> tuple[str, ...]:
    """Return the types of record that a choice can hold.

    Papers come only to whoever asks for them: most describe a model or data set that is there anyway.

    Raises:
        UsageError: No record is of one of the kinds.
    """
    only_models = choice.trained_on or choice.evaluated_on or choice.open_weights or choice.runnable
    if not choice.kinds:
        return ("model",) if only_models else ("model", "dataset")
    found = []
    for kind in map(str.casefold, choice.kinds):
        of = [name for name, kinds in _kinds().items() if kind == name or kind in kinds]
        if not of:
            known = "; ".join(f"{name}: {', '.join(kinds)}" for name, kinds in _kinds().items())
            raise UsageError(f"There is no kind {kind!r}.", f"Kinds: model, dataset, paper. {known}")
        # "model" and "dataset" are kinds of papers too, but nobody who asks for models means those
        found += [kind] if kind in _kinds() else [name for name in of if name != "paper"] or of
    if only_models and "model" not in found:
        msg = f"Of kind {', '.join(choice.kinds)} there are no models, and only models have weights and results."
        raise UsageError(msg, "Leave --kind out, or the option that asks for models.")
    return ("model",) if only_models else tuple(dict.fromkeys(found))


def _kinds() -> dict[str, tuple[str, ...]]:
    from typing import get_args  # noqa: PLC0415

    return {"model": get_args(ModelKind), "dataset": get_args(DatasetKind), "paper": get_args(PaperKind)}


def choose(catalog: Catalog, choice: Choice) -> list[Record]:
    """Return the records that meet a choice, models first, each type sorted by id.

    Raises:
        CatalogError: A task or data set is not known; the vocabulary or near ones are named.
        UsageError: A kind, modality, licence or span of years means nothing.
    """
    wanted = types(choice)
    tests: list[Callable[[Record], bool]] = [lambda record: record.type in wanted]
    asked = set(map(str.casefold, choice.kinds))
    if kinds := asked - {"model", "dataset", "paper"}:
        tests.append(lambda record: record.kind in kinds or record.type in asked)
    if choice.tasks:
        tasks = {catalog.task(name).id for name in choice.tasks}
        tests.append(lambda record: bool(tasks & tasks_of(record, catalog)))
    if choice.modalities:
        modalities = {_modality(name) for name in choice.modalities}
        tests.append(lambda record: bool(modalities & set(record.modalities)))
    if choice.licenses:
        names = [_license(name, catalog) for name in choice.licenses]
        tests.append(lambda record: any(licenses.matches(record, name, catalog) for name in names))
    if choice.years is not None:
        first, last = span(choice.years)
        tests.append(lambda record: record.year is not None and first <= record.year <= last)
    if choice.trained_on:
        sets = {catalog.find(name, ("dataset",)).id for name in choice.trained_on}
        tests.append(lambda record: isinstance(record, Model) and bool(sets & set(record.training_data)))
    if choice.evaluated_on:
        shown = {catalog.find(name, ("dataset",)).id for name in choice.evaluated_on}
        tests.append(lambda record: isinstance(record, Model) and any(shown & set(r.dataset) for r in record.results))
    if choice.open_weights:
        tests.append(lambda record: isinstance(record, Model) and bool(record.weights))
    if choice.runnable:
        tests.append(lambda record: isinstance(record, Model) and record.run is not None)
    return [record for record in catalog if all(test(record) for test in tests)]


def tasks_of(record: Record, catalog: Catalog) -> set[str]:
    """Return the tasks of a record; of a paper those of what it presents."""
    if not isinstance(record, Paper):
        return set(record.tasks)
    entities = (catalog.get(name) for name in record.entities)
    return {task for entity in entities if entity for task in entity.tasks}


SORTS: dict[str, Callable[[Record], tuple[object, ...]]] = {
    "id": lambda record: (record.id,),
    "name": lambda record: (record.name.casefold(),),
    "year": lambda record: (-(record.year or 0), record.id),
    "kind": lambda record: (record.type != "model", record.type, record.kind, record.id),
    "license": lambda record: (UNKNOWN in licenses.short(record), licenses.short(record), record.id),
    "images": lambda record: (-_exact(record), record.id),
}
"""Orders: years and numbers of images from the largest, what is unknown last."""


def ordered(records: Iterable[Record], by: str) -> list[Record]:
    """Return records in an order of :data:`SORTS`.

    Raises:
        UsageError: There is no such order.
    """
    if by not in SORTS:
        raise UsageError(f"There is no order {by!r}.", f"Orders: {', '.join(SORTS)}")
    return sorted(records, key=SORTS[by])


def _exact(record: Record) -> int:
    return record.images if isinstance(record, Dataset) and isinstance(record.images, int) else -1


_SPAN = re.compile(r"(\d{4})?(\.\.)?(\d{4})?")


def span(text: str) -> tuple[int, int]:
    """Return first and last year of ``2024``, ``2024..``, ``..2022`` or ``2022..2024``.

    Raises:
        UsageError: It is none of these.
    """
    found = _SPAN.fullmatch(text.strip())
    if found is None or not (found[1] or found[3]) or (found[1] and found[3] and not found[2]):
        raise UsageError(f"{text!r} is no span of years.", "Write 2024, 2024.., ..2022 or 2022..2024.")
    first = int(found[1] or 0)
    last = int(found[3] or (9999 if found[2] else first))
    if first > last:
        raise UsageError(f"{text!r} ends before it begins.", f"Write {last}..{first}.")
    return first, last


def _modality(name: str) -> str:
    from typing import get_args  # noqa: PLC0415

    known = get_args(Modality)
    word = name.casefold().replace("_", "-").replace(" ", "-")
    if word not in known:
        raise UsageError(f"There is no modality {name!r}.", f"Modalities: {', '.join(known)}")
    return word


def _license(name: str, catalog: Catalog) -> str:
    import difflib  # noqa: PLC0415

    if name.casefold() in {*licenses.FAMILIES, licenses.COMMERCIAL} or catalog.license(name):
        return name
    known = [*licenses.FAMILIES, licenses.COMMERCIAL, *catalog.licenses]
    near = difflib.get_close_matches(name.casefold(), [word.casefold() for word in known], n=3, cutoff=0.4)
    words = [word for word in known if word.casefold() in near] or list(catalog.licenses)
    msg = f"No licence of the catalog is called {name!r}."
    families = ", ".join((licenses.COMMERCIAL, *licenses.FAMILIES))
    raise CatalogError(msg, f"Families: {families}. Licences: {', '.join(words)}")
