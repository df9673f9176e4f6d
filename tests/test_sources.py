"""A SOURCE argument names the right rasters; remote ones are read by ranges; faults say what happened."""

import json
import os
import threading
import time

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.io import DatasetReader
from rasterio.merge import merge
from rasterio.windows import Window as RioWindow

from geovl import sources
from geovl.errors import SourceError, UsageError
from geovl.sources import RemoteError, Source, fingerprint, mosaic, remote, resolve, same_content, stac
from tests.fakes import UTM, blobs, write_tif
from tests.servers import Server


@pytest.fixture
def server():
    with Server() as running:
        yield running


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """Fail within a second or two; nothing of the user's own settings."""
    for name in remote.OPTIONS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("GEOVL_OFFLINE", raising=False)
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.05")
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "1")
    monkeypatch.setenv("GDAL_HTTP_TIMEOUT", "5")
    monkeypatch.setenv("GDAL_HTTP_CONNECTTIMEOUT", "5")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="session")
def cog(tmp_path_factory):
    """A COG of noise, 1024 x 1024 in tiles of 128, so that nothing compresses: 3 MB."""
    path = tmp_path_factory.mktemp("cog") / "noise.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1024, 1024), dtype=np.uint8)
    with rasterio.open(
        path, "w", driver="COG", count=3, height=1024, width=1024, dtype="uint8", crs="EPSG:32632", transform=UTM,
        blocksize=128, compress="deflate", overviews="none",
    ) as dataset:  # fmt: skip
        dataset.write(pixels)
    return path


def paths(found):
    return [source.path for source in found]


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


# --- files, folders, globs, lists ------------------------------------------------------------------------------


def test_a_file_is_itself_even_with_brackets_in_its_name(tmp_path):
    touch(tmp_path, "a.tif", "b[1].tif")
    for name in ("a.tif", "b[1].tif"):
        path = str(tmp_path / name)
        assert resolve(path) == [Source(path, path)]


def test_a_folder_is_its_rasters_sorted_and_says_what_it_skips(tmp_path):
    touch(tmp_path, "b.TIF", "a.vrt", "c.jp2", "notes.txt", "a.tif.aux.xml", "deep/d.tif")
    said = []
    assert paths(resolve(str(tmp_path), say=said.append)) == [str(tmp_path / n) for n in ("a.vrt", "b.TIF", "c.jp2")]
    assert len(said) == 1
    assert "2 of 5 files" in said[0]


def test_a_glob_is_sorted_and_recursive_where_asked(tmp_path):
    touch(tmp_path, "x/b.tif", "x/a.tif", "x/y/z/c.tif", "x/a.tif.aux.xml", "x/odd.dat")
    assert paths(resolve(f"{tmp_path}/*/*.tif")) == [str(tmp_path / "x" / n) for n in ("a.tif", "b.tif")]
    assert paths(resolve(f"{tmp_path}/**/*.tif")) == [str(tmp_path / "x" / n) for n in ("a.tif", "b.tif", "y/z/c.tif")]
    said = []
    assert len(resolve(f"{tmp_path}/x/*", say=said.append)) == 2
    assert "2 of 4 files" in said[0]
    assert paths(resolve(f"{tmp_path}/x/*.dat")) == [str(tmp_path / "x/odd.dat")]


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("nothing.tif", "does not exist"),
        ("*.tif", "No file matches"),
        ("empty", "holds no raster"),
        ("t*", "is a raster"),
        ("@no.txt", "cannot be read"),
    ],
)
def test_nothing_there_is_said(tmp_path, monkeypatch, source, word):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "empty/notes.txt", "text.txt")
    with pytest.raises(SourceError, match=word) as raised:
        resolve(source)
    assert raised.value.hint


def test_a_list_keeps_its_order_and_starts_from_its_folder(tmp_path, monkeypatch):
    touch(tmp_path, "lists/b.tif", "lists/sub/a.tif", "c.tif")
    text = "\ufeff# comment\n\nb.tif\n  sub/a.tif  \nhttps://host.example/c.tif?key=secret\n./b.tif\n" + str(
        tmp_path / "c.tif"
    )
    (tmp_path / "lists/all.txt").write_text(text, "utf-8")
    monkeypatch.chdir("/")
    said = []
    found = resolve(f"@{tmp_path}/lists/all.txt", say=said.append)
    assert paths(found) == [
        str(tmp_path / "lists/b.tif"),
        str(tmp_path / "lists/sub/a.tif"),
        "/vsicurl/https://host.example/c.tif?key=secret",
        str(tmp_path / "c.tif"),
    ]
    assert len(said) == 1
    assert "b.tif" in said[0]
    assert "secret" not in found[2].name


@pytest.mark.parametrize(
    ("line", "word"), [("gone.tif", "Line 2"), ("@other.txt", "within a list"), ("ftp://x/a.tif", "Line 2")]
)
def test_a_fault_in_a_list_names_its_line(tmp_path, line, word):
    (tmp_path / "all.txt").write_text(f"# one\n{line}\n")
    with pytest.raises(SourceError, match=word):
        resolve(f"@{tmp_path}/all.txt")


