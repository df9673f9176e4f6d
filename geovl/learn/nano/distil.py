"""Makes nano's text table from a sentence encoder, and measures it on synonyms that it was not fitted with.

    python -m geovl.learn.nano.distil --model FOLDER --out DIR [--folds 4]

FOLDER holds a BERT sentence encoder (``config.json``, ``vocab.txt``, weights), such as
sentence-transformers/all-MiniLM-L6-v2. The lexicon (``phrases.json``) is a JSON object: ``concepts`` (concept to
its synonyms), ``phrases`` and ``adjectives`` (of the field, to compose phrases from) and
``outside`` (words of other fields, used only to measure). DIR gets ``text-table.npz`` and
``vocab.txt``, as :class:`geovl.segmenters.nano.text.TextTable` reads them.

Two steps. The *plain* table is every word piece alone through the encoder, reduced to 128
numbers. *Refining* moves the pieces that the lexicon uses. Seeded: the same files in give
the same table out, up to the rounding of sums.
"""

import argparse
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from tokenizers import BertWordPieceTokenizer  # type: ignore[import-not-found] # comes with transformers
from torch import Tensor
from torch.nn import functional
from transformers import BertModel  # type: ignore[import-not-found]

from geovl.errors import ModelError
from geovl.segmenters.nano.text import WIDTH, TextTable

_RELATIONS = ("{} near {}", "{} next to {}", "{} and {}", "{} beside {}", "{} surrounded by {}", "{} in front of {}")
_SPECIAL = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Recipe:
    """What refining depends on."""

    steps: int = 100
    rate: float = 0.02
    """Learning rate at the start; it falls to nothing in a straight line."""
    compositions: int = 2400
    """Phrases composed of the lexicon's."""
    batch: int = 512
    """Phrases whose cosines are compared in a step."""
    similarity: float = 50.0
    """Weight of the squared error of cosines between phrases."""
    choice: float = 1.0
    """Weight of the softmax over the concepts."""
    temperature: float = 0.1
    """What the cosines of that softmax are divided by. Soft on purpose: sharper fits the synonyms
    that are given no better (all are right anyway) and those that are not given worse."""
    distance: float = 100.0
    """Weight of the squared excess of strangers' cosines over ``margin``."""
    margin: float = 0.15
    strangers: int = 512
    """Random words a step."""
    pull: float = 2.0
    """Weight of the pull towards the plain table."""
    seed: int = 0


# ------------------------------------------------------------------------------- the lexicon


@dataclass(frozen=True, slots=True)
class Lexicon:
    """What is known of the field in words, and what is kept from a fit."""

    concepts: Mapping[str, tuple[str, ...]]
    """Concept to its synonyms."""
    phrases: tuple[str, ...]
    adjectives: tuple[str, ...]
    outside: tuple[str, ...]
    """Words of other fields, only for measuring."""
    hidden: frozenset[str] = field(default=frozenset())
    """Synonyms taken out; nothing composed may contain them."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a JSON file."""
        told = json.loads(path.read_text("utf-8"))
        concepts = {name: tuple(synonyms) for name, synonyms in told["concepts"].items()}
        return cls(concepts, tuple(told["phrases"]), tuple(told["adjectives"]), tuple(told["outside"]))

    @property
    def synonyms(self) -> list[tuple[str, int]]:
        """Every synonym with the number of its concept."""
        return [(phrase, i) for i, known in enumerate(self.concepts.values()) for phrase in known]

    @property
    def words(self) -> set[str]:
        """Every word of the lexicon, also of what is hidden or outside."""
        known = [phrase for phrase, _ in self.synonyms]
        everything = [*self.concepts, *known, *self.phrases, *self.adjectives, *self.outside, *self.hidden]
        return {word for phrase in everything for word in _words(phrase)}

    def without(self, held: AbstractSet[str]) -> Self:
        """Return a lexicon that lacks synonyms, and phrases that contain one."""
        concepts = {name: tuple(s for s in known if s not in held) for name, known in self.concepts.items()}
        phrases = tuple(phrase for phrase in self.phrases if not mentions(phrase, held))
        return type(self)(concepts, phrases, self.adjectives, self.outside, self.hidden | held)


def _words(phrase: str) -> list[str]:
    return re.findall(r"\w+", phrase.lower())


