"""What went wrong on a connection, in plain words."""

import os
import ssl
from typing import Final

import aiohttp

from sidecar.errors import Rejected
from sidecar.printable import printable

START_RECEIVER: Final = "start Prometheus with --web.enable-remote-write-receiver"
_DNS: Final = "its name is not known here (DNS)"


def described(error: BaseException) -> str:
    """A failure of a request as an operator would say it; of an unknown kind its own words.

    >>> described(ConnectionResetError(104, "Connection reset by peer"))
    'connection reset by peer'
    """
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return _DNS
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted: {_of_certificate(error.certificate_error)}"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return f"TLS fails: {_of_tls(error.os_error)}"
    if isinstance(error, aiohttp.ClientConnectorError):
        return _of_system(error.os_error)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection without an answer"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        return _of_system(error)
    return _own_words(error)


def receiver_is_off(error: Rejected) -> bool:
    """Whether a Prometheus says that it takes no remote write at all.

    It also says how to turn it on, by a flag that newer ones do not have any more.
    """
    return error.status == 404 and "remote write receiver" in error.body


def _of_system(error: OSError) -> str:
    """The system's words for its number; aiohttp's own ones name the address once more."""
    known = error.errno is not None and error.errno > 0
    return os.strerror(error.errno or 0).lower() if known else _own_words(error)


def _of_certificate(error: Exception) -> str:
    message = getattr(error, "verify_message", "")
    return printable(message) if message else _own_words(error)


def _of_tls(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else _own_words(error)


def _own_words(error: BaseException) -> str:
    text, name = " ".join(str(error).split())[:300], type(error).__name__
    return f"{name}: {printable(text)}" if text else name
