"""``geovl catalog``: the models that geovl knows."""

from pathlib import Path
from typing import Annotated

import typer

from geovl.cli import options, output
from geovl.errors import CatalogError

app = typer.Typer(help="List, show and check catalog records.", no_args_is_help=True)


@app.command("list")
def list_models(
    task: Annotated[str | None, typer.Option(help="Only records for this task.", show_default=False)] = None,
    as_json: options.Json = False,
) -> None:
    """List the records of the catalog."""
    with output.faults():
        from rich.console import Console

        from geovl import catalog

        entries = [e for e in catalog.load_models().values() if task is None or task in e.tasks]
        if as_json:
            output.answer_json([e.to_dict() for e in entries])
            return
        rows = [(e.id, ", ".join(e.tasks), e.license, e.description) for e in entries]
        Console(highlight=False).print(output.table(("id", "tasks", "license", "description"), rows))


@app.command()
def show(
    record: Annotated[str, typer.Argument(metavar="ID", help="Catalog id, such as nano.")],
    as_json: options.Json = False,
) -> None:
    """Show one record whole: its model card."""
    with output.faults():
        from rich.console import Console

        from geovl import catalog

        entry = catalog.model(record)
        if as_json:
            output.answer_json(entry.to_dict())
            return
        Console(highlight=False).print(catalog.card(entry), markup=False, soft_wrap=True)


@app.command()
def check(
    folder: Annotated[Path | None, typer.Argument(help="Catalog folder. Default: the one in use.")] = None,
) -> None:
    """Check every record; exits 1 and names each fault when there is one."""
    with output.faults():
        from geovl import catalog, settings

        where = folder or settings.catalog_dir()
        faults = catalog.check(where)
        for fault in faults:
            output.answer(str(fault))
        if faults:
            msg = f"{len(faults)} faults in {where}."
            raise CatalogError(msg, "Each line names the file, the key and what is wrong.")
        output.note(f"{where}: no faults.")
