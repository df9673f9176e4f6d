"""Options that several commands share, each written once."""

from pathlib import Path
from typing import Annotated

import typer

Store = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of runs. Default: .geovl, or GEOVL_STORE.", show_default=False),
]


def _lay_over(folders: list[Path] | None) -> list[Path]:
    from geovl import settings

    settings.lay_over(folders or [])
    return folders or []


Catalog = Annotated[
    list[Path] | None,
    typer.Option(
        "--catalog",
        metavar="DIR",
        callback=_lay_over,
        help="Folder of your own catalog records, over geovl's. Also: GEOVL_CATALOG.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but the answer and errors.")]
Verbose = Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more; twice for everything.")]
Picture = Annotated[
    bool,
    typer.Option(
        "--picture/--no-picture",
        help="A small picture, where the terminal shows any (kitty, iTerm2, sixel). Also: GEOVL_PICTURE=off.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="File to write; - is stdout.", show_default=False)]
