"""The command line on the bundled model: answers on stdout, the rest on stderr, errors in one sentence."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from typer.testing import CliRunner

from geovl.cli.app import app
from tests.fakes import UTM, blobs, write_tif

ROOT = Path(__file__).parents[1]
AIRPORT = ROOT / "examples" / "airport.tif"


@pytest.fixture
def geovl(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GEOVL_STORE", raising=False)

    def call(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return call


def test_segment_then_export_then_look_at_the_run(geovl, tmp_path):
    done = geovl("segment", AIRPORT, "airport runways")
    assert done.exit_code == 0, done.stderr
    run_id = done.stdout.strip()
    assert (tmp_path / ".geovl" / "runs" / run_id / "run.json").is_file()
    assert "airport runways" in done.stderr
    for name in ("geojson", "gpkg", "geoparquet", "flatgeobuf", "shapefile", "kml", "csv", "cog"):
        out = geovl("export", "--format", name)
        assert out.exit_code == 0, out.stderr
        assert Path(out.stdout.strip()).stat().st_size > 0
    again = geovl("export", "--format", "csv")
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    streamed = geovl("export", run_id, "--format", "geojson", "-o", "-")
    assert json.loads(streamed.stdout)["type"] == "FeatureCollection"
    assert run_id in geovl("runs", "list").stdout
    assert "airport.tif" in geovl("runs", "show").stdout
    assert geovl("runs", "verify").exit_code == 0
    (tmp_path / ".geovl" / "runs" / run_id / "labels.tif").write_bytes(b"x")
    assert geovl("runs", "verify").exit_code == 1
    assert geovl("runs", "remove", run_id).exit_code == 0
    assert json.loads(geovl("runs", "list", "--json").stdout) == []


def test_a_raster_without_georeference_is_said_once_and_in_our_words(tmp_path):
    write_tif(tmp_path / "plain.tif", blobs(64, 64), None, Affine.identity())
    done = subprocess.run(
        [sys.executable, "-m", "geovl", "segment", "plain.tif", "building"],
        cwd=tmp_path, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stderr.count("No CRS") == 1
    assert "NotGeoreferencedWarning" not in done.stderr
    assert "rasterio" not in done.stderr


def test_json_is_the_manifest_and_output_is_written(geovl, tmp_path):
    done = geovl("segment", AIRPORT, "building", "water", "--json", "-o", tmp_path / "out.gpkg")
    assert done.exit_code == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert [c["name"] for c in manifest["classes"]] == ["building", "water"]
    assert (tmp_path / "out.gpkg").is_file()


def test_a_folder_gives_a_run_for_each_raster_and_names_the_bad_ones(geovl, tmp_path):
    folder = tmp_path / "tiles"
    folder.mkdir()
    write_tif(folder / "a.tif", blobs(64, 64))
    write_tif(folder / "b.tif", blobs(64, 64, 1))
    (folder / "c.tif").write_text("no raster")
    done = geovl("segment", folder, "building")
    assert done.exit_code == 1
    assert len(done.stdout.split()) == 2
    assert "1 of 3 sources failed" in done.stderr
    assert "c.tif" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["missing.tif", "building"], 1, "does not exist"),
        (["text.tif", "building"], 1, "text.tif"),
        (["good.tif", ""], 1, "empty"),
        (["good.tif", "building", "Building"], 1, "twice"),
        (["good.tif", "volcano"], 1, "does not know"),
        (["good.tif", "building", "--bidx", "9,2,1"], 2, "bands 1 to 3"),
        (["good.tif", "building", "--bidx", "a"], 2, "--bidx"),
        (["good.tif", "building", "--threshold", "7"], 2, "Threshold"),
        (["good.tif", "building", "--model", "nanu"], 1, "nano"),
        (["good.tif", "building", "-o", "out.xyz"], 2, ".gpkg"),
        (["good.tif", "building", "-o", "no/such/out.gpkg"], 1, "does not exist"),
        (["empty.tif", "building"], 1, "nodata"),
    ],
)
def test_a_users_mistake_is_said_in_a_sentence_and_leaves_nothing(geovl, tmp_path, arguments, code, words):
    write_tif(tmp_path / "good.tif", blobs(64, 64))
    write_tif(tmp_path / "empty.tif", np.zeros((3, 64, 64), np.uint8), nodata=0)
    (tmp_path / "text.tif").write_text("hello")
    done = geovl("segment", *arguments)
    assert done.exit_code == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    runs = tmp_path / ".geovl" / "runs"
    assert not runs.exists() or list(runs.iterdir()) == []


def test_export_and_runs_name_what_is_known(geovl):
    geovl("segment", AIRPORT, "water", "-q")
    wrong = geovl("export", "--format", "dxf")
    assert wrong.exit_code == 2
    assert "geoparquet" in wrong.stderr
    assert geovl("runs", "show", "20200101-000000-000-abcd").exit_code == 1
    assert geovl("export", "-f", "gpkg", "-o", "-").exit_code == 2


def test_an_unknown_run_names_near_ones(geovl):
    run_id = geovl("segment", AIRPORT, "water", "-q").stdout.strip()
    wrong = geovl("runs", "show", run_id[:-1] + ("0" if run_id[-1] != "0" else "1"))
    assert wrong.exit_code == 1
    assert run_id in wrong.stderr


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_said(geovl, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    for extra in (["-o", locked / "a.gpkg"], ["--store", locked / "store"]):
        done = geovl("segment", AIRPORT, "water", *extra)
        assert done.exit_code == 1
        assert "locked" in done.stderr
        assert "Traceback" not in done.stderr


def test_an_output_or_store_that_is_something_else_is_said(geovl, tmp_path):
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "folder.gpkg").mkdir()
    for extra in (["-o", "taken/a.gpkg"], ["--store", "taken"], ["-o", "folder.gpkg", "--overwrite"]):
        done = geovl("segment", AIRPORT, "water", *extra)
        assert done.exit_code in (1, 2), done.stderr
        assert extra[1].split("/")[0] in done.stderr
        assert "Traceback" not in done.stderr
    assert (tmp_path / "taken").read_text() == "a file"


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_ctrl_c_in_the_middle_exits_130_and_the_same_command_goes_on(tmp_path):
    write_tif(tmp_path / "large.tif", blobs(3000, 3000), tiled=True)
    command = [sys.executable, "-m", "geovl", "segment", "large.tif", "building", "--window", "128", "--overlap", "32"]
    child = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    runs, deadline = tmp_path / ".geovl" / "runs", time.monotonic() + 300
    while not list(runs.glob(".work-*/band-*.part")) and time.monotonic() < deadline:
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=300)
    assert child.returncode == 130, err
    assert "Traceback" not in err
    assert "goes on from there" in err
    assert out == ""
    listed = subprocess.run(
        [sys.executable, "-m", "geovl", "runs", "list"], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "Unfinished" in listed.stderr
    again = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert "Going on with run" in again.stderr
    assert [path.name for path in runs.iterdir()] == again.stdout.split()


def test_shards_are_made_one_by_one_and_merged(geovl, tmp_path):
    write_tif(tmp_path / "a.tif", blobs(300, 100))
    command = ("segment", "a.tif", "building", "water", "--window", "64", "--overlap", "16")
    whole = geovl(*command, "--store", "whole").stdout.strip()
    for part in (2, 1, 3):
        early = geovl("runs", "merge")
        assert early.exit_code == 1
        done = geovl(*command, "--shard", f"{part}/3")
        assert done.exit_code == 0, done.stderr
        assert done.stdout == ""
    run_id = geovl("runs", "merge").stdout.strip()
    for name in ("labels", "scores"):
        one, two = (Path(store, "runs", run, f"{name}.tif") for store, run in ((".geovl", run_id), ("whole", whole)))
        with rasterio.open(one) as a, rasterio.open(two) as b:
            assert (a.read() == b.read()).all()


def test_shards_divide_many_sources_among_them(geovl, tmp_path):
    (tmp_path / "tiles").mkdir()
    for index in range(5):
        write_tif(tmp_path / "tiles" / f"{index}.tif", blobs(64, 64, seed=index))
    made = [geovl("segment", "tiles", "building", "--shard", f"{part}/3") for part in (1, 2, 3)]
    assert [len(done.stdout.split()) for done in made] == [2, 2, 1]
    listed = json.loads(geovl("runs", "list", "--json").stdout)
    assert sorted(Path(entry["source"]["path"]).name for entry in listed) == [f"{i}.tif" for i in range(5)]
    idle = geovl("segment", "tiles", "building", "--shard", "6/6")
    assert idle.exit_code == 0
    assert "nothing to do" in idle.stderr
    assert idle.stdout == ""


def test_a_dry_run_says_what_it_would_take_and_makes_nothing(geovl, tmp_path):
    write_tif(tmp_path / "a.tif", blobs(300, 500))
    done = geovl("segment", "a.tif", "building", "--window", "128", "--overlap", "32", "--dry-run", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["windows"] == 3 * 5
    assert told["megapixels"] == 0.15
    assert 0 < told["seconds"] < 600
    assert told["memory_bytes"] > 1e8
    assert told["free_bytes"] > told["output_bytes"] > 0
    table = geovl("segment", "a.tif", "building", "--dry-run")
    assert "windows" in table.stdout
    assert not (tmp_path / ".geovl").exists()


def test_many_files_can_be_one_run(geovl, tmp_path):
    (tmp_path / "tiles").mkdir()
    whole = blobs(200, 300)
    for index, (row, col) in enumerate(((0, 0), (0, 150), (100, 0), (100, 150))):
        write_tif(
            tmp_path / "tiles" / f"{index}.tif", whole[:, row : row + 100, col : col + 150],
            transform=UTM @ Affine.translation(col, row),
        )  # fmt: skip
    write_tif(tmp_path / "whole.tif", whole)
    command = ("building", "water", "--window", "128", "--overlap", "32")
    merged = geovl("segment", "tiles", *command, "--merge", "--json")
    assert merged.exit_code == 0, merged.stderr
    single = geovl("segment", "whole.tif", *command, "--json")
    one, two = json.loads(merged.stdout), json.loads(single.stdout)
    assert [c["area_m2"] for c in one["classes"]] == [c["area_m2"] for c in two["classes"]]
    each = geovl("segment", "tiles", *command)
    assert len(each.stdout.split()) == 4
    assert "all sources" in each.stderr
    again = geovl("segment", "tiles", *command, "--resume")
    assert again.stdout == each.stdout  # nothing is made again


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shard", "4/3"], "4/3"),
        (["--shard", "a"], "K/N"),
        (["--shard", "1/2", "--workers", "2"], "--shard"),
        (["--shard", "1/2", "-o", "a.gpkg"], "-o"),
        (["--workers", "0"], "--workers"),
        (["--device", "abacus"], "abacus"),
        (["--batch", "0"], "Batch"),
    ],
)
def test_ways_of_making_that_mean_nothing_are_usage_errors(geovl, tmp_path, arguments, words):
    write_tif(tmp_path / "a.tif", blobs(64, 64))
    done = geovl("segment", "a.tif", "building", *arguments)
    assert done.exit_code == 2, done.stderr
    assert words in done.stderr


def test_merging_without_an_unfinished_run_is_said(geovl):
    done = geovl("runs", "merge")
    assert done.exit_code == 1
    assert "no unfinished run" in done.stderr


@pytest.mark.parametrize("script", ["count_airplanes.py", "land_cover.py", "picture.py", "scenes.py"])
def test_the_examples_run(script, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script)], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout
