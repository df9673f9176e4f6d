"""A small picture of a run in terminals that can show one: by kitty's protocol, iTerm2's, or as sixels.

Kitty: https://sw.kovidgoyal.net/kitty/graphics-protocol/ (PNG, transmitted and shown, in chunks of 4096 letters).
iTerm2: https://iterm2.com/documentation-images.html (OSC 1337). Sixels: DEC STD 070, six rows a line, run-length coded.

Which of them a terminal shows is told by variables that it sets; else it is asked for its attributes, where an answer
can be waited for.
"""

import base64
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TextIO

from geovl.errors import GeovlError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from geovl.runs import Run
    from geovl.types import Window

Protocol = Literal["kitty", "iterm", "sixel"]
_SIDE = 480  # pixels
_COLUMNS, _ROWS = 60, 20  # of the terminal, at most
_CELL = (10, 20)  # pixels of a character, width and height, where the terminal does not tell
_CHUNK = 4096
_COLORS = 255  # of sixels: all terminals have as many
_SAMPLE = 20_000  # pixels that their colours are chosen by
_QUICK = 10_000_000  # pixels that are read and made small in 0.3 s; of more, the middle is shown
_MIDDLE = 1200  # pixels
_PATIENCE = 0.15  # seconds for the answer of a terminal on this computer


def protocol(environ: Mapping[str, str], stream: TextIO) -> Protocol | None:
    """Return how the terminal behind a stream shows pictures; None where it does not, or nobody looks.

    Args:
        environ: Of the process. ``GEOVL_PICTURE`` is ``kitty``, ``iterm``, ``sixel`` or ``off``, where it is set.
        stream: Where the picture would go.
    """
    if not stream.isatty() or "CI" in environ:
        return None
    asked = environ.get("GEOVL_PICTURE", "")
    if asked in {"kitty", "iterm", "sixel"}:
        return asked  # type: ignore[return-value]
    if asked not in {"", "auto"}:
        return None
    inside = "TMUX" in environ or "STY" in environ  # pass on no pictures but their own, and say so when asked
    told = None if inside else _told(environ)
    return told or _answered(environ, stream)


def _told(environ: Mapping[str, str]) -> Protocol | None:
    """Return what the variables that a terminal sets say."""
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    konsole = environ.get("KONSOLE_VERSION", "")
    known: tuple[tuple[Protocol, bool], ...] = (
        ("kitty", term in {"xterm-kitty", "xterm-ghostty"} or program == "ghostty" or "KITTY_WINDOW_ID" in environ),
        ("iterm", program in {"iTerm.app", "WezTerm", "mintty"} or environ.get("LC_TERMINAL") == "iTerm2"),
        ("sixel", term.startswith(("foot", "mlterm", "contour")) or "sixel" in term),
        ("sixel", konsole.isdecimal() and int(konsole) >= 220400),
    )
    return next((how for how, shown in known if shown), None)


def _answered(environ: Mapping[str, str], stream: TextIO) -> Protocol | None:
    """Return what the terminal answers to the question for its attributes (DA1): 4 stands for sixels.

    It is not asked over a network, where an answer may come so late that the shell takes it for typing, nor where
    something was typed already, which would be lost.
    """
    dull = environ.get("TERM", "dumb") in {"dumb", "linux", ""}
    if dull or sys.platform == "win32" or {"SSH_CONNECTION", "SSH_TTY"} & environ.keys():
        return None
    try:
        stream.fileno()
        place = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:  # io.UnsupportedOperation is one
        return None
    try:
        answer = _ask(place, b"\x1b[c")
    finally:
        os.close(place)
    return "sixel" if answer.startswith(b"\x1b[?") and b"4" in answer[3:-1].split(b";")[1:] else None


def _ask(place: int, question: bytes) -> bytes:
    """Return what a terminal answers, to the letter c; empty where it does not."""
    import select
    import termios
    import time
    import tty

    try:
        before = termios.tcgetattr(place)
        if os.tcgetpgrp(place) != os.getpgrp() or select.select([place], [], [], 0)[0]:
            return b""
    except (OSError, termios.error):
        return b""
    answer, late = b"", time.monotonic() + _PATIENCE
    try:
        tty.setcbreak(place, termios.TCSADRAIN)
        os.write(place, question)
        while not answer.endswith(b"c") and select.select([place], [], [], max(0, late - time.monotonic()))[0]:
            answer += os.read(place, 1)
    finally:
        termios.tcsetattr(place, termios.TCSADRAIN, before)
    return answer if answer.endswith(b"c") else b""


