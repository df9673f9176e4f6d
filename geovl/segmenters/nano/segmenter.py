"""The bundled model: an ONNX graph that compares every fourth pixel with phrases."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from geovl.errors import ModelError, PromptError, UsageError
from geovl.segmenters.nano.text import WIDTH, TextTable
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
    slope: float
    """What its dot products are multiplied by, so that scores are like the share of right pixels."""
    bias: float
    """Added then; puts the best overlap at a score of 0.5."""
    vector: NDArray[np.float32]
    """float32 (128,), unit length."""
    experimental: bool
    """Poor on held-out pictures, or never measured on any."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one class of a vocabulary means to nano."""

    vector: NDArray[np.float32]
    """float32 (128,), as long as the slope."""
    bias: float
    similarity: float
    nearest: tuple[str, ...]
    status: Literal["known", "experimental", "guess"]


class NanoSegmenter:
    """Runs nano with ONNX Runtime; fits :class:`geovl.segmenters.base.Segmenter`.

    Args:
        record: The model's record.
        device: ``auto``, ``cpu``, or ``cuda`` where ONNX Runtime was installed for it.
        threads: Threads of ONNX Runtime; all cores when None.

    Raises:
        ModelError: ONNX Runtime cannot use the device.
    """

    # of the labels 64 pixels inside a chip 0.7 % depend on what lies beyond it, of those 128 inside 0.2 %
    halo = 64
    multiple = 32

    def __init__(self, record: ModelRecord, device: str = "auto", threads: int | None = None) -> None:
        if record.options:
            msg = f"{record.id} has no options, and {', '.join(record.options)} was given."
            raise UsageError(
                msg, "Leave out --set, --background, --precision, --endpoint and --zoom, or choose another model."
            )
        self.record = record
        providers = providers_of(device)
        options = ort.SessionOptions()
        options.intra_op_num_threads = (
            threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        )
        options.inter_op_num_threads = 1
        # the arena spares the page faults of every window; planned patterns would keep its peak twice
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave the cores to the other stages
        self._session = ort.InferenceSession(_FOLDER / "nano.onnx", options, providers=providers)
        self.text = TextTable.load(_FOLDER)
        """Phrases to vectors."""
        self._concepts, self._phrases = _load_concepts(self.text)
        self._meaning = lru_cache(4096)(self._find_meaning)

    def understand(self, vocabulary: Vocabulary) -> tuple[PromptNote, ...]:
        """Say how well each class is known; see :class:`geovl.segmenters.base.Segmenter`.

        Raises:
            PromptError: A class too far from everything that nano was taught.
        """
        notes = []
        for entry in vocabulary.classes:
            found = self._meaning(entry)
            notes.append(PromptNote(entry.name, found.status, found.nearest, round(found.similarity, 3)))
        return tuple(notes)

    def segment(self, chips: Sequence[Chip], vocabulary: Vocabulary) -> list[Scores]:
        """Score every pixel; see :class:`geovl.segmenters.base.Segmenter`."""
        if not chips:
            return []
        scores = self._run(chips, *self._asked(vocabulary), merge=False)
        return [Scores(values, "probability") for values in scores]

    def familiarity(self, chips: Sequence[Chip]) -> list[NDArray[np.float32]]:
        """Return the highest score of anything taught; see :class:`geovl.segmenters.base.KnowsUnknown`."""
        if not chips:
            return []
        text = np.stack([concept.vector * np.float32(concept.slope) for concept in self._concepts])
        bias = np.array([concept.bias for concept in self._concepts], np.float32)
        return [values[0] for values in self._run(chips, text, bias, merge=True)]

    def features(self, chips: Sequence[Chip]) -> NDArray[np.float32]:
        """Return what the vectors of locations are made of: float32 (n, 64, h / 4, w / 4)."""
        (features,) = self._session.run(["features"], _feed(chips, *_NO_TEXT, merge=False))
        return np.asarray(features, np.float32)

    def features_and_scores(
        self, chips: Sequence[Chip], vocabulary: Vocabulary
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return :meth:`features`, and beside them the scores of :meth:`segment`, float32 (n, classes, h, w)."""
        feed = _feed(chips, *self._asked(vocabulary), merge=False)
        features, scores = self._session.run(["features", "scores"], feed)
        return np.asarray(features, np.float32), np.asarray(scores, np.float32)

    def _asked(self, vocabulary: Vocabulary) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return vectors (classes, 128) and biases (classes,)."""
        meanings = [self._meaning(entry) for entry in vocabulary.classes]
        text = np.stack([meaning.vector for meaning in meanings])
        return text, np.array([meaning.bias for meaning in meanings], np.float32)

    def _run(
        self, chips: Sequence[Chip], text: NDArray[np.float32], bias: NDArray[np.float32], *, merge: bool
    ) -> NDArray[np.float32]:
        """Score chips against text (classes, 128): float32 (n, classes, h, w), or (n, 1, h, w) of the highest."""
        (scores,) = self._session.run(["scores"], _feed(chips, text, bias, merge=merge))
        return np.asarray(scores, np.float32)

    def _find_meaning(self, entry: ClassPrompt) -> Meaning:
        """Look the phrases of a class up, then go by similarity.

        A phrase that the lexicon holds is its concept, whose name was trained most and calibrated. Slope and bias of
        any other are those of the concepts around it, weighted by similarity.
        """
        for phrase in entry.phrases:
            for form in _forms(phrase):
                if concept := self._phrases.get(form):
                    vector = concept.vector * np.float32(concept.slope)
                    return Meaning(vector, concept.bias, 1.0, (concept.name,), _taught(concept))
        mean = self.text.embed_all(entry.phrases)
        if mean is None:
            msg = f"Prompt {entry.name!r} holds no word that {self.record.id} knows."
            raise PromptError(msg, f"It was taught: {', '.join(c.name for c in self._concepts)}.")
        similarity = np.array([float(mean @ concept.vector) for concept in self._concepts])
        order = np.argsort(-similarity)[:3]
        near = [self._concepts[i] for i in order]
        nearest = tuple(concept.name for concept in near)
        best = float(similarity[order[0]])
        if best < UNKNOWN:
            msg = (
                f"{self.record.id} does not know {entry.name!r} (similarity {best:.2f}); "
                f"the nearest that it was taught are {', '.join(nearest)}."
            )
            raise PromptError(msg, f"It was taught: {', '.join(c.name for c in self._concepts)}.")
        weight = np.exp(8 * (similarity[order] - best))
        slope = float(np.average([concept.slope for concept in near], weights=weight))
        bias = float(np.average([concept.bias for concept in near], weights=weight))
        status = _taught(near[0]) if best >= KNOWN else "guess"
        return Meaning(mean * np.float32(slope), bias, best, nearest, status)


def _feed(
    chips: Sequence[Chip], text: NDArray[np.float32], bias: NDArray[np.float32], *, merge: bool
) -> dict[str, NDArray[np.generic]]:
    """Return what the network reads: pixels uint8 (n, 3, h, w), and text (classes, 128) with biases (classes,)."""
    return {"pixels": np.stack([chip.pixels for chip in chips]), "text": text, "bias": bias, "merge": np.array(merge)}


_NO_TEXT = np.zeros((1, WIDTH), np.float32), np.zeros(1, np.float32)


def providers_of(device: str) -> list[str]:
    """Return the execution providers of ONNX Runtime for a device.

    Raises:
        ModelError: It cannot use the device.
    """
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    there = ort.get_available_providers()
    if device == "cpu" or (device == "auto" and cuda not in there):
        return [cpu]
    if device in {"auto", "cuda"} and cuda in there:
        return [cuda, cpu]
    msg = f"nano cannot run on {device!r} here: ONNX Runtime has {', '.join(there)}."
    hint = "For NVIDIA GPUs: pip install onnxruntime-gpu" if device == "cuda" else "Use --device cpu."
    raise ModelError(msg, hint)


def _taught(concept: Concept) -> Literal["known", "experimental"]:
    return "experimental" if concept.experimental else "known"


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
        concept = Concept(
            name, float(entry["slope"]), float(entry["bias"]), vector, bool(entry.get("experimental", False))
        )
        concepts.append(concept)
        for phrase in entry["phrases"]:
            phrases.setdefault(phrase.lower(), concept)
    for concept in concepts:  # a concept's own name is never another's synonym
        phrases[concept.name] = concept
    return tuple(concepts), phrases
