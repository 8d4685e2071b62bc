"""Access tokens by OAuth 2.0's client credentials grant (RFC 6749, section 4.4).

A token is asked for when it is first needed, kept until shortly before it expires, and forgotten
when the server answers 401 in spite of it. Who may not have one is told as if the server itself
had said 401, so that writes are held until that is mended.
"""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_plus

from sidecar.errors import Rejected, Unavailable
from sidecar.remote.settings import OAuth2, check_header_value, without_credentials

_EARLY_S: Final = 10.0

# Form fields and headers to the body of a 2xx; raises as HttpClient does.
Post = Callable[[Mapping[str, str], Mapping[str, str]], Awaitable[bytes]]


class Tokens:
    """The value of the Authorization header, always one that holds.

    Args:
        post: sends a form to the token endpoint.
        monotonic: seconds.
    """

    def __init__(self, settings: OAuth2, post: Post, monotonic: Callable[[], float]) -> None:
        self._settings, self._post, self._monotonic = settings, post, monotonic
        self._where = f"oauth2: {without_credentials(settings.token_url)}"
        self._asking = asyncio.Lock()
        self._header = ""
        self._until_s: float | None = None
        self._in_form = False  # where the endpoint has refused to read client and secret elsewhere

    async def header(self) -> str:
        """``Bearer ...``; of many that wait for a token one asks.

        Raises:
            Unavailable: the endpoint does not answer, or with no token.
            Rejected: it refuses, told as a 401.
        """
        async with self._asking:
            if not self._header or self._is_over():
                self._header = await self._ask()
            return self._header

    def forget(self) -> None:
        """The server does not take the token: the next request asks for another."""
        self._header = ""

    def _is_over(self) -> bool:
        return self._until_s is not None and self._monotonic() >= self._until_s

    async def _ask(self) -> str:
        secret = await asyncio.to_thread(self._secret)
        asked_at = self._monotonic()
        try:
            body = await self._attempt(secret)
        except Rejected as first:
            # Servers must take HTTP Basic, and some want the form all the same.
            self._in_form = not self._in_form
            try:
                body = await self._attempt(secret)
            except Rejected:
                self._in_form = not self._in_form
                raise Rejected(
                    f"{self._where} gives no token: {first.status} {_error_code(first.body)}",
                    status=401,
                ) from None
        return self._parsed(body, asked_at)

    async def _attempt(self, secret: str) -> bytes:
        given = self._settings
        form = {"grant_type": "client_credentials", **given.endpoint_params}
        if given.scopes:
            form["scope"] = " ".join(given.scopes)
        if self._in_form:
            form |= {"client_id": given.client_id, "client_secret": secret}
            headers = {}
        else:
            pair = f"{quote_plus(given.client_id)}:{quote_plus(secret)}"
            headers = {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
        try:
            return await self._post(form, headers)
        except Unavailable as error:  # without its status: it says nothing of what was to be sent
            message = f"{self._where}: no token: {error}"
            raise Unavailable(message, retry_after_s=error.retry_after_s) from error

    def _parsed(self, body: bytes, asked_at: float) -> str:
        answer = _mapping(body)
        token, kind = answer.get("access_token"), answer.get("token_type", "Bearer")
        if not isinstance(token, str) or not token or not isinstance(kind, str):
            raise Unavailable(f"{self._where}: no access_token in the answer")
        header = f"{'Bearer' if kind.lower() == 'bearer' else kind} {token}"
        try:
            check_header_value("Authorization", header)
            seconds = float(answer["expires_in"]) if "expires_in" in answer else None
        except (ValueError, TypeError):
            raise Unavailable(f"{self._where}: the answer cannot be used") from None
        self._until_s = None if seconds is None else asked_at + seconds - _EARLY_S
        return header

    def _secret(self) -> str:
        given = self._settings
        if given.client_secret is not None:
            return given.client_secret.reveal()
        try:
            return Path(given.client_secret_file).read_text().strip()
        except (OSError, ValueError) as error:
            raise Unavailable(f"{self._where}: client_secret_file: {error}") from error


def _mapping(body: bytes | str) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _error_code(body: str) -> str:
    """``invalid_client`` and the like; no other word of an answer that may repeat what was sent."""
    code = _mapping(body).get("error")
    return code if isinstance(code, str) and code.isidentifier() else ""
