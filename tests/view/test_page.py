"""The page in a real browser: everything inside, nothing asked of a network, and all of it works."""

import json
import re
import time

import pytest
from affine import Affine
from typer.testing import CliRunner

from geovl import api
from geovl.cli.app import app
from geovl.errors import ExportError, RunError, UsageError
from geovl.views.page import Basemap, page
from tests.view.conftest import HOSTILE, LOCAL, run_of


class Page:
    """An open page, and what a person would do with it."""

    def __init__(self, browser, path):
        self.browser = browser
        for kind in ("browser", "performance"):
            browser.get_log(kind)
        browser.get(path.resolve().as_uri())
        self.wait("return document.documentElement.dataset.ready")

    def do(self, script, *more):
        return self.browser.execute_script(script, *more)

    def wait(self, script, *more):
        end = time.monotonic() + 15
        while time.monotonic() < end:
            if found := self.do(script, *more):
                return found
            time.sleep(0.05)
        pytest.fail(f"never true: {script}")

    def by(self, selector):
        from selenium.webdriver.common.by import By

        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def told(self):
        return self.by("#told")[0].text

    def painted(self):
        """Pixels of the tiles that are not clear."""
        time.sleep(0.3)
        return self.do(
            "let n = 0; for (const c of document.querySelectorAll('#map canvas')) {"
            " const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            " for (let i = 3; i < d.length; i += 4) if (d[i]) n++; } return n"
        )

    def keys(self, selector, *keys):
        self.by(selector)[0].send_keys(*keys)

    def slide(self, selector, value):
        self.do(
            "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
            " e.dispatchEvent(new Event('input', {bubbles: true}))", selector, str(value),
        )  # fmt: skip

    def faults(self):
        """What the console says, and what was asked of a network."""
        said = [entry["message"] for entry in self.browser.get_log("browser")]
        events = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        asked = [
            event["params"]["request"]["url"] for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]  # fmt: skip
        return said, [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]


@pytest.fixture
def shown(browser, tmp_path, store):
    run = run_of(tmp_path, store)
    path = tmp_path / "page.html"
    assert page([run], path) == ()
    opened = Page(browser, path)
    yield opened, run
    said, asked = opened.faults()
    assert said == []
    assert asked == []


def test_hostile_names_are_text_and_nothing_else(shown):
    opened, run = shown
    assert [element.get_attribute("title") for element in opened.by("#legend .name")] == list(HOSTILE)
    assert opened.do("return window.broken") is None
    assert opened.do("return document.querySelectorAll('b').length") == 1  # the tip's own
    assert opened.told() == f"{run.manifest['polygons']} of {run.manifest['polygons']} polygons"


def test_the_legend_hides_classes(shown):
    opened, run = shown
    before = opened.painted()
    assert before > 1000
    opened.by("#legend input")[4].click()
    rest = sum(entry["polygons"] for entry in run.manifest["classes"][:4])
    assert opened.told() == f"{rest} of {run.manifest['polygons']} polygons"
    assert 0 < opened.painted() < before
    opened.by("#legend input")[4].click()
    assert abs(opened.painted() - before) < 50


def test_the_slider_hides_what_is_less_sure(shown):
    opened, run = shown
    frame = run.to_geodataframe()
    opened.slide("#score", 75)
    opened.wait("return document.getElementById('score-told').textContent === '0.75'")
    left = int((frame["score"] >= 0.75).sum())
    assert 0 < left < len(frame)
    opened.wait(f"return document.getElementById('told').textContent.startsWith('{left} of')")
    opened.slide("#opacity", 0)
    assert opened.painted() == 0


def test_the_table_sorts_and_zooms(shown):
    opened, run = shown
    frame = run.to_geodataframe()
    areas = [float(row.text.split("\n")[-1].replace(" m²", "").replace(",", "")) for row in opened.by(".row")]
    ordered = sorted(frame["area_m2"], reverse=True)
    assert areas == pytest.approx(ordered[: len(areas)], abs=0.51)
    opened.by("#sorts [data-sort=area]")[0].click()
    assert opened.by(".row")[0].text.endswith(f"\n{min(frame['area_m2']):.1f} m²")
    opened.by("#sorts [data-sort=score]")[0].click()
    opened.by("#sorts [data-sort=class]")[0].click()
    assert opened.by("#sorts [data-sort=class]")[0].get_attribute("aria-sort") == "ascending"
    scale = opened.by(".leaflet-control-scale-line")[0].text
    opened.by(".row")[0].click()
    opened.wait(f"return document.querySelector('.leaflet-control-scale-line').textContent !== '{scale}'")
    assert len(opened.by("path.leaflet-interactive, .leaflet-mark-pane path")) == 1
    opened.by("#fit")[0].click()
    opened.wait(f"return document.querySelector('.leaflet-control-scale-line').textContent === '{scale}'")


