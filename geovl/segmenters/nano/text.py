"""Phrases to vectors, by a static table of word pieces; no network is run for text.

The vector of a phrase is ``normalise(mean of table[i] * scale[i])`` over its lower-case
BERT word pieces. The table was distilled from the sentence encoder
sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0).
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

WIDTH = 128
"""Length of a vector."""
_LONGEST = 100  # characters; longer words are unknown, as in BERT


@dataclass(frozen=True)
class TextTable:
    """Word pieces and their vectors."""

    pieces: dict[str, int]
    table: NDArray[np.int8]
    """int8 (pieces, 128)."""
    scale: NDArray[np.float16]
    """float16 (pieces,): what a count of a row is worth."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read ``text-table.npz`` and ``vocab.txt`` of a folder."""
        pieces = {line: i for i, line in enumerate((folder / "vocab.txt").read_text("utf-8").split("\n")) if line}
        with np.load(folder / "text-table.npz", allow_pickle=False) as arrays:
            return cls(pieces, arrays["table"], arrays["scale"])

    def embed(self, phrase: str) -> NDArray[np.float32] | None:
        """Return the unit vector of a phrase, float32 (128,); None when none of its pieces is known."""
        vectors = self.vectors(phrase)
        if not len(vectors):
            return None
        mean = vectors.mean(axis=0)
        length = float(np.linalg.norm(mean))
        return (mean / length).astype(np.float32) if length > 1e-6 else None

    def vectors(self, phrase: str) -> NDArray[np.float32]:
        """Return the vectors of the pieces of a phrase in order, float32 (pieces, 128); unknown words have none."""
        rows = [self.pieces[piece] for word in _words(phrase) for piece in self._split(word)]
        return self.table[rows].astype(np.float32) * self.scale[rows].astype(np.float32)[:, None]

    def embed_all(self, phrases: Iterable[str]) -> NDArray[np.float32] | None:
        """Return the unit vector of the mean of several phrases, None when none has a vector."""
        found = [vector for vector in map(self.embed, phrases) if vector is not None]
        if not found:
            return None
        mean = np.mean(found, axis=0)
        length = float(np.linalg.norm(mean))
        return (mean / length).astype(np.float32) if length > 1e-6 else None

    def _split(self, word: str) -> list[str]:
        """Cut a word into the longest pieces from the left; nothing when a part is unknown."""
        if len(word) > _LONGEST:
            return []
        found, start = [], 0
        while start < len(word):
            for stop in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:stop]
                if piece in self.pieces:
                    found.append(piece)
                    start = stop
                    break
            else:
                return []
        return found


def _words(text: str) -> list[str]:
    """Lower-case words without accents; every punctuation mark is a word."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    spaced = "".join(f" {c} " if _is_mark(c) else c for c in plain)
    return spaced.split()


def _is_mark(char: str) -> bool:
    return unicodedata.category(char).startswith("P") or (char.isascii() and not char.isalnum() and not char.isspace())
