"""What a licence expression comes to: its parts, their families, and a verdict in plain words."""

import re

from geovl.catalog.book import Catalog
from geovl.catalog.records import UNKNOWN, Dataset, Family, License, Model, Record

FAMILIES: tuple[Family, ...] = ("permissive", "copyleft", "custom", "non-commercial", "unknown")
"""From what asks least of a user to what asks most."""
COMMERCIAL = "commercial"
"""What people ask for: every part is permissive or copyleft."""


def parts(expression: str) -> list[str]:
    """Return the licences of an SPDX expression: ``A AND B`` gives both; of ``A WITH b`` A alone."""
    return [part for group in _groups(expression) for part in group]


def well_formed(expression: str) -> bool:
    """Whether an expression is licences with AND or OR between them."""
    words = re.sub(r"\s+WITH\s+", "+WITH+", expression.strip()).split()
    return len(words) % 2 == 1 and all((word in {"AND", "OR"}) == (at % 2 == 1) for at, word in enumerate(words))


def _groups(expression: str) -> list[list[str]]:
    """Return what one may choose from, ``A AND B OR C`` as [[A, B], [C]]: AND binds closer, as SPDX has it."""
    choices = re.split(r"\s+OR\s+", expression.strip())
    return [[part.split(" WITH ")[0].strip() for part in re.split(r"\s+AND\s+", choice)] for choice in choices]


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
    """Return the family of an expression: of what one may choose the mildest, of what holds together the strictest."""
    strictest = [
        max((_entry(part, catalog).family for part in group), key=FAMILIES.index) for group in _groups(expression)
    ]
    return min(strictest, key=FAMILIES.index)


def matches(record: Record, wanted: str, catalog: Catalog) -> bool:
    """Whether a record goes with a licence that somebody asks for.

    Args:
        record: Papers have no licence and never match.
        wanted: An identifier: one of the record's licences is that. ``permissive``: all of them are. ``commercial``:
            all of them allow it. Another family: one of them is.
        catalog: For families.
    """
    found = of(record)
    word = wanted.casefold()
    if word == COMMERCIAL:
        return bool(found) and families(record, catalog) <= {"permissive", "copyleft"}
    if word == "permissive":
        return bool(found) and families(record, catalog) == {"permissive"}
    if word in FAMILIES:
        return word in {family(expression, catalog) for _, expression in found}
    entry = catalog.license(wanted)
    name = (entry.id if entry else wanted).casefold()
    return any(name in (part.casefold() for part in parts(expression)) for _, expression in found)


def verdict(expression: str, catalog: Catalog) -> str:
    """Return what an expression lets people do, in plain words."""
    told = [" ".join(dict.fromkeys(_entry(part, catalog).verdict for part in group)) for group in _groups(expression)]
    return told[0] if len(told) == 1 else "Your choice. Either: " + " Or: ".join(told)


def short(record: Record) -> str:
    """Return the licences of a record for a table: one word where all are the same."""
    found = dict.fromkeys(expression for _, expression in of(record))
    names = [name.replace("LicenseRef-", "") for name in found]
    return " / ".join(names) if len(set(found)) > 1 else (names[0] if names else "")


def _entry(part: str, catalog: Catalog) -> License:
    nobody = License(id=UNKNOWN, family="unknown", verdict="Nobody has read a licence: ask the authors.")
    return catalog.license(part) or nobody
