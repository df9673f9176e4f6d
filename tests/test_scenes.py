"""Rendered scenes: what they promise to those who train on them, test with them and show them."""

import numpy as np
import pytest
import shapely

from geovl.scenes import CLASSES, KINDS, render

SURFACES = {"unknown", "ground", "grass", "bare soil", "sand", "pavement", "shadow"}


def scene(kind, seed=1, **options):
    return render(kind, np.random.default_rng(seed), size=160, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_is_a_picture_with_a_known_label_at_every_pixel(kind):
    made = scene(kind)
    assert made.rgb.shape == (3, 160, 160)
    assert made.rgb.dtype == np.uint8
    assert made.labels.shape == (160, 160)
    assert made.labels.min() > 0, "0 would say that nothing is known"
    assert made.labels.max() < len(CLASSES)
    assert made.rgb.std() > 2


@pytest.mark.parametrize("kind", KINDS)
def test_equal_generators_draw_equal_scenes_and_others_do_not(kind):
    assert np.array_equal(scene(kind).rgb, scene(kind).rgb)
    assert not np.array_equal(scene(kind).rgb, scene(kind, seed=2).rgb)


@pytest.mark.parametrize("kind", KINDS)
def test_objects_are_valid_polygons_inside_the_picture_that_agree_with_the_labels(kind):
    for seed in range(4):
        made = scene(kind, seed)
        for name, polygon in made.objects:
            assert name not in SURFACES
            assert polygon.is_valid
            assert shapely.box(0, 0, 160, 160).covers(polygon)
            assert polygon.area >= 1


def test_every_kind_shows_what_it_is_for():
    wanted = {
        "airport": {"runway", "taxiway", "apron", "airplane"},
        "harbour": {"ship", "dock"},
        "town": {"building", "road", "tree", "swimming pool", "tennis court", "car"},
        "tank farm": {"storage tank"},
        "country": {"farmland", "river", "lake", "bridge", "railway", "solar panel"},
    }
    for kind, names in wanted.items():
        shown: set[str] = set()
        for seed in range(40):
            made = scene(kind, seed, gsd=1.2)
            shown |= {CLASSES[index] for index in np.unique(made.labels)}
            if names <= shown:
                break
        assert names <= shown


@pytest.mark.parametrize("gsd", [0.3, 0.5])
def test_gsd_is_metres_per_pixel(gsd):
    """A car covers 7 to 12 square metres, however fine the picture."""
    towns = [render("town", np.random.default_rng(seed), size=400, gsd=gsd) for seed in range(4)]
    cars = [polygon.area * gsd**2 for town in towns for name, polygon in town.objects if name == "car"]
    assert len(cars) > 10
    assert 7 < np.median(cars) < 12


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(ValueError, match="there are airport, harbour"):
        scene("volcano")
    with pytest.raises(ValueError, match="too small"):
        render("town", np.random.default_rng(0), size=4)
