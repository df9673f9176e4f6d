r"""Papers as BibTeX.

The catalog knows no authors and makes none up, so that every entry is a ``@misc``: title, year, number, link, venue.
Texts are LaTeX, with accents as commands for BibTeX's sake; letters that have no such command, Chinese ones for
instance, stay as they are and need biber or another program that reads UTF-8.
"""

import re
import unicodedata
from collections.abc import Sequence

from geovl.catalog.book import Catalog
from geovl.catalog.exports import Refused, has_title, is_arxiv, is_doi, paper_of, paper_url
from geovl.catalog.records import Paper, Record

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\textbraceleft{}",  # BibTeX counts braces, even those after a backslash
    "}": r"\textbraceright{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "%": r"\%",
    "&": r"\&",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "\N{NO-BREAK SPACE}": " ",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "\N{LEFT SINGLE QUOTATION MARK}": "`",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": "``",
    "\N{RIGHT DOUBLE QUOTATION MARK}": "''",
    "…": r"\ldots{}",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "°": r"$^\circ$",
    "±": r"$\pm$",
    "²": r"$^2$",
    "³": r"$^3$",
    "→": r"$\rightarrow$",
    "\N{GREEK SMALL LETTER ALPHA}": r"$\alpha$",
    "β": r"$\beta$",
    "λ": r"$\lambda$",
    "\N{GREEK SMALL LETTER MU}": r"$\mu$",
    "\N{MICRO SIGN}": r"$\mu$",
    "π": r"$\pi$",
    "\N{GREEK SMALL LETTER SIGMA}": r"$\sigma$",
    "ß": r"{\ss}",
    "ø": r"{\o}",
    "Ø": r"{\O}",
    "ł": r"{\l}",
    "Ł": r"{\L}",
    "æ": r"{\ae}",
    "Æ": r"{\AE}",
    "œ": r"{\oe}",
    "Œ": r"{\OE}",
    "å": r"{\aa}",
    "Å": r"{\AA}",
    "\N{LATIN SMALL LETTER DOTLESS I}": r"{\i}",
}
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0308": '"',
    "\u0304": "=",
    "\u0307": ".",
    "\u0306": "u",
    "\u030c": "v",
    "\u030b": "H",
    "\u0327": "c",
    "\u0328": "k",
    "\u0323": "d",
}
_WORD = re.compile(r"([^\W_]+)|(.)", re.DOTALL)


def _letter(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    parts = unicodedata.normalize("NFD", character)
    if len(parts) == 2 and parts[0].isascii() and parts[1] in _ACCENTS:
        base = rf"\{parts[0]}" if parts[0] in "ij" else parts[0]  # the dot makes way for the accent
        return rf"{{\{_ACCENTS[parts[1]]}{{{base}}}}}"
    return character


def latex(text: str) -> str:
    """Return text as LaTeX: its special characters as commands, blanks as one, its braces in balance."""
    return "".join(map(_letter, unicodedata.normalize("NFC", " ".join(text.split()))))


def title(text: str) -> str:
    """Return a title as LaTeX, its acronyms in braces: styles that put titles in lower case leave these alone.

    A word is taken for an acronym if it has a capital after its first letter, or a capital and a digit.
    """
    out = []
    for word, other in _WORD.findall(unicodedata.normalize("NFC", " ".join(text.split()))):
        capitals = [place for place, character in enumerate(word) if character.isupper()]
        acronym = bool(capitals) and (capitals[-1] > 0 or any(map(str.isdigit, word)))
        body = "".join(map(_letter, word or other))
        out.append(f"{{{body}}}" if acronym else body)
    return "".join(out)


def _verbatim(text: str) -> str:
    """Return a link or number as styles print it, letter by letter: only what would end the field is changed."""
    codes = {"{": "%7B", "}": "%7D", "\\": "%5C", " ": "%20"}
    return "".join(codes.get(character, character) for character in text.strip())


def entry(paper: Paper, asked: Record | None = None) -> str:
    """Return one entry; its key is the paper's id.

    Args:
        paper: The paper.
        asked: The model or data set whose paper it is, to be named if it is refused.

    Raises:
        Refused: The paper has no title or no year.
    """
    told = f"of paper {paper.id}"
    lacking = [] if has_title(paper) else [f"name ({told}: its title, not only what it presents)"]
    lacking += [] if paper.year is not None else [f"year ({told})"]
    if lacking:
        raise Refused(asked or paper, "bibtex", lacking)
    numbers = [number for number in (paper.paper, *paper.identifiers) if number]
    arxiv = next(filter(is_arxiv, numbers), None)
    doi = next(filter(is_doi, numbers), None)
    url = paper.url or next(filter(None, map(paper_url, numbers)), None)
    fields = {
        "title": title(paper.name),
        "year": str(paper.year),
        "eprint": arxiv and _verbatim(arxiv),
        "archivePrefix": "arXiv" if arxiv else None,
        "doi": doi and _verbatim(doi),
        "url": url and _verbatim(url),
        "note": latex(paper.venue) if paper.venue else None,
    }
    lines = [f"  {key} = {{{value}}}" for key, value in fields.items() if value]
    return f"@misc{{{paper.id},\n" + ",\n".join(lines) + "\n}\n"


def bibliography(catalog: Catalog, records: Sequence[Record]) -> str:
    """Return the papers of records, each once, by key.

    Raises:
        Refused: A record has no paper in the catalog, or its paper no title or year.
    """
    entries: dict[str, str] = {}
    for record in records:
        paper = paper_of(catalog, record)
        if paper is None:
            known = f"paper (there is no record of {record.paper})" if record.paper else "paper"
            raise Refused(record, "bibtex", [known])
        if paper.id not in entries:
            entries[paper.id] = entry(paper, record)
    return "\n".join(entries[key] for key in sorted(entries))