def mentions(phrase: str, others: Iterable[str]) -> bool:
    """Tell whether a phrase contains one of the others, word by word."""
    text = f" {' '.join(_words(phrase))} "
    return any(f" {' '.join(_words(other))} " in text for other in others)


def phrases_of(lexicon: Lexicon, count: int, rng: Generator) -> list[str]:
    """Return the phrases whose similarity is learned: the lexicon's own, then compositions of these.

    Args:
        lexicon: What may be used; compositions that mention what it hides are left out.
        count: Compositions to draw, two of three with an adjective, one with a relation.
        rng: Draws.
    """
    parts = list(dict.fromkeys([*lexicon.concepts, *(phrase for phrase, _ in lexicon.synonyms), *lexicon.phrases]))
    composed = []
    for _ in range(count):
        one, other = (parts[i] for i in rng.choice(len(parts), 2, replace=False))
        adjective = lexicon.adjectives[rng.integers(len(lexicon.adjectives))]
        relation = _RELATIONS[rng.integers(len(_RELATIONS))]
        phrase = f"{adjective} {one}" if rng.integers(3) else relation.format(one, other)
        if not mentions(phrase, lexicon.hidden):
            composed.append(phrase)
    return list(dict.fromkeys([*parts, *composed]))


# ------------------------------------------------------------------------------- the encoder


