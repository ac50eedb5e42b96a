"""Coverage-guided fuzzing of the readers of untrusted bytes, with atheris (pip install atheris).

    python tests/durability/fuzz.py npy  -max_total_time=60     # .npy headers and pickles
    python tests/durability/fuzz.py root -max_total_time=60     # root documents

Any exception but the documented ones stops it and leaves the input beside it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["mosaic_collect"]):
    from mosaic_collect.errors import CorruptExportError, StoreError
    from mosaic_collect.npyfile.read import scan_npy
    from mosaic_collect.store.parsing import parse_root

_HEADER = (
    b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117)
)


def scan(data: bytes) -> None:
    """Scan the bytes as a pickle behind a good header."""
    path = os.path.join(tempfile.gettempdir(), f"mosaic-fuzz-{os.getpid()}.npy")
    with open(path, "wb") as file:
        file.write(_HEADER + b"\n" + data)
    with contextlib.suppress(CorruptExportError):
        scan_npy(path)


def parse(data: bytes) -> None:
    """Parse the bytes as a root document."""
    with contextlib.suppress(StoreError):
        parse_root(data, "fuzzed")


def main() -> None:
    """Fuzz the reader that is named first; the rest goes to libFuzzer."""
    targets = {"npy": scan, "root": parse}
    if len(sys.argv) < 2 or sys.argv[1] not in targets:
        sys.exit(f"usage: fuzz.py {{{'|'.join(targets)}}} [libFuzzer options]")
    target = targets[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
