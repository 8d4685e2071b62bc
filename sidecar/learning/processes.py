"""Child processes: fresh interpreters of our own, each at the other end of a socket pair."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Final

from sidecar.learning.worker import MARK

_ONE_THREAD: Final = dict.fromkeys(
    (
        "OPENBLAS_NUM_THREADS",
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "BLIS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    ),
    "1",
)
_BOOT: Final = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from {module} import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)


def spawn(module: str, memory_limit_bytes: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A process that runs ``main(descriptor, memory_limit_bytes)`` of ``module``, and our end.

    It has a session of its own, so that ``kill`` ends whatever it started too.

    Raises:
        OSError: no process can be had now.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter, no user text
                [
                    sys.executable,
                    "-c",
                    _BOOT.format(module=module),
                    json.dumps(sys.path),
                    str(theirs.fileno()),
                    str(memory_limit_bytes),
                ],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, **_ONE_THREAD, MARK: "1"},
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
    return process, ours


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it started; it is not waited for."""
    if process.returncode is None:  # once reaped, its number may be another's
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def how_it_ended(status: int) -> str:
    """
    >>> how_it_ended(-11), how_it_ended(-40), how_it_ended(3)
    ('was ended by SIGSEGV', 'was ended by signal 40', 'ended with status 3')
    """
    if status < 0:
        known = {one.value: one.name for one in signal.Signals}  # not all of the real-time ones
        return f"was ended by {known.get(-status, f'signal {-status}')}"
    return f"ended with status {status}"