@dataclass(frozen=True, slots=True)
class Encoder:
    """A sentence encoder with its word pieces."""

    network: Any
    """A ``BertModel``."""
    pieces: dict[str, int]
    cut: Any
    """The ``BertWordPieceTokenizer`` of these pieces."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder, never the network.

        Raises:
            ModelError: It lacks a file, is no BERT encoder, or its vocabulary does not fit its weights.
        """
        hint = "Give the folder that holds config.json, vocab.txt and model.safetensors of all-MiniLM-L6-v2."
        missing = [name for name in ("config.json", "vocab.txt") if not (folder / name).is_file()]
        if missing:
            raise ModelError(f"The model folder {folder} has no {' and no '.join(missing)}.", hint)
        try:
            kind = json.loads((folder / "config.json").read_text("utf-8")).get("model_type")
            if kind != "bert":
                raise ModelError(f"The model in {folder} is of type {kind}; expected bert.", hint)
            network = BertModel.from_pretrained(str(folder), local_files_only=True, add_pooling_layer=False).eval()
        except (OSError, ValueError) as error:
            raise ModelError(f"The model in {folder} cannot be read: {error}", hint) from error
        pieces = {line: i for i, line in enumerate((folder / "vocab.txt").read_text("utf-8").split("\n")) if line}
        expected = network.config.vocab_size
        if len(pieces) != expected or not pieces.keys() >= _SPECIAL:
            raise ModelError(
                f"{folder / 'vocab.txt'} does not fit the model: {len(pieces)} word pieces, expected {expected} "
                f"with {', '.join(sorted(_SPECIAL))} among them.",
                hint,
            )
        return cls(network, pieces, BertWordPieceTokenizer(pieces, lowercase=True))

    def rows(self, phrase: str) -> list[int]:
        """Return the numbers of a phrase's word pieces."""
        found: list[int] = self.cut.encode(phrase, add_special_tokens=False).ids
        return found

    def alone(self) -> NDArray[np.float32]:
        """Encode each word piece by itself: the output at its own position, float32 (pieces, hidden)."""
        start, stop = self.pieces["[CLS]"], self.pieces["[SEP]"]
        found = []
        for piece in torch.arange(len(self.pieces)).split(_BATCH):
            ids = torch.stack([torch.full_like(piece, start), piece, torch.full_like(piece, stop)], dim=1)  # (n, 3)
            found.append(self._run(ids)[:, 1])
        return np.asarray(torch.cat(found).numpy(), np.float32)

    def phrases(self, phrases: Sequence[str]) -> Tensor:
        """Encode phrases, mean over all positions: unit vectors, float32 (phrases, hidden)."""
        ids = [torch.tensor(self.cut.encode(phrase).ids) for phrase in phrases]
        found = torch.empty(len(ids), self.network.config.hidden_size)
        for some in torch.tensor(sorted(range(len(ids)), key=lambda i: len(ids[i]))).split(_BATCH):
            batch = _padded([ids[i] for i in some.tolist()], -1)
            mask = (batch >= 0).long()  # (n, length)
            hidden = self._run(batch.clamp(min=0), mask)  # (n, length, hidden)
            found[some] = functional.normalize((hidden * mask[..., None]).sum(1), dim=1)
        return found

    def _run(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the last layer, float32 (n, length, hidden), of word pieces (n, length); mask: 1 is a piece."""
        with torch.no_grad():
            last: Tensor = self.network(input_ids=ids, attention_mask=mask).last_hidden_state
        return last.float()


def _padded(rows: Sequence[Tensor], value: int) -> Tensor:
    """Stack rows of numbers: int64 (rows, longest)."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


# ------------------------------------------------------------------------------- the two steps


def usable(pieces: Mapping[str, int]) -> NDArray[np.bool_]:
    """Tell which word pieces stand for text: (pieces,); True where one does."""
    found = np.zeros(len(pieces), np.bool_)
    for piece, row in pieces.items():
        found[row] = piece not in _SPECIAL and not piece.startswith("[unused")
    return found


def plain_table(alone: NDArray[np.float32], used: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Centre, reduce to the first 128 principal axes, weigh by ``log(rank + 2)``.

    Args:
        alone: (pieces, hidden), the commonest piece first.
        used: (pieces,), True for what gets a vector.

    Returns:
        float32 (pieces, 128) with a mean squared row length of 1; zero where not used.

    Raises:
        ModelError: Fewer than 128 numbers a piece, or pieces.
    """
    if min(alone.shape[1], int(used.sum())) < WIDTH:
        raise ModelError(
            f"{int(used.sum())} word pieces of {alone.shape[1]} numbers; expected {WIDTH} or more of both."
        )
    centred = alone.astype(np.float64) - alone[used].mean(axis=0, dtype=np.float64)
    axes = np.linalg.eigh(centred[used].T @ centred[used])[1][:, ::-1][:, :WIDTH]  # (hidden, 128)
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(WIDTH)])  # an axis has no sign of its own
    # common words come first and say least
    table = centred @ axes * np.log(np.arange(len(alone)) + 2)[:, None] * used[:, None]
    return np.asarray(table / np.sqrt((table[used] ** 2).sum(axis=1).mean()), np.float32)


@dataclass(frozen=True, slots=True)
class Problem:
    """What a table is fitted to; phrases as rows of word pieces, filled up with an empty row."""

    phrases: Tensor
    """int64 (phrases, length)."""
    similar: Tensor
    """float32 (phrases, hidden): unit vectors of the encoder, centred."""
    concepts: Tensor
    """int64 (concepts, length)."""
    synonyms: Tensor
    """int64 (synonyms, length)."""
    labels: Tensor
    """int64 (synonyms,): the concept of each."""
    strangers: Tensor
    """int64 (words,): pieces that are words of no concept."""
    moved: Tensor
    """int64 (pieces that move,)."""


def pose(encoder: Encoder, plain: Tensor, lexicon: Lexicon, recipe: Recipe) -> Problem:
    """Put together what a lexicon says.

    Args:
        encoder: Says how similar phrases are.
        plain: (pieces, 128).
        lexicon: What may be known.
        recipe: How much to compose, and the seed.
    """
    texts = phrases_of(lexicon, recipe.compositions, np.random.default_rng(recipe.seed))
    known = lexicon.synonyms
    groups = (texts, list(lexicon.concepts), [phrase for phrase, _ in known])
    empty = encoder.pieces["[PAD]"]
    rows, concepts, synonyms = (_padded([torch.tensor(encoder.rows(t)) for t in group], empty) for group in groups)
    similar = encoder.phrases(texts)
    used = torch.from_numpy(usable(encoder.pieces))
    moved = torch.cat([part.flatten() for part in (rows, concepts, synonyms)]).unique()
    return Problem(
        rows,
        functional.normalize(similar - similar.mean(dim=0), dim=1),
        concepts,
        synonyms,
        torch.tensor([concept for _, concept in known]),
        _strangers(encoder.pieces, plain, concepts, lexicon.words),
        moved[used[moved]],
    )


def _strangers(pieces: Mapping[str, int], plain: Tensor, concepts: Tensor, known: AbstractSet[str]) -> Tensor:
    """Return whole words of the vocabulary, of which the half that is nearest to a concept is left out.

    Words that the lexicon knows are none. That covers what will be measured, held out or
    outside: such words are neither drawn nor pushed.
    """
    words = [row for piece, row in pieces.items() if re.fullmatch("[a-z]{3,}", piece) and piece not in known]
    rows = torch.tensor(words, dtype=torch.long)
    nearest = (functional.normalize(plain[rows], dim=1) @ embed(plain, concepts).T).amax(dim=1)
    return rows[nearest <= nearest.median()] if len(rows) else rows


def embed(table: Tensor, rows: Tensor) -> Tensor:
    """Return unit vectors (phrases, 128) of phrases (phrases, length) by a table (pieces, 128)."""
    return functional.normalize(table[rows].sum(dim=1), dim=1)  # rows that fill up are zero


def loss_of(table: Tensor, problem: Problem, recipe: Recipe, draw: torch.Generator) -> Tensor:
    """Return what is wrong with a table (pieces, 128), without the pull."""
    some = torch.randperm(len(problem.phrases), generator=draw)[: recipe.batch]
    ours, theirs = embed(table, problem.phrases[some]), problem.similar[some]
    loss = recipe.similarity * (ours @ ours.T - theirs @ theirs.T).square().mean()
    concepts = embed(table, problem.concepts)
    logits = embed(table, problem.synonyms) @ concepts.T / recipe.temperature  # (synonyms, concepts)
    loss = loss + recipe.choice * functional.cross_entropy(logits, problem.labels)
    if len(problem.strangers):
        drawn = problem.strangers[torch.randint(len(problem.strangers), (recipe.strangers,), generator=draw)]
        excess = functional.normalize(table[drawn], dim=1) @ concepts.T - recipe.margin  # (strangers, concepts)
        loss = loss + recipe.distance * excess.clamp(min=0).square().mean()
    return loss


def refine(plain: Tensor, problem: Problem, recipe: Recipe) -> NDArray[np.float32]:
    """Move the pieces that a problem names; every other row stays as it is.

    Returns:
        float32 (pieces, 128).
    """
    draw = torch.Generator().manual_seed(recipe.seed)
    shift = torch.zeros(len(problem.moved), plain.shape[1], requires_grad=True)
    size = plain[problem.moved].square().sum(dim=1).mean()
    optimiser = torch.optim.Adam([shift], lr=recipe.rate)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, recipe.steps)
    for _ in range(recipe.steps):
        table = plain.index_add(0, problem.moved, shift)
        pull = recipe.pull * shift.square().sum(dim=1).mean() / size
        optimiser.zero_grad()
        (loss_of(table, problem, recipe, draw) + pull).backward()
        optimiser.step()
        falling.step()
    return np.asarray(plain.index_add(0, problem.moved, shift.detach()).numpy(), np.float32)


def fit(encoder: Encoder, plain: NDArray[np.float32], lexicon: Lexicon, recipe: Recipe) -> NDArray[np.float32]:
    """Refine the plain table (pieces, 128) with all that a lexicon says."""
    start = torch.from_numpy(plain)
    return refine(start, pose(encoder, start, lexicon, recipe), recipe)


def quantise(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Return whole numbers and a scale a row; no number is off by more than half its row's scale.

    Args:
        table: (pieces, 128).

    Returns:
        int8 (pieces, 128) and float16 (pieces,); both zero for a row of zeros.
    """
    exact = np.abs(table).max(axis=1) / 127
    scale = exact.astype(np.float16)
    low = scale < exact  # rounded down, in a row of tiny numbers, the largest would not fit
    scale[low] = np.nextafter(scale[low], np.float16(np.inf))
    step = np.where(scale > 0, scale, 1).astype(np.float32)
    return np.round(table / step[:, None]).astype(np.int8), scale


def write(table: NDArray[np.float32], vocabulary: Path, out: Path) -> None:
    """Write ``text-table.npz`` and ``vocab.txt`` of a table (pieces, 128) into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    numbers, scale = quantise(table)
    np.savez(out / "text-table.npz", table=numbers, scale=scale)
    if (out / "vocab.txt").resolve() != vocabulary.resolve():
        shutil.copyfile(vocabulary, out / "vocab.txt")


# ------------------------------------------------------------------------------- measuring


def measure(text: TextTable, lexicon: Lexicon, tested: Sequence[tuple[str, int]]) -> dict[str, float]:
    """Measure how well phrases find their concept.

    Args:
        text: The table as it ships.
        lexicon: Its concepts and the words outside.
        tested: Phrases with the number of their concept.

    Returns:
        ``top1`` and ``top3``: share of phrases whose concept is among the nearest. ``auroc``:
        of the highest cosine over the concepts, phrases against words outside. ``tested``: phrases.
    """
    concepts = _vectors(text, lexicon.concepts)  # (concepts, 128)
    cosines = _vectors(text, [phrase for phrase, _ in tested]) @ concepts.T  # (tested, concepts)
    right = cosines[np.arange(len(tested)), [concept for _, concept in tested]]
    ahead = (cosines > right[:, None]).sum(axis=1)
    inside, outside = cosines.max(axis=1), (_vectors(text, lexicon.outside) @ concepts.T).max(axis=1)
    above = (inside[:, None] > outside).mean() + 0.5 * (inside[:, None] == outside).mean()
    figures = {"top1": (ahead < 1).mean(), "top3": (ahead < 3).mean(), "auroc": above, "tested": len(tested)}
    return {name: float(value) for name, value in figures.items()}


def _vectors(text: TextTable, phrases: Iterable[str]) -> NDArray[np.float32]:
    """Return unit vectors (phrases, 128); zero for a phrase without a known piece."""
    found = (text.embed(phrase) for phrase in phrases)
    return np.stack([np.zeros(WIDTH, np.float32) if vector is None else vector for vector in found])


def folds_of(lexicon: Lexicon, count: int, seed: int) -> list[frozenset[str]]:
    """Deal the synonyms at random into sets that differ in size by one at most."""
    known = list(dict.fromkeys(phrase for phrase, _ in lexicon.synonyms if phrase not in lexicon.concepts))
    order = np.random.default_rng(seed).permutation(len(known))
    return [frozenset(known[i] for i in order[start::count]) for start in range(count)]


def cross_validate(
    encoder: Encoder, plain: NDArray[np.float32], lexicon: Lexicon, count: int, recipe: Recipe
) -> dict[str, list[dict[str, float]]]:
    """Measure on synonyms that were kept from the fit, a fold after the other.

    Args:
        encoder: Of the table.
        plain: (pieces, 128).
        lexicon: All that is known.
        count: Folds.
        recipe: Of the fits; its seed also deals the folds.

    Returns:
        Figures of each fold for the ``plain`` and the ``refined`` table; the last row is the mean
        over all synonyms.
    """
    report: dict[str, list[dict[str, float]]] = {"plain": [], "refined": []}
    for held in folds_of(lexicon, count, recipe.seed):
        tested = [pair for pair in lexicon.synonyms if pair[0] in held]
        tables = {"plain": plain, "refined": fit(encoder, plain, lexicon.without(held), recipe)}
        for name, table in tables.items():
            report[name].append(measure(TextTable(encoder.pieces, *quantise(table)), lexicon, tested))
    return {name: [*rows, _mean(rows)] for name, rows in report.items()}


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average figures, each fold by how many phrases it tested."""
    tested = [row["tested"] for row in rows]
    mean = {name: float(np.average([row[name] for row in rows], weights=tested)) for name in rows[0]}
    return mean | {"tested": sum(tested)}


def main() -> None:
    """Write the table; with folds, print figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the sentence encoder")
    parser.add_argument("--lexicon", type=Path, default=Path(__file__).parent / "phrases.json")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=0, help="measure on held-out synonyms with so many folds")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.folds < 0 or args.folds == 1:
        parser.error(f"--folds is {args.folds}; expected 2 or more, or 0 for none")
    recipe = Recipe(seed=args.seed)
    lexicon, encoder = Lexicon.load(args.lexicon), Encoder.load(args.model)
    plain = plain_table(encoder.alone(), usable(encoder.pieces))
    write(fit(encoder, plain, lexicon, recipe), args.model / "vocab.txt", args.out)
    if args.folds:
        report = cross_validate(encoder, plain, lexicon, args.folds, recipe)
        print(json.dumps(report, indent=1))  # noqa: T201 - a script's answer


if __name__ == "__main__":
    main()
