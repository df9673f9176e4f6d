"""``geovl runs``: what the store holds."""

from typing import Annotated

import typer

from geovl.cli import options, output, pictures
from geovl.cli.legend import legend
from geovl.cli.progress import Progress
from geovl.errors import RunError

app = typer.Typer(help="List, show, verify, merge and remove runs.", no_args_is_help=True)

RunId = Annotated[str | None, typer.Argument(help="Run id. Default: the latest.", show_default=False)]


@app.command("list")
def list_runs(store: options.Store = None, as_json: options.Json = False) -> None:
    """List the runs, oldest first; unfinished ones are told of on stderr.

    \b
    Examples:
      geovl runs list
      geovl runs list --json
    """  # noqa: D301 - click reads the backspace: what follows keeps its lines
    with output.faults():
        from geovl import runs, settings

        keep = runs.RunStore(store or settings.store_dir())
        manifests = [run.manifest for run in keep.list()]
        for work in keep.list_unfinished():
            output.note(
                f"Unfinished: {work.id}, {work.plan['opened']['name']}. The command that began it goes on with it; "
                f"shards are put together by geovl runs merge {work.id}; geovl runs remove {work.id} gives it up."
            )
        if as_json:
            output.answer_json(manifests)
            return
        rows = [
            (m["id"], m["model"]["id"], ", ".join(c["name"] for c in m["classes"]), str(m["polygons"]),
             m["source"]["path"])
            for m in manifests
        ]  # fmt: skip
        columns = ("run", "model", "classes", "polygons", "source")
        output.answer_table(output.table(columns, rows, right=("polygons",)))


@app.command()
def show(
    run: RunId = None, store: options.Store = None, picture: options.Picture = True, as_json: options.Json = False
) -> None:
    """Show one run: its source, model, parameters and classes.

    \b
    Examples:
      geovl runs show
      geovl runs show RUN --json
    """  # noqa: D301 - click reads the backspace: what follows keeps its lines
    with output.faults():
        from geovl import runs, settings

        found = runs.RunStore(store or settings.store_dir()).get(run)
        manifest = found.manifest
        if as_json:
            output.answer_json(manifest)
            return
        source = manifest["source"]
        output.answer(f"run     {manifest['id']}, made {manifest['created']} by geovl {manifest['geovl']}")
        output.answer(f"folder  {output.shown(str(found.path))}")
        place = output.shown(source["path"])  # a line break in a name begins no line here
        output.answer(f"source  {place} ({source['shape'][1]} x {source['shape'][0]} px, {source['crs']})")
        output.answer(f"model   {manifest['model']['id']} {manifest['model']['version']}")
        console = output.stdout()
        console.print(legend(manifest, console), soft_wrap=True, end="")
        if picture:
            pictures.show(found)
        for warning in manifest["warnings"]:
            output.answer(f"warning {warning}")


@app.command()
def verify(run: RunId = None, store: options.Store = None) -> None:
    """Hash a run's files and its source again; exits 1 when anything changed.

    \b
    Examples:
      geovl runs verify
      geovl runs verify RUN
    """  # noqa: D301 - click reads the backspace: what follows keeps its lines
    with output.faults():
        from geovl import runs, settings

        found = runs.RunStore(store or settings.store_dir()).get(run)
        faults = found.verify()
        if faults:
            msg = f"Run {found.id} is not as it was made: {' '.join(faults)}"
            raise RunError(msg)
        output.answer(f"{found.id}: all files are as they were made.")


@app.command()
def remove(
    run: Annotated[str, typer.Argument(help="Run id.")],
    store: options.Store = None,
) -> None:
    """Delete a run.

    \b
    Examples:
      geovl runs remove RUN
    """  # noqa: D301 - click reads the backspace: what follows keeps its lines
    with output.faults():
        from geovl import runs, settings

        runs.RunStore(store or settings.store_dir()).remove(run)
        output.note(f"Removed {run}.")


@app.command()
def merge(
    run: Annotated[
        str | None, typer.Argument(help="Id of the unfinished run. Default: the only one.", show_default=False)
    ] = None,
    store: options.Store = None,
    quiet: options.Quiet = False,
) -> None:
    """Finish a run that was made in shards: geovl segment … --shard K/N.

    \b
    Examples:
      geovl segment mosaic.vrt building --shard 1/2
      geovl segment mosaic.vrt building --shard 2/2
      geovl runs merge
    """  # noqa: D301 - click reads the backspace: what follows keeps its lines
    with output.faults():
        from geovl import pipeline, runs, settings

        keep = runs.RunStore(store or settings.store_dir())
        with Progress(run or "run", quiet=quiet) as progress:
            made = pipeline.merge(keep, run, progress)
        output.note(f"{made.manifest['polygons']} polygons.", quiet=quiet)
        output.answer(made.id)
