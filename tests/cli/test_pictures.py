"""Pictures in the terminal fit into it, leave out what is no data, come quickly, and only where they are wanted."""

import base64
import io
import json
import os
import re
import select
import socket
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile
from typer.testing import CliRunner

from geovl.cli import pictures
from geovl.cli.app import app
from geovl.errors import GeovlError
from geovl.runs import RunStore
from tests.test_pictures import Terminal, gradient, read_png, read_sixels
from tests.view.conftest import run_of

ROOM = pictures.Frame(60, 20, (10, 20))


def holed(height=50, width=70):
    """A gradient with a hole."""
    alpha = np.full((height, width, 1), 255, np.uint8)
    alpha[height // 4 : height // 2, width // 4 : width // 2] = 0
    return np.concatenate([gradient(height, width), alpha], -1)


def read_rgba(data):
    with MemoryFile(data) as memory, memory.open() as dataset:
        assert dataset.count == 4
        return np.moveaxis(dataset.read(), 0, -1)


@pytest.mark.parametrize("shape", [(50, 70), (1, 1), (7, 400), (400, 7), (13, 12)])
def test_sixels_leave_holes_as_the_terminal_has_them(shape):
    pixels = holed(*shape)
    text = pictures.sixels(pixels)
    assert text.startswith("\x1bP0;1q")
    drawn = read_sixels(text.replace("\x1bP0;1q", "\x1bPq", 1))
    there = pixels[..., 3] == 255
    assert (drawn[~there] == 0).all()
    assert np.abs(drawn[there].astype(int) - pixels[there][:, :3]).max() <= 26


def test_sixels_of_nothing_draw_nothing():
    text = pictures.sixels(np.zeros((13, 9, 4), np.uint8))
    assert text == '\x1bP0;1q"1;1;9;13--\x1b\\'


@pytest.mark.parametrize("seed", range(5))
def test_sixels_of_few_colours_are_exact(seed):
    rng = np.random.default_rng(seed)
    palette = np.rint(rng.integers(0, 101, (int(rng.integers(2, 200)), 3)) * 2.55).astype(np.uint8)  # whole percents
    pixels = palette[rng.integers(0, len(palette), tuple(rng.integers(1, 90, 2)))]
    assert np.abs(read_sixels(pictures.sixels(pixels)).astype(int) - pixels).max() <= 1


def test_sixels_name_256_colours_at_most_and_end_without_a_new_line():
    rng = np.random.default_rng(0)
    text = pictures.sixels(rng.integers(0, 256, (60, 60, 3), np.uint8))
    assert 200 < len(set(re.findall(r"#(\d+);2;", text))) <= 256
    assert text[-3] != "-"
    assert set(text[1:-2]) <= set(map(chr, range(0x20, 0x7F)))


@pytest.mark.parametrize("how", ["kitty", "iterm"])
def test_png_keeps_alpha(how):
    text = pictures.encoded(holed(), how)
    parts = re.findall(r"\x1b_G[^;]*;([^\x1b]*)\x1b\\", text) if how == "kitty" else [text.partition(":")[2][:-1]]
    assert (read_rgba(base64.b64decode("".join(parts))) == holed()).all()


def test_kitty_answers_nothing():
    heads = re.findall(r"\x1b_G([^;]*);", pictures.encoded(gradient(300, 300), "kitty"))
    assert "q=2" in heads[0].split(",")
    assert all(re.fullmatch("m=[01]", head) for head in heads[1:])


SHAPES = [(50, 70), (1, 1), (480, 20), (20, 480), (480, 480), (300, 7), (333, 480)]


@pytest.mark.parametrize("cell", [(10, 20), (7, 15), (16, 16)])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_picture_fits_and_fills_one_side(shape, cell):
    room = pictures.Frame(60, 20, cell)
    height, width = room.pixels(shape)
    cols, rows = width / cell[0], height / cell[1]
    assert cols <= 60
    assert rows <= 20
    assert cols > 59 or rows > 19
    drawn = read_sixels(pictures.encoded(gradient(*shape), "sixel", room))
    assert drawn.shape == (height, width, 3)
    (c, r) = map(
        int, re.search(r"width=(\d+);height=(\d+)", pictures.encoded(gradient(*shape), "iterm", room)).groups()
    )
    assert c <= 60
    assert r <= 20
    side, count = re.search(r"([cr])=(\d+),", pictures.encoded(gradient(*shape), "kitty", room)).groups()
    other = shape[0] / shape[1] * int(count) * cell[0] / cell[1] if side == "c" else 0
    other = other or shape[1] / shape[0] * int(count) * cell[1] / cell[0]
    assert int(count) <= (60 if side == "c" else 20)
    assert other <= (20 if side == "c" else 60) + 1


def test_without_a_terminal_a_frame_is_as_usual():
    assert pictures.frame(io.StringIO()) == (60, 20, (10, 20))


@pytest.mark.parametrize(
    ("environ", "how"),
    [
        ({"TERM_PROGRAM": "WezTerm"}, "iterm"), ({"TERM_PROGRAM": "mintty"}, "iterm"), ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"), ({"LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"KONSOLE_VERSION": "220401"}, "sixel"), ({"KONSOLE_VERSION": "210400"}, None), ({"KONSOLE_VERSION": "x"}, None),
        ({"TERM": "xterm-kitty", "STY": "1"}, None), ({"TERM": "xterm-kitty", "GEOVL_PICTURE": "auto"}, "kitty"),
        ({"TERM": "xterm-kitty", "GEOVL_PICTURE": "none"}, None), ({}, None),
    ],
)  # fmt: skip
def test_terminals_are_known_by_what_they_set(environ, how):
    assert pictures.protocol(environ, Terminal()) == how