def test_a_list_of_nothing_is_an_error(tmp_path):
    (tmp_path / "all.txt").write_text("# nothing\n")
    with pytest.raises(SourceError, match="names no raster"):
        resolve(f"@{tmp_path}/all.txt")


# --- URLs and paths of GDAL ------------------------------------------------------------------------------------


def test_a_url_becomes_a_path_of_gdal_without_asking_the_server():
    (found,) = resolve("https://host.example/a%20b/c d.tif?sig=a%2Fb&x=1#top")
    assert found.path == "/vsicurl/https://host.example/a%20b/c%20d.tif?sig=a%2Fb&x=1"
    assert found.name == "https://host.example/a%20b/c%20d.tif"
    assert found.remote
    assert not found.trusted


@pytest.mark.parametrize(
    ("path", "remote"),
    [
        ("/vsizip//data/a.zip/b.tif", False),
        ("/vsicurl/https://host.example/a.tif", True),
        ("/vsis3/bucket/a.tif", True),
        ("/vsizip//vsicurl/https://host.example/a.zip/b.tif", True),
        ("/vsicurl?use_head=no&url=https://host.example/a.tif", True),
        ("/vsimem/a.tif", False),
        ('NETCDF:"a.nc":band', False),
    ],
)
def test_paths_of_gdal_are_taken_as_they_are(path, remote):
    assert resolve(path) == [
        Source(path.partition("?sig")[0] if "url=" not in path else resolve(path)[0].name, path, remote)
    ]


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("file:///etc/passwd", "/etc/passwd"),
        ("s3://bucket/a.tif", "/vsis3/bucket/a.tif"),
        ("ftp://h/a.tif", "https"),
        ("https:///a.tif", "HOST"),
        ("https://h:x/a.tif", "HOST"),
    ],
)
def test_only_http_and_https_are_read(url, hint):
    with pytest.raises(SourceError) as raised:
        resolve(url)
    assert hint in raised.value.hint


def test_offline_refuses_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOVL_OFFLINE", "1")
    vrt = tmp_path / "a.vrt"
    vrt.write_text(
        '<VRTDataset><SourceFilename relativeToVRT="0">/vsicurl/https://h.example/p.tif</SourceFilename></VRTDataset>'
    )
    for source, name in (
        ("https://h.example/a.tif?sig=secret", "https://h.example/a.tif"),
        ("/vsis3/bucket/a.tif", "/vsis3/bucket/a.tif"),
        ("stac+https://h.example/search", "https://h.example/search"),
        (str(vrt), "https://h.example/p.tif"),
    ):
        with pytest.raises(RemoteError, match="GEOVL_OFFLINE") as raised:
            resolve(source)
        assert name in raised.value.message
        assert "secret" not in raised.value.message
        assert raised.value.reason == "offline"
    with pytest.raises(RemoteError), sources.reading(Source("a", "/vsicurl/https://h.example/a.tif", remote=True)):
        pass
    with pytest.raises(RemoteError):
        fingerprint("/vsicurl/https://h.example/a.tif")
    touch(tmp_path, "a.tif")
    assert resolve(str(tmp_path / "a.tif"))
    monkeypatch.setenv("GEOVL_OFFLINE", "0")
    assert resolve("https://h.example/a.tif")


def test_a_local_vrt_of_remote_parts_is_remote(tmp_path):
    vrt = tmp_path / "a.vrt"
    vrt.write_text(
        '<VRTDataset><SourceFilename relativeToVRT="0">/vsicurl/https://h.example/p.tif</SourceFilename></VRTDataset>'
    )
    (found,) = resolve(str(vrt))
    assert found.remote
    outer = tmp_path / "b.vrt"
    outer.write_text('<VRTDataset><SourceFilename relativeToVRT="1">a.vrt</SourceFilename></VRTDataset>')
    assert resolve(str(outer))[0].remote
    (tmp_path / "c.vrt").write_text('<VRTDataset><SourceFilename relativeToVRT="1">c.vrt</SourceFilename></VRTDataset>')
    assert not resolve(str(tmp_path / "c.vrt"))[0].remote


def test_the_users_own_gdal_options_count(monkeypatch):
    assert sources.environment(remote=False) == {}
    assert "GDAL_HTTP_MAX_RETRY" not in sources.environment(remote=True)
    monkeypatch.delenv("GDAL_HTTP_MAX_RETRY")
    assert sources.environment(remote=True)["GDAL_HTTP_MAX_RETRY"] == "3"
    assert sources.environment(remote=True)["GDAL_DISABLE_READDIR_ON_OPEN"] == "EMPTY_DIR"


# --- reading over the network ----------------------------------------------------------------------------------


