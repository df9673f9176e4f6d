"""A small picture of a run in terminals that can show one: by kitty's protocol, iTerm2's, or as sixels.

Kitty: https://sw.kovidgoyal.net/kitty/graphics-protocol/ (PNG, transmitted and shown, in chunks of 4096 letters).
iTerm2: https://iterm2.com/documentation-images.html (OSC 1337). Sixels: DEC STD 070, six rows a line, run-length coded.
"""

import base64
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TextIO

from geovl.errors import GeovlError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from geovl.runs import Run

Protocol = Literal["kitty", "iterm", "sixel"]
_SIDE = 480  # pixels
_COLUMNS = 48  # of the terminal
_CHUNK = 4096
_LEVELS = 6  # of red, green and blue in sixels


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
    if asked or "TMUX" in environ or "STY" in environ:  # which pass none on
        return None
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    known: tuple[tuple[Protocol, bool], ...] = (
        ("kitty", term in {"xterm-kitty", "xterm-ghostty"} or program == "ghostty"),
        ("iterm", program in {"iTerm.app", "WezTerm"} or environ.get("LC_TERMINAL") == "iTerm2"),
        ("sixel", term.startswith(("foot", "mlterm", "contour")) or "sixel" in term),
    )
    return next((how for how, shown in known if shown), None)


def show(run: "Run", stream: TextIO | None = None) -> None:
    """Write a small picture of a run, where the terminal shows pictures and the picture can be had."""
    out = stream or sys.stdout
    how = protocol(os.environ, out)
    if how is None:
        return
    try:
        pixels = thumbnail(run)
    except GeovlError:
        return  # a source that went is no fault here
    out.write(encoded(pixels, how) + "\n")
    out.flush()


def thumbnail(run: "Run") -> "NDArray[np.uint8]":
    """Return a run's picture with its labels over it, uint8 (h, w, 3).

    Raises:
        GeovlError: The source is gone, or the run is damaged.
    """
    import numpy as np

    from geovl.palette import rgba
    from geovl.views.backdrop import backdrop, labels_on

    under = backdrop(run, _SIDE)
    labels = labels_on(run, under.box)
    table = np.array([(0, 0, 0), *(rgba(entry["color"])[:3] for entry in run.manifest["classes"])], np.float32)
    base = under.pixels[..., :3].astype(np.float32) * (under.pixels[..., 3:] / 255)
    found = (labels > 0)[..., None]
    return np.where(found, 0.5 * base + 0.5 * table[labels], base).astype(np.uint8)


def encoded(pixels: "NDArray[np.uint8]", how: Protocol) -> str:
    """Return what shows pixels (h, w, 3) in a terminal."""
    if how == "sixel":
        return sixels(pixels)
    text = base64.b64encode(png(pixels)).decode("ascii")
    if how == "iterm":
        return f"\x1b]1337;File=inline=1;width={_COLUMNS};preserveAspectRatio=1:{text}\a"
    return "".join(_kitty(text))


def _kitty(text: str) -> Iterator[str]:
    for start in range(0, len(text), _CHUNK):
        head = f"a=T,f=100,c={_COLUMNS}," if start == 0 else ""
        yield f"\x1b_G{head}m={int(start + _CHUNK < len(text))};{text[start : start + _CHUNK]}\x1b\\"


def png(pixels: "NDArray[np.uint8]") -> bytes:
    """Return pixels (h, w, 3) as PNG."""
    import warnings

    import numpy as np
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import MemoryFile

    height, width, _ = pixels.shape
    profile: dict[str, Any] = {"driver": "PNG", "count": 3, "height": height, "width": width, "dtype": "uint8"}
    with MemoryFile() as memory:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with memory.open(**profile) as file:
                file.write(np.moveaxis(pixels, -1, 0))
        return bytes(memory.read())


def sixels(pixels: "NDArray[np.uint8]") -> str:
    """Return pixels (h, w, 3) as sixels in 216 colours."""
    import numpy as np

    height, width, _ = pixels.shape
    steps = np.rint(pixels.astype(np.float32) * ((_LEVELS - 1) / 255)).astype(np.int64)
    color = (steps[..., 0] * _LEVELS + steps[..., 1]) * _LEVELS + steps[..., 2]
    part = 100 // (_LEVELS - 1)  # percent of a step
    parts = [f'\x1bPq"1;1;{width};{height}']
    for index in np.unique(color):
        red, rest = divmod(int(index), _LEVELS * _LEVELS)
        parts.append(f"#{index};2;{red * part};{rest // _LEVELS * part};{rest % _LEVELS * part}")
    for top in range(0, height, 6):
        band = color[top : top + 6]
        weights = (1 << np.arange(len(band)))[:, None]
        lines = [f"#{index}" + _runs(((band == index) * weights).sum(0)) for index in np.unique(band)]
        parts.append("$".join(lines) + "-")
    return "".join(parts) + "\x1b\\"


def _runs(bits: "NDArray[np.int64]") -> str:
    """Return a line of sixels, runs of four and more shortened."""
    import numpy as np

    starts = np.flatnonzero(np.concatenate([[True], bits[1:] != bits[:-1]]))
    lengths = np.diff(np.concatenate([starts, [len(bits)]]))
    return "".join(
        f"!{length}{chr(63 + bit)}" if length > 3 else chr(63 + bit) * length
        for bit, length in zip(bits[starts].tolist(), lengths.tolist(), strict=True)
    )
