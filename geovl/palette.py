"""One colour per class, the same in every output of a run."""

import colorsys
from collections.abc import Iterable, Mapping

_GOLDEN = 0.618_033_988_749_895
_FIRST = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#bfef45", "#9a6324", "#469990")


def class_colors(names: Iterable[str], own: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return ``#rrggbb`` for each class: its own, or by its place: ten chosen colours, then hues far apart.

    Args:
        names: Of the classes, in order.
        own: Name to colour, of those that have one of their own.
    """
    out = {}
    for index, name in enumerate(names):
        if own and name in own:
            out[name] = own[name]
        elif index < len(_FIRST):
            out[name] = _FIRST[index]
        else:
            rgb = colorsys.hsv_to_rgb(index * _GOLDEN % 1.0, 0.65, 0.9)
            out[name] = "#" + "".join(f"{round(part * 255):02x}" for part in rgb)
    return out


def rgba(color: str) -> tuple[int, int, int, int]:
    """Return ``#rrggbb`` as red, green, blue, alpha in 0..255, opaque."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16), 255
