"""Where geovl keeps things, read from the environment.

| variable | meaning | default |
| --- | --- | --- |
| ``GEOVL_STORE`` | folder of runs | ``.geovl`` in the working folder |
| ``GEOVL_CATALOG`` | folder of catalog records | the records shipped with geovl |
| ``GEOVL_OFFLINE`` | any value but 0: a source that needs the network is an error | off |
| ``GEOVL_DEBUG`` | any value: show tracebacks | off |
"""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def store_dir() -> Path:
    """Return the folder that holds ``runs/``, which need not exist yet."""
    return Path(os.environ.get("GEOVL_STORE", ".geovl"))


def catalog_dir() -> Path:
    """Return the folder of catalog records.

    A wheel carries the records in ``geovl/_catalog``; a checkout keeps them in
    ``catalog/`` beside the package.
    """
    if folder := os.environ.get("GEOVL_CATALOG"):
        return Path(folder)
    shipped = _PACKAGE / "_catalog"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "catalog"


def debug() -> bool:
    """Return whether tracebacks were asked for."""
    return bool(os.environ.get("GEOVL_DEBUG"))
