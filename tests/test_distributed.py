"""Workers elsewhere make the bytes that one process makes, also when they are lost on the way."""

import os
import signal
import threading
import time

import pytest

from geovl import distributed, pipeline
from geovl.errors import RunError, UsageError
from geovl.pipeline import Execution, SegmentOptions, segment
from geovl.runs import RunStore
from geovl.types import Vocabulary
from tests.fakes import blobs, write_tif
from tests.test_pipeline import content

dask = pytest.importorskip("distributed")

WORDS = Vocabulary.from_prompts(["building", "water"])
OPTIONS = SegmentOptions(window=64, overlap=16)


@pytest.fixture(scope="module")
def nano():
    return pipeline.load_segmenter("nano")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return str(write_tif(tmp_path_factory.mktemp("source") / "a.tif", blobs(1200, 150)))


@pytest.fixture(scope="module")
def serial(source, nano, tmp_path_factory):
    return segment(source, WORDS, nano, RunStore(tmp_path_factory.mktemp("serial")), OPTIONS, run_id="the-run")


@pytest.fixture
def cluster():
    with dask.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as made:
        yield made


def test_two_workers_make_the_bytes_of_one_process(source, nano, serial, store):
    run = segment(source, WORDS, nano, store, OPTIONS, execution=Execution(workers=2), run_id="the-run")
    assert content(run) == content(serial)
    assert [path.name for path in store.folder.iterdir()] == ["the-run"]


def test_a_killed_worker_costs_nothing_but_time(source, nano, serial, store, cluster):
    first = next(iter(cluster.workers.values())).pid
    stop = threading.Event()

    def kill():
        while not stop.is_set() and not list(store.folder.glob(".work-*/band-*.part")):
            time.sleep(0.01)
        os.kill(first, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        execution = Execution(scheduler=cluster.scheduler_address)
        run = segment(source, WORDS, nano, store, OPTIONS, execution=execution, run_id="the-run")
    finally:
        stop.set()
        killer.join()
    assert content(run) == content(serial)


def raises(number):
    if number == 2:
        raise RunError("the second is bad", "look at it")
    return number


def test_a_task_that_fails_every_time_is_told_as_it_is(cluster):
    with pytest.raises(RunError, match="the second is bad") as caught:
        list(distributed.each(raises, [(1,), (2,), (3,)], cluster.scheduler_address, None))
    assert caught.value.hint == "look at it"


def test_a_scheduler_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(distributed, "CONNECT", "0.5s")
    with pytest.raises(RunError, match="cannot be reached"):
        list(distributed.each(raises, [(1,)], "tcp://127.0.0.1:9", None))
    with pytest.raises(RunError, match="cannot be reached"):
        list(distributed.each(raises, [(1,)], "nonsense", None))


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(UsageError, match="not installed") as caught:
        list(distributed.each(raises, [(1,)], None, 2))
    assert "geovl[dask]" in caught.value.hint
