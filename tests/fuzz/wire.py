"""Coverage-guided fuzzing of the decoders, on demand; hypothesis does the same in the suite.

::

    .venv/bin/pip install --group fuzz
    .venv/bin/python -m tests.fuzz.wire push_v2 -max_total_time=300 [CORPUS_FOLDER]

The first argument names a decoder of ``tests/unit/wire/hostile.py``; the others are libFuzzer's.
What breaks a decoder is written to a file ``crash-*`` in the working folder: make a test of it.
"""

import sys
import tempfile
from importlib import import_module
from pathlib import Path

MAX_BYTES = 4096


def main() -> None:
    try:
        atheris = import_module("atheris")
    except ImportError:
        raise SystemExit(f"there is no atheris here\n{__doc__}") from None
    with atheris.instrument_imports(include=["sidecar.wire"]):
        hostile = import_module("tests.unit.wire.hostile")
    if len(sys.argv) < 2 or sys.argv[1] not in hostile.DECODERS:
        raise SystemExit(f"{__doc__}\nDecoders: {', '.join(hostile.DECODERS)}")
    name = sys.argv.pop(1)

    def read(data: bytes) -> None:
        hostile.try_to_read(name, data)

    with tempfile.TemporaryDirectory() as seeds:
        Path(seeds, name).write_bytes(hostile.valid()[name])
        options = [f"-max_len={MAX_BYTES}", "-rss_limit_mb=1024", "-timeout=10"]
        folders = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        given = [argument for argument in sys.argv[1:] if argument.startswith("-")]
        atheris.Setup([sys.argv[0], *options, *given, *folders, seeds], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
