"""Vectors that methods published by others must give: inputs and results in safetensors, each told by its JSON.

A folder of vectors is ``$GEOVL_GOLDEN/<family>``, or the one beside this file.
"""

import json
import os
import re
from pathlib import Path


def folder(family):
    """The folder of a family of vectors."""
    return Path(os.environ.get("GEOVL_GOLDEN") or Path(__file__).parent) / family


class Vectors:
    """The arrays of one file; it knows which of them were not asked for."""

    def __init__(self, path):
        from safetensors.torch import load_file

        self.path = Path(path)
        self.about = json.loads(self.path.read_text())
        self.arrays = load_file(self.path.with_suffix(".safetensors"))
        assert self.arrays.keys() == self.about["arrays"].keys(), "the JSON must tell of every array and of no other"
        for name, array in self.arrays.items():
            told = self.about["arrays"][name]
            assert list(array.shape) == told["shape"], name
            assert str(array.dtype).removeprefix("torch.") == told["dtype"], name
        self.left = set(self.arrays)
        self.wrong = {}

    def __getitem__(self, name):
        self.left.discard(name)
        return self.arrays[name]

    def named(self, *prefixes):
        """Names of arrays that begin with one of these parts, in order."""
        return [name for name in self.arrays if name.split(".")[0] in prefixes]

    def tolerance(self, what="absolute"):
        """The number that stands before ``what`` (or after it) in what the JSON says of tolerances."""
        number = r"(\d+(?:\.\d+)?e-\d+)"
        text = self.about["tolerance"]
        found = re.search(rf"{number} (?:absolute )?{what}", text) or re.search(rf"{what} {number}", text)
        assert found, f"{self.path.name} has no tolerance {what!r}: {text}"
        return float(found[1])

    def compare(self, name, found, tolerance=None):
        """Keep by how much a result differs from an array of that name where it does by more than it may."""
        expected = self[name]
        assert found.shape == expected.shape, (name, found.shape, expected.shape)
        error = float((found.double() - expected.double()).abs().max())
        if not error <= (self.tolerance() if tolerance is None else tolerance):
            self.wrong[name] = error

    def finish(self):
        """Fail if anything differed or was not looked at."""
        assert not self.wrong, {name: f"{error:.2e}" for name, error in self.wrong.items()}
        assert not self.left, f"not compared: {sorted(self.left)}"