def read(url, window=None):
    """Read as a run does: the file is opened in one thread and read in another."""
    (source,) = resolve(url)
    out = []
    with sources.reading(source), DatasetReader(source.path, driver=list(sources.REMOTE_DRIVERS)) as dataset:
        faults = []

        def work():
            try:
                out.append(dataset.read(window=window))
            except rasterio.errors.RasterioError as error:
                faults.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if faults:
            raise faults[0]
    return out[0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8)
@given(row=st.integers(0, 960), col=st.integers(0, 960))
def test_a_window_is_read_by_ranges_and_equals_the_local_file(server, cog, row, col):
    url = server.put(f"/{row}/{col}/a.tif", cog)
    window = RioWindow(col, row, 64, 64)
    with server.counting() as seen:
        pixels = read(url, window)
    with rasterio.open(cog) as dataset:
        np.testing.assert_array_equal(pixels, dataset.read(window=window))
    # four tiles of 128 x 128 x 3 at most, and the header
    assert sum(request.sent for request in seen) < 4 * 128 * 128 * 3 * 1.1 + 65_536 < cog.stat().st_size / 5
    assert {request.status for request in seen if request.method == "GET"} == {206}
    assert len(seen) <= 5


def test_windows_that_overlap_fetch_no_byte_twice(server, cog):
    (source,) = resolve(server.put("/windows.tif", cog))
    with server.counting() as seen, sources.reading(source), rasterio.open(source.path) as dataset:
        for row in range(0, 641, 160):
            for col in range(0, 641, 160):
                dataset.read(window=RioWindow(col, row, 384, 384))
    assert sum(request.sent for request in seen) < cog.stat().st_size * 1.05


def test_a_folder_is_not_listed_nor_searched_for_sidecars(server, cog):
    url = server.put("/folder/a.tif", cog)
    with server.counting() as seen:
        read(url, RioWindow(0, 0, 10, 10))
    assert {request.path for request in seen} == {"/folder/a.tif"}


@pytest.mark.parametrize("fault", ["fail_first", "reset_first"])
def test_a_fault_that_passes_is_not_noticed(server, cog, fault, monkeypatch):
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "3")
    url = server.put(f"/{fault}.tif", cog, **{fault: 2})
    with rasterio.open(cog) as dataset:
        np.testing.assert_array_equal(read(url), dataset.read())


@pytest.mark.parametrize(
    ("how", "reason", "word"),
    [
        ({"status": 404}, "not-found", "does not exist"),
        ({"status": 403}, "forbidden", "may not be read"),
        ({"status": 503}, "server", "HTTP 503"),
        ({"fail_first": 99}, "server", "HTTP 500"),
        ({"reset_first": 99}, "reset", "closed the connection"),
        ({"ranges": False}, "no-ranges", "whole files only"),
        ({"keep": 0.5}, "truncated", "cut off"),
        ({"head": False}, "forbidden", "does not tell its size"),
        ({"kind": "text/html"}, "not-a-raster", "web page"),
    ],
)
def test_each_fault_of_a_server_is_named(server, cog, how, reason, word):
    url = server.put(f"/{reason}-{next(iter(how))}.tif", cog if "kind" not in how else "<html>Sign in</html>", **how)
    with pytest.raises(RemoteError, match=word) as raised:
        read(url + "?sig=secret")
    assert raised.value.reason == reason
    assert raised.value.url == url
    assert url in raised.value.message
    assert "secret" not in raised.value.message + raised.value.hint
    assert raised.value.hint


def test_a_slow_server_is_a_timeout(server, cog, monkeypatch):
    monkeypatch.setenv("GDAL_HTTP_TIMEOUT", "1")
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    with pytest.raises(RemoteError, match="within 1 seconds") as raised:
        read(server.put("/slow.tif", cog, latency=30))
    assert raised.value.reason == "timeout"


def test_a_server_that_is_stuck_is_a_timeout(server, cog, monkeypatch):
    monkeypatch.setenv("GDAL_HTTP_TIMEOUT", "60")
    monkeypatch.setenv("GDAL_HTTP_LOW_SPEED_TIME", "1")
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    began = time.monotonic()
    with pytest.raises(RemoteError, match="within 1 seconds"):
        read(server.put("/stuck.tif", cog, latency=40))
    assert time.monotonic() - began < 20


def test_a_host_that_is_not_there_is_unreachable():
    with pytest.raises(RemoteError, match=r"127\.0\.0\.1 cannot be reached") as raised:
        read("http://127.0.0.1:1/a.tif")
    assert raised.value.reason == "unreachable"
    with pytest.raises(RemoteError, match="not known"):
        read("http://host.invalid/a.tif")


