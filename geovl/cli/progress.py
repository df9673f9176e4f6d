"""Progress bars, for commands that take longer than two seconds."""

from types import TracebackType
from typing import Any, Self

from geovl.cli import output


class Progress:
    """Progress bars on stderr, one a stage: steps, megapixels per second, time left."""

    def __init__(self, source: str, *, quiet: bool) -> None:
        self._source = source.rpartition("/")[2]
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._per_step = 0.0

    def __enter__(self) -> Self:
        console = output.stderr()
        if not self._quiet and console.is_terminal:
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            columns = (
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[speed]}"), TimeRemainingColumn(),
            )  # fmt: skip
            self._bar = Bars(*columns, console=console, transient=True)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def stage(self, name: str, total: int, pixels: int) -> None:
        """Begin a bar of ``total`` steps over ``pixels`` pixels."""
        if self._bar is None:
            return
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._per_step = pixels / max(total, 1) / 1e6
        unit = "windows" if name == "segment" else "rows"
        self._task = self._bar.add_task(f"{name} {self._source} ({unit})", total=total, speed="")

    def advance(self, steps: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.advance(self._task, steps)
            rate = self._bar.tasks[0].speed
            if rate:
                self._bar.update(self._task, speed=f"{rate * self._per_step:.1f} MP/s")

    def warn(self, message: str) -> None:
        """Print a warning above the bar."""
        if not self._quiet:
            output.warn(message)
