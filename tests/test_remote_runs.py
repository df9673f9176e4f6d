"""Whole runs over sources that are not plain files: what a server holds, STAC, mosaics."""

import json
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from geovl import pipeline, sources
from geovl.errors import RunError, SourceError
from geovl.pipeline import Execution, segment
from geovl.runs import RunStore
from tests.fakes import UTM, blobs, write_tif
from tests.servers import Page, Server
from tests.test_pipeline import SMALL, THREE, Leaves, content, expected


@pytest.fixture
def server():
    with Server() as running:
        yield running


@pytest.fixture
def cog(tmp_path):
    """A COG whose pixels hardly compress, and its path."""
    rng = np.random.default_rng(0)
    noisy = (blobs(900, 700).astype(int) // 2 + rng.integers(0, 100, (3, 900, 700))).astype(np.uint8)
    plain = write_tif(tmp_path / "plain.tif", noisy)
    rasterio.shutil.copy(plain, tmp_path / "cog.tif", driver="COG", compress="DEFLATE", blocksize=256)
    return tmp_path / "cog.tif"


@pytest.fixture
def patient(monkeypatch):
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.05")
    monkeypatch.setenv("GDAL_HTTP_TIMEOUT", "5")


def test_a_cog_on_a_server_gives_the_run_of_the_file(server, cog, store, segmenter, tmp_path, patient):
    server.pages["/cog.tif"] = Page(cog.read_bytes(), latency=0.001, fail_first=2)
    (source,) = sources.resolve(f"{server.root}/cog.tif")
    run = segment(source, THREE, segmenter, store, SMALL, run_id="the-run")
    np.testing.assert_array_equal(run.labels(), expected(cog))
    local = segment(str(cog), THREE, segmenter, RunStore(tmp_path / "local"), SMALL, run_id="the-run")
    assert content(run) == content(local)
    assert run.manifest["source"]["path"] == f"{server.root}/cog.tif"


def test_a_source_that_disappears_on_the_way_is_named_and_the_run_goes_on_when_it_is_back(
    server, cog, store, segmenter, tmp_path, patient, monkeypatch
):
    monkeypatch.setattr("geovl.inference._WAIT", 0.01)
    page = Page(cog.read_bytes(), headers={"ETag": '"1"'})
    server.pages["/cog.tif"] = page
    (source,) = sources.resolve(f"{server.root}/cog.tif")
    gone = Leaves(segmenter, 40, lambda: server.pages.update({"/cog.tif": replace(page, status=404)}))
    monkeypatch.setattr("geovl.raster._CACHE", 1 << 16)  # else all of it has been read by then
    with pytest.raises(SourceError, match="404"):
        segment(source, THREE, gone, store, SMALL, run_id="the-run")
    assert store.list() == []
    server.pages["/cog.tif"] = page
    run = segment(source, THREE, segmenter, store, SMALL)
    assert run.id == "the-run"
    assert run.manifest["resumed_rows"] > 0
    local = segment(str(cog), THREE, segmenter, RunStore(tmp_path / "local"), SMALL, run_id="the-run")
    assert content(run) == content(local)


def test_the_items_of_a_collection_are_runs_of_their_own(server, cog, store, segmenter, patient):
    server.pages["/a/cog.tif"] = Page(cog.read_bytes())
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": "scene-1", "properties": {"datetime": "2024-05-01T00:00:00Z"},
        "geometry": None, "links": [],
        "assets": {"visual": {"href": "a/cog.tif", "type": "image/tiff; application=geotiff; profile=cloud-optimized"}},
    }  # fmt: skip
    collection = json.dumps({"type": "FeatureCollection", "features": [item]}).encode()
    server.pages["/items.json"] = Page(collection, kind="application/geo+json")
    (source,) = sources.resolve(f"{server.root}/items.json")
    run = segment(source, THREE, segmenter, store, SMALL)
    np.testing.assert_array_equal(run.labels(), expected(cog))
    assert run.manifest["source"]["path"] == "scene-1"


def tiles(folder, whole, transform=UTM):
    """Write quarters of a picture."""
    folder.mkdir()
    height, width = whole.shape[1] // 2, whole.shape[2] // 2
    for index, (row, col) in enumerate(((0, 0), (0, width), (height, 0), (height, width))):
        part = whole[:, row : row + height, col : col + width]
        write_tif(folder / f"{index}.tif", part, transform=transform @ transform.translation(col, row))
    return sources.resolve(str(folder))


def test_a_mosaic_is_the_picture_that_its_tiles_were_cut_from_and_can_be_resumed(tmp_path, store, segmenter):
    whole = blobs(300, 200)
    found = tiles(tmp_path / "tiles", whole)
    first, again = pipeline.mosaic(found, store), pipeline.mosaic(found, store)
    stopped = Leaves(segmenter, 10, lambda: (_ for _ in ()).throw(RuntimeError("stopped")))
    with pytest.raises(RuntimeError):
        segment(first, THREE, stopped, store, SMALL, run_id="the-run")
    run = segment(again, THREE, segmenter, store, SMALL)
    assert run.id == "the-run"
    np.testing.assert_array_equal(run.labels(), expected(write_tif(tmp_path / "whole.tif", whole)))
    assert run.verify() == []


def test_tiles_of_another_grid_are_not_merged(tmp_path, store):
    found = tiles(tmp_path / "tiles", blobs(100, 100))
    other = write_tif(tmp_path / "tiles" / "other.tif", blobs(20, 20), "EPSG:32633")
    with pytest.raises(SourceError, match="other"):
        pipeline.mosaic([*found, sources.Source("other.tif", str(other))], store)


def test_a_source_named_by_a_server_is_not_opened_as_anything_that_names_files(server, tmp_path, store, segmenter):
    secret = write_tif(tmp_path / "secret.tif", blobs(40, 40))
    with rasterio.open(secret) as dataset:
        vrt = (
            f'<VRTDataset rasterXSize="{dataset.width}" rasterYSize="{dataset.height}"><VRTRasterBand dataType="Byte"'
            f' band="1"><SimpleSource><SourceFilename>{secret}</SourceFilename><SourceBand>1</SourceBand>'
            "</SimpleSource></VRTRasterBand></VRTDataset>"
        )
    server.pages["/looks.tif"] = Page(vrt.encode())
    (source,) = sources.resolve(f"{server.root}/looks.tif")
    with pytest.raises(SourceError):
        segment(source, THREE, segmenter, store, SMALL)


def test_only_finished_runs_of_the_very_same_count_as_done(tile, store, segmenter):
    done = segment(str(tile), THREE, segmenter, store, SMALL)
    resume = Execution(resume=True)
    assert segment(str(tile), THREE, segmenter, store, SMALL, execution=resume).id == done.id
    other = segment(str(tile), THREE, segmenter, store, replace(SMALL, threshold=0.7), execution=resume)
    assert other.id != done.id
    with pytest.raises(RunError, match="already"):
        segment(str(tile), THREE, segmenter, store, SMALL, run_id=done.id)
