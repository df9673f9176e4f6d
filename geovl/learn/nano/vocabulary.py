"""The phrases that stand for each trained concept, for training and for the exported model."""

import json
from pathlib import Path

from geovl.learn.nano.concepts import CONCEPTS

# said of land-cover classes, or other names for a concept that the lexicon keeps apart
_MORE = {
    "road": ("freeway", "highway", "motorway", "street", "roads"),
    "water": ("water body", "surface water", "body of water", "open water"),
    "vegetation": ("greenery", "plants", "green vegetation", "vegetated area", "plant cover"),
    "land": ("bare land", "open land", "unpaved land", "bare ground and sand"),
    "taxiway": ("taxiways", "airport taxiway"),
    "apron": ("airport apron", "aircraft parking", "tarmac apron"),
    "pavement": ("paved surface", "paved area", "concrete pavement"),
    "golf green": ("putting green",),
    "sand trap": ("golf bunker", "bunker on a golf course"),
    "grass": ("lawn", "mowed grass"),
    "building": ("buildings", "house", "building rooftops"),
    "car": ("cars", "vehicle"),
}
DISTRACTORS = (
    "snow", "glacier", "cloud", "iceberg", "volcano", "lava", "coral reef", "galaxy", "dog", "cat", "elephant", "pizza",
    "guitar", "music", "happiness", "economy", "shirt", "coffee cup", "book", "television", "face", "wedding", "cheese",
    "statue", "painting", "kitchen", "furniture", "handwriting", "x-ray", "microscope",
)  # fmt: skip
"""What none of the training pictures shows."""
# the lexicon files these under another concept than the labels do
_APART = {"runway": {"taxiway"}, "golf course": {"putting green"}}


def phrases(lexicon: Path) -> dict[str, tuple[str, ...]]:
    """Return the phrases of every concept, its own name first.

    Args:
        lexicon: JSON object of concept to list of synonyms.
    """
    known: dict[str, list[str]] = json.loads(lexicon.read_text("utf-8"))
    out = {}
    for concept in CONCEPTS:
        mine = [p for p in known.get(concept, []) if p not in _APART.get(concept, set())]
        out[concept] = tuple(dict.fromkeys([concept, *mine, *_MORE.get(concept, ())]))
    return out
