"""Writes what was drawn: whole or not at all."""

import secrets
from pathlib import Path

from geovl.errors import ExportError


def save(path: Path, data: bytes) -> None:
    """Put a file in its place in one step.

    Raises:
        ExportError: It cannot be written.
    """
    part = path.with_name(f".{secrets.token_hex(8)}.partial")  # of its own: a name may be as long as names can be
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        msg = f"{path} cannot be written: {error.strerror}."
        raise ExportError(msg, "Nothing was kept of it; the run is untouched.") from error
