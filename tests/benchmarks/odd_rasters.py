"""Run every file of a folder through ``geovl segment``, each in a child with limits, and count what came of it.

    python tests/benchmarks/odd_rasters.py FOLDER

Each file must end in a run (exit 0) or in a sentence (exit 1 or 2), within five
minutes and 4 GB, without a traceback, and the store must hold nothing unfinished. Anything else is
listed, and the script exits 1.
"""

import argparse
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import geovl.api  # noqa: F401 - loaded once here; children are forks and start at once
from geovl.cli.app import app
from geovl.segmenters.nano import segmenter  # noqa: F401

SECONDS = 300
BYTES = 4 << 30
SIDECARS = {".xml", ".msk", ".RPB", ".ovr"}


def child(path: Path, store: Path, log: Path) -> None:
    """Become ``geovl segment path`` with limits; never returns."""
    os.setsid()
    signal.alarm(SECONDS)  # not caught by Python: ends the process even inside GDAL
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    handle = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    code = 70
    try:
        app(["segment", str(path), "building", "--store", str(store)], prog_name="geovl")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except BaseException:  # noqa: BLE001 - this is what is looked for
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="part of the names to run")
    parser.add_argument("--show", action="store_true", help="print the first line of every message")
    options = parser.parse_args()
    files = [p for p in sorted(options.folder.rglob("*")) if p.is_file() and p.suffix not in SIDECARS]
    counts, bad, slowest = Counter(), [], (0.0, "")
    with tempfile.TemporaryDirectory() as folder:
        store, log = Path(folder, "store"), Path(folder, "log")
        for path in (p for p in files if options.only in str(p)):
            started = time.monotonic()
            pid = os.fork()
            if pid == 0:
                child(path, store, log)
            _, status = os.waitpid(pid, 0)
            spent = time.monotonic() - started
            slowest = max(slowest, (spent, str(path)))
            said = log.read_text(errors="replace")
            code = os.waitstatus_to_exitcode(status)
            counts[code] += 1
            leftovers = [p.name for p in store.rglob("*.partial")]
            wrong = code not in (0, 1, 2) or "Traceback" in said or leftovers or (code and not said.strip())
            if wrong:
                bad.append((path, code, said.strip()[-600:], leftovers))
            if options.show:
                first = next((line for line in said.splitlines() if line.strip()), "")
                print(f"{code:4d} {spent:5.1f} s  {path.relative_to(options.folder)}: {' '.join(first.split())[:150]}")
    print(f"{sum(counts.values())} files: " + ", ".join(f"exit {code}: {n}" for code, n in sorted(counts.items())))
    print(f"slowest: {slowest[0]:.1f} s, {slowest[1]}")
    for path, code, said, leftovers in bad:
        print(f"\nWRONG {path}: exit {code}, left {leftovers}\n{said}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
