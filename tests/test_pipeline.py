"""The whole flow with a model whose right answer is known."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import geopandas.testing
import numpy as np
import pytest
import rasterio
import rasterio.features
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geovl import inference
from geovl.errors import ModelError, OutOfMemoryError, PromptError, RasterError, RunError, SourceError, UsageError
from geovl.pipeline import Execution, SegmentOptions, merge, segment
from geovl.raster import BlockWriter, Raster, Stretch
from geovl.runs import RunStore
from geovl.stitch import decide
from geovl.types import Vocabulary
from geovl.work import Work
from tests.fakes import BrightnessSegmenter, blobs, brightness_scores, write_tif

THREE = Vocabulary.from_prompts(["dark", "middle", "bright"])
SMALL = SegmentOptions(window=64, overlap=16, min_area=0.0, simplify=0.0)


def expected(path, classes=3, threshold=0.5):
    with rasterio.open(path) as dataset:
        scores = brightness_scores(dataset.read(1), classes)
    labels, best = np.empty(scores.shape[1:], np.uint8), np.empty(scores.shape[1:], np.uint8)
    decide(scores, threshold, labels, best)
    return labels


@pytest.mark.parametrize("batch", [1, 3, 50])
@pytest.mark.parametrize(("window", "overlap"), [(64, 16), (50, 0), (33, 11), (1152, 128)])
def test_the_run_holds_the_whole_image_answer_whatever_the_windows(tile, store, segmenter, window, overlap, batch):
    options = SegmentOptions(window=window, overlap=overlap, batch=batch)
    run = segment(str(tile), THREE, segmenter, store, options)
    np.testing.assert_array_equal(run.labels(), expected(tile))


def test_a_region_that_crosses_windows_is_one_polygon(tmp_path, store, segmenter):
    pixels = np.zeros((3, 150, 200), np.uint8)
    pixels[:, 40:110, 10:190] = 255
    path = write_tif(tmp_path / "one.tif", pixels)
    frame = segment(str(path), Vocabulary.from_prompts(["dark", "bright"]), segmenter, store, SMALL).to_geodataframe()
    bright = frame[frame["class"] == "bright"]
    assert len(bright) == 1
    assert bright.geometry.iloc[0].bounds == (600_005, 5_000_000 - 55, 600_095, 5_000_000 - 20)
    assert bright["area_m2"].iloc[0] == pytest.approx(70 * 180 / 4, rel=1e-3)  # UTM scale off by up to 4e-4 a side
    assert bright["score"].iloc[0] == pytest.approx(1 - (255 - 191.25) / 128, abs=0.003)


def test_polygons_are_the_label_raster(tile, store, segmenter):
    run = segment(str(tile), THREE, segmenter, store, SMALL)
    frame = run.to_geodataframe()
    assert frame.crs.to_epsg() == 32632
    assert frame.geometry.is_valid.all()
    values = {name: i for i, name in enumerate(THREE.names, 1)}
    with rasterio.open(tile) as dataset:
        pairs = zip(frame.geometry, frame["class"].map(values), strict=True)
        back = rasterio.features.rasterize(pairs, dataset.shape, transform=dataset.transform)
    np.testing.assert_array_equal(back, run.labels())


def test_nothing_is_found_where_there_is_no_data(tmp_path, store, segmenter):
    pixels = blobs(100, 120).clip(1)
    pixels[:, 20:60, 30:90] = 0
    run = segment(str(write_tif(tmp_path / "hole.tif", pixels, nodata=0)), THREE, segmenter, store, SMALL)
    hole = np.zeros((100, 120), bool)
    hole[20:60, 30:90] = True
    assert (run.labels()[hole] == 255).all()
    assert (run.labels()[~hole] != 255).all()
    assert np.isnan(run.scores()[hole]).all()


def test_finding_nothing_is_a_result(tmp_path, store, segmenter):
    path = write_tif(tmp_path / "black.tif", np.full((3, 50, 50), 130, np.uint8))
    run = segment(str(path), THREE, segmenter, store, SegmentOptions(threshold=1.0))
    frame = run.to_geodataframe()
    assert len(frame) == 0
    assert list(frame.columns) == ["class", "prompt", "score", "area_m2", "perimeter_m", "model", "run", "geometry"]
    assert run.manifest["polygons"] == 0


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_without_a_crs_polygons_are_in_pixels_and_a_warning_is_kept(tmp_path, store, segmenter):
    pixels = np.zeros((3, 40, 40), np.uint8)
    pixels[:, 10:20, 5:35] = 255
    path = write_tif(tmp_path / "plain.tif", pixels, None, Affine.identity())
    options = SegmentOptions(min_area=1.0, simplify=0.0)
    run = segment(str(path), Vocabulary.from_prompts(["dark", "bright"]), segmenter, store, options)
    frame = run.to_geodataframe()
    assert frame.crs is None
    bright = frame[frame["class"] == "bright"]
    assert bright.geometry.iloc[0].bounds == (5, 10, 35, 20)
    assert np.isnan(bright["area_m2"]).all()
    assert "No CRS" in run.manifest["warnings"][0]
    assert "--min-area" in run.manifest["warnings"][1]


def test_the_manifest_tells_how_the_run_was_made(tile, store, segmenter):
    run = segment(str(tile), THREE, segmenter, store, SMALL)
    manifest = run.manifest
    assert manifest["source"]["path"] == str(tile)
    assert manifest["parameters"]["window"] == 64
    assert [entry["name"] for entry in manifest["classes"]] == list(THREE.names)
    assert manifest["polygons"] == sum(entry["polygons"] for entry in manifest["classes"]) > 0
    assert set(manifest["files"]) == {"labels.tif", "scores.tif", "segments.parquet"}
    assert run.verify() == []


@given(st.lists(st.text(max_size=3), max_size=3))
def test_prompts_are_cleaned_or_refused(prompts):
    cleaned = [" ".join(p.split()) for p in prompts]
    folded = [p.casefold() for p in cleaned]
    if not prompts or not all(cleaned) or len(set(folded)) < len(folded):
        with pytest.raises(PromptError):
            Vocabulary.from_prompts(prompts)
    else:
        assert Vocabulary.from_prompts(prompts).names == tuple(cleaned)


@pytest.mark.parametrize(
    "options", [{"threshold": 1.5}, {"min_area": -1.0}, {"simplify": float("nan")}, {"window": 8}, {"batch": 0}]
)
def test_options_out_of_range_are_refused_before_any_work(options):
    with pytest.raises(UsageError):
        SegmentOptions(**options)


def test_a_raster_without_a_valid_pixel_is_refused_and_leaves_nothing(tmp_path, store, segmenter):
    path = write_tif(tmp_path / "empty.tif", np.zeros((3, 40, 40), np.uint8), nodata=0)
    with pytest.raises(RasterError, match="all nodata"):
        segment(str(path), THREE, segmenter, store)
    assert list(store.folder.iterdir()) == []


def test_a_raster_damaged_in_the_middle_gives_no_run_and_names_the_place(tmp_path, store, segmenter):
    noise = np.random.default_rng(0).integers(0, 255, (3, 400, 400), dtype=np.uint8)
    path = write_tif(tmp_path / "a.tif", noise, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 2000] = b"\xff" * 2000
    path.write_bytes(whole)
    with pytest.raises(SourceError, match="damaged at row"):
        segment(str(path), THREE, segmenter, store, SMALL)
    assert store.list() == []
    assert not any(thread.name == "geovl-ahead" for thread in threading.enumerate())


def test_a_window_that_cannot_be_read_at_first_is_read_again(tile, store, segmenter, monkeypatch, caplog):
    read, failures = Raster.read, iter([SourceError("a bad moment")] * 2)

    def moody(self, window, multiple=1):
        if window.col and (error := next(failures, None)):
            raise error
        return read(self, window, multiple)

    monkeypatch.setattr(inference, "_WAIT", 0)
    monkeypatch.setattr(Raster, "read", moody)
    run = segment(str(tile), THREE, segmenter, store, SMALL)
    np.testing.assert_array_equal(run.labels(), expected(tile))
    assert caplog.text.count("a bad moment Trying again") == 2


class Small(BrightnessSegmenter):
    """Has memory for two chips at once."""

    most = 2

    def segment(self, chips, vocabulary):
        if len(chips) > self.most:
            raise OutOfMemoryError(f"{len(chips)} chips")
        return super().segment(chips, vocabulary)


def test_a_batch_that_does_not_fit_is_halved_and_run_again(tile, store, caplog):
    options = SegmentOptions(window=64, overlap=16, batch=7)
    np.testing.assert_array_equal(segment(str(tile), THREE, Small(), store, options).labels(), expected(tile))
    assert "going on with 3" in caplog.text
    assert "going on with 1" in caplog.text
    tiny = Small()
    tiny.most = 0
    with pytest.raises(ModelError, match="does not fit into memory") as caught:
        segment(str(tile), THREE, tiny, RunStore(store.root / "other"), options)
    assert "--window" in caught.value.hint


@pytest.mark.parametrize("where", [(BlockWriter, "write"), (Work, "save")])
def test_a_full_disk_is_said_leaves_no_run_and_the_same_command_goes_on(tile, store, segmenter, monkeypatch, where):
    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(*where, full)
        with pytest.raises(RunError, match="No space left"):
            segment(str(tile), THREE, segmenter, store, SMALL)
    assert store.list() == []
    run = segment(str(tile), THREE, segmenter, store, SMALL)
    np.testing.assert_array_equal(run.labels(), expected(tile))
    assert [path.name for path in store.folder.iterdir()] == [run.id]


def test_a_file_size_limit_met_by_gdal_itself_is_said_and_leaves_nothing(tmp_path):
    """GDAL swallows some write errors until the file is closed; a real limit shows that none is lost."""
    noise = np.random.default_rng(0).integers(0, 255, (3, 600, 600), dtype=np.uint8)
    path = write_tif(tmp_path / "noise.tif", noise)
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from geovl.errors import GeovlError; from geovl.pipeline import segment; from geovl.runs import RunStore\n"
        "from geovl.types import Vocabulary; from tests.fakes import BrightnessSegmenter\n"
        "try:\n"
        "    segment(sys.argv[1], Vocabulary.from_prompts(['a', 'b']), BrightnessSegmenter(), RunStore(Path(sys.argv[2])))\n"
        "except GeovlError as error: print(type(error).__name__, error.message)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "store")],
        capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True,
    )  # fmt: skip
    assert out.stdout.startswith("RunError The run cannot be written")
    assert RunStore(tmp_path / "store").list() == []
    assert not list((tmp_path / "store" / "runs").glob("*.partial"))


SLOW = """
import sys, time
from pathlib import Path
from geovl.pipeline import SegmentOptions, segment
from geovl.runs import RunStore
from geovl.types import Vocabulary
from geovl.work import Work
from tests.fakes import BrightnessSegmenter

