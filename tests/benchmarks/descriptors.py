"""How long descriptors are, in tokens of a real tokenizer, and how many of them a constrained decoder must decide.

    pip install "mistral-common[sentencepiece]"
    python tests/benchmarks/descriptors.py --data DATA

On true label grids of dense sets: tokens of R-RLE against one label for each cell, and runs of the model with forced
stretches fed along (a run for each token that has a choice) against one run for each token of R-RLE. Also for one thing
against everything else, as referring answers are.
"""

import argparse
from pathlib import Path

import numpy as np

from geovl.learn.nano import concepts, data
from geovl.segmenters.text_as_mask.automaton import Automaton
from geovl.segmenters.text_as_mask.grammar import encode
from geovl.segmenters.text_as_mask.grid import to_grid

LAND = ("building", "road", "vegetation", "water", "land")
DENSE = (
    "building",
    "road",
    "tree",
    "grass",
    "bare soil",
    "water",
    "car",
    "pavement",
    "ship",
    "dock",
    "sand",
    "airplane",
)


class Mistral:
    """Adapts a tokenizer of mistral-common."""

    def __init__(self, name):
        import mistral_common

        path = Path(mistral_common.__file__).parent / "data" / name
        if name.endswith(".json"):
            from mistral_common.tokens.tokenizers.tekken import Tekkenizer

            self._inner = Tekkenizer.from_file(path)
        else:
            from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer

            self._inner = SentencePieceTokenizer(path)

    def encode(self, text, *, add_special_tokens):
        return self._inner.encode(text, bos=False, eos=False)

    def decode(self, token_ids, *, skip_special_tokens):
        return self._inner.decode(list(token_ids))


TOKENIZERS = {"sentencepiece, 32 k": "tokenizer.model.v1", "tekken, 131 k": "tekken_240911.json"}


def grids(root, labels, side):
    """Yield (set, names, grid) of every dense picture of both sides of the split."""
    for place in ("train", "test"):
        for sample in data.dubai(root, place):
            yield "Dubai", LAND, _grid(sample, LAND, side)
        for sample in data.ucm(root, labels, place, masked=True):
            told = (sample.table[sample.codes] != concepts.UNKNOWN).mean()
            if told > 0.9:
                yield "UC Merced, dense masks", DENSE, _grid(sample, DENSE, side)


def _grid(sample, names, side):
    told = sample.table[:, [concepts.INDEX[name] for name in names]] == 1
    code = np.where(told.any(1), told.argmax(1) + 1, 0)
    return code[to_grid(sample.codes, (side, side))]


def decisions(automaton, tokens):
    """Count the tokens of an answer that had a choice."""
    state, count = automaton.start(), 0
    for token in tokens:
        count += len(automaton.allowed(state)) > 1
        state = automaton.advance(state, token)
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=Path, default=data.MASKS)
    parser.add_argument("--every", type=int, default=1, help="take every n-th picture")
    args = parser.parse_args()
    print(
        f"{'tokenizer':20} {'set':24} {'grid':>4} {'asked':>8} {'grids':>5} {'plain':>7} {'R-RLE':>7} {'saved':>6}"
        f" {'runs':>6} {'saved':>6} {'canonical':>9}"
    )
    for title, name in TOKENIZERS.items():
        tokenizer = Mistral(name)
        for side in (16, 32):
            tally = {}
            automata = {}
            for index, (place, names, grid) in enumerate(grids(args.data, args.labels, side)):
                if index % args.every:
                    continue
                asked = [("all", names, grid)]
                asked += [
                    ("one", (n,), (grid == i + 1).astype(int)) for i, n in enumerate(names) if (grid == i + 1).any()
                ]
                for kind, mine, some in asked:
                    automaton = automata.setdefault(mine, Automaton(tokenizer, ("others", *mine), (side, side)))
                    row = tally.setdefault((place, kind), [])
                    text = f"<seg>{encode(some, automaton.labels)}</seg>"
                    plain = f"<seg>{encode(some, automaton.labels, 'plain')}</seg>"
                    tokens, whole = automaton.tokens(some), tokenizer.encode(text, add_special_tokens=False)
                    row.append(
                        (
                            len(tokenizer.encode(plain, add_special_tokens=False)),
                            len(whole),
                            decisions(automaton, tokens),
                            tokens == whole,
                        )
                    )
            for (place, kind), row in sorted(tally.items()):
                plain, short, runs, canonical = np.array(row, float).mean(0)
                print(
                    f"{title:20} {place:24} {side:4} {kind:>8} {len(row):5} {plain:7.0f} {short:7.0f}"
                    f" {1 - short / plain:6.1%} {runs:6.0f} {1 - runs / short:6.1%} {canonical:9.0%}"
                )


if __name__ == "__main__":
    main()
