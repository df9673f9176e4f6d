"""The catalog: models, data sets and papers as TOML records, one file each, its name is its id.

Records shipped with geovl come first; folders of one's own (``GEOVL_CATALOG``) lie over them.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from geovl import settings
from geovl.catalog import read
from geovl.catalog.book import AmbiguousError, Catalog
from geovl.catalog.records import Model, Record
from geovl.errors import CatalogError, ModelError

__all__ = ["Catalog", "load", "model"]

TYPES = ("model", "dataset", "paper")
"""Types of record."""


def load(folders: Sequence[Path] | None = None, types: Iterable[str] = TYPES, mention: Sequence[str] = ()) -> Catalog:
    """Read the catalog.

    Args:
        folders: Folders of records, later ones over earlier ones; default: geovl's own, then the user's.
        types: Types of record to read; the others stay empty.
        mention: Read only records of geovl's own that hold one of these words in quotes: a quick first choice.

    Raises:
        CatalogError: A folder is not there, or a record is faulty.
    """
    wanted = set(types)
    found: dict[str, dict[str, Any]] = {name: {} for name in (*read.SHELVES, "tasks", "licenses")}
    for folder in folders if folders is not None else settings.catalog_dirs():
        _there(folder)
        own = folder == settings.shipped_catalog()
        for name, cls in read.VOCABULARIES.items():
            get: Callable[[Path, type], Any] = read.trusted_vocabulary if own else _strict_vocabulary
            found[name.removesuffix(".toml")] |= get(folder / name, cls)
        for shelf, kind in read.SHELVES.items():
            if kind.type in wanted:
                for path in read.files(folder, shelf):
                    record = read.trusted(path, kind, mention) if own else _strict(path, kind)
                    if record is not None:
                        found[shelf][path.stem] = record
    return Catalog(**found)


def _there(folder: Path) -> None:
    """Refuse a folder that is not there or that holds no shelf."""
    try:
        there = {path.name for path in folder.iterdir()}
    except OSError as error:
        msg = f"There is no catalog folder {folder}: {error.strerror}."
        raise CatalogError(msg, "Give a folder with models/, datasets/ or papers/ in it.") from error
    if not there & {*read.SHELVES, *read.VOCABULARIES}:
        msg = f"The folder {folder} holds no catalog."
        raise CatalogError(msg, "Records lie in models/, datasets/ and papers/ below the folder that you give.")


def _strict(path: Path, kind: type[Record]) -> Record:
    record = read.checked(path, kind)
    if isinstance(record, list):
        raise CatalogError(str(record[0]), f"See every fault with: geovl catalog check {path.parent.parent}")
    return record


def _strict_vocabulary(path: Path, cls: type) -> dict[str, Any]:
    words = read.vocabulary(path, cls) if path.is_file() else {}
    if isinstance(words, list):
        raise CatalogError(str(words[0]), f"See every fault with: geovl catalog check {path.parent}")
    return words


def model(name: str) -> Model:
    """Return the record of a model that geovl can run.

    Args:
        name: Its id, name or alias.

    Raises:
        ModelError: There is none of that name, or it cannot be run; those that can are named.
        CatalogError: A record is faulty, or the name means more than one.
    """
    # most ids are right: one file is read, not all
    for folder in reversed(settings.catalog_dirs()):
        _there(folder)
        path = folder / "models" / f"{name}.toml"
        if re.fullmatch(r"[a-z0-9.-]+", name) and path.is_file():
            own = folder == settings.shipped_catalog()
            record = read.trusted(path, Model) if own else _strict(path, Model)
            if isinstance(record, Model) and record.run is not None:
                return record
            break
    catalog = load(types=("model",))
    runnable = sorted(entry.id for entry in catalog.models.values() if entry.run)
    try:
        found = catalog.find(name, ("model",))
    except AmbiguousError:
        raise
    except CatalogError:
        near = difflib.get_close_matches(name, runnable, n=3) or runnable
        msg = f"No model is called {name!r}."
        raise ModelError(
            msg, f"Models that can be run: {', '.join(near)}. All: geovl catalog list --runnable"
        ) from None
    entry = catalog.models[found.id]
    if entry.run is None:
        msg = f"Model {entry.id!r} is in the catalog, but geovl cannot run it."
        raise ModelError(msg, f"Models that can be run: {', '.join(runnable)}. About it: geovl catalog show {entry.id}")
    return entry
