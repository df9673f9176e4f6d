"""From a model's record to the files of its weights, checked by their hashes."""

from pathlib import Path

from geovl.errors import ModelError
from geovl.runs import sha256
from geovl.types import ModelRecord

_PACKAGE = Path(__file__).resolve().parent


def folder(record: ModelRecord) -> Path:
    """Return the folder of a bundled model's weights."""
    return _PACKAGE / "segmenters" / record.backend


def verify(record: ModelRecord, where: Path) -> None:
    """Check that every weights file is there and is the one that the record names.

    Raises:
        ModelError: A file is missing or differs.
    """
    for name, digest in record.weights.items():
        path = where / name
        if not path.is_file():
            msg = f"Model {record.id!r} lacks its file {name}."
            raise ModelError(msg, "Install geovl again: pip install --force-reinstall geovl")
        if sha256(path) != digest:
            msg = f"The file {name} of model {record.id!r} is not the one that its record names."
            raise ModelError(msg, "Install geovl again: pip install --force-reinstall geovl")