class Slow(BrightnessSegmenter):
    def segment(self, chips, vocabulary):
        print("window", flush=True)
        time.sleep(float(sys.argv[3]))
        return super().segment(chips, vocabulary)

segment(sys.argv[1], Vocabulary.from_prompts(["dark", "middle", "bright"]), Slow(), RunStore(Path(sys.argv[2])),
        SegmentOptions(window=64, overlap=16, min_area=0.0, simplify=0.0), run_id="the-run")
"""


def slowly(source, store, seconds):
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, str(source), str(store.root), str(seconds)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[1],
    )  # fmt: skip


def content(run):
    """Bytes of everything that was computed."""
    return {name: (run.path / name).read_bytes() for name in ("labels.tif", "scores.tif", "segments.parquet")}


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_never_shows_and_the_same_command_goes_on_to_the_same_bytes(
    tile, store, segmenter, tmp_path, kill
):
    child = slowly(tile, store, 0.3)
    for _ in range(7):  # four windows a row, two are made ahead
        child.stdout.readline()
    child.send_signal(kill)
    child.wait()
    assert store.list() == []
    (work,) = store.list_unfinished()
    assert work.id == "the-run"
    run = segment(str(tile), THREE, segmenter, store, SMALL)
    assert run.id == "the-run"
    assert run.manifest["resumed_rows"] >= 1
    assert [path.name for path in store.folder.iterdir()] == [run.id]
    whole = segment(str(tile), THREE, segmenter, RunStore(tmp_path / "whole"), SMALL, run_id="the-run")
    assert content(run) == content(whole)


def test_thirty_kills_at_random_moments_lose_nothing_and_double_nothing(tmp_path, store, segmenter):
    """Every kill hits the process somewhere between its first window and its end."""
    source = write_tif(tmp_path / "long.tif", blobs(4800, 110))  # 100 rows of windows
    chance = random.Random(0)
    for _ in range(30):
        child = slowly(source, store, 0.02)
        child.stdout.readline()
        time.sleep(chance.uniform(0, 0.1))  # a row takes 0.04 s or more
        child.kill()
        child.communicate()
    assert store.list() == []
    run = segment(str(source), THREE, segmenter, store, SMALL)
    assert run.manifest["resumed_rows"] > 5
    assert [path.name for path in store.folder.iterdir()] == [run.id]
    whole = segment(str(source), THREE, segmenter, RunStore(tmp_path / "whole"), SMALL, run_id="the-run")
    assert content(run) == content(whole)


class Leaves:
    """A model that does something at a window, such as to take the source away."""

    def __init__(self, model, windows, leave):
        self._model, self._left, self._leave = model, windows, leave

    def __getattr__(self, name):
        return getattr(self._model, name)

    def segment(self, chips, vocabulary):
        self._left -= 1
        if self._left == 0:
            self._leave()
        return self._model.segment(chips, vocabulary)


class Stops(BrightnessSegmenter):
    """Fails at the n-th window."""

    def __init__(self, windows):
        self.left = windows

    def segment(self, chips, vocabulary):
        if self.left == 0:
            raise ModelError("stopped")
        self.left -= 1
        return super().segment(chips, vocabulary)


def interrupted(tile, store, windows, options=SMALL):
    with pytest.raises(ModelError, match="stopped"):
        segment(str(tile), THREE, Stops(windows), store, options, run_id="the-run")
    return store.unfinished()


@pytest.mark.parametrize("how", ["truncated", "flipped", "emptied"])
def test_a_damaged_part_is_made_again(tile, store, segmenter, tmp_path, how):
    work = interrupted(tile, store, 10)
    for part in sorted(work.folder.glob("*.part")):
        data = bytearray(part.read_bytes())
        if how == "flipped":
            data[-3] ^= 255
        part.write_bytes(data[: len(data) // 2] if how == "truncated" else b"" if how == "emptied" else data)
    run = None
    while run is None:  # each command makes three damaged parts anew
        with suppress(RunError):
            run = segment(str(tile), THREE, segmenter, store, SMALL)
    whole = segment(str(tile), THREE, segmenter, RunStore(tmp_path / "whole"), SMALL, run_id="the-run")
    assert content(run) == content(whole)


def test_a_part_with_one_wrong_byte_is_not_taken_and_goes_away(tmp_path):
    """Noise is stored as it is: nothing but the checksum tells."""
    work = Work(tmp_path, {"id": "the-run"})
    noise = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)
    work.save("a", {"noise": noise})
    np.testing.assert_array_equal(work.load("a")["noise"], noise)
    data = bytearray((tmp_path / "a.part").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.part").write_bytes(data)
    assert work.load("a") is None
    assert not work.has("a")


def test_zones_are_kept_only_until_both_bands_are_there(tmp_path, store):
    work = interrupted(write_tif(tmp_path / "long.tif", blobs(900, 110)), store, 20)
    assert len(list(work.folder.glob("band-*.part"))) > 5
    assert len(list(work.folder.glob("zone-*.part"))) == 1


def test_a_source_whose_content_cannot_be_known_is_never_taken_as_done(tmp_path, store, segmenter):
    path = write_tif(tmp_path / "a.tif", blobs(150, 200))
    inside = f"GTIFF_DIR:1:{path}"
    resume = Execution(resume=True)
    first = segment(inside, THREE, segmenter, store, SMALL, execution=resume)
    write_tif(path, blobs(150, 200, seed=4))
    second = segment(inside, THREE, segmenter, store, SMALL, execution=resume)
    assert second.id != first.id
    shard = replace(resume, shard=(1, 1))
    segment(inside, THREE, segmenter, store, SMALL, execution=shard)
    merge(store)
    assert segment(inside, THREE, segmenter, store, SMALL, execution=shard) is None
    np.testing.assert_array_equal(second.labels(), expected(path))


def test_one_damaged_part_of_many_is_made_again_by_the_same_command(tmp_path, store, segmenter):
    source = str(write_tif(tmp_path / "long.tif", blobs(700, 110)))
    work = interrupted(source, store, 2 * 13)
    assert len(list(work.folder.glob("band-*.part"))) > 10
    part = work.folder / "band-00007.part"
    data = bytearray(part.read_bytes())
    data[-1] ^= 255
    part.write_bytes(data)
    run = segment(source, THREE, segmenter, store, SMALL)
    whole = segment(source, THREE, segmenter, RunStore(tmp_path / "whole"), SMALL, run_id="the-run")
    assert content(run) == content(whole)


def test_a_kill_between_the_end_of_a_run_and_the_removal_of_its_parts_does_no_harm(tile, store, segmenter, monkeypatch):
    def killed(_self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Work, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            segment(str(tile), THREE, segmenter, store, SMALL, run_id="the-run")
    assert [run.id for run in store.list()] == ["the-run"]
    assert segment(str(tile), THREE, Stops(0), store, SMALL, execution=Execution(resume=True)).id == "the-run"
    again = segment(str(tile), THREE, segmenter, store, SMALL)
    assert again.id != "the-run"
    assert store.list_unfinished() == []


def test_a_shard_that_makes_nothing_leaves_the_others_work_alone(tile, store, segmenter, monkeypatch):
    execution = Execution(shard=(8, 8))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("geovl.work.socket.gethostname", lambda: "another")
        child = Leaves(
            segmenter, 1, lambda: segment(str(tile), THREE, segmenter, store, SMALL, execution=Execution(shard=(1, 8)))
        )
        segment(str(tile), THREE, child, store, SMALL, execution=execution)
    for part in range(1, 9):
        segment(str(tile), THREE, segmenter, store, SMALL, execution=Execution(shard=(part, 8)))
    np.testing.assert_array_equal(merge(store).labels(), expected(tile))


def test_everybody_uses_the_stretch_of_whoever_began(tmp_path, store, segmenter):
    rng = np.random.default_rng(0)
    deep = (blobs(3000, 110).astype(np.uint16) * 40 + rng.integers(0, 50, (3, 3000, 110))).astype(np.uint16)
    source = write_tif(tmp_path / "deep.tif", deep, photometric="RGB")
    work = interrupted(source, store, 30)
    stored = work.plan["raster"]["stretch"]
    changed = json.loads((work.folder / "plan.json").read_text())
    changed["raster"]["stretch"] = {"low": [0.0] * 3, "high": [20_000.0] * 3}
    (work.folder / "plan.json").write_text(json.dumps(changed))
    run = segment(str(source), THREE, segmenter, store, SMALL)
    assert stored != changed["raster"]["stretch"]
    assert run.manifest["source"]["stretch"]["high"] == [20_000.0] * 3
    red = Stretch((0.0,) * 3, (20_000.0,) * 3).apply(deep)[0][-500:]
    labels, best = np.empty(red.shape, np.uint8), np.empty(red.shape, np.uint8)
    decide(brightness_scores(red, 3), 0.5, labels, best)
    np.testing.assert_array_equal(run.labels()[-500:], labels)


def test_the_batch_is_no_part_of_what_a_run_is(tile, store, segmenter):
    interrupted(tile, store, 10)
    assert segment(str(tile), THREE, segmenter, store, replace(SMALL, batch=3)).id == "the-run"


def test_a_source_that_is_replaced_on_the_way_is_noticed(tile, store, segmenter):
    other = blobs(150, 200, seed=5)
    model = Leaves(segmenter, 3, lambda: write_tif(tile, other))
    with pytest.raises(RunError, match="changed since"):
        segment(str(tile), THREE, model, store, SMALL)
    assert store.list() == []


@pytest.mark.parametrize("run_id", ["x/../../../escaped", "Tile_1", "a" * 80])
def test_a_run_id_is_a_plain_name(tile, store, segmenter, run_id):
    with pytest.raises(RunError, match="no id"):
        segment(str(tile), THREE, segmenter, store, SMALL, run_id=run_id)


@pytest.mark.parametrize("text", ["[]", "{}", '{"id": "x"}', "no json"])
def test_a_plan_that_is_none_is_left_out_and_does_no_harm(tile, store, segmenter, text):
    folder = store.folder / ".work-0123456789abcdef0123"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(text)
    (folder / "owner.somebody.txt").write_text("")
    assert store.list_unfinished() == []
    segment(str(tile), THREE, segmenter, store, SMALL)


def test_other_options_begin_another_run_and_an_unfinished_one_can_be_removed(tile, store, segmenter):
    interrupted(tile, store, 10)
    other = segment(str(tile), THREE, segmenter, store, SegmentOptions(window=64, overlap=16, threshold=0.6))
    assert other.id != "the-run"
    assert [work.id for work in store.list_unfinished()] == ["the-run"]
    store.remove("the-run")
    assert [path.name for path in store.folder.iterdir()] == [other.id]


def test_a_changed_source_is_another_run(tile, store, segmenter):
    interrupted(tile, store, 10)
    write_tif(tile, blobs(150, 200, seed=9))
    run = segment(str(tile), THREE, segmenter, store, SMALL)
    np.testing.assert_array_equal(run.labels(), expected(tile))
    with pytest.raises(RunError, match="changed since"):
        merge(store, "the-run")


def test_resume_can_be_refused_or_take_a_finished_run(tile, store, segmenter):
    interrupted(tile, store, 10)
    anew = segment(str(tile), THREE, segmenter, store, SMALL, execution=Execution(resume=False), run_id="anew")
    assert anew.id == "anew"
    assert anew.manifest["resumed_rows"] == 0
    again = segment(str(tile), THREE, Stops(0), store, SMALL, execution=Execution(resume=True))
    assert again.id == "anew"
    assert segment(str(tile), THREE, segmenter, store, SMALL).id != "anew"


def test_two_processes_do_not_make_the_same_run_at_once(tile, store, segmenter):
    child = slowly(tile, store, 0.5)
    child.stdout.readline()
    with pytest.raises(RunError, match=f"process {child.pid}"):
        segment(str(tile), THREE, segmenter, store, SMALL)
    child.kill()
    child.communicate()


def test_a_disk_without_room_is_said_before_any_work(tile, store, segmenter, monkeypatch):
    monkeypatch.setattr("geovl.jobs.free_bytes", lambda _folder: 10_000)
    with pytest.raises(RunError, match="needs about") as caught:
        segment(str(tile), THREE, segmenter, store, SMALL)
    assert "--store" in caught.value.hint
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("shards", [1, 2, 3, 8])
def test_shards_in_any_order_give_the_bytes_of_the_serial_run(tile, store, tmp_path, shards, unknown):
    options = replace(SMALL, unknown=unknown)
    order = list(range(1, shards + 1))
    random.Random(shards).shuffle(order)
    for part in order:
        if 1 < shards <= 3 and store.list_unfinished():
            with pytest.raises(RunError, match="missing"):
                merge(store)
        made = segment(
            str(tile), THREE, Curious(), store, options, execution=Execution(shard=(part, shards)), run_id="the-run"
        )
        assert made is None
    assert store.list() == []
    run = merge(store)
    whole = segment(str(tile), THREE, Curious(), RunStore(tmp_path / "whole"), options, run_id="the-run")
    assert content(run) == content(whole)
    assert [path.name for path in store.folder.iterdir()] == ["the-run"]


def test_windows_that_take_long_are_kept_one_by_one(tile, store, monkeypatch):
    monkeypatch.setattr(inference, "_SLOW", 0.0)
    work = interrupted(tile, store, 6)
    kept = {path.name for path in work.folder.glob("window-*.part")}
    assert kept
    assert all(name.startswith("window-00001") for name in kept)  # those of the finished row are gone
    model = Stops(1000)
    run = segment(str(tile), THREE, model, store, SMALL)
    windows = run.manifest["windows"]
    assert 1000 - model.left <= windows - 4 - len(kept)
    np.testing.assert_array_equal(run.labels(), expected(tile))


def test_two_runs_of_the_same_are_the_same_bytes(tile, store, segmenter):
    first, second = (segment(str(tile), THREE, segmenter, store, SMALL) for _ in range(2))
    np.testing.assert_array_equal(first.labels(), second.labels())
    left, right = first.to_geodataframe().drop(columns="run"), second.to_geodataframe().drop(columns="run")
    geopandas.testing.assert_geodataframe_equal(left, right)


def test_a_geographic_and_a_rotated_raster_keep_their_places(tmp_path, store, segmenter):
    pixels = np.zeros((3, 60, 60), np.uint8)
    pixels[:, 20:40, 10:50] = 255
    for name, crs, transform in (
        ("degrees", "EPSG:4326", Affine(1e-5, 0, 9, 0, -1e-5, 48)),
        ("rotated", "EPSG:32632", Affine(0.4, 0.3, 6e5, 0.3, -0.4, 5e6)),
    ):
        path = write_tif(tmp_path / f"{name}.tif", pixels, crs, transform)
        run = segment(str(path), Vocabulary.from_prompts(["dark", "bright"]), segmenter, store, SMALL)
        frame = run.to_geodataframe()
        polygon = frame[frame["class"] == "bright"].geometry.iloc[0]
        corners = {transform @ corner for corner in ((10, 20), (50, 20), (50, 40), (10, 40))}
        found = set(polygon.exterior.coords)
        assert all(min(abs(x - a) + abs(y - b) for a, b in found) < 1e-6 for x, y in corners)


def test_the_manifest_is_json_without_nan(tile, store, segmenter):
    run = segment(str(tile), THREE, segmenter, store)
    json.loads((run.path / "run.json").read_text(), parse_constant=pytest.fail)
    assert time.strptime(run.manifest["created"][:19], "%Y-%m-%dT%H:%M:%S")


def test_the_store_is_where_it_was_asked_for(tile, tmp_path, segmenter):
    run = segment(str(tile), THREE, segmenter, RunStore(tmp_path / "elsewhere"))
    assert run.path.parent == tmp_path / "elsewhere" / "runs"
    assert isinstance(segmenter, BrightnessSegmenter)


class Curious(BrightnessSegmenter):
    """Remembers the chips that it saw, and knows bright pixels only."""

    def __init__(self):
        self.seen = []

    def segment(self, chips, vocabulary):
        self.seen += chips
        return super().segment(chips, vocabulary)

    def familiarity(self, chips):
        return [chip.pixels[0].astype(np.float32) / 255 for chip in chips]


@pytest.mark.parametrize(("window", "overlap"), [(64, 16), (65, 21), (33, 0), (1152, 128)])
@pytest.mark.parametrize("overviews", [False, True])
def test_a_raster_finer_than_the_model_knows_is_shown_to_it_coarser(tmp_path, store, overviews, window, overlap):
    """2.5 cm pixels for a model that begins at 10 cm; blocks of 4 x 4 pixels and the raster's odd size keep their place."""
    pixels = np.kron(blobs(40, 60), np.ones((1, 4, 4), np.uint8))[:, :-3, :-2]
    fine = write_tif(tmp_path / "fine.tif", pixels, transform=Affine(0.025, 0, 600_000, 0, -0.025, 5_000_000))
    if overviews:  # GDAL's nearest ones are moved by up to a pixel of theirs
        with rasterio.open(fine, "r+") as dataset:
            dataset.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    model = Curious()
    options = SegmentOptions(window=window, overlap=overlap, min_area=0.0, simplify=0.0)
    run = segment(str(fine), THREE, model, store, options)
    assert {chip.gsd for chip in model.seen} == {0.1}
    seen = model.seen[0].pixels
    assert np.array_equal(seen[:, :8, :8], pixels[:, :32:4, :32:4])
    labels, truth = run.labels(), expected(fine)
    assert labels.shape == (157, 238)
    assert run.manifest["working_gsd"] == pytest.approx(0.1)
    # scores are interpolated between the middles of 4 x 4 blocks: flat blobs keep their inside and half of their rim
    inside = np.zeros(labels.shape, bool)
    inside[4:-4, 4:-4] = True
    for shift in ((0, 4), (4, 0), (0, -4), (-4, 0)):
        inside &= np.roll(truth, shift, (0, 1)) == truth
    assert inside.mean() > 0.5
    assert (labels == truth)[inside].all()


