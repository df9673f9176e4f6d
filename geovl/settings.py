"""Where geovl keeps things, read from the environment.

| variable | meaning | default |
| --- | --- | --- |
| ``GEOVL_STORE`` | folder of runs | ``.geovl`` in the working folder |
| ``GEOVL_CATALOG`` | folders of catalog records over those shipped with geovl, divided as in ``PATH`` | none |
| ``GEOVL_CACHE`` | folder of what can be made again | the user's cache folder |
| ``GEOVL_OFFLINE`` | any value but 0: a source that needs the network is an error | off |
| ``GEOVL_DEBUG`` | any value: show tracebacks | off |
"""

import os
from collections.abc import Iterable
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def store_dir() -> Path:
    """Return the folder that holds ``runs/``, which need not exist yet."""
    return Path(os.environ.get("GEOVL_STORE", ".geovl"))


def shipped_catalog() -> Path:
    """Return the folder of geovl's own catalog records.

    A wheel carries them in ``geovl/_catalog``; a checkout keeps them in ``catalog/`` beside the package.
    """
    shipped = _PACKAGE / "_catalog"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "catalog"


def catalog_dirs() -> tuple[Path, ...]:
    """Return the folders of catalog records, later ones over earlier ones."""
    own = os.environ.get("GEOVL_CATALOG", "").split(os.pathsep)
    return (shipped_catalog(), *(Path(folder) for folder in own if folder), *_OVERLAYS)


_OVERLAYS: list[Path] = []


def lay_over(folders: Iterable[Path]) -> None:
    """Use folders of catalog records over all others, in this process, in place of those given before."""
    _OVERLAYS[:] = folders


def cache_dir() -> Path:
    """Return the folder of what can be made again: vectors of prompts. It need not exist yet."""
    from platformdirs import user_cache_path  # noqa: PLC0415 - only models with a text tower need it

    folder = os.environ.get("GEOVL_CACHE")
    return Path(folder) if folder else user_cache_path("geovl", appauthor=False)


def debug() -> bool:
    """Return whether tracebacks were asked for."""
    return bool(os.environ.get("GEOVL_DEBUG"))