def test_a_file_cut_short_on_the_server_is_damaged(server, cog):
    content = cog.read_bytes()
    with pytest.raises(RemoteError, match="pixels cannot be read") as raised:
        read(server.put("/cut.tif", content[: len(content) // 3]))
    assert raised.value.reason == "damaged"


def test_a_fault_that_is_over_when_the_server_is_asked_says_so(server, cog):
    # HEAD and GET of GDAL fail, twice each at most; what asks afterwards is answered
    url = server.put("/over.tif", cog, fail_first=2)
    with pytest.raises(RemoteError, match="answers now"):
        read(url)


def test_a_local_fault_is_left_as_it_is(tmp_path):
    with pytest.raises(SourceError, match="mine"), sources.reading(Source("a", str(tmp_path / "a.tif"))):
        raise SourceError("mine")


# --- what a server must not do ---------------------------------------------------------------------------------


def test_a_vrt_from_a_server_is_refused(server, tmp_path):
    secret = write_tif(tmp_path / "secret.tif", blobs(20, 20))
    vrt = mosaic([str(secret)], tmp_path).read_text()
    url = server.put("/a.vrt", vrt)
    with pytest.raises(SourceError, match="VRT on a server"):
        resolve(url)
    url = server.put(
        "/looks-like.tif", vrt.replace("secret.tif", str(secret)).replace('relativeToVRT="1"', 'relativeToVRT="0"')
    )
    with pytest.raises(RemoteError, match="text, not a raster"):
        read(url)


@pytest.mark.parametrize(
    "href",
    [
        "/etc/secret.tif",
        "file:///etc/secret.tif",
        "C:\\secret.tif",
        "\\\\host\\secret.tif",
        "~/secret.tif",
        "s3://b/a.tif",
        "/vsizip/a.zip",
        "vrt:/etc/x.tif",
        "file:/etc/x.tif",
        "ftp://h/a.tif",
        "",
    ],
)
@pytest.mark.parametrize("own", [None, "file:///etc/item.json", "/etc/item.json"])
def test_an_item_from_a_server_names_no_local_file(server, href, own):
    url = server.put("/item.json", json.dumps(item("a", {"visual": {"href": href}}, own)), kind="application/json")
    with pytest.raises(SourceError) as raised:
        resolve(url)
    assert "'visual' of 'a'" in raised.value.message


@given(href=st.text(max_size=30) | st.from_regex(r"[./\\~a-z:]{0,12}(etc|vsi)[/:?]{0,3}[a-z]{0,3}", fullmatch=True))
def test_whatever_a_server_names_is_a_url_or_refused(href):
    try:
        found = stac.from_item(item("a", {"visual": {"href": href}}, None), "https://host.example/x/item.json", None)
    except SourceError:
        return
    assert found.path.startswith(("/vsicurl/https://", "/vsicurl/http://"))
    assert found.remote
    assert not found.trusted


def test_no_redirect_leads_to_a_file(server, tmp_path):
    (tmp_path / "item.json").write_text("{}")
    url = server.put("/go.json", "", status=302, headers={"Location": f"file://{tmp_path}/item.json"})
    with pytest.raises(RemoteError):
        resolve(url)


# --- STAC ------------------------------------------------------------------------------------------------------

TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"


def item(name, assets, own=None):
    links = [] if own is None else [{"rel": "self", "href": own}]
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "geometry": None, "links": links, "assets": assets,
        "properties": {"datetime": "2024-05-06T07:08:09Z"},
    }  # fmt: skip


def collection(*items, following=None):
    links = [] if following is None else [{"rel": "next", **following}]
    return {"type": "FeatureCollection", "features": list(items), "links": links}


@pytest.mark.parametrize(
    ("assets", "chosen"),
    [
        ({"B04": {"type": TIFF}, "visual": {"type": "image/jp2"}}, "visual"),
        (
            {
                "B04": {"type": TIFF},
                "rgb": {"type": TIFF, "roles": ["visual"]},
                "rgb-jp2": {"type": "image/jp2", "roles": ["visual"]},
            },
            "rgb",
        ),
        ({"preview": {"type": "image/png", "roles": ["visual"]}}, "preview"),
        ({"image": {"type": TIFF}, "nir": {"type": TIFF}}, "image"),
        ({"data": {"type": TIFF, "roles": ["data"]}, "meta": {"type": "text/xml"}}, "data"),
        ({"a": {"type": TIFF, "roles": ["data"]}, "b": {"type": TIFF, "roles": ["overview"]}}, "a"),
        ({"a": {"type": TIFF}, "t": {"type": TIFF, "roles": ["thumbnail"]}}, "a"),
        ({"a": {}, "b": {"type": "text/plain"}}, "a"),
    ],
)
def test_the_picture_of_an_item_is_chosen(assets, chosen):
    for key, value in assets.items():
        value["href"] = f"{key}.tif"
    assert stac.choose_asset(assets, "item", None) == chosen


@pytest.mark.parametrize(
    "assets",
    [
        {"B04": {"type": TIFF, "roles": ["data"]}, "B03": {"type": TIFF, "roles": ["data"]}},
        {"x": {"type": "text/xml"}},
        {},
    ],
)
def test_an_item_without_a_plain_choice_lists_its_assets(tmp_path, assets):
    (tmp_path / "item.json").write_text(json.dumps(item("scene", assets)))
    with pytest.raises(SourceError, match="scene") as raised:
        resolve(str(tmp_path / "item.json"))
    assert all(key in raised.value.message for key in assets)
    assert "--asset" in raised.value.hint
    with pytest.raises(SourceError, match="no asset 'nope'"):
        resolve(str(tmp_path / "item.json"), asset="nope")


def test_a_local_item_names_files_beside_it_and_urls(tmp_path):
    touch(tmp_path, "items/a.json", "data/a.tif")
    assets = {
        "visual": {"href": "../data/a.tif"},
        "far": {"href": "https://h.example/a.tif?sig=1"},
        "gone": {"href": "gone.tif"},
    }
    (tmp_path / "items/a.json").write_text(json.dumps(item("a", assets)))
    path = str(tmp_path / "items/a.json")
    assert resolve(path) == [Source("a", str(tmp_path / "data/a.tif"), id="a", datetime="2024-05-06T07:08:09Z")]
    (far,) = resolve(path, asset="far")
    assert (far.path, far.remote, far.trusted) == ("/vsicurl/https://h.example/a.tif?sig=1", True, False)
    with pytest.raises(SourceError, match=r"gone\.tif"):
        resolve(path, asset="gone")


def test_hrefs_of_a_remote_item_start_from_the_item(server):
    url = server.put("/cat/item.json", json.dumps(item("a", {"visual": {"href": "../data/a.tif"}})))
    (found,) = resolve(url)
    assert found == Source("a", f"/vsicurl/{server.root}/data/a.tif", True, "a", "2024-05-06T07:08:09Z", False)
    # items of a search are at home where their self link says
    own = "https://h.example/items/b.json"
    url = server.put(
        "/search", json.dumps(collection(item("b", {"visual": {"href": "./b.tif"}}, own))), kind="application/geo+json"
    )
    assert paths(resolve(url)) == ["/vsicurl/https://h.example/items/b.tif"]


def pages(server, count, **more):
    for page in range(count):
        following = {"href": f"?page={page + 1}"} if page + 1 < count else None
        found = [item(f"{page}-{i}", {"visual": {"href": f"https://h.example/{page}-{i}.tif"}}) for i in range(3)]
        server.put(
            f"/search?page={page}",
            json.dumps(collection(*found, following=following)),
            kind="application/geo+json",
            **more,
        )
    return f"stac+{server.root}/search?page=0"


def test_next_links_are_followed_in_order(server):
    said = []
    found = resolve(pages(server, 4), say=said.append)
    assert [source.id for source in found] == [f"{page}-{i}" for page in range(4) for i in range(3)]
    assert said == []


def test_pages_are_bounded_and_that_is_said(server):
    said = []
    with server.counting() as seen:
        assert len(resolve(pages(server, 5), pages=2, say=said.append)) == 6
    assert len(seen) == 2
    assert "first 2 pages (6 items)" in said[0]
    with pytest.raises(UsageError):
        resolve("x", pages=0)


def test_a_page_that_follows_itself_ends(server):
    page = collection(item("a", {"visual": {"href": "https://h.example/a.tif"}}), following={"href": "/search?page=0"})
    url = server.put("/search?page=0", json.dumps(page))
    said = []
    assert len(resolve(url, say=said.append)) == 1
    assert any("next page" in text for text in said)


def test_a_next_link_may_be_a_post(server):
    following = {"href": "/search2", "method": "POST", "body": {"token": "next:7"}}
    url = server.put(
        "/search",
        json.dumps(collection(item("a", {"visual": {"href": "https://h.example/a.tif"}}), following=following)),
    )
    server.put("/search2", json.dumps(collection(item("b", {"visual": {"href": "https://h.example/b.tif"}}))))
    with server.counting() as seen:
        assert [source.id for source in resolve(url)] == ["a", "b"]
    assert (seen[1].method, json.loads(seen[1].body)) == ("POST", {"token": "next:7"})


def test_a_search_is_asked_again_when_the_server_fails_once(server):
    assert len(resolve(pages(server, 2, fail_first=1))) == 6


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"keep": 0.5}, "truncated"),
        ({"status": 404}, "not-found"),
        ({"reset_first": 9}, "reset"),
        ({"fail_first": 9}, "server"),
    ],
)
def test_faults_of_an_api_are_named(server, how, reason):
    with pytest.raises(RemoteError) as raised:
        resolve(pages(server, 2, **how))
    assert raised.value.reason == reason


