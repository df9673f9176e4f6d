"""Pictures in the terminal: each protocol is read back as a terminal would."""

import base64
import io
import re

import numpy as np
import pytest
from rasterio.io import MemoryFile

from geovl.cli import pictures
from geovl.runs import RunStore
from tests.view.conftest import run_of


class Terminal(io.StringIO):
    def isatty(self):
        return True


def gradient(height=50, width=70):
    rows, cols = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, cols * 255 // width, (rows + cols) % 256], -1).astype(np.uint8)


def read_png(data):
    with MemoryFile(data) as memory, memory.open() as dataset:
        return np.moveaxis(dataset.read(), 0, -1)


def read_sixels(text):
    """Decode what a sixel terminal would draw."""
    body = re.fullmatch(r'\x1bPq"1;1;(\d+);(\d+)(.*)\x1b\\', text, re.DOTALL)
    width, height, rest = int(body[1]), int(body[2]), body[3]
    out, colors, now, x, top = np.zeros((height, width, 3), np.uint8), {}, None, 0, 0
    for token in re.finditer(r"#(\d+)(?:;2;(\d+);(\d+);(\d+))?|!(\d+)([?-~])|([?-~])|(\$)|(-)", rest):
        if token[1]:
            now = int(token[1])
            if token[2]:
                colors[now] = [round(int(part) * 2.55) for part in token.groups()[1:4]]
        elif token[8]:
            x = 0
        elif token[9]:
            x, top = 0, top + 6
        else:
            count, bits = int(token[5] or 1), ord(token[6] or token[7]) - 63
            for row in range(6):
                if bits >> row & 1:
                    out[top + row, x : x + count] = colors[now]
            x += count
    return out


def test_kitty_gets_the_png_in_chunks():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (80, 90, 3), np.uint8)
    text = pictures.encoded(pixels, "kitty")
    chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert "".join(f"\x1b_G{head};{data}\x1b\\" for head, data in chunks) == text
    assert [head[-3:] for head, _ in chunks] == ["m=1"] * (len(chunks) - 1) + ["m=0"]
    assert len(chunks) > 2
    assert all(len(data) <= 4096 for _, data in chunks)
    assert (read_png(base64.b64decode("".join(data for _, data in chunks))) == pixels).all()


def test_iterm_gets_the_png_at_once():
    found = re.fullmatch(r"\x1b\]1337;File=inline=1;[^:]*:([^\a]*)\a", pictures.encoded(gradient(), "iterm"))
    assert (read_png(base64.b64decode(found[1])) == gradient()).all()


@pytest.mark.parametrize("shape", [(50, 70), (6, 6), (1, 1), (13, 200)])
def test_sixels_draw_the_picture_in_216_colours(shape):
    drawn = read_sixels(pictures.sixels(gradient(*shape)))
    assert drawn.shape == (*shape, 3)
    assert np.abs(drawn.astype(int) - gradient(*shape)).max() <= 26


@pytest.mark.parametrize(
    ("environ", "how"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"), ({"TERM_PROGRAM": "iTerm.app"}, "iterm"), ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-256color"}, None), ({"TERM": "xterm-kitty", "TMUX": "1"}, None),
        ({"TERM": "xterm-kitty", "CI": "true"}, None), ({"TERM": "xterm-kitty", "GEOVL_PICTURE": "off"}, None),
        ({"TERM": "dumb", "GEOVL_PICTURE": "sixel"}, "sixel"),
    ],
)  # fmt: skip
def test_the_terminal_is_told_by_its_environment(environ, how):
    assert pictures.protocol(environ, Terminal()) == how
    assert pictures.protocol(environ, io.StringIO()) is None


def test_the_picture_of_a_run_has_its_labels_over_it(tmp_path, monkeypatch):
    run = run_of(tmp_path, RunStore(tmp_path / "store"), ("a", "b"))
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("GEOVL_PICTURE", "iterm")
    out = Terminal()
    pictures.show(run, out)
    shown = read_png(base64.b64decode(out.getvalue().partition(":")[2].partition("\a")[0]))
    assert shown.shape == (240, 320, 3)
    assert (shown[run.labels() == 0] == 0).all()
    colour = int(run.manifest["classes"][0]["color"][3:5], 16)
    assert np.abs(shown[run.labels() == 1][:, 1].astype(int) - colour // 2).max() <= 1
    silent = io.StringIO()
    pictures.show(run, silent)
    assert silent.getvalue() == ""
    (tmp_path / "scene.tif").unlink()
    out = Terminal()
    pictures.show(run, out)
    assert out.getvalue() == ""