def test_windows_do_not_change_a_shrunken_answer_where_one_decides(tmp_path, store):
    pixels = np.kron(blobs(60, 60), np.ones((1, 4, 4), np.uint8))
    fine = write_tif(tmp_path / "fine.tif", pixels, transform=Affine(0.025, 0, 600_000, 0, -0.025, 5_000_000))
    answers = [
        segment(str(fine), THREE, Curious(), store, SegmentOptions(window=window, overlap=overlap)).labels()
        for window, overlap in ((1152, 128), (40, 13))
    ]
    assert (answers[0] == answers[1]).mean() > 0.995


@pytest.mark.parametrize("gap", [0.02, 0.9])
def test_a_fine_float_raster_with_gaps_is_answered_wherever_it_has_data(tmp_path, store, gap):
    rng = np.random.default_rng(0)
    pixels = np.full((3, 160, 160), 250, np.float32)
    pixels[:, rng.random((160, 160)) < gap] = np.nan
    path = write_tif(tmp_path / "gaps.tif", pixels, transform=Affine(0.0125, 0, 6e5, 0, -0.0125, 5e6))
    run = segment(
        str(path), THREE, Curious(), store, SegmentOptions(stretch="none", unknown=True, window=64, overlap=8)
    )
    there = np.isfinite(pixels[0])
    assert (run.labels()[there] == 3).all()
    assert (run.labels()[~there] == 255).all()
    np.testing.assert_allclose(run.unknown()[there], 1 - 250 / 255, atol=0.003)