def test_a_collection_leads_to_its_items(server):
    server.put("/items", json.dumps(collection(item("a", {"visual": {"href": "https://h.example/a.tif"}}))))
    url = server.put(
        "/collections/x", json.dumps({"type": "Collection", "links": [{"rel": "items", "href": "/items"}]})
    )
    assert [source.id for source in resolve(url)] == ["a"]
    server.put("/s/a.json", json.dumps(item("s", {"visual": {"href": "a.tif"}})))
    url = server.put("/s/catalog.json", json.dumps({"type": "Catalog", "links": [{"rel": "item", "href": "./a.json"}]}))
    assert paths(resolve(url)) == [f"/vsicurl/{server.root}/s/a.tif"]
    url = server.put("/root.json", json.dumps({"type": "Catalog", "links": []}))
    with pytest.raises(SourceError, match="without items"):
        resolve(url)


def test_a_url_without_an_ending_is_asked_what_it_is(server, cog):
    url = server.put(
        "/thing", json.dumps(item("a", {"visual": {"href": "https://h.example/a.tif"}})), kind="application/geo+json"
    )
    assert resolve(url)[0].id == "a"
    with server.counting() as seen:
        (found,) = resolve(server.put("/raster", cog))
    assert found.path == f"/vsicurl/{server.root}/raster"
    assert sum(request.sent for request in seen) <= 65_536


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[1]", "not an object"),
        ("{", "not JSON"),
        ('{"type": "Topology"}', "no STAC"),
        ('{"type": "FeatureCollection", "features": []}', "no items"),
        ('{"type": "Feature"}', "no assets"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_json_that_is_not_stac_is_refused(tmp_path, server, text, word):
    (tmp_path / "a.json").write_text(text)
    for source in (str(tmp_path / "a.json"), server.put("/a.json", text)):
        with pytest.raises(SourceError, match=word):
            resolve(source)


# --- mosaics ---------------------------------------------------------------------------------------------------


def place(row, col):
    return UTM @ Affine.translation(col, row)


def oracle(files, **options):
    """What rasterio.merge makes of the files, later ones winning."""
    return merge(files, method="last", **options)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("nodata", [None, 0, -9999.5, float("nan")])
def test_a_mosaic_equals_what_rasterio_merges(tmp_path, dtype, nodata):
    if nodata is not None and dtype != "float32" and nodata != 0:
        pytest.skip("not a value of this type")
    rng = np.random.default_rng(3)
    files = []
    for index, (row, col, height, width) in enumerate(
        [(0, 0, 40, 50), (20, 30, 40, 60), (70, 5, 33, 21), (10, 10, 7, 9)]
    ):
        pixels = rng.integers(1, 200, (2, height, width)).astype(dtype)
        if nodata is not None:
            pixels[:, rng.random((height, width)) < 0.4] = nodata
        files.append(str(write_tif(tmp_path / f"{index}.tif", pixels, transform=place(row, col), nodata=nodata)))
    with rasterio.open(mosaic(files, tmp_path)) as dataset:
        expected, transform = oracle(files, **({} if nodata is not None else {"masked": True, "nodata": None}))
        assert dataset.transform.almost_equals(transform)
        assert dataset.dtypes == (dtype, dtype)
        assert repr(dataset.nodata) == repr(None if nodata is None else float(nodata))
        got = dataset.read(masked=True)
        assert got.shape == expected.shape
        if nodata is None:
            covered = np.zeros(got.shape[1:], bool)
            for row, col, height, width in [(0, 0, 40, 50), (20, 30, 40, 60), (70, 5, 33, 21)]:
                covered[row : row + height, col : col + width] = True
            np.testing.assert_array_equal(dataset.read_masks(1) > 0, covered)
            np.testing.assert_array_equal(got.filled(0), np.ma.filled(expected, 0))
        else:
            np.testing.assert_array_equal(got.data, expected)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(
    boxes=st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 40), st.integers(1, 40)),
        min_size=1,
        max_size=5,
    ),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("kind", ["mask", "alpha"])