CHILD = (
    "import fcntl, sys, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "from geovl.cli import pictures\n"
    "environ = {'TERM': 'xterm-256color'} | dict(part.split('=') for part in sys.argv[1:])\n"
    "told = 'found', pictures.protocol(environ, sys.stdout), *pictures.frame(sys.stdout)\n"
    "print(' '.join(map(str, told)), flush=True)\n"
    "print('typed', sys.stdin.readline().strip(), flush=True)\n"
)


def in_a_terminal(answer, *environ, size=(40, 100, 800, 640), typed=b""):
    """Run a child in a terminal that answers a question in a way; return all that the terminal was sent."""
    pty, fcntl, termios = map(pytest.importorskip, ("pty", "fcntl", "termios"))
    place, inner = pty.openpty()
    fcntl.ioctl(place, termios.TIOCSWINSZ, struct.pack("HHHH", *size))
    os.write(place, typed)
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, *environ], stdin=inner, stdout=inner, start_new_session=True
    ) as child:
        os.close(inner)
        told, answered, late = b"", False, time.monotonic() + 20
        while not re.search(rb"typed .*\n", told) and time.monotonic() < late:
            if not select.select([place], [], [], 0.05)[0]:
                continue
            told += os.read(place, 4096)
            if not answered and b"\x1b[c" in told:
                os.write(place, answer)
                answered = True
            if not typed and re.search(rb"found .*\n", told):
                typed = b"late\n"
                os.write(place, typed)
        child.kill()
    os.close(place)
    return told.decode()


@pytest.mark.parametrize(
    ("answer", "how"),
    [
        (b"\x1b[?62;4;22c", "sixel"), (b"\x1b[?63;1;2;4c", "sixel"), (b"\x1b[?62;22c", "None"), (b"\x1b[?4c", "None"),
        (b"\x1b[?62;42c", "None"), (b"", "None"), (b"nonsense", "None"), (b"\x1b[?1;2c", "None"),
    ],
)  # fmt: skip
def test_a_terminal_is_asked(answer, how):
    told = in_a_terminal(answer)
    assert told.count("\x1b[c") == 1
    assert f"found {how} " in told


def test_a_terminal_tells_its_size():
    assert "found None 60 20 (8, 16)" in in_a_terminal(b"\x1b[?62c")
    assert "found None 50 8 (10, 20)" in in_a_terminal(b"\x1b[?62c", size=(12, 50, 0, 0))


@pytest.mark.parametrize("environ", ["SSH_TTY=x", "TERM=dumb", "TERM=linux", "CI=1", "GEOVL_PICTURE=off"])
def test_a_terminal_is_not_asked(environ):
    told = in_a_terminal(b"\x1b[?62;4c", environ)
    assert "\x1b[c" not in told
    assert "found None" in told


def test_tmux_is_asked_what_it_passes_on():
    assert "found sixel" in in_a_terminal(b"\x1b[?62;4c", "TMUX=x", "TERM=screen")
    assert "found None" in in_a_terminal(b"\x1b[?1;2c", "TMUX=x", "TERM_PROGRAM=WezTerm")


def test_what_was_typed_before_is_not_lost():
    told = in_a_terminal(b"\x1b[?62;4c", typed=b"early\n")
    assert "\x1b[c" not in told
    assert "typed early" in told


def test_nodata_is_seen_through(tmp_path):
    run = run_of(tmp_path, RunStore(tmp_path / "store"), ("a", "b"), nodata=0)
    pixels = pictures.thumbnail(run)
    with rasterio.open(tmp_path / "scene.tif") as dataset:
        valid = dataset.read_masks().any(0)
    assert pixels.shape == (*valid.shape, 4)
    assert ((pixels[..., 3] == 255) == valid).all()


def test_of_a_large_raster_the_middle_is_shown(tmp_path, monkeypatch):
    run = run_of(tmp_path, RunStore(tmp_path / "store"), ("a", "b"))
    whole = pictures.thumbnail(run)
    monkeypatch.setattr(pictures, "_QUICK", 1000)
    monkeypatch.setattr(pictures, "_MIDDLE", 100)
    pixels, told = pictures._pictured(run)
    assert (pixels == whole[70:170, 110:210]).all()
    assert told.startswith("The middle 100 x 100 of 320 x 240 pixels")
    monkeypatch.setattr(pictures, "_SIDE", 30)
    assert (pictures.thumbnail(run) == whole[70:170:4, 110:210:4]).all()


