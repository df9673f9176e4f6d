"""Fixtures that several test files share."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from geovl.runs import RunStore
from tests.fakes import BrightnessSegmenter, blobs, write_tif

# The machines are shared: a slow moment is not a failure.
settings.register_profile("geovl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("geovl")


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "store")


@pytest.fixture
def segmenter() -> BrightnessSegmenter:
    return BrightnessSegmenter()


@pytest.fixture
def tile(tmp_path: Path) -> Path:
    """A 200 x 150 RGB tile of blocks in UTM, 0.5 m."""
    return write_tif(tmp_path / "tile.tif", blobs(150, 200))