def test_masks_and_alpha_let_earlier_rasters_through(tmp_path_factory, kind, boxes, seed):
    folder = tmp_path_factory.mktemp("m")
    rng = np.random.default_rng(seed)
    files = []
    top, left = min(box[0] for box in boxes), min(box[1] for box in boxes)
    values, seen = np.zeros((3, 200, 200), np.uint8), np.zeros((200, 200), bool)
    for index, (row, col, height, width) in enumerate(boxes):
        pixels = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
        valid = rng.random((height, width)) < 0.6
        path = folder / f"{index}.tif"
        if kind == "alpha":
            alpha = np.where(valid, 255, 0).astype(np.uint8)[None]
            write_tif(path, np.concatenate([pixels, alpha]), transform=place(row, col), photometric="RGB", alpha="YES")
        else:
            with (
                rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
                rasterio.open(write_tif(path, pixels, transform=place(row, col)), "r+") as dataset,
            ):
                dataset.write_mask(valid)
        area = (slice(row - top, row - top + height), slice(col - left, col - left + width))
        values[(slice(None), *area)] = np.where(valid, pixels, values[(slice(None), *area)])
        seen[area] |= valid
        files.append(str(path))
    with rasterio.open(mosaic(files, folder)) as dataset:
        rows, cols = dataset.shape
        mask = dataset.read_masks(1) > 0
        np.testing.assert_array_equal(mask, seen[:rows, :cols])
        np.testing.assert_array_equal(dataset.read([1, 2, 3])[:, mask], values[:, :rows, :cols][:, mask])
        assert not seen[rows:].any()
        assert not seen[:, cols:].any()


