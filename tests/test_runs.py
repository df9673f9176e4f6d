"""A run is whole or not there, and says when something changed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from geovl.errors import RunError
from geovl.runs import RunStore


def make(store, text="x"):
    with store.create() as draft:
        (draft.folder / "labels.tif").write_text(text)
        return draft.commit({"classes": [], "source": {}})


def test_runs_are_listed_in_the_order_they_were_made(store):
    assert store.list() == []
    made = []
    for _ in range(3):
        made.append(make(store).id)
        time.sleep(0.002)
    assert [run.id for run in store.list()] == made
    assert store.get().id == made[-1]
    assert store.get(made[0]).id == made[0]


def test_a_draft_that_fails_leaves_nothing(store):
    with pytest.raises(KeyboardInterrupt), store.create() as draft:
        (draft.folder / "labels.tif").write_text("half")
        raise KeyboardInterrupt
    assert list(store.folder.iterdir()) == []


def test_verify_names_what_changed(store, tmp_path):
    source = tmp_path / "source.tif"
    source.write_text("pixels")
    with store.create() as draft:
        (draft.folder / "labels.tif").write_text("x")
        from geovl.runs import sha256

        run = draft.commit({"source": {"path": str(source), "sha256": sha256(source)}})
    assert run.verify() == []
    source.write_text("other pixels")
    (run.path / "labels.tif").write_text("y")
    first, second = run.verify()
    assert "labels.tif was changed" in first
    assert "source.tif was changed" in second
    source.unlink()
    (run.path / "labels.tif").unlink()
    first, second = run.verify()
    assert "labels.tif is missing" in first
    assert "no longer there" in second


def test_an_unknown_run_names_near_ones_and_never_leaves_the_store(store):
    with pytest.raises(RunError, match="no run"):
        store.get()
    run = make(store)
    with pytest.raises(RunError, match="No run is called") as caught:
        store.get(run.id[:-1] + "_")
    assert run.id in caught.value.hint
    outside = store.root.parent / "outside"
    outside.mkdir()
    for name in ("../../outside", "..", str(outside), "."):
        with pytest.raises(RunError):
            store.remove(name)
    assert outside.is_dir()


def test_a_removed_run_is_gone(store):
    run = make(store)
    store.remove(run.id)
    assert store.list() == []
    assert list(store.folder.iterdir()) == []


def test_kill_9_leaves_no_run_and_the_next_one_clears_up(store):
    child = subprocess.Popen(
        [
            sys.executable, "-c",
            "import sys, time; from pathlib import Path; from geovl.runs import RunStore\n"
            "with RunStore(Path(sys.argv[1])).create() as draft:\n"
            "    (draft.folder / 'labels.tif').write_text('half'); print('ready', flush=True); time.sleep(60)",
            str(store.root),
        ],
        stdout=subprocess.PIPE, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert len(list(store.folder.iterdir())) == 1
    assert store.list() == []
    run = make(store)
    assert [path.name for path in store.folder.iterdir()] == [run.id]


def test_what_another_machine_is_making_is_left_alone(store):
    store.folder.mkdir(parents=True)
    theirs = store.folder / ".20260101-000000-000-abcd.another.host.999999999.partial"
    theirs.mkdir()
    make(store)
    assert theirs.is_dir()


def test_a_store_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be kept"), RunStore(tmp_path / "file").create():
        pass
