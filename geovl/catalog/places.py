"""Where things stand in TOML text: a scanner that follows keys and values, for messages with line numbers.

``tomllib`` tells lines of syntax errors only. The text is known to be valid when it comes here, so the scanner
decides nothing; it only keeps count.
"""

import re
import tomllib

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_KEY = re.compile(r"""[ \t]*(?:"(?:\\.|[^"\\])*"|'[^']*'|[A-Za-z0-9_-]+)[ \t]*""")
_STRING = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|'''
    r"""'''(?:.|\n)*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'""",
    re.DOTALL,
)
_PLAIN = re.compile(r"[^,\]}#\r\n]+")


def locate(text: str) -> dict[Path, int]:
    """Return the line, from 1, of every key, table and item of an array of valid TOML text."""
    return _Scanner(text).document()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}
        """Arrays of tables to the index of their last one."""
        self._last, self._line = 0, 1

    def document(self) -> dict[Path, int]:
        """Scan it all."""
        table: Path = ()
        self._skip()
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip()
        return self._lines

    def _header(self) -> Path:
        line = self._here()
        double = self._text.startswith("[[", self._at)
        self._at += 1 + double
        table: Path = ()
        names = self._dotted()
        for place, name in enumerate(names):
            table = (*table, name)
            if double and place == len(names) - 1:
                self._lines.setdefault(table, line)
                self._counts[table] = self._counts.get(table, -1) + 1
            if table in self._counts:
                table = (*table, self._counts[table])
        self._at += 1 + double
        self._lines[table] = line
        return table

    def _pair(self, table: Path) -> None:
        line = self._here()
        path = table
        for name in self._dotted():
            path = (*path, name)
            self._lines.setdefault(path, line)
        self._at += 1  # the sign
        self._skip()
        self._value(path)

    def _dotted(self) -> list[str]:
        names = []
        while found := _KEY.match(self._text, self._at):
            word = found[0].strip()
            names.append(next(iter(tomllib.loads(f"{word} = 0"))))
            self._at = found.end()
            if not self._text.startswith(".", self._at):
                break
            self._at += 1
        return names

    def _value(self, path: Path) -> None:
        first = self._text[self._at]
        if first in "[{":
            self._at += 1
            self._skip()
            index = 0
            while self._text[self._at] not in "]}":
                if first == "[":
                    self._lines[(*path, index)] = self._here()
                    self._value((*path, index))
                    index += 1
                else:
                    self._pair(path)
                self._skip()
                if self._text[self._at] == ",":
                    self._at += 1
                    self._skip()
            self._at += 1
        else:
            found = _STRING.match(self._text, self._at) or _PLAIN.match(self._text, self._at)
            self._at = found.end() if found else self._at + 1

    def _skip(self) -> None:
        """Pass over blanks, line ends and remarks."""
        found = _BLANK.match(self._text, self._at)
        if found:
            self._at = found.end()

    def _here(self) -> int:
        """Return the line of the place; places are asked for in rising order."""
        self._line += self._text.count("\n", self._last, self._at)
        self._last = self._at
        return self._line