def test_overviews_make_it_cheap(tmp_path):
    run = run_of(tmp_path, RunStore(tmp_path / "store"), ("a", "b"))
    without = pictures._cost(run)
    assert without == pytest.approx(240 * 320)
    with rasterio.open(tmp_path / "scene.tif", "r+") as dataset:
        dataset.build_overviews([2, 4])
    assert pictures._cost(run) == without  # none is coarse enough to be of use
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "_SIDE", 100)
        assert pictures._cost(run) < without / 2


@pytest.mark.parametrize("loss", ["source", "labels", "smaller"])
def test_no_picture_is_no_error(tmp_path, monkeypatch, loss):
    run = run_of(tmp_path, RunStore(tmp_path / "store"), ("a", "b"))
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("GEOVL_PICTURE", "sixel")
    if loss == "smaller":
        with rasterio.open(
            tmp_path / "scene.tif", "w", driver="GTiff", width=5, height=5, count=3, dtype="uint8"
        ) as out:
            out.write(np.zeros((3, 5, 5), np.uint8))
    else:
        (tmp_path / "scene.tif" if loss == "source" else run.path / "labels.tif").unlink()
    for quick in (1000, 10**9):
        monkeypatch.setattr(pictures, "_QUICK", quick)
        out = Terminal()
        pictures.show(run, out)
        assert out.getvalue() == ""


@pytest.mark.parametrize("vrt", [False, True])
def test_a_source_on_a_server_is_not_asked_for(tmp_path, monkeypatch, vrt):
    monkeypatch.setenv("GDAL_HTTP_TIMEOUT", "1")  # whoever asks waits no longer
    run = run_of(tmp_path, RunStore(tmp_path / "store"), ("a", "b"))
    manifest = json.loads((run.path / "run.json").read_text())
    with socket.create_server(("127.0.0.1", 0)) as server:
        path = f"/vsicurl/http://127.0.0.1:{server.getsockname()[1]}/scene.tif"
        if vrt:
            band = "".join(
                f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename>{path}</SourceFilename>'
                f"<SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
                for band in (1, 2, 3)
            )
            path = tmp_path / "scene.vrt"
            path.write_text(f'<VRTDataset rasterXSize="320" rasterYSize="240">{band}</VRTDataset>')
        manifest["source"] |= {"path": str(path), "bytes": None}
        (run.path / "run.json").write_text(json.dumps(manifest))
        for quick in (1000, 10**9):
            monkeypatch.setattr(pictures, "_QUICK", quick)
            with pytest.raises(GeovlError, match="not on this computer"):
                pictures.thumbnail(run)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_pipe_gets_no_picture_whatever_is_asked_for(tmp_path, monkeypatch):
    run_of(tmp_path, RunStore(tmp_path / "store"), ("a", "b"))
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("GEOVL_PICTURE", "kitty")
    monkeypatch.setenv("TERM", "xterm-kitty")
    for more in ([], ["--json"], ["--no-picture"]):
        told = CliRunner().invoke(app, ["runs", "show", "--store", str(tmp_path / "store"), *more])
        assert told.exit_code == 0
        assert "\x1b" not in told.stdout


def test_a_picture_is_shown_once_and_not_where_it_is_not_wanted(tmp_path, monkeypatch):
    run = run_of(tmp_path, RunStore(tmp_path / "store"), ("a", "b"))
    seen = []
    monkeypatch.setattr(pictures, "show", lambda run, *rest: seen.append(run.id))
    for more in ([], ["--json"], ["--no-picture"]):
        CliRunner().invoke(app, ["runs", "show", "--store", str(tmp_path / "store"), *more])
    assert seen == [run.id]
    assert read_png(pictures.png(pictures.thumbnail(run))).shape == (240, 320, 3)


@pytest.mark.parametrize("shape", [(60, 80), (37, 51), (240, 320)])
def test_small_labels_are_of_the_pixels_that_they_cover(tmp_path, shape):
    run = run_of(tmp_path, RunStore(tmp_path / "store"), ("a", "b"), nodata=0)
    with rasterio.open(run.path / "labels.tif") as dataset:
        labels = np.where(dataset.read(1) == dataset.nodata, 0, dataset.read(1))
    small = pictures._labels(run, shape)
    assert small.shape == shape
    rows, cols = (
        (np.arange(new) * old / new, (np.arange(new) + 1) * old / new)
        for new, old in zip(shape, labels.shape, strict=True)
    )
    for row, (top, bottom) in enumerate(zip(*rows, strict=True)):
        for col, (left, right) in enumerate(zip(*cols, strict=True)):
            assert small[row, col] in labels[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))]


def test_labels_that_went_are_told(tmp_path):
    run = run_of(tmp_path, RunStore(tmp_path / "store"), ("a", "b"))
    (run.path / "labels.tif").write_bytes(b"II*\0")
    with pytest.raises(GeovlError, match=r"no readable labels\.tif"):
        pictures.thumbnail(run)
