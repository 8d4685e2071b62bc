"""Every error this package raises, by what the caller can do about it.

::

    SidecarError
    ├── ConfigError      the operator must edit a file      all problems at once, each with its path
    ├── DataError        these series cannot be forecast    a reason code; the others go on
    ├── RemoteError      the other end of remote read or write
    │   ├── Unavailable  the same request may succeed later retried; carries retry_after_s
    │   └── Rejected     the same request will always fail  never retried, counted by reason
    ├── WireError        bytes are not what they claim      a reply: read again; a push: a 400
    └── StoreError       a saved state is unreadable        warned about, set aside, refitted
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.names import Reason


class SidecarError(Exception):
    """Whatever this package raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration.

    Attributes:
        path: where, such as ``watches[0].lookback``; empty for the whole file.
        message: what was found and what to write instead.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(SidecarError):
    """The configuration cannot be used; ``problems`` holds every reason, not just the first.

    ``source`` is the file that they are in, where it is not the configuration file itself.
    """

    def __init__(self, problems: Sequence[Problem], source: str = "") -> None:
        self.problems = tuple(problems)
        self.source = source
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DataError(SidecarError):
    """Series that cannot be forecast as they are; ``reason`` is what the operator is shown."""

    def __init__(self, reason: Reason, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class RemoteError(SidecarError):
    """The other end of remote read or remote write did not do what was asked.

    Attributes:
        status: the HTTP status, or None where there was no answer.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class Unavailable(RemoteError):
    """The same request may succeed later.

    Attributes:
        retry_after_s: what the server asked for, in seconds from now; None where it did not.
    """

    def __init__(
        self, message: str, *, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message, status=status)


class Rejected(RemoteError):
    """The same request will always fail; ``body`` is the server's own text, cut, for the log."""

    def __init__(self, message: str, *, status: int | None = None, body: str = "") -> None:
        self.body = body
        super().__init__(message, status=status)


class WireError(SidecarError):
    """Bytes from outside that are truncated, corrupt, or larger than what was allowed."""


class StoreError(SidecarError):
    """A saved state is unreadable or does not belong to what asked for it."""