class Frame(NamedTuple):
    """Where a picture goes in a terminal."""

    columns: int
    rows: int
    cell: tuple[int, int]
    """Pixels of a character, width and height."""

    def pixels(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return height and width in pixels of the largest picture of a shape that fits."""
        height, width = shape[:2]
        scale = min(self.columns * self.cell[0] / width, self.rows * self.cell[1] / height)
        return max(1, int(height * scale)), max(1, int(width * scale))


def frame(stream: TextIO) -> Frame:
    """Return the room for a picture in the terminal behind a stream, by what it tells of its size."""
    rows = cols = width = height = 0
    try:
        import fcntl
        import struct
        import termios

        told = fcntl.ioctl(stream.fileno(), termios.TIOCGWINSZ, b"\0" * 8)
        rows, cols, width, height = struct.unpack("HHHH", told)
    except (ImportError, OSError):  # Windows; no terminal
        pass
    cell = (width // cols, height // rows) if rows and cols else (0, 0)
    # a third of the lines stays for the table and the prompt
    return Frame(min(_COLUMNS, cols or 80), max(1, min(_ROWS, (rows or 30) * 2 // 3)), cell if all(cell) else _CELL)


def show(run: "Run", stream: TextIO | None = None) -> None:
    """Write a small picture of a run, where the terminal shows pictures and the picture can be had."""
    out = stream or sys.stdout
    how = protocol(os.environ, out)
    if how is None:
        return
    room = frame(out)
    try:
        pixels, told = _pictured(run)
        text = encoded(pixels, how, room)
    except (GeovlError, ImportError, OSError, ValueError):
        return  # a source that went is no fault here, and no picture is worth an error
    out.write(text + "\n" + (f"{told}\n" if told else ""))
    out.flush()


def thumbnail(run: "Run") -> "NDArray[np.uint8]":
    """Return a run's picture with its labels over it, of the middle where the whole would take long to read.

    Returns:
        uint8 (h, w, 3), or (h, w, 4) with alpha where there are pixels without data.

    Raises:
        GeovlError: The source is gone, or the run is damaged.
    """
    return _pictured(run)[0]


def _pictured(run: "Run") -> "tuple[NDArray[np.uint8], str]":
    """Return the pixels of :func:`thumbnail`, and what is to be said of them."""
    from geovl.views.backdrop import backdrop

    _refuse_network(run.manifest["source"]["path"])
    height, width = run.manifest["source"]["shape"]
    if _cost(run) > _QUICK:
        rows, cols = min(height, _MIDDLE), min(width, _MIDDLE)
        told = f"The middle {cols} x {rows} of {width} x {height} pixels; all of it: geovl view --open"
        return _laid(run, *_middle(run, rows, cols)), told
    under = backdrop(run, _SIDE)  # on the grid of the labels, but smaller
    return _laid(run, under.pixels, _labels(run, under.box.shape)), ""


def _refuse_network(path: str) -> None:
    """Refuse a source that must be fetched: nobody asked for that, and it may take long.

    Raises:
        SourceError: It must.
    """
    from pathlib import Path

    from geovl.errors import SourceError
    from geovl.sources.source import from_file, from_gdal_path

    file = Path(path)
    if (from_file(file) if file.is_file() else from_gdal_path(path)).remote:
        msg = f"The source {path} is not on this computer: the picture cannot be shown."
        raise SourceError(msg, "Download it, and segment the file.")


def _cost(run: "Run") -> float:
    """Return how many pixels must be read for a picture of all: overviews of the source make it less."""
    import rasterio

    manifest = run.manifest
    height, width = manifest["source"]["shape"]
    shrink = max(1.0, max(height, width) / _SIDE)
    try:
        with rasterio.open(manifest["source"]["path"]) as dataset:
            factors = [1, *(factor for factor in dataset.overviews(1) if factor <= shrink)]
    except OSError:
        factors = [1]  # told by what reads it
    labels = 0.06  # as long to read as so many of the source's
    return float(height * width * (1 / max(factors) ** 2 + labels) / (1 + labels))


def _middle(run: "Run", rows: int, cols: int) -> "tuple[NDArray[np.uint8], NDArray[np.unsignedinteger]]":
    """Return pixels (h, w, 4) and labels (h, w) of the middle of a run, by taking some of its rows and columns."""
    import numpy as np

    from geovl.errors import SourceError
    from geovl.raster import Raster, Stretch
    from geovl.types import Window

    source = run.manifest["source"]
    height, width = source["shape"]
    window = Window((height - rows) // 2, (width - cols) // 2, rows, cols)
    stretch = source.get("stretch")
    given = None if stretch is None else Stretch(tuple(stretch["low"]), tuple(stretch["high"]))
    with Raster(source["path"], tuple(source["bands"]), given) as raster:
        if list(raster.info.geobox.shape) != source["shape"]:
            msg = f"The source {source['path']} was changed."
            raise SourceError(msg, "Segment it again.")
        chip = raster.read(window)
    labels = _labels(run, (rows, cols), window)
    step = -(-max(rows, cols) // _SIDE)
    alpha = np.where(chip.valid, 255, 0).astype(np.uint8)
    return np.dstack([*chip.pixels, alpha])[::step, ::step], labels[::step, ::step]


def _labels(run: "Run", shape: tuple[int, int], window: "Window | None" = None) -> "NDArray[np.unsignedinteger]":
    """Return labels (h, w) of a run or a window of it, by nearest neighbour; 0 where there are no data.

    Raises:
        RunError: The run is damaged.
    """
    import numpy as np
    import rasterio
    from rasterio.windows import Window as Area

    from geovl.errors import RunError
    from geovl.runs import LABELS

    area = None if window is None else Area(window.col, window.row, window.width, window.height)
    try:
        with rasterio.open(run.path / LABELS) as dataset:
            found = dataset.read(1, window=area, out_shape=shape)
            return np.where(found == dataset.nodata, 0, found)
    except rasterio.errors.RasterioError as error:
        msg = f"Run {run.id!r} has no readable {LABELS}: {error}"
        raise RunError(msg, f"See what is wrong with: geovl runs verify {run.id}") from error


def _laid(run: "Run", pixels: "NDArray[np.uint8]", labels: "NDArray[np.unsignedinteger]") -> "NDArray[np.uint8]":
    """Lay labels (h, w) half over pixels (h, w, 4); the alpha goes where it says nothing."""
    import numpy as np

    from geovl.palette import rgba

    table = np.array([(0, 0, 0), *(rgba(entry["color"])[:3] for entry in run.manifest["classes"])], np.float32)
    base, alpha = pixels[..., :3].astype(np.float32), pixels[..., 3:]
    mixed = np.where((labels > 0)[..., None], 0.5 * base + 0.5 * table[labels], base).astype(np.uint8)
    return mixed if (alpha == 255).all() else np.concatenate([mixed, alpha], -1)


def encoded(pixels: "NDArray[np.uint8]", how: Protocol, room: Frame | None = None) -> str:
    """Return what shows pixels (h, w, 3 or 4) in a terminal, as large as there is room."""
    room = room or Frame(_COLUMNS, _ROWS, _CELL)
    if how == "sixel":
        return sixels(_resized(pixels, room.pixels(pixels.shape)))
    height, width = room.pixels(pixels.shape)
    cols, rows = -(-width // room.cell[0]), -(-height // room.cell[1])
    text = base64.b64encode(png(pixels)).decode("ascii")
    if how == "iterm":
        return f"\x1b]1337;File=inline=1;width={cols};height={rows};preserveAspectRatio=1:{text}\a"
    # one side only: the other follows from the picture's shape
    wide = width * room.rows * room.cell[1] >= height * room.columns * room.cell[0]
    return "".join(_kitty(text, f"c={cols}" if wide else f"r={rows}"))


def _resized(pixels: "NDArray[np.uint8]", shape: tuple[int, int]) -> "NDArray[np.uint8]":
    """Return pixels (h, w, n) on as many rows and columns as a shape says, by nearest neighbour."""
    import numpy as np

    rows, cols = (np.arange(new) * old // new for new, old in zip(shape, pixels.shape[:2], strict=True))
    out: NDArray[np.uint8] = pixels[rows[:, None], cols]
    return out


def _kitty(text: str, size: str) -> Iterator[str]:
    for start in range(0, len(text), _CHUNK):
        # q=2: the terminal answers nothing, which would be taken for typing
        head = f"a=T,f=100,q=2,{size}," if start == 0 else ""
        yield f"\x1b_G{head}m={int(start + _CHUNK < len(text))};{text[start : start + _CHUNK]}\x1b\\"


def png(pixels: "NDArray[np.uint8]") -> bytes:
    """Return pixels (h, w, 3 or 4) as PNG."""
    import warnings

    import numpy as np
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import MemoryFile

    height, width, count = pixels.shape
    profile: dict[str, Any] = {"driver": "PNG", "count": count, "height": height, "width": width, "dtype": "uint8"}
    with MemoryFile() as memory:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with memory.open(**profile) as file:
                file.write(np.moveaxis(pixels, -1, 0))
        return bytes(memory.read())


def sixels(pixels: "NDArray[np.uint8]") -> str:
    """Return pixels (h, w, 3 or 4) as sixels in 255 colours; what has no alpha is left as the terminal has it."""
    import numpy as np

    height, width, count = pixels.shape
    color, palette = _indexed(pixels[..., :3])
    if count == 4:
        color[pixels[..., 3] < 128] = -1
    start = "\x1bP0;1q" if count == 4 else "\x1bPq"
    parts = [f'{start}"1;1;{width};{height}']
    for index in np.unique(color[color >= 0]).tolist():
        red, green, blue = np.rint(palette[index] / 2.55).astype(int).tolist()  # percent
        parts.append(f"#{index};2;{red};{green};{blue}")
    parts.append("-".join("$".join(_band(color[top : top + 6])) for top in range(0, height, 6)))
    return "".join(parts) + "\x1b\\"


def _indexed(pixels: "NDArray[np.uint8]") -> "tuple[NDArray[np.int64], NDArray[np.uint8]]":
    """Return the place of each pixel's colour in a palette, and the palette (n, 3): chosen by some of the pixels."""
    import numpy as np
    from PIL import Image

    step = max(1, round((pixels.shape[0] * pixels.shape[1] / _SAMPLE) ** 0.5))
    sample = Image.fromarray(np.ascontiguousarray(pixels[::step, ::step]))
    chosen = sample.quantize(_COLORS, method=Image.Quantize.MEDIANCUT)
    whole = Image.fromarray(np.ascontiguousarray(pixels)).quantize(palette=chosen, dither=Image.Dither.NONE)
    palette = np.array(whole.getpalette("RGB"), np.uint8).reshape(-1, 3)
    return np.array(whole).astype(np.int64), palette


def _band(color: "NDArray[np.int64]") -> Iterator[str]:
    """Yield six rows (6, w) of colours as sixels, a line for each colour but -1; runs over three are shortened."""
    import numpy as np

    width = color.shape[1]
    row, col = np.nonzero(color >= 0)
    names, line = np.unique(color[row, col], return_inverse=True)
    bits = np.bincount(line * width + col, 1 << row, len(names) * width).astype(np.int64)  # (lines x w)
    new = np.ones(len(bits), np.bool_)
    new[1:] = bits[1:] != bits[:-1]
    new[::width] = True  # no run goes on in the next line
    starts = np.flatnonzero(new)
    lengths = np.diff(starts, append=len(bits))
    lengths[(bits[starts] == 0) & ((starts + lengths) % width == 0)] = 0  # nothing follows it
    texts = [
        f"!{length}{chr(63 + bit)}" if length > 3 else chr(63 + bit) * length
        for bit, length in zip(bits[starts].tolist(), lengths.tolist(), strict=True)
    ]
    ends = np.searchsorted(starts, np.arange(len(names) + 1) * width).tolist()
    for name, first, last in zip(names.tolist(), ends[:-1], ends[1:], strict=True):
        yield f"#{name}" + "".join(texts[first:last])