def test_a_mosaic_keeps_colours_names_and_overviews(tmp_path):
    files = []
    for index in range(2):
        path = write_tif(tmp_path / f"{index}.tif", blobs(600, 600)[:1], transform=place(0, 600 * index), tiled=True)
        with rasterio.open(path, "r+") as dataset:
            dataset.write_colormap(1, {0: (1, 2, 3, 255), 255: (9, 8, 7, 255)})
            dataset.set_band_description(1, "land & cover")
            dataset.build_overviews([2, 4])
        files.append(str(path))
    with rasterio.open(mosaic(files, tmp_path)) as dataset:
        assert dataset.colormap(1)[255] == (9, 8, 7, 255)
        assert dataset.descriptions == ("land & cover",)
        assert dataset.overviews(1) == [2, 4]
        assert dataset.colorinterp[0].name == "palette"


def test_a_mosaic_can_be_moved_with_what_lies_beside_it_and_away_from_what_does_not(tmp_path):
    run, data = tmp_path / "run", tmp_path / "data & more"
    run.mkdir()
    data.mkdir()
    inside = write_tif(run / "in.tif", blobs(10, 10))
    outside = write_tif(data / "out.tif", blobs(10, 10, seed=1), transform=place(0, 10))
    mosaic([str(inside), str(outside)], run)
    moved = tmp_path / "elsewhere" / "run"
    moved.parent.mkdir()
    run.rename(moved)
    with rasterio.open(moved / "mosaic.vrt") as dataset:
        np.testing.assert_array_equal(dataset.read()[:, :, :10], blobs(10, 10))
        np.testing.assert_array_equal(dataset.read()[:, :, 10:], blobs(10, 10, seed=1))


def test_a_raster_off_the_grid_is_moved_by_less_than_a_pixel_and_not_resampled(tmp_path):
    first, second = blobs(10, 10), blobs(10, 10, seed=1)
    files = [
        str(write_tif(tmp_path / "a.tif", first)),
        str(write_tif(tmp_path / "b.tif", second, transform=UTM @ Affine.translation(10.3, 0.4))),
    ]
    with rasterio.open(mosaic(files, tmp_path)) as dataset:
        np.testing.assert_array_equal(dataset.read()[:, :, 10:], second)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"crs": "EPSG:32633"}, "CRS EPSG:32632 and EPSG:32633"),
        ({"crs": None}, "CRS EPSG:32632 and no CRS"),
        ({"transform": UTM @ Affine.scale(1.0001)}, "pixel size"),
        ({"pixels": blobs(20, 20)[:1]}, "number of bands 3 and 1"),
        ({"pixels": blobs(20, 20).astype(np.uint16)}, "data type uint8 and uint16"),
        ({"nodata": 7}, "nodata value"),
    ],
)
def test_rasters_that_differ_are_named(tmp_path, change, word):
    first = write_tif(tmp_path / "first.tif", blobs(20, 20))
    change = {"pixels": blobs(20, 20), "photometric": "MINISBLACK"} | change
    second = write_tif(tmp_path / "second.tif", **change)
    with pytest.raises(SourceError, match=word) as raised:
        mosaic([str(first), str(second)], tmp_path)
    assert "first.tif" in raised.value.message
    assert "second.tif" in raised.value.message
    assert "--merge" in raised.value.hint
    assert not (tmp_path / "mosaic.vrt").exists()


def test_pixel_sizes_that_differ_by_rounding_are_the_same(tmp_path):
    files = [
        str(write_tif(tmp_path / "a.tif", blobs(20, 20))),
        str(write_tif(tmp_path / "b.tif", blobs(20, 20), transform=place(0, 20) @ Affine.scale(1 + 1e-7))),
    ]
    with rasterio.open(mosaic(files, tmp_path)) as dataset:
        assert dataset.shape == (20, 40)


@pytest.mark.parametrize(
    ("transform", "word"),
    [
        (UTM @ Affine.rotation(10), "rotated"),
        (UTM @ Affine.scale(1, -1), "not north-up"),
        (UTM @ Affine.scale(-1, 1), "not north-up"),
        (Affine.identity(), "not placed"),
    ],
)
def test_rasters_that_are_not_north_up_are_refused(tmp_path, transform, word):
    path = write_tif(tmp_path / "odd.tif", blobs(20, 20), transform=transform)
    with pytest.raises(SourceError, match=word) as raised:
        mosaic([str(path)], tmp_path)
    assert "odd.tif" in raised.value.message


def test_rasters_that_lie_far_apart_are_not_one_mosaic(tmp_path):
    files = [str(write_tif(tmp_path / f"{i}.tif", blobs(20, 20), transform=place(0, i * 100_000))) for i in range(2)]
    with pytest.raises(SourceError, match=r"far apart.*1\.tif"):
        mosaic(files, tmp_path)
    with pytest.raises(SourceError, match="at least one"):
        mosaic([], tmp_path)


