"""geovl doctor finds what is wrong, says it in words, and never fails itself."""

import json

import pytest
from typer.testing import CliRunner

from geovl import doctor
from geovl.cli.app import app


def states(found):
    return {(one.about, one.state) for one in found}


def test_a_whole_installation_has_no_fault(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("PROJ_LIB", "PROJ_DATA", "GDAL_DATA"):
        monkeypatch.delenv(name, raising=False)
    found = list(doctor.examine())
    assert [one for one in found if one.state == "wrong"] == []
    assert {about for about, _ in states(found)} == {about for about, _ in doctor._CHECKS}
    told = CliRunner().invoke(app, ["doctor"])
    assert told.exit_code == 0
    assert told.stdout.rstrip().endswith("Nothing is wrong.")
    assert "nano-text" in told.stdout


@pytest.mark.parametrize(("name", "file"), [("PROJ_LIB", "proj.db"), ("GDAL_DATA", "gdalvrt.xsd")])
def test_data_of_another_program_is_told(monkeypatch, tmp_path, name, file):
    check = dict(doctor._CHECKS)["PROJ" if name == "PROJ_LIB" else "GDAL"]
    monkeypatch.setenv(name, str(tmp_path))
    (wrong,) = [one for one in check("x") if one.state == "wrong" and name in one.told]
    assert file in wrong.told
    assert wrong.hint == f"unset {name}"
    (tmp_path / file).write_bytes(b"")
    (note,) = [one for one in check("x") if name in one.told and one.state == "note"]
    assert str(tmp_path) in note.told


def test_damaged_weights_and_a_missing_folder_are_faults(monkeypatch, tmp_path):
    monkeypatch.setattr("geovl.weights.folder", lambda record: tmp_path / record.id)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GEOVL_STORE", str(tmp_path / "file" / "store"))
    told = CliRunner().invoke(app, ["doctor", "--json"])
    assert told.exit_code == 1
    wrong = [one for one in json.loads(told.stdout) if one["state"] == "wrong"]
    assert {one["about"] for one in wrong} == {"weights", "folders"}
    assert all(one["hint"] for one in wrong)
    assert any("nano.onnx" in one["told"] for one in wrong)


def test_a_check_that_fails_is_a_finding(monkeypatch):
    def broken(about):
        yield doctor.Finding(about, "ok", "so far")
        raise RuntimeError("boom")

    monkeypatch.setattr(
        doctor, "_CHECKS", (("one", broken), ("two", lambda about: iter([doctor.Finding(about, "ok", "")])))
    )
    found = list(doctor.examine())
    assert [(one.about, one.state) for one in found] == [("one", "ok"), ("one", "wrong"), ("two", "ok")]
    assert "RuntimeError: boom" in found[1].told


def test_what_is_missing_is_named(monkeypatch):
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "shapely" else real(name))
    (wrong,) = [one for one in doctor._packages("x") if one.state == "wrong"]
    assert "shapely" in wrong.told
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name in {"timm", "distributed", "numba"} else name)
    told = {one.told: one for one in doctor._extras("x")}
    assert told["[torch] lacks timm."].hint == 'pip install "geovl[torch]"'
    assert any(text.startswith("[dask] is not installed") for text in told)
