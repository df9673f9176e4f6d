"""A map over dask workers; the only module that names dask."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from geovl.errors import RunError, UsageError

RETRIES = 3
"""How often a task is given to a worker again after it failed or its worker was lost."""

CONNECT = "20s"
"""How long a scheduler is waited for."""


def each(
    function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], scheduler: str | None, workers: int | None
) -> Iterator[Any]:
    """Call a function with each task's arguments on dask workers.

    Args:
        function: Of a module that workers can import.
        tasks: Arguments of each call, small; pixels and weights do not travel.
        scheduler: Address of a running scheduler, such as ``tcp://host:8786``; None starts workers here.
        workers: Processes to start here.

    Yields:
        Results in the order in which they come.

    Raises:
        UsageError: dask.distributed is not installed.
        RunError: The scheduler is not reached, or a task failed every time.
    """
    try:
        from distributed import Client, KilledWorker, LocalCluster, as_completed  # noqa: PLC0415 - an extra
    except ImportError as error:
        msg = "--workers and --scheduler need dask.distributed, which is not installed."
        raise UsageError(msg, 'Install it: pip install "geovl[dask]"') from error

    cluster = None
    try:
        if scheduler is None:
            cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
        client = Client(cluster or scheduler, timeout=CONNECT, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        msg = f"The scheduler {scheduler or 'on this machine'} cannot be reached: {error}"
        raise RunError(msg, "Check its address and that it runs: dask scheduler") from error
    try:
        futures = [client.submit(function, *task, retries=RETRIES, pure=False) for task in tasks]
        with client.as_current():
            completed = as_completed(futures)
        for future in completed:
            try:
                yield future.result()
            except KilledWorker as error:
                msg = f"Workers were lost again and again: {error}"
                raise RunError(msg, "Give workers more memory, or use fewer; the same command goes on.") from error
    finally:
        client.close()
        if cluster is not None:
            cluster.close()
