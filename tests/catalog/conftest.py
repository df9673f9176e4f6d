import textwrap

import pytest

from geovl import settings

MODEL = """
id = "{id}"
name = "{name}"
kind = "contrastive"
description = "A model of mine."
tasks = ["retrieval"]
license_code = "MIT"

[sources]
entry = ["me/mine:README.md"]
license = ["me/mine:LICENSE"]
"""


@pytest.fixture
def folder(tmp_path):
    """A catalog folder and a way to put records into it."""

    class Folder:
        path = tmp_path / "mine"

        def put(self, name, text):
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(textwrap.dedent(text).lstrip(), "utf-8")
            return target

        def model(self, name="mine", **changes):
            """A sound record, with keys put in at its top or replaced."""
            text = MODEL.format(id=name, name=changes.pop("called", name.upper())).lstrip()
            for key, value in changes.items():
                lines = [line for line in text.splitlines() if not line.startswith(f"{key} =")]
                text = "\n".join([f"{key} = {value}", *lines]) + "\n"
            return self.put(f"models/{name}.toml", text)

    made = Folder()
    made.path.mkdir()
    return made


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.delenv("GEOVL_CATALOG", raising=False)
    yield
    settings.lay_over([])