def test_a_hole_of_one_pixel_stays_a_hole_whatever_the_model_sees(tmp_path, store):
    pixels = blobs(90, 90).clip(1)
    pixels[:, 33, 47] = 0
    path = write_tif(tmp_path / "hole.tif", pixels, transform=Affine(0.03, 0, 6e5, 0, -0.03, 5e6), nodata=0)
    labels = segment(str(path), THREE, Curious(), store, SMALL).labels()
    assert np.argwhere(labels == 255).tolist() == [[33, 47]]


def test_what_is_unknown_is_kept_on_demand(tmp_path, store, segmenter):
    pixels = blobs(100, 120).clip(1)
    pixels[:, 20:60, 30:90] = 0
    path = write_tif(tmp_path / "hole.tif", pixels, nodata=0)
    options = SegmentOptions(window=64, overlap=16, unknown=True)
    run = segment(str(path), THREE, Curious(), store, options)
    assert "unknown.tif" in run.manifest["files"]
    expected_unknown = np.where(pixels.any(axis=0), 1 - pixels[0] / 255, np.nan)
    np.testing.assert_allclose(run.unknown(), expected_unknown, atol=0.003)
    assert run.verify() == []
    with pytest.raises(RunError, match="made without"):
        segment(str(path), THREE, Curious(), store, SMALL).unknown()
    with pytest.raises(UsageError, match="cannot tell"):
        segment(str(path), THREE, segmenter, store, options)
    assert len(store.list()) == 2


