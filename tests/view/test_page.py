"""The page in a real browser: everything inside, nothing asked of a network, and all of it works."""

import json
import re
import time

import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from typer.testing import CliRunner

from geovl import api
from geovl.cli.app import app
from geovl.errors import ExportError, RunError, UsageError
from geovl.views.backdrop import MERCATOR, grid
from geovl.views.page import Basemap, _lattice, page
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
        self.wait("return document.documentElement.dataset.drawn === 'whole'")
        return self.do(
            "let n = 0; for (const t of document.querySelectorAll('#map canvas')) {"
            " const c = document.createElement('canvas'); [c.width, c.height] = [t.width, t.height];"
            " const p = c.getContext('2d', {willReadFrequently: true}); p.drawImage(t, 0, 0);"
            " const d = p.getImageData(0, 0, c.width, c.height).data;"
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
    assert len(opened.by("path.leaflet-interactive, .leaflet-mark-pane path")) == 2  # light, with a dark edge
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
    lat, lon = re.fullmatch(r"([\d.]+)° N, ([\d.]+)° E · .*", opened.by("#where")[0].text).groups()
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


def test_pixels_heed_the_legend(shown):
    opened, run = shown
    colors = (
        "const i = document.querySelector('img.crisp'), c = document.createElement('canvas');"
        "if (!i.complete || !i.naturalWidth) return null;"
        "[c.width, c.height] = [i.naturalWidth, i.naturalHeight]; const p = c.getContext('2d', {willReadFrequently: true});"
        "p.drawImage(i, 0, 0); const d = p.getImageData(0, 0, c.width, c.height).data, s = new Set();"
        "for (let k = 0; k < d.length; k += 4) if (d[k + 3]) s.add('#' + [...d.slice(k, k + 3)].map("
        "v => v.toString(16).padStart(2, '0')).join('')); return [...s].sort()"
    )

    def seen(expected):
        end = time.monotonic() + 5
        while (found := opened.do(colors)) != sorted(expected) and time.monotonic() < end:
            time.sleep(0.05)
        assert found == sorted(expected)

    every = [entry["color"] for entry in run.manifest["classes"]]
    opened.by("#legend input")[4].click()
    opened.by("#raster")[0].click()
    seen(every[:4])
    opened.by("#legend input")[1].click()
    seen([every[0], *every[2:4]])
    opened.by("#legend input")[1].click()
    opened.by("#legend input")[4].click()
    seen(every)


def test_the_pointer_tells_where_it_is_in_the_crs_of_the_source(shown):
    from selenium.webdriver.common.action_chains import ActionChains

    opened, _ = shown
    to_own = Transformer.from_crs("OGC:CRS84", "EPSG:32632", always_xy=True)
    for right, down in ((0, 0), (-170, -140), (210, 120)):
        ActionChains(opened.browser).move_to_element(opened.by("#map")[0]).move_by_offset(right, down).perform()
        opened.wait("return document.getElementById('where').textContent.includes('EPSG')")
        time.sleep(0.1)
        told = re.fullmatch(r"([\d.]+)° N, ([\d.]+)° E · EPSG:32632 ([\d.]+), ([\d.]+)", opened.by("#where")[0].text)
        lat, lon, x, y = map(float, told.groups())
        assert (x, y) == pytest.approx(to_own.transform(lon, lat), abs=1.0)  # 0.00001 degrees are 1.1 m


def test_what_is_told_stays_within_the_map(shown):
    from selenium.webdriver.common.action_chains import ActionChains

    opened, _ = shown
    opened.by("#sorts [data-sort=class]")[0].click()
    opened.by("#sorts [data-sort=class]")[0].click()
    name = next(row for row in opened.by(".row") if row.text.startswith("x"))
    name.click()
    time.sleep(0.8)
    stage = opened.by("#map")[0]
    size = opened.do("const m = document.getElementById('map'); return [m.clientWidth, m.clientHeight]")
    ActionChains(opened.browser).move_to_element(stage).click_and_hold().move_by_offset(
        size[0] // 2 - 15, size[1] // 2 - 15
    ).pause(0.4).release().pause(0.2).move_by_offset(-2, -2).perform()
    opened.wait("return !document.getElementById('tip').hidden")
    edges = opened.do(
        "const t = document.getElementById('tip').getBoundingClientRect(), m ="
        " document.getElementById('map').getBoundingClientRect();"
        " return [t.left - m.left, t.top - m.top, m.right - t.right, m.bottom - t.bottom]"
    )
    assert all(edge >= 0 for edge in edges), edges


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
    address = opened.browser.current_url
    opened.do("document.querySelector('#legend').scrollTop = 0")
    opened.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        opened.browser.get(address)
        opened.wait("return document.documentElement.dataset.drawn === 'whole'")
        assert opened.do("return document.documentElement.scrollWidth") <= 390
        outside = opened.do(
            "const p = document.querySelector('img.picture').getBoundingClientRect(), m ="
            " document.getElementById('map').getBoundingClientRect();"
            " return [m.left - p.left, m.top - p.top, p.right - m.right, p.bottom - m.bottom]"
        )
        assert max(outside) <= 0
        # in the middle of what the panel leaves of the screen
        assert outside[0] == pytest.approx(outside[2], abs=2)
        assert outside[1] == pytest.approx(outside[3], abs=2)
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


def test_nothing_breaks_while_another_date_is_read(browser, tmp_path, store):
    many = run_of(tmp_path, store, tuple("abcdefg"), 1, "many.tif")
    few = run_of(tmp_path, store, ("z",), 2, "few.tif")
    page([many, few], tmp_path / "both.html")
    opened = Page(browser, tmp_path / "both.html")
    opened.do(
        "const input = (id, value) => { const e = document.getElementById(id); e.value = value;"
        " e.dispatchEvent(new Event('input', {bubbles: true})); };"
        "input('time', 1); input('opacity', 80); input('score', 5);"
        "document.querySelector('#sorts [data-sort=score]').click()"
    )
    opened.wait("return document.documentElement.dataset.ready === '1'")
    assert opened.painted() > 1000
    assert [name.text for name in opened.by("#legend .name")] == ["z"]
    assert opened.faults() == ([], [])


def test_a_click_on_the_map_shows_the_row(shown):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    opened, _ = shown
    opened.by("#sorts [data-sort=area]")[0].click()  # the smallest first
    opened.keys("#rows", Keys.END, Keys.ENTER)  # the largest, in the middle of the map
    time.sleep(0.8)
    largest = opened.by("#rows")[0].get_attribute("aria-activedescendant")
    opened.keys("#rows", Keys.ESCAPE)
    assert opened.by("#rows")[0].get_attribute("aria-activedescendant") is None
    assert opened.by(".leaflet-mark-pane path") == []
    opened.keys("#rows", Keys.HOME)
    opened.wait(f"return !document.getElementById('{largest}')")
    ActionChains(opened.browser).move_to_element(opened.by("#map")[0]).move_by_offset(3, 3).click().perform()
    opened.wait(f"return document.getElementById('{largest}')?.getAttribute('aria-selected') === 'true'")
    row, rows = (
        opened.do(
            "const b = document.querySelector(arguments[0]).getBoundingClientRect(); return [b.top, b.bottom]", one
        )
        for one in (f"#{largest}", "#rows")
    )
    assert rows[0] <= row[0] < row[1] <= rows[1] + 1


def test_a_tiff_says_when_it_was_taken(browser, tmp_path, store):
    runs = [run_of(tmp_path, store, ("a",), 1, f"{name}.tif") for name in ("late", "early", "never")]
    for name, said in (("late", "2021:07:01 12:30:00"), ("early", "2021:07:01 09:00:00"), ("never", "some day")):
        with rasterio.open(tmp_path / f"{name}.tif", "r+") as file:
            file.update_tags(TIFFTAG_DATETIME=said)
    page(runs, tmp_path / "page.html")
    opened = Page(browser, tmp_path / "page.html")
    assert opened.by("#date")[0].text == "2021-07-01 09:00"
    opened.slide("#time", 1)
    opened.wait("return document.getElementById('date').textContent === '2021-07-01 12:30'")
    assert opened.by("#title")[0].text == "late.tif"
    opened.slide("#time", 2)
    opened.wait(f"return document.getElementById('date').textContent === 'made {runs[2].manifest['created'][:10]}'")


def test_runs_of_one_minute_are_told_apart(tmp_path, store):
    runs = [run_of(tmp_path, store, ("a",), 1, f"{name}.tif") for name in "ab"]
    for run, second in zip(runs, (1, 9), strict=True):
        manifest = run.manifest | {"created": f"2026-03-04T05:06:0{second}.123456+00:00"}
        (run.path / "run.json").write_text(json.dumps(manifest))
    page([store.get(run.id) for run in runs], tmp_path / "page.html")
    dates = re.findall(r'"date":"([^"]+)"', (tmp_path / "page.html").read_text())
    assert dates == ["made 2026-03-04 05:06:01", "made 2026-03-04 05:06:09"]


def test_names_may_be_as_long_as_names_can_be(tmp_path, store):
    run = run_of(tmp_path, store, ("a",))
    longest = tmp_path / ("🏠" * 62 + ".html")  # 253 bytes
    page([run], longest)
    assert longest.stat().st_size > 100_000
    told = CliRunner().invoke(
        app, ["view", "--store", str(tmp_path / "store"), "-o", str(tmp_path / ("🏠" * 300 + ".html"))]
    )
    assert told.exit_code == 1
    assert "too long" in told.stderr


def test_coordinates_are_told_only_where_they_are_right(tmp_path, store):
    def lattice(**where):
        run = run_of(tmp_path, store, ("a",), file=f"{len(list(tmp_path.iterdir()))}.tif", **where)
        return _lattice(run, grid(run, 512, MERCATOR), MERCATOR)

    near = lattice()
    far = lattice(transform=Affine(5000, 0, -300_000, 0, -5000, 6_000_000))
    assert near["side"] < far["side"]
    assert len(far["x"]) == far["side"] ** 2
    assert lattice(crs="EPSG:4326", transform=Affine(0.01, 0, 10, 0, -0.01, 50)) is None


def test_a_raster_without_crs_is_shown_in_its_pixels(browser, tmp_path, store):
    from selenium.webdriver.common.action_chains import ActionChains

    run = run_of(tmp_path, store, ("a", "b"), crs=None, transform=None)
    page([run], tmp_path / "page.html")
    opened = Page(browser, tmp_path / "page.html")
    assert opened.painted() > 1000
    assert re.fullmatch(r"\d+ px", opened.by(".leaflet-control-scale-line")[0].text)
    areas = [float(row.text.split("\n")[-1].removesuffix(" px").replace(",", "")) for row in opened.by(".row")]
    ordered = sorted(run.to_geodataframe().geometry.area, reverse=True)
    assert areas == pytest.approx(ordered[: len(areas)], abs=0.51)
    ActionChains(browser).move_to_element(opened.by("#map")[0]).perform()
    opened.wait("return document.getElementById('where').textContent")
    col, row = map(int, re.fullmatch(r"column (\d+), row (\d+)", opened.by("#where")[0].text).groups())
    assert (col, row) == pytest.approx((160, 120), abs=2)
    assert opened.faults() == ([], [])
    with pytest.raises(UsageError, match="no CRS"):
        page([run, run_of(tmp_path, store, ("a", "b"), file="placed.tif")], tmp_path / "both.html")
    (warning,) = page([run], tmp_path / "based.html", basemap=Basemap("https://tiles.example/{z}/{x}/{y}.png"))
    assert "no basemap" in warning


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


def test_what_lies_across_the_antimeridian_lies_on_its_picture(browser, tmp_path, store):
    from selenium.webdriver.common.action_chains import ActionChains

    run = run_of(
        tmp_path, store, ("a", "b"), crs="EPSG:32601", transform=Affine(2000, 0, -120_000, 0, -2000, 6_000_000)
    )
    page([run], tmp_path / "page.html")
    opened = Page(browser, tmp_path / "page.html")
    assert opened.painted() > 1000
    seen = opened.do(
        "const p = document.querySelector('img.picture').getBoundingClientRect(); let left = 0, right = 0, out = 0;"
        " for (const t of document.querySelectorAll('#map canvas')) {"
        "  const b = t.getBoundingClientRect(), c = document.createElement('canvas'); [c.width, c.height] = [t.width, t.height];"
        "  const x = c.getContext('2d', {willReadFrequently: true}); x.drawImage(t, 0, 0);"
        "  const d = x.getImageData(0, 0, c.width, c.height).data, k = b.width / c.width;"
        "  for (let i = 3; i < d.length; i += 4) if (d[i]) { const at = (i - 3) / 4,"
        "   px = b.left + (at % c.width) * k, py = b.top + Math.floor(at / c.width) * k;"
        "   if (px < p.left + p.width / 3) left++; else if (px > p.right - p.width / 3) right++;"
        "   if (px < p.left - 2 || px > p.right + 2 || py < p.top - 2 || py > p.bottom + 2) out++; } }"
        " return [left, right, out]"
    )
    assert min(seen[:2]) > 1000  # on both sides
    assert seen[2] == 0
    ActionChains(browser).move_to_element(opened.by("#map")[0]).move_by_offset(150, 0).perform()
    opened.wait("return document.getElementById('where').textContent")
    assert all(float(lon) <= 180 for lon in re.findall(r"([\d.]+)° [EW]", opened.by("#where")[0].text))
    assert opened.faults() == ([], [])


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
