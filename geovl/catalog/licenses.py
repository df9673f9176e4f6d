"""What a licence expression comes to: its parts, their families, and a verdict in plain words."""

import re
from collections.abc import Iterable

from geovl.catalog.book import Catalog
from geovl.catalog.records import UNKNOWN, Dataset, Family, License, Model, Record

FAMILIES: tuple[Family, ...] = ("permissive", "copyleft", "custom", "non-commercial", "unknown")
"""From what asks least of a user to what asks most."""


def parts(expression: str) -> list[str]:
    """Return the licences of an SPDX expression: ``A AND B`` gives both."""
    return [part for part in re.split(r"\s+(?:AND|OR|WITH)\s+|[()\s]+", expression) if part]


def of(record: Record) -> list[tuple[str, str]]:
    """Return what of a record is under a licence, and its expression."""
    if isinstance(record, Model):
        return [("code", record.license_code), ("weights", record.license_weights)]
    if isinstance(record, Dataset):
        return [("data", record.license)]
    return []


def families(record: Record, catalog: Catalog) -> set[Family]:
    """Return the family of each licence of a record."""
    return {family(expression, catalog) for _, expression in of(record)}


def family(expression: str, catalog: Catalog) -> Family:
    """Return the family of an expression: that of its part which asks most."""
    return max((entry.family for entry in _entries(expression, catalog)), key=FAMILIES.index)


def matches(record: Record, wanted: str, catalog: Catalog) -> bool:
    """Whether a record goes with a licence that somebody asks for.

    Args:
        record: Papers have no licence and never match.
        wanted: An identifier: one of the record's licences is that. ``permissive``: all of them are. Another family:
            one of them is.
        catalog: For families.
    """
    found = of(record)
    word = wanted.casefold()
    if word == "permissive":
        return bool(found) and families(record, catalog) == {"permissive"}
    if word in FAMILIES:
        return word in {family(expression, catalog) for _, expression in found}
    entry = catalog.license(wanted)
    name = (entry.id if entry else wanted).casefold()
    return any(name in (part.casefold() for part in parts(expression)) for _, expression in found)


def verdict(expression: str, catalog: Catalog) -> str:
    """Return what an expression lets people do, in plain words."""
    return " ".join(dict.fromkeys(entry.verdict for entry in _entries(expression, catalog)))


def short(record: Record) -> str:
    """Return the licences of a record for a table: one word where all are the same."""
    found = dict.fromkeys(expression for _, expression in of(record))
    names = [name.replace("LicenseRef-", "") for name in found]
    return " / ".join(names) if len(set(found)) > 1 else (names[0] if names else "")


def _entries(expression: str, catalog: Catalog) -> Iterable[License]:
    nobody = License(id=UNKNOWN, family="unknown", verdict="Nobody has read a licence: ask the authors.")
    return [catalog.license(part) or nobody for part in parts(expression)] or [nobody]