def test_a_mosaic_of_remote_rasters(server, tmp_path):
    pixels = [blobs(64, 64, seed=i) for i in range(2)]
    urls = [
        server.put(f"/m{i}.tif?sig=secret", write_tif(tmp_path / f"{i}.tif", p, transform=place(0, 64 * i)))
        for i, p in enumerate(pixels)
    ]
    found = [source for url in urls for source in resolve(url)]
    with rasterio.Env(**sources.environment(remote=True)):
        vrt = mosaic(paths(found), tmp_path)
        with rasterio.open(vrt) as dataset:
            np.testing.assert_array_equal(dataset.read(), np.concatenate(pixels, axis=2))
    assert resolve(str(vrt))[0].remote
    marks = fingerprint(str(vrt))
    assert [part["url"] for part in marks["parts"]] == [url.partition("?")[0] for url in urls]
    with pytest.raises(RemoteError, match="does not exist"), rasterio.Env(**sources.environment(remote=True)):
        mosaic([f"/vsicurl/{server.root}/gone.tif"], tmp_path)


# --- fingerprints ----------------------------------------------------------------------------------------------


def test_a_fingerprint_follows_content_not_times(tmp_path):
    path = write_tif(tmp_path / "a.tif", blobs(20, 20))
    before = fingerprint(str(path))
    assert before["bytes"] == path.stat().st_size
    assert json.loads(json.dumps(before)) == before
    os.utime(path, ns=(1, 1))
    assert fingerprint(str(path)) != before
    assert same_content(before, fingerprint(str(path)))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert not same_content(before, fingerprint(str(path)))


def test_a_fingerprint_of_a_vrt_follows_its_parts(tmp_path):
    part = write_tif(tmp_path / "a.tif", blobs(20, 20))
    vrt = mosaic([str(part)], tmp_path)
    (tmp_path / "deep").mkdir()
    outer = tmp_path / "deep/outer.vrt"
    outer.write_text('<VRTDataset><SourceFilename relativeToVRT="1">../mosaic.vrt</SourceFilename></VRTDataset>')
    before = fingerprint(str(vrt)), fingerprint(str(outer))
    assert [mark["kind"] for mark in before] == ["vrt", "vrt"]
    assert all(same_content(mark, mark) for mark in before)
    write_tif(part, blobs(20, 20, seed=5))
    assert not same_content(before[0], fingerprint(str(vrt)))
    assert not same_content(before[1], fingerprint(str(outer)))


def test_a_vrt_that_names_itself_ends(tmp_path):
    vrt = tmp_path / "a.vrt"
    vrt.write_text('<VRTDataset><SourceFilename relativeToVRT="1">a.vrt</SourceFilename></VRTDataset>')
    mark = fingerprint(str(vrt))
    assert not same_content(mark, {**mark, "sha256": ""})


def test_a_fingerprint_of_a_url_is_what_the_server_says(server, cog):
    url = server.put("/a.tif?sig=1", cog, headers={"ETag": '"abc"', "Last-Modified": "Mon, 06 May 2024 07:08:09 GMT"})
    with server.counting() as seen:
        before = fingerprint("/vsicurl/" + url)
    assert [request.method for request in seen] == ["HEAD"]
    assert before == {
        "kind": "url", "url": url.partition("?")[0], "bytes": cog.stat().st_size, "etag": '"abc"',
        "last_modified": "Mon, 06 May 2024 07:08:09 GMT",
    }  # fmt: skip
    server.put("/a.tif?sig=2", cog, headers={"ETag": '"abc"', "Last-Modified": "Mon, 06 May 2024 07:08:09 GMT"})
    assert same_content(before, fingerprint(f"/vsicurl/{server.root}/a.tif?sig=2"))
    server.put("/a.tif?sig=1", cog, headers={"ETag": '"def"'})
    assert not same_content(before, fingerprint("/vsicurl/" + url))
    # a server that says nothing cannot say that nothing changed
    plain = fingerprint("/vsicurl/" + server.put("/plain.tif", cog))
    assert not same_content(plain, plain)


def test_a_fingerprint_of_a_url_that_refuses_head(server, cog):
    mark = fingerprint("/vsicurl/" + server.put("/signed.tif", cog, head=False, headers={"ETag": '"x"'}))
    assert (mark["bytes"], mark["etag"]) == (cog.stat().st_size, '"x"')
    with pytest.raises(RemoteError, match="does not exist"):
        fingerprint(f"/vsicurl/{server.root}/gone.tif")


def test_a_fingerprint_of_other_paths(tmp_path):
    touch(tmp_path, "a.zip")
    assert fingerprint(f"/vsizip/{tmp_path}/a.zip/b/c.tif")["kind"] == "file"
    assert fingerprint("/vsis3/bucket/a.tif") == {"kind": "path", "path": "/vsis3/bucket/a.tif"}
    with pytest.raises(SourceError, match="cannot be read"):
        fingerprint(str(tmp_path / "gone.tif"))
