"""Files of classes: one class a line, its names with commas between them, perhaps a colour.

    building, house, roof  #e41a1c
    road
    # a remark
    water, river, lake

The first name is the class's own; all names are what is looked for. Blank lines and lines that begin with ``#`` and a
blank are passed over.
"""

import re
from pathlib import Path

from geovl.errors import PromptError
from geovl.types import ClassPrompt, Vocabulary

_COLOR = re.compile(r"\s+(#[0-9a-fA-F]{6})$")
_MOST_BYTES = 10_000_000


def parse(text: str, separator: str = ",") -> tuple[ClassPrompt, ...]:
    """Read classes from text.

    Args:
        text: Lines; blanks around names are removed.
        separator: Between the names of a class; its own blanks count, so that ``"; "`` leaves ``"a;b"`` one name.

    Raises:
        PromptError: No class at all, an empty name, or one given twice; the line is named.
    """
    found: list[ClassPrompt] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if not line.strip() or re.match(r"\s*#(\s|$)", line):
            continue
        told = _COLOR.search(line.rstrip())
        names = tuple(" ".join(name.split()) for name in _COLOR.sub("", line.rstrip()).split(separator))
        for name in names:
            if not name:
                msg = f"Line {number} of the classes has an empty name: {line!r}."
                raise PromptError(msg, f"Write a class a line, and {separator!r} only between two names.")
            if "#" in name or ";" in name.replace(separator, ""):
                msg = f"Line {number} of the classes has the name {name!r}, with a sign that means something else."
                raise PromptError(msg, "Names are divided by commas; a colour stands last, after a blank: #e41a1c")
            if name.casefold() in seen:
                msg = f"Line {number} of the classes names {name!r}, which line {seen[name.casefold()]} has already."
                raise PromptError(msg, "Give each name once.")
            seen[name.casefold()] = number
        found.append(ClassPrompt(names[0], names, told[1].lower() if told else None))
    if not found:
        raise PromptError("No class was given.", "Write a class a line: building, house, roof")
    return tuple(found)


def read(path: Path) -> Vocabulary:
    """Read a file of classes.

    Raises:
        PromptError: It is not there, is no text, or holds no classes.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise PromptError(f"{path} has {path.stat().st_size} bytes; no file of classes is that long.")
        text = path.read_text("utf-8")
    except OSError as error:
        raise PromptError(f"{path} cannot be read: {error.strerror}.", "Give a text file, one class a line.") from None
    except UnicodeDecodeError:
        raise PromptError(f"{path} is no text in UTF-8.", "Give a text file, one class a line.") from None
    try:
        return Vocabulary(parse(text))
    except PromptError as error:
        raise PromptError(f"{path}: {error.message}", error.hint) from None
