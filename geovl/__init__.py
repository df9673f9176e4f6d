"""geovl: ask a GeoTIFF in words, get georeferenced vectors.

>>> import geovl
>>> run = geovl.segment("tile.tif", ["building"])
>>> run.to_geodataframe()
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.5.0"

if TYPE_CHECKING:
    from geovl.api import Run, open_run, segment, segment_all, view

__all__ = ["Run", "__version__", "open_run", "segment", "segment_all", "view"]


def __getattr__(name: str) -> Any:
    """Load the Python interface on first use, so that importing a part stays light."""
    if name in {"Run", "open_run", "segment", "segment_all", "view"}:
        import geovl.api  # noqa: PLC0415 - see above

        return getattr(geovl.api, name)
    msg = f"module 'geovl' has no attribute {name!r}"
    raise AttributeError(msg)
