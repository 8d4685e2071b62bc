"""Processes that the demo starts, each in a group of its own, and stops: these and no others."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


class ChildDied(RuntimeError):
    """Something that the demo started ended by itself; the end of its log is in the message."""


class Child:
    """One started process with its log in a file.

    A group of its own keeps the terminal's Ctrl-C from it, so that the demo decides the order in
    which things stop; and it dies with the demo should that be killed outright.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        setpriv = shutil.which("setpriv")
        tied = [setpriv, "--pdeathsig", "TERM", *command] if setpriv else list(command)
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                tied,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environ or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raise ``ChildDied`` where it no longer runs."""
        if self._ended():
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise ChildDied(f"{self.name} ended by itself; the end of {self.log}:\n{tail}")

    def stop(self, within_s: float = 10.0) -> int:
        """SIGTERM to the group, SIGKILL to what is left of it after ``within_s``.

        Returns:
            The exit status as ``subprocess`` has it: negative for a signal.
        """
        deadline = time.monotonic() + within_s
        self._signal(signal.SIGTERM)
        while not self._ended() and time.monotonic() < deadline:
            time.sleep(0.05)
        self._signal(signal.SIGKILL)  # whatever it left behind, too
        return self._process.wait()

    def _ended(self) -> bool:
        # Not reaped before ``stop``: until then nobody else can get this process (group) id.
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            os.killpg(self.pid, number)


def choose_port(preferred: int) -> int:
    """``preferred`` where nothing listens there, else one that the system says is free."""
    for port in (preferred, 0):
        with socket.socket() as listener:
            # As the servers do: a port in TIME_WAIT is free.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(listener.getsockname()[1])
    raise ChildDied("this machine has no free loopback port")


def stop_all(children: Sequence[Child], within_s: float = 10.0) -> None:
    """Last started, first stopped: the sidecar can still push while Prometheus runs."""
    deadline = time.monotonic() + within_s
    for child in reversed(children):
        child.stop(max(1.0, deadline - time.monotonic()))
