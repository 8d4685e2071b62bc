"""``sentinel``, and ``python -m sidecar``."""

import os
import sys


def main() -> int:
    """Start the command line.

    The sidecar keeps its arithmetic to few, small threads of its own; BLAS would otherwise start
    one for each core of the machine. It reads this when NumPy is first imported, hence here.
    """
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    from sidecar.cli import main as command_line

    return command_line()


if __name__ == "__main__":
    sys.exit(main())