def test_shrinking_follows_the_finest_pixels_of_the_model(tmp_path, segmenter):
    for gsd, factor in ((0.5, 1), (0.1, 1), (0.08, 1), (0.06, 2), (0.05, 2), (0.02, 5), (0.001, 8)):
        path = write_tif(tmp_path / f"{gsd}.tif", blobs(8, 8), transform=Affine(gsd, 0, 6e5, 0, -gsd, 5e6))
        with Raster(str(path)) as raster:
            assert inference.scale_of(raster.info.gsd, segmenter) == factor


def test_regular_outlines_have_right_angles_and_stay_where_they_are(tmp_path, store, segmenter):
    rows, cols = np.mgrid[:200, :200]
    slanted = (np.abs(rows + cols / 2 - 150) < 30) & (np.abs(cols - rows / 2 - 50) < 40)
    pixels = np.repeat(np.where(slanted, 255, 0).astype(np.uint8)[None], 3, axis=0)
    path = str(write_tif(tmp_path / "slanted.tif", pixels))
    words = Vocabulary.from_prompts(["dark", "bright"])
    frames = []
    for regularize in (False, True):
        run = segment(path, words, segmenter, store, replace(SMALL, simplify=None, regularize=regularize))
        frame = run.to_geodataframe()
        frames.append(frame[frame["class"] == "bright"].geometry.iloc[0])
    plain, regular = frames
    assert len(regular.exterior.coords) == 5
    assert len(plain.exterior.coords) > 5
    steps = np.diff(np.array(regular.exterior.coords), axis=0)
    np.testing.assert_allclose((steps * np.roll(steps, 1, axis=0)).sum(axis=1), 0, atol=1e-6)  # right angles
    assert plain.intersection(regular).area / plain.union(regular).area > 0.95
