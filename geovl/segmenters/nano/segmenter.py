"""The bundled model: an ONNX graph that compares every fourth pixel with phrases."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from geovl.errors import PromptError
from geovl.segmenters.nano.text import TextTable
from geovl.types import Chip, ClassPrompt, ModelRecord, PromptNote, Scores, Vocabulary

KNOWN = 0.60
"""Similarity to a trained concept from which a phrase counts as known (measured for the text table)."""
UNKNOWN = 0.30
"""Similarity below which a phrase is refused."""

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Concept:
    """Something that nano was taught."""

    name: str
    bias: float
    """Added to its logits; puts the best overlap at a score of 0.5."""
    vector: NDArray[np.float32]
    """float32 (128,), unit length."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one class of a vocabulary means to nano."""

    vector: NDArray[np.float32]
    bias: float
    similarity: float
    nearest: tuple[str, ...]


class NanoSegmenter:
    """Runs nano with ONNX Runtime; fits :class:`geovl.segmenters.base.Segmenter`.

    Args:
        record: The model's record.
        threads: Threads of ONNX Runtime; all cores when None.
    """

    halo = 64
    multiple = 32

    def __init__(self, record: ModelRecord, threads: int | None = None) -> None:
        self.record = record
        options = ort.SessionOptions()
        options.intra_op_num_threads = (
            threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        )
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # windows have one size: the arena would only keep peaks
        self._session = ort.InferenceSession(_FOLDER / "nano.onnx", options, providers=["CPUExecutionProvider"])
        self._text = TextTable.load(_FOLDER)
        self._concepts, self._phrases = _load_concepts(self._text)
        self._meaning = lru_cache(4096)(self._find_meaning)

    def understand(self, vocabulary: Vocabulary) -> tuple[PromptNote, ...]:
        """Say how well each class is known; see :class:`geovl.segmenters.base.Segmenter`.

        Raises:
            PromptError: A class too far from everything that nano was taught.
        """
        notes = []
        for entry in vocabulary.classes:
            found = self._meaning(entry)
            status = "known" if found.similarity >= KNOWN else "guess"
            notes.append(PromptNote(entry.name, status, found.nearest, round(found.similarity, 3)))  # type: ignore[arg-type]
        return tuple(notes)

    def segment(self, chips: Sequence[Chip], vocabulary: Vocabulary) -> list[Scores]:
        """Score every pixel; see :class:`geovl.segmenters.base.Segmenter`."""
        if not chips:
            return []
        meanings = [self._meaning(entry) for entry in vocabulary.classes]
        feed = {
            "pixels": np.stack([chip.pixels for chip in chips]),  # (n, 3, h, w)
            "text": np.stack([meaning.vector for meaning in meanings]),  # (classes, 128)
            "bias": np.array([meaning.bias for meaning in meanings], np.float32),
        }
        (scores,) = self._session.run(["scores"], feed)  # (n, classes, h, w)
        return [Scores(values, "probability") for values in scores]

    def _find_meaning(self, entry: ClassPrompt) -> Meaning:
        """Look the phrases of a class up, then go by similarity.

        A phrase that the lexicon holds is its concept, whose name was trained most and calibrated. The bias of any
        other is that of the concepts around it, weighted by similarity.
        """
        for phrase in entry.phrases:
            for form in _forms(phrase):
                if concept := self._phrases.get(form):
                    return Meaning(concept.vector, concept.bias, 1.0, (concept.name,))
        vector = self._text.embed_all(entry.phrases)
        if vector is None:
            msg = f"Prompt {entry.name!r} holds no word that {self.record.id} knows."
            raise PromptError(msg, f"It was taught: {', '.join(c.name for c in self._concepts)}.")
        similarity = np.array([float(vector @ concept.vector) for concept in self._concepts])
        order = np.argsort(-similarity)[:3]
        nearest = tuple(self._concepts[i].name for i in order)
        if similarity[order[0]] < UNKNOWN:
            msg = (
                f"{self.record.id} does not know {entry.name!r} (similarity {similarity[order[0]]:.2f}); "
                f"the nearest that it was taught are {', '.join(nearest)}."
            )
            raise PromptError(msg, f"It was taught: {', '.join(c.name for c in self._concepts)}.")
        weight = np.exp(8 * (similarity[order] - similarity[order[0]]))
        bias = float(np.average([self._concepts[i].bias for i in order], weights=weight))
        return Meaning(vector, bias, float(similarity[order[0]]), nearest)


def _forms(phrase: str) -> tuple[str, ...]:
    """Return the phrase in lower case, and its singular and plural."""
    plain = " ".join(phrase.lower().replace("-", " ").split())
    return (plain, plain.removesuffix("s"), plain + "s", plain.removesuffix("es"))


def _load_concepts(text: TextTable) -> tuple[tuple[Concept, ...], dict[str, Concept]]:
    """Read ``concepts.json``: the concepts, and each of their phrases."""
    record = json.loads((_FOLDER / "concepts.json").read_text("utf-8"))
    concepts: list[Concept] = []
    phrases: dict[str, Concept] = {}
    for name, entry in record.items():
        vector = text.embed(name)
        if vector is None:  # a concept without a vector cannot be asked for
            continue
        concept = Concept(name, float(entry["bias"]), vector)
        concepts.append(concept)
        for phrase in entry["phrases"]:
            phrases.setdefault(phrase.lower(), concept)
    for concept in concepts:  # a concept's own name is never another's synonym
        phrases[concept.name] = concept
    return tuple(concepts), phrases
