"""Measure how long ``geovl`` takes to answer: ``--help``, the catalog, and ``segment`` up to its first window.

    python tests/benchmarks/start.py

Prints the least and the median of several runs, in seconds, with the time of a bare
``python -c pass`` beside them. The first window is told by the progress of the run itself.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

AIRPORT = Path(__file__).parents[2] / "examples" / "airport.tif"
# the whole process, up to the moment when the first window has been scored
FIRST_WINDOW = """
import sys, time, os
from geovl.cli import progress
from geovl.cli.app import app

def advance(self, *args, **kwargs):
    os._exit(0)

progress.Progress.advance = advance
app(sys.argv[1:])
"""


def timed(command: list[str], times: int, folder: str) -> dict[str, float]:
    spent = []
    for _ in range(times):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        spent.append(time.perf_counter() - started)
    return {"least": round(min(spent), 3), "median": round(statistics.median(spent), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=7)
    times = parser.parse_args().times
    python = sys.executable
    with tempfile.TemporaryDirectory() as folder:
        report = {
            "python -c pass": timed([python, "-c", "pass"], times, folder),
            "geovl --help": timed([python, "-m", "geovl", "--help"], times, folder),
            "geovl --version": timed([python, "-m", "geovl", "--version"], times, folder),
            "geovl catalog list --task grounding": timed(
                [python, "-m", "geovl", "catalog", "list", "--task", "grounding"], times, folder
            ),
            "geovl catalog list": timed([python, "-m", "geovl", "catalog", "list"], times, folder),
            "geovl catalog search flood damage": timed(
                [python, "-m", "geovl", "catalog", "search", "flood", "damage"], times, folder
            ),
            "geovl catalog show geochat": timed([python, "-m", "geovl", "catalog", "show", "geochat"], times, folder),
            "geovl segment, first window": timed(
                [python, "-c", FIRST_WINDOW, "segment", str(AIRPORT), "airport runways"], times, folder
            ),
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
