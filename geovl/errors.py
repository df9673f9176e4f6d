"""The errors that geovl raises on purpose.

Every fault a user can cause ends in one of these. ``message`` says what was given and
what was expected; ``hint`` is the next thing to do, often a command. The command line
catches :class:`GeovlError` once, prints both and exits with ``exit_code``.
"""


class GeovlError(Exception):
    """Base of every expected failure.

    Args:
        message: What was given and what was expected, one sentence.
        hint: What to do next, often a command to type.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(GeovlError):
    """An argument or option that cannot mean anything, whatever the data."""

    exit_code = 2


class SourceError(GeovlError):
    """A source that is missing, unreadable or not a raster."""


class RasterError(GeovlError):
    """A raster that opens but cannot be used: no bands, no valid pixel, complex data."""


class PromptError(GeovlError):
    """A prompt that is empty, repeated, or means nothing to the model."""


class ModelError(GeovlError):
    """A model that is unknown, lacks an extra, or whose weights are missing or damaged."""


class OutOfMemoryError(ModelError):
    """A batch that does not fit into the memory of the device; a smaller one may."""


class CatalogError(GeovlError):
    """A catalog record that does not follow the schema."""


class RunError(GeovlError):
    """A run that is unknown, unfinished or damaged."""


class ExportError(GeovlError):
    """A file that cannot be written in the format that was asked for."""