def test_it_is_usable_from_the_keyboard(shown):
    from selenium.webdriver.common.keys import Keys

    opened, _ = shown
    opened.keys("#rows", Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert opened.by("#rows")[0].get_attribute("aria-activedescendant") == "polygon-1"
    opened.keys("#rows", Keys.END)
    last = opened.by("#rows")[0].get_attribute("aria-activedescendant")
    assert opened.by(f"#{last}[aria-selected=true]")
    scale = opened.by(".leaflet-control-scale-line")[0].text
    opened.keys("#rows", Keys.ENTER)
    opened.wait(f"return document.querySelector('.leaflet-control-scale-line').textContent !== '{scale}'")
    opened.keys("#legend input", Keys.SPACE)
    assert not opened.by("#legend input")[0].is_selected()
    names = opened.do(
        "return [...document.querySelectorAll('button, input, [tabindex]')].map("
        "e => e.getAttribute('aria-label') || e.getAttribute('title') || e.textContent || e.closest('label')?.textContent)"
    )
    assert all(names)


def test_the_pointer_tells_what_it_is_over(shown):
    from selenium.webdriver.common.action_chains import ActionChains

    opened, run = shown
    opened.by(".row")[0].click()  # the largest, in the middle of the map
    time.sleep(0.8)
    stage = opened.by("#map")[0]
    ActionChains(opened.browser).move_to_element(stage).move_by_offset(3, 3).perform()
    opened.wait("return !document.getElementById('tip').hidden")
    frame = run.to_geodataframe().sort_values("area_m2", ascending=False)
    told = opened.by("#tip")[0].text
    assert f"{frame['area_m2'].iloc[0]:,.0f} m²" in told
    assert f"score {frame['score'].iloc[0]:.2f}" in told
    lat, lon = re.fullmatch(r"([\d.]+)° N, ([\d.]+)° E", opened.by("#where")[0].text).groups()
    centre = run.to_geodataframe().to_crs(4326).loc[frame.index[0]].geometry.centroid
    assert (float(lon), float(lat)) == pytest.approx((centre.x, centre.y), abs=2e-5)


def test_the_swipe_parts_picture_and_result(shown):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    opened, _ = shown
    handle = opened.by("#swipe")[0]
    assert not handle.is_displayed()
    opened.by("#swiping")[0].click()
    assert handle.get_attribute("aria-valuenow") == "50"
    clip = "return document.querySelector('.leaflet-found-pane').style.clipPath"
    middle = opened.do(clip)
    ActionChains(opened.browser).drag_and_drop_by_offset(handle, -200, 0).perform()
    assert int(handle.get_attribute("aria-valuenow")) < 40
    assert opened.do(clip) != middle
    opened.keys("#swipe", Keys.END)
    assert handle.get_attribute("aria-valuenow") == "100"
    opened.by("#swiping")[0].click()
    assert opened.do(clip) == ""


def test_pixels_can_take_the_place_of_outlines(shown):
    opened, _ = shown
    opened.by("#raster")[0].click()
    assert opened.do("return document.querySelector('img.crisp').naturalWidth") > 100
    assert opened.by("#map canvas") == []
    opened.by("#raster")[0].click()
    assert opened.painted() > 1000


def test_light_and_dark(shown):
    opened, _ = shown
    ground = "return getComputedStyle(document.body).backgroundColor"
    before = opened.do(ground)
    opened.by("#theme")[0].click()
    assert opened.do(ground) != before
    opened.by("#theme")[0].click()
    assert opened.do(ground) == before


def test_on_a_phone_nothing_is_cut_off(shown):
    opened, _ = shown
    opened.do("document.querySelector('#legend').scrollTop = 0")
    opened.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        time.sleep(0.3)
        assert opened.do("return document.documentElement.scrollWidth") <= 390
        drawer = opened.by("#drawer")[0]
        assert drawer.is_displayed()
        drawer.click()
        assert drawer.get_attribute("aria-expanded") == "false"
        assert opened.do("return document.getElementById('map').clientHeight") > 600
    finally:
        opened.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_several_dates_have_a_slider(browser, tmp_path, store):
    one = run_of(tmp_path, store, ("a", "b"), 1, "one.tif")
    two = run_of(tmp_path, store, ("a", "c"), 2, "two.tif")
    manifest = two.manifest
    manifest["source"]["datetime"] = "2019-05-04T00:00:00Z"
    (two.path / "run.json").write_text(json.dumps(manifest))
    page([one, two], tmp_path / "both.html")
    opened = Page(browser, tmp_path / "both.html")
    assert opened.by("#date")[0].text == "2019-05-04"
    assert opened.by("#title")[0].text == "two.tif"
    assert [name.text for name in opened.by("#legend .name")] == ["a", "c"]
    opened.by("#legend input")[0].click()
    opened.slide("#time", 1)
    opened.wait("return document.documentElement.dataset.ready === '1'")
    assert opened.by("#title")[0].text == "one.tif"
    assert [box.is_selected() for box in opened.by("#legend input")] == [False, True]  # a stays hidden
    assert opened.faults() == ([], [])


def test_a_raster_without_crs_is_shown_in_its_pixels(browser, tmp_path, store):
    from selenium.webdriver.common.action_chains import ActionChains

    run = run_of(tmp_path, store, ("a", "b"), crs=None, transform=None)
    page([run], tmp_path / "page.html")
    opened = Page(browser, tmp_path / "page.html")
    assert opened.painted() > 1000
    ActionChains(browser).move_to_element(opened.by("#map")[0]).perform()
    opened.wait("return document.getElementById('where').textContent")
    col, row = map(int, re.fullmatch(r"column (\d+), row (\d+)", opened.by("#where")[0].text).groups())
    assert (col, row) == pytest.approx((160, 120), abs=2)
    assert opened.faults() == ([], [])
    with pytest.raises(UsageError, match="no CRS"):
        page([run, run_of(tmp_path, store, ("a", "b"), file="placed.tif")], tmp_path / "both.html")


def test_what_web_mercator_cannot_show_is_refused_or_shown_in_pixels(tmp_path, store):
    pole = run_of(tmp_path, store, ("a",), crs="EPSG:3413", transform=Affine(1000, 0, -160000, 0, -1000, 120000))
    with pytest.raises(RunError, match="degrees of latitude"):
        page([pole], tmp_path / "pole.html")
    assert not (tmp_path / "pole.html").exists()
    local = run_of(tmp_path, store, ("a",), crs=LOCAL, file="local.tif")
    page([local], tmp_path / "local.html")
    assert '"crs":"pixels"' in (tmp_path / "local.html").read_text()
    world = run_of(
        tmp_path, store, ("a",), crs="EPSG:4326", transform=Affine(360 / 320, 0, -180, 0, -0.75, 90), file="world.tif"
    )
    assert page([world], tmp_path / "world.html") == ()


def test_a_page_has_everything_inside_and_may_load_nothing(tmp_path, store):
    run = run_of(tmp_path, store)
    page([run], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    assert policy.startswith(("default-src 'none'; ", "default-src &#x27;none&#x27;; "))
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not re.findall(
        r"""(?:src|href)=["']?(?!data:)[^"'\s>]""", re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    )
    assert "<script>window" not in text
    assert text.count("</script>") == 3
    assert list(tmp_path.glob(".*.partial")) == []


def test_a_basemap_is_all_that_may_be_loaded(tmp_path, store):
    run = run_of(tmp_path, store, ("a",))
    page([run], tmp_path / "page.html", basemap=Basemap("https://{s}.tiles.example/{z}/{x}/{y}.png", "<b>them</b>"))
    text = (tmp_path / "page.html").read_text()
    assert "img-src data: blob: https://*.tiles.example;" in text
    for wrong in (
        "tiles.example/{z}",
        "https://tiles.example/1/2/3.png",
        "https://a b/{z}/{x}/{y}",
        "file:///{z}{x}{y}",
    ):
        with pytest.raises(UsageError, match="not the address of tiles"):
            page([run], tmp_path / "other.html", basemap=Basemap(wrong))
    assert not (tmp_path / "other.html").exists()


def test_without_its_source_the_labels_are_shown_alone(tmp_path, store):
    run = run_of(tmp_path, store, ("a",))
    (tmp_path / "scene.tif").unlink()
    (warning,) = page([run], tmp_path / "page.html")
    assert "is not there" in warning
    assert "alone" in warning


def test_the_command(tmp_path, store, monkeypatch):
    run = run_of(tmp_path, store, ("a",))
    monkeypatch.chdir(tmp_path)
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    told = CliRunner().invoke(app, ["view", "--store", str(tmp_path / "store"), "--open"])
    assert told.exit_code == 0, told.stderr
    assert told.stdout.strip() == f"{run.id}.html"
    assert opened == [(tmp_path / f"{run.id}.html").as_uri()]
    for arguments, code, said in (
        ([], 1, "is there already"),
        (["-o", "page.png"], 2, "does not end in .html"),
        (["-o", "missing/page.html"], 1, "does not exist"),
        (["nothing"], 1, "nothing"),
    ):
        refused = CliRunner().invoke(app, ["view", "--store", str(tmp_path / "store"), *arguments])
        assert refused.exit_code == code, refused.output
        assert said in refused.stderr
    with pytest.raises(ExportError, match="is there already"):
        api.view(run, tmp_path / f"{run.id}.html")
    assert api.view([run], tmp_path / "other.html") == tmp_path / "other.html"


def test_the_function_keeps_its_name_when_its_parts_are_loaded():
    import geovl
    import geovl.views.page

    assert callable(geovl.view)
    assert geovl.views.page.page is page
