"""Which concepts nano learns, and what a pixel of each label says about every one of them."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

UNKNOWN = 255
"""Neither positive (1) nor negative (0): the loss ignores it."""

CONCEPTS: tuple[str, ...] = (
    "building", "road", "tree", "grass", "shrubland", "bare soil", "sand", "farmland", "water", "sea", "river",
    "lake", "swimming pool", "tennis court", "ship", "dock", "airplane", "runway", "taxiway", "apron",
    "storage tank", "mobile home", "car", "parking lot", "pavement", "overpass", "baseball diamond", "golf green",
    "sand trap", "vegetation", "land", "forest", "bridge", "railway", "solar panel", "greenhouse",
    "wind turbine",
)  # fmt: skip

INDEX = {name: index for index, name in enumerate(CONCEPTS)}

_ALIASES = {
    "field": "farmland", "crop": "farmland", "crops": "farmland", "shrub": "shrubland", "pool": "swimming pool",
    "court": "tennis court", "tank": "storage tank", "bunker": "sand trap", "boat": "ship", "plane": "airplane",
    "aircraft": "airplane", "parking": "parking lot", "soil": "bare soil", "pond": "lake", "house": "building",
    "jetty": "dock", "pier": "dock", "green": "golf green", "trees": "tree", "solar panels": "solar panel",
    "vehicle": "car", "ocean": "sea", "rail": "railway", "tracks": "railway", "bare ground": "bare soil",
}  # fmt: skip

# label: (concepts it implies, concepts it leaves open); every other concept is absent
_RULES: dict[str, tuple[str, str]] = {
    "building": ("building", "mobile home, greenhouse, solar panel"),
    "road": ("road", "pavement, overpass, bridge, car"),
    "tree": ("tree, vegetation", "forest"),
    "forest": ("tree, vegetation, forest", ""),
    "grass": ("grass, vegetation", "baseball diamond, golf green, farmland"),
    "shrubland": ("shrubland, vegetation", ""),
    "bare soil": ("bare soil, land", "baseball diamond, farmland, sand"),
    "sand": ("sand, land", "sand trap, bare soil"),
    "farmland": ("farmland, vegetation", "grass, bare soil, land"),
    "water": ("water", "sea, river, lake"),
    "sea": ("sea, water", ""),
    "river": ("river, water", ""),
    "lake": ("lake, water", ""),
    "swimming pool": ("swimming pool, water", ""),
    "tennis court": ("tennis court", "pavement"),
    "ship": ("ship", ""),
    "dock": ("dock", "pavement"),
    "airplane": ("airplane", "apron, runway, taxiway, pavement"),
    "runway": ("runway", "pavement"),
    "taxiway": ("taxiway", "pavement, apron"),
    "apron": ("apron, pavement", "airplane, car, parking lot"),
    "storage tank": ("storage tank", "building"),
    "mobile home": ("mobile home, building", ""),
    "car": ("car", "road, parking lot, pavement, apron, overpass, bridge"),
    "parking lot": ("parking lot, pavement", "car, road"),
    "pavement": ("pavement", "parking lot, apron, taxiway, road, car"),
    "overpass": ("overpass, road", "pavement, bridge, car"),
    "bridge": ("bridge", "road, overpass, car, railway"),
    "railway": ("railway", "bare soil, land"),
    "baseball diamond": ("baseball diamond", "grass, bare soil, land, vegetation, sand"),
    "golf green": ("golf green, grass, vegetation", ""),
    "sand trap": ("sand trap, sand", "land, bare soil"),
    "solar panel": ("solar panel", "building"),
    "greenhouse": ("greenhouse", "building"),
    "wind turbine": ("wind turbine", ""),
    # coarse classes of land-cover maps: what lies inside them was not looked at
    "coarse building": ("building", "mobile home, greenhouse, storage tank, solar panel, swimming pool, tree"),
    "coarse land": (
        "land",
        (
            "bare soil, sand, pavement, parking lot, farmland, runway, taxiway, apron, baseball diamond, car, grass,"
            " tennis court, dock, sand trap, shrubland, railway"
        ),
    ),
    "coarse road": ("road", "pavement, parking lot, overpass, bridge, car, runway, taxiway, apron, railway"),
    "coarse vegetation": (
        "vegetation",
        "tree, grass, shrubland, farmland, forest, golf green, baseball diamond, tennis court",
    ),
    "coarse water": ("water", "sea, river, lake, swimming pool, ship, dock"),
}


def _indices(names: str) -> list[int]:
    return [INDEX[name.strip()] for name in names.split(",") if name.strip()]


def canonical(label: str) -> str:
    """Return the label's name in the rules: lower case, blanks for underscores, common other names replaced."""
    name = label.replace("_", " ").strip().lower()
    return _ALIASES.get(name, name)


def row(label: str) -> NDArray[np.uint8]:
    """Say what a pixel of ``label`` tells about every concept.

    Returns:
        uint8 (concepts,): 1 present, 0 absent, 255 not told. All 255 for a label without a rule.
    """
    name = canonical(label)
    if name not in _RULES:
        return unknown()
    implied, open_ = _RULES[name]
    result = np.zeros(len(CONCEPTS), np.uint8)
    result[_indices(open_)] = UNKNOWN
    result[_indices(implied)] = 1
    return result


def unknown() -> NDArray[np.uint8]:
    """Return a row that tells nothing: uint8 (concepts,), all 255."""
    return np.full(len(CONCEPTS), UNKNOWN, np.uint8)


def absent(names: Iterable[str]) -> NDArray[np.uint8]:
    """Return a row that only says that ``names`` are not there: uint8 (concepts,)."""
    result = unknown()
    for name in names:
        result[INDEX[name]] = 0
    return result
