"""What a served model may answer, written so that its server can hold it to that.

Once labels and the grid's shape are known, answers are a regular language. Engines take it as text, either way:

| text | what it holds a model to |
| --- | --- |
| grammar | every row sums to the grid's width: there is one rule for each number of cells that are left of a row |
| regular expression | labels, counts of 1 to the width, and the number of rows |

An expression cannot name a part of itself, so sums of rows would double its length with every column. Where only
expressions are understood, rows may come out too short or too long, and are repaired one by one when they are read
(:func:`geovl.segmenters.text_as_mask.grammar.decode`).

The grammar is written in GBNF, which llama.cpp reads, and XGrammar too, the engine of vLLM and SGLang:
https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from geovl.errors import UsageError
from geovl.segmenters.text_as_mask.dialects import CLOSE, OPEN, TEXT4SEG, Dialect
from geovl.segmenters.text_as_mask.grammar import check_vocabulary, spelled

Engine = Literal["vllm", "sglang", "llama.cpp", "other"]
"""What serves a model; ``other`` cannot hold it to anything, as far as is known."""
Form = Literal["grammar", "regex"]
FORMS: tuple[Form, ...] = get_args(Form)

_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


@dataclass(frozen=True, slots=True)
class AnswerGrammar:
    """All answers that spell a grid, as texts that servers understand."""

    grammar: str
    """GBNF, its start is ``root``: exactly the grids of the shape."""
    regex: str
    """Regular expression of the whole answer: these grids, and such whose rows do not sum to the width."""


def answer_grammar(
    vocabulary: Sequence[str], shape: tuple[int, int], dialect: Dialect = TEXT4SEG, preamble: int = 0
) -> AnswerGrammar:
    """Describe the answers that hold a grid in row-wise runs.

    Args:
        vocabulary: Labels; the first is the background.
        shape: Rows and columns of the grid.
        dialect: How it is spelled.
        preamble: Characters that may stand in a line of their own before the tag, as trained models begin; 0 for none.

    Raises:
        PromptError: A label could not be read back.
        UsageError: A shape without cells, or more labels than the dialect can name.
    """
    height, width = shape
    if height < 1 or width < 1:
        msg = f"A grid has at least one row and one column, got {height} x {width}."
        raise UsageError(msg)
    labels = spelled(check_vocabulary(vocabulary, dialect), dialect)
    return AnswerGrammar(
        "\n".join(_rules(labels, (height, width), dialect, preamble)) + "\n",
        _expression(labels, (height, width), dialect, preamble),
    )


def _rules(labels: Sequence[str], shape: tuple[int, int], dialect: Dialect, preamble: int) -> Iterator[str]:
    height, width = shape
    begin = f"preamble? {_quoted(OPEN)}" if preamble else _quoted(OPEN)
    rows = f" {_quoted(dialect.row)} ".join([f"cells{width}"] * height)
    yield f"root ::= {begin} {rows} {_quoted(dialect.end + CLOSE)}"
    if preamble:
        yield f'preamble ::= [^<\\n]{{0,{preamble}}} "\\n"'
    for left in range(1, width + 1):
        ends = [_quoted(str(left))]
        ends += [f"{_quoted(str(count) + dialect.item)} cells{left - count}" for count in range(1, left)]
        yield f"cells{left} ::= label {_quoted(dialect.count)} ({' | '.join(ends)})"
    yield f"label ::= {' | '.join(map(_quoted, labels))}"


def _quoted(text: str) -> str:
    """Return a text as GBNF writes it."""
    return '"' + "".join(_ESCAPES.get(char, char) for char in text) + '"'


def _expression(labels: Sequence[str], shape: tuple[int, int], dialect: Dialect, preamble: int) -> str:
    height, width = shape
    # longest first: an engine that takes the first alternative that fits must not stop at the 1 of 16
    counts = "|".join(str(count) for count in range(width, 0, -1))
    names = "|".join(_literal(label) for label in sorted(labels, key=len, reverse=True))
    run = f"(?:{names}){_literal(dialect.count)}(?:{counts})"
    row = f"{run}(?:{_literal(dialect.item)}{run}){{0,{width - 1}}}"
    rows = f"{row}(?:{_literal(dialect.row)}{row}){{{height - 1}}}"
    begin = f"(?:[^<\\n]{{0,{preamble}}}\\n)?" if preamble else ""
    return f"{begin}{_literal(OPEN)}{rows}{_literal(dialect.end + CLOSE)}"


def _literal(text: str) -> str:
    """Return an expression for a text, with no escape that another engine than Python's might refuse."""
    return _SPECIAL.sub(r"\\\g<0>", text).replace("\n", "\\n")


def request_fields(engine: Engine, version: str | None, answers: AnswerGrammar, form: Form) -> dict[str, Any]:
    """Return the fields of a request that hold an engine's model to its answers.

    | engine | grammar | regular expression |
    | --- | --- | --- |
    | vLLM from 0.11 | ``structured_outputs: {"grammar": ...}`` | ``structured_outputs: {"regex": ...}`` |
    | vLLM before | ``guided_grammar`` | ``guided_regex`` |
    | SGLang | ``ebnf`` | ``regex`` |
    | llama.cpp | ``grammar`` | none |

    vLLM ignores what it does not know, so the wrong field would free its model in silence.

    Args:
        engine: What serves the model; none of its fields for ``other``.
        version: vLLM's; the newest where unknown.
        answers: What may be answered.
        form: As what it is sent.

    Raises:
        UsageError: The engine does not take that form.
    """
    if engine == "vllm":
        return _vllm(version, getattr(answers, form), form)
    if engine == "sglang":
        return {"ebnf": answers.grammar} if form == "grammar" else {"regex": answers.regex}
    if engine == "other":
        return {}
    if form == "regex":
        msg = "llama.cpp takes grammars, not regular expressions."
        raise UsageError(msg, "Leave the form of the constraint at grammar.")
    return {"grammar": answers.grammar}


def _vllm(version: str | None, text: str, form: Form) -> dict[str, Any]:
    found = re.match(r"v?(\d+)\.(\d+)", version or "")
    old = found is not None and (int(found[1]), int(found[2])) < (0, 11)
    return {f"guided_{form}": text} if old else {"structured_outputs": {form: text}}
