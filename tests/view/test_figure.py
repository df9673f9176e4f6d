"""The figure: true to scale and north, the same bytes again, and any name."""

import os
import subprocess
import sys

import numpy as np
import pytest
from affine import Affine
from pyproj import CRS
from rasterio.io import MemoryFile
from typer.testing import CliRunner

from geovl.cli.app import app
from geovl.errors import ExportError, UsageError
from geovl.pipeline import SegmentOptions, segment
from geovl.types import GeoBox, Vocabulary
from geovl.views.backdrop import grid
from geovl.views.figure import called, figure, isolated, metres_per_pixel, north, round_length, shortened
from tests.fakes import write_tif
from tests.view.conftest import HOSTILE, LOCAL, Patches, run_of, scene

_AGAIN = """
import sys
from pathlib import Path
from geovl.runs import Run
from geovl.views.figure import figure
figure(Run(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def pixels_of(path):
    with MemoryFile(path.read_bytes()) as memory, memory.open() as dataset:
        return dataset.read([1, 2, 3])


def test_it_shows_the_picture_the_classes_and_nothing_of_the_clock(tmp_path, store):
    run = run_of(tmp_path, store, ("a", "b"))
    assert figure(run, tmp_path / "one.png", width=120, dpi=100) == ()
    pixels = pixels_of(tmp_path / "one.png")
    assert pixels.shape[2] == round(120 / 25.4 * 100)
    for entry in run.manifest["classes"]:  # swatches are six tenths of the colour on paper
        colour = 0.6 * np.array([int(entry["color"][i : i + 2], 16) for i in (1, 3, 5)])[:, None, None] + 0.4 * 255
        assert (np.abs(pixels - colour).max(axis=0) < 3).sum() > 20
    assert (pixels[:, -5:, -40:] == 255).all()  # paper


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_same_run_gives_the_same_bytes_in_another_process(tmp_path, store, suffix):
    run = run_of(tmp_path, store, ("a", "b"))
    files = [tmp_path / f"{name}.{suffix}" for name in "xy"]
    for seed, file in enumerate(files):
        environ = os.environ | {"PYTHONHASHSEED": str(seed), "TZ": ("UTC", "Asia/Tokyo")[seed]}
        subprocess.run([sys.executable, "-c", _AGAIN, str(run.path), str(file)], check=True, env=environ)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len(files[0].read_bytes()) > 5000


def test_any_name_can_be_drawn_and_what_no_font_has_is_told(tmp_path, store):
    run = run_of(tmp_path, store, (*HOSTILE[:4], "costs $5 and $6^{", "\u0634\u062c\u0631", "樹木"))
    warnings = figure(run, tmp_path / "a.pdf", title="$x^{ 300 \n" + "y" * 300)
    assert len(warnings) == 1
    assert "boxes" in warnings[0]
    assert figure(run_of(tmp_path, store, ("plain $x$",), file="b.tif"), tmp_path / "b.png") == ()


def right_edge(pixels, rows):
    """Columns of paper, right of everything in the rows."""
    return pixels.shape[2] - 1 - np.nonzero((pixels[:, rows] != 255).any(axis=(0, 1)))[0].max()


@pytest.mark.parametrize("width", [40, 90, 180])
@pytest.mark.parametrize("letter", ["W", "l", "word "])
def test_what_is_written_stays_on_the_page(tmp_path, store, width, letter):
    run = run_of(tmp_path, store, ((letter * 60)[:200], "b"), file=(letter.strip() * 150)[:200] + ".tif")
    figure(run, tmp_path / "a.png", width=width, dpi=100, title=letter * 300)
    pixels = pixels_of(tmp_path / "a.png")
    paper = (pixels == 255).all(axis=0).mean(axis=1) > 0.2  # the picture is black
    assert paper.sum() > 50
    assert right_edge(pixels, paper) >= 3


def test_of_many_classes_those_found_are_in_the_legend(tmp_path, store):
    path = write_tif(tmp_path / "scene.tif", scene(count=2))
    vocabulary = Vocabulary.from_prompts(["a", "b", *(f"none {index}" for index in range(400))])
    run = segment(str(path), vocabulary, Patches(), store)
    figure(run, tmp_path / "a.png", width=100, dpi=60)
    pixels = pixels_of(tmp_path / "a.png")
    assert pixels.shape[1] < 1.3 * pixels.shape[2]


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_more_polygons_than_lines_are_for_are_drawn_as_pixels(tmp_path, store, suffix, monkeypatch):
    run = run_of(tmp_path, store, ("a", "b"))
    usual, few, none = (tmp_path / f"{name}.{suffix}" for name in ("usual", "few", "none"))
    figure(run, usual, width=100, dpi=100)
    monkeypatch.setattr("geovl.views.figure._LINES", 1)
    figure(run, few, width=100, dpi=100)
    monkeypatch.setattr("geovl.views.figure._OUTLINED", 1)
    figure(run, none, width=100, dpi=100)
    if suffix == "png":
        drawn = [pixels_of(file).astype(int) for file in (usual, few, none)]
        assert np.abs(drawn[0] - drawn[1]).mean() < 0.5
        assert np.abs(drawn[0] - drawn[2]).mean() < 12  # without outlines
        assert (drawn[0] != drawn[2]).any()
    else:
        assert few.read_bytes() != usual.read_bytes()


def test_what_is_written_the_other_way_leaves_its_surroundings_alone():
    assert isolated("roof") == "roof"
    assert isolated("\u05e9\u05dc") == "\u200e\u05e9\u05dc\u200e"


@pytest.mark.parametrize(
    ("crs", "told"),
    [
        (None, "no CRS, in pixels"),
        ("EPSG:32632", "EPSG:32632"),
        (CRS.from_epsg(3460).to_wkt(), "Fiji 1986 / Fiji Map Grid"),
        ("+proj=laea +lat_0=5 +lon_0=7", "a CRS of its own"),
        ("what\u202e nobody knows", "a CRS of its own"),
    ],
)
def test_a_crs_is_called_by_code_or_name(crs, told):
    assert called(crs) == told


def test_names_are_shortened_and_cannot_steer():
    assert shortened("a\nb\u202e\tc") == "a b c"
    assert len(shortened("x" * 300)) == 48


def test_a_raster_without_crs_or_source_is_drawn_all_the_same(tmp_path, store):
    run = run_of(tmp_path, store, ("a",), crs=None, transform=None)
    (tmp_path / "scene.tif").unlink()
    (warning,) = figure(run, tmp_path / "a.png")
    assert "alone" in warning
    assert pixels_of(tmp_path / "a.png").std() > 5


def test_a_pixel_is_as_long_as_it_is_on_the_ground():
    utm = GeoBox((100, 200), Affine(0.5, 0, 500000, 0, -0.5, 5000000), CRS.from_epsg(32632))
    assert metres_per_pixel(utm) == pytest.approx(0.5 / 0.9996, rel=1e-4)
    degrees = GeoBox((100, 100), Affine(1e-4, 0, 10.0, 0, -1e-4, 60.0), CRS.from_epsg(4326))
    assert metres_per_pixel(degrees) == pytest.approx(1e-4 * 111_320 * 0.5, rel=0.01)
    assert metres_per_pixel(degrees, (0, 1)) == pytest.approx(1e-4 * 111_320, rel=0.01)
    assert metres_per_pixel(GeoBox((10, 10), Affine.identity(), None)) is None


@pytest.mark.parametrize(
    ("crs", "transform", "tall"),
    [
        ("EPSG:32632", Affine(0.5, 0, 600_000, 0, -1, 5_000_000), 2 * 0.75),  # pixels twice as long as wide
        ("EPSG:4326", Affine(1e-4, 0, 10, 0, -1e-4, 60), 2 * 0.75),  # a degree of longitude is half as long there
        (None, Affine.identity(), 0.75),
        ("EPSG:32632", Affine(100, 0, 600_000, 0, -0.5, 5_000_000), 0.75),  # cannot be meant
    ],
)
def test_the_picture_is_true_to_shape(tmp_path, store, crs, transform, tall):
    run = run_of(tmp_path, store, ("a",), crs=crs, transform=transform)
    figure(run, tmp_path / "a.png", width=100, dpi=100)
    pixels = pixels_of(tmp_path / "a.png")
    picture = (pixels != 255).any(axis=0).mean(axis=1) > 0.9  # rows without paper; the scene is black at its edges
    assert picture.sum() / pixels.shape[2] == pytest.approx(tall, rel=0.02)


def test_north_is_true_north():
    centre = GeoBox((100, 100), Affine(1, 0, 500000, 0, -1, 5000000), CRS.from_epsg(32632))
    assert north(centre) == pytest.approx((0, -1), abs=1e-3)
    turned = GeoBox(
        (100, 100), Affine(1, 0, 500000, 0, -1, 5000000) @ Affine.rotation(90), CRS.from_epsg(32632)
    )  # columns run south, so that north is against them
    assert north(turned) == pytest.approx((-1, 0), abs=1e-3)
    east = GeoBox((100, 100), Affine(1, 0, 700000, 0, -1, 5500000), CRS.from_epsg(32632))
    way = north(east)
    assert way[0] < -0.02  # meridians lean west of grid north there, on paper to the left
    assert np.hypot(*way) == pytest.approx(1)
    assert north(GeoBox((10, 10), Affine.identity(), None)) is None
    pole = GeoBox((200, 200), Affine(1000, 0, -100_000, 0, -1000, 100_000), CRS.from_epsg(3031))
    assert north(pole) is None  # every way is north
    south = GeoBox((100, 100), Affine(10, 0, 500_000, 0, -10, 5_000_000), CRS.from_epsg(32732))
    assert north(south) == pytest.approx((0, -1), abs=1e-3)


def test_without_crs_the_bar_counts_pixels_of_the_source(tmp_path, store, monkeypatch):
    run = run_of(tmp_path, store, ("a",), crs=None, transform=None)
    texts, bars = [], []
    from matplotlib.axes import Axes

    text, plot = Axes.text, Axes.plot
    monkeypatch.setattr(Axes, "text", lambda self, *a, **k: texts.append(a[2]) or text(self, *a, **k))
    monkeypatch.setattr(Axes, "plot", lambda self, x, *a, **k: bars.append(x) or plot(self, x, *a, **k))
    figure(run, tmp_path / "a.png", width=50, dpi=50)  # 118 of 320 columns
    assert texts == ["50 pixels"]
    assert bars[0][1] - bars[0][0] == pytest.approx(50 * 118 / 320, rel=0.01)


@pytest.mark.parametrize("shape", [(6000, 8), (8, 6000), (1, 1)])
def test_strips_are_drawn_on_a_page_of_sane_size(tmp_path, store, shape):
    path = write_tif(tmp_path / "strip.tif", np.full((3, *shape), 30, np.uint8))
    run = segment(str(path), Vocabulary.from_prompts(["a"]), Patches(), store, SegmentOptions(min_area=0))
    figure(run, tmp_path / "strip.png", width=100, dpi=100)
    pixels = pixels_of(tmp_path / "strip.png")
    assert abs(pixels.shape[2] - 100 / 25.4 * 100) <= 1
    assert pixels.shape[1] < 2 * pixels.shape[2]
    assert (pixels != 255).any()


def test_a_local_crs_has_no_north_and_a_bar_in_pixels(tmp_path, store):
    run = run_of(tmp_path, store, ("a",), crs=LOCAL)
    assert figure(run, tmp_path / "a.png") == ()
    box = grid(run, 100)
    assert metres_per_pixel(box) is None
    assert north(box) is None


@pytest.mark.parametrize(
    ("room", "told"), [(9.99, "5 m"), (10, "10 m"), (0.7, "0.5 m"), (2499, "2 km"), (50_000, "50 km"), (199, "100 m")]
)
def test_bars_have_round_lengths(room, told):
    assert round_length(room)[1] == told
    assert room / 2.5 <= round_length(room)[0] <= room


def test_the_command_and_what_it_refuses(tmp_path, store, monkeypatch):
    run_of(tmp_path, store, ("a",))
    monkeypatch.chdir(tmp_path)
    base = ["view", "--store", str(tmp_path / "store"), "--png"]
    told = CliRunner().invoke(app, [*base, "a.png", "--title", "Found"])
    assert told.exit_code == 0, told.output
    assert told.stdout.strip() == "a.png"
    for arguments, code, said in ((["a.png"], 1, "there already"), (["a.jpg"], 2, ".pdf or .svg"),
                                  (["b.png", "-o", "b.html"], 2, "written alone")):  # fmt: skip
        refused = CliRunner().invoke(app, [*base, *arguments])
        assert refused.exit_code == code
        assert said in refused.stderr
    assert sorted(path.name for path in tmp_path.glob("*.*") if path.suffix in {".png", ".html", ".partial"}) == [
        "a.png"
    ]


def test_a_full_disk_leaves_nothing(tmp_path, store, monkeypatch):
    run = run_of(tmp_path, store, ("a",))

    def full(_path, _data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(ExportError, match="No space left"):
        figure(run, tmp_path / "a.png")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".a", "a"))]


def test_sizes_that_are_none_are_refused(tmp_path, store):
    run = run_of(tmp_path, store, ("a",))
    with pytest.raises(UsageError, match="cannot be drawn"):
        figure(run, tmp_path / "a.png", width=1)
    (tmp_path / "a.png").write_bytes(b"mine")
    with pytest.raises(ExportError, match="there already"):
        figure(run, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"mine"
