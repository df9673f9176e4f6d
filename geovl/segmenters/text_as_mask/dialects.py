"""How a grid is spelled: the separators of each family of checkpoints, as data."""

from dataclasses import dataclass

from geovl.errors import UsageError

OPEN, CLOSE = "<seg>", "</seg>"
"""Tags around the payload of an answer: ordinary text, not added vocabulary."""
BACKGROUND = "others"
"""Label of what nobody asked for."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to spell a grid of labels."""

    name: str
    """As catalog records call it."""
    item: str
    """Between two runs of a row. Blanks count: with one *before* each label, a label is the same tokens everywhere."""
    row: str
    """Between two rows."""
    end: str
    """Behind the last row."""
    count: str
    """Between a label and how often it stands there."""
    background: str = BACKGROUND
    """What the background is called."""
    target: str | None = None
    """What the one thing asked for is called whatever its phrase; None: by the phrase."""


TEXT4SEG = Dialect("text4seg", "| ", "\n ", "\n", " *")
"""What every current Text4Seg checkpoint was trained on."""
LEGACY = Dialect("text4seg-legacy", ", ", "; ", "; ", " *")
"""Of one old street-scene script of Text4Seg."""
GEOGROUND = Dialect("geoground", ", ", ";", "", " *", background="0", target="1")
"""GeoGround's binary Text-Mask. How its released checkpoint writes runs is unverified: see its catalog record."""

DIALECTS = {dialect.name: dialect for dialect in (TEXT4SEG, LEGACY, GEOGROUND)}


def dialect_of(name: str) -> Dialect:
    """Return a dialect by its name.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in DIALECTS:
        msg = f"There is no dialect {name!r}; there are {', '.join(DIALECTS)}."
        raise UsageError(msg)
    return DIALECTS[name]
