"""geovl doctor: what it says of containers, weights from the hub, folders and terminals."""

import io
import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from geovl import catalog, doctor
from geovl.cli import doctor as command
from geovl.cli.app import app


def of(check, state=None):
    return [one for one in check("x") if state in {None, one.state}]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("GEOVL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "hub"


def put(hub, repository, name):
    file = hub / f"models--{repository.replace('/', '--')}" / "snapshots" / "abc" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"weights")


def test_models_whose_weights_are_here_are_named(hub):
    (note,) = of(doctor._fetched)
    assert note.state == "note"
    put(hub, "chendelong/RemoteCLIP", "RemoteCLIP-ViT-B-32.pt")
    put(hub, "somebody/else", "model.bin")
    (one,) = of(doctor._fetched)
    assert one.state == "ok"
    assert "remoteclip-vit-b-32" in one.told
    assert "remoteclip-vit-l-14" not in one.told  # another file of the same repository
    assert "else" not in one.told


def test_a_model_of_two_repositories_needs_both(hub):
    partner = "timm/vit_base_patch16_224.dino"
    put(hub, partner, "model.safetensors")
    assert of(doctor._fetched)[0].state == "note"
    put(hub, "timm/vit_base_patch16_clip_224.openai", "open_clip_model.safetensors")
    told = of(doctor._fetched)[0].told
    assert "proxyclip-dino-vit-b-16" in told
    assert "clip-vit-b-16" in told
    assert "proxyclip-dino-vit-b-8" not in told


def test_weights_put_by_hand_are_found(hub, tmp_path):
    run = catalog.model("clip-vit-b-32").run
    for name in run.weights:
        file = tmp_path / "cache" / "weights" / "clip-vit-b-32" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    assert "clip-vit-b-32" in of(doctor._fetched)[0].told


def test_a_folder_without_its_files_is_no_model(hub):
    put(hub, "chendelong/RemoteCLIP", "README.md")
    assert of(doctor._fetched)[0].state == "note"


def test_downloads_that_broke_off_are_told(hub):
    blobs = hub / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "1.incomplete").write_bytes(b"x" * 10)
    found = of(doctor._fetched)
    assert found[-1].state == "note"
    assert found[-1].told.startswith("1 download broke off")


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        ({"cpu.max": "150000 100000\n", "memory.max": "1073741824\n"}, 1.5, 1 << 30),
        ({"cpu.max": "max 100000\n", "memory.max": "max\n"}, None, None),
        (
            {
                "cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            0.5, None,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, None),
        ({"cpu.max": "\n", "memory.max": "nonsense"}, None, None),
        ({}, None, None),
    ],
)  # fmt: skip
def test_limits_of_a_container_are_read(monkeypatch, tmp_path, files, cores, memory):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(doctor, "_GROUPS", tmp_path)
    assert doctor._share_of_cores() == cores
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert doctor._memory() == (memory or whole)


def test_a_container_with_less_time_than_cores_is_told(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(doctor, "_share_of_cores", lambda: 0.5)
    (note,) = of(doctor._cores, "note")
    assert "0.5 cores" in note.told
    monkeypatch.setattr(doctor, "_share_of_cores", lambda: 1e6)
    assert of(doctor._cores, "note") == []


def test_a_gpu_that_nothing_uses_is_told(monkeypatch, tmp_path):
    import onnxruntime

    monkeypatch.setattr(doctor, "_NVIDIA", tmp_path)
    monkeypatch.setattr(doctor, "_version", lambda name: "2.9.0+cpu")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert len(of(doctor._networks, "note")) == 2
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    (note,) = of(doctor._networks, "note")
    assert "torch" in note.told
    monkeypatch.setattr(doctor, "_NVIDIA", tmp_path / "none")
    assert of(doctor._networks, "note") == []


def test_a_package_that_cannot_be_loaded_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyogrio", None)
    wrong = [one for one in doctor.examine() if one.state == "wrong"]
    assert [(one.about, one.hint) for one in wrong] == [("GDAL", "pip install --force-reinstall pyogrio")]


def test_a_folder_that_cannot_be_written_is_a_fault(monkeypatch, tmp_path):
    def full(**where):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", full)
    monkeypatch.setenv("GEOVL_STORE", str(tmp_path / "new" / "store"))
    found = of(doctor._folders)
    assert [one.state for one in found] == ["wrong", "note", "wrong"]
    assert all("No space left" in one.told and one.hint for one in found)


def test_nothing_is_left_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOVL_STORE", str(tmp_path / "new" / "store"))
    monkeypatch.setattr(doctor.tempfile, "tempdir", str(tmp_path))
    assert {one.state for one in of(doctor._folders)} <= {"ok", "note"}
    assert list(tmp_path.iterdir()) == []


def test_keys_are_not_told(monkeypatch):
    monkeypatch.setenv("GEOVL_ENDPOINT_KEY", "very-secret")
    monkeypatch.setenv("GEOVL_OFFLINE", "1")
    told = CliRunner().invoke(app, ["doctor", "--json"]).stdout
    assert "GEOVL_OFFLINE=1" in told
    assert "very-secret" not in told


def test_drivers_that_were_switched_off_are_told(monkeypatch):
    import pyogrio

    real = pyogrio.list_drivers()
    monkeypatch.setattr(pyogrio, "list_drivers", lambda: {k: v for k, v in real.items() if k != "GPKG"})
    monkeypatch.setenv("OGR_SKIP", "GPKG")
    (wrong,) = of(doctor._gdal, "wrong")
    assert "GPKG" in wrong.told
    assert wrong.hint == "unset OGR_SKIP"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_encoding_can_be_printed_in(monkeypatch, encoding):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    told = "\u202epath/建物\x1b[2J/é\nnext"
    command._print([doctor.Finding("one", "wrong", told, told), doctor.Finding("one", "ok", "fine")])
    out.flush()
    text = out.buffer.getvalue().decode(encoding)
    assert len(text.splitlines()) == 4
    assert not set(text) & set("\x1b\u202e")
    assert text.endswith("above.\n")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_terminal_is_told_of(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert "Nobody looks" in command._terminal().told
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("GEOVL_PICTURE", "sixel")
    assert command._terminal().told == "Pictures are shown, by sixel."
    monkeypatch.setenv("GEOVL_PICTURE", "off")
    assert command._terminal().state == "ok"


def test_full_tries_torch():
    pytest.importorskip("torch")
    (one,) = list(doctor._torch("torch"))
    assert one.state == "ok"
    assert "--device auto is" in one.told


def test_torch_is_loaded_by_full_only():
    code = "import sys; from geovl import doctor; list(doctor.examine()); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_json_is_one_list_of_findings():
    found = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert {frozenset(one) for one in found} == {frozenset({"about", "state", "told", "hint"})}
    assert found[-1]["about"] == "terminal"


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
@pytest.mark.parametrize("how", [[], ["--json"]])
def test_a_folder_whose_name_is_no_text_is_told_of(monkeypatch, tmp_path, how):
    monkeypatch.setenv("GEOVL_STORE", os.fsdecode(bytes(tmp_path) + b"/\xff\x1b[2J"))
    told = CliRunner().invoke(app, ["doctor", *how])
    assert told.exit_code == 0
    assert "\x1b" not in told.stdout
    assert "/[2J" in told.stdout


def test_geovl_may_lie_on_the_path_only(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    (note,) = of(doctor._packages)
    assert note.state == "note"
