"""The endpoints that predictions are written to: to each a writer of its own, so none waits for
another. Spool, high-water marks, holds, pace, connections: everything is one endpoint's alone.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.config.http import UNNAMED, WriteEnd
from sidecar.remote.http import HttpClient
from sidecar.remote.probe import out_of_order_window_ms
from sidecar.remote.writer import RemoteWriter, WriterSettings
from sidecar.series import LabelSet

log = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 300.0


@dataclass(frozen=True)
class Endpoint:
    """One receiver; ``api`` is None where nothing tells what else its server answers."""

    end: WriteEnd
    client: HttpClient
    api: HttpClient | None
    writer: RemoteWriter


class Endpoints:
    """All receivers of a configuration.

    Attributes:
        all: in the order of ``SentinelConfig.write_ends``.
        first: the one whose acknowledgements count.

    Args:
        ends: at least one.
        folder: where the spools lie; None keeps them in memory.
    """

    def __init__(self, ends: Sequence[WriteEnd], folder: Path | None) -> None:
        self._folder = folder
        self.all = tuple(_endpoint(end, folder) for end in ends)
        self.first = self.all[0]

    @property
    def writers(self) -> tuple[RemoteWriter, ...]:
        return tuple(one.writer for one in self.all)

    def by_name(self) -> Mapping[str, RemoteWriter]:
        return {one.end.name: one.writer for one in self.all}

    async def start(self) -> None:
        """Begin to deliver what earlier processes left.

        Raises:
            StoreError: another process has a spool open.
        """
        if self._folder is not None:
            await asyncio.to_thread(take_over, self._folder, [one.end.name for one in self.all])
        for one in self.all:
            await one.writer.start()

    async def run(self) -> None:
        """Follow the receivers' out-of-order windows, for as long as it is awaited."""
        while True:
            await asyncio.gather(*(_learn_window(one) for one in self.all))
            await asyncio.sleep(_LOOK_EVERY_S)

    async def drained(self, timeout_s: float) -> bool:
        """Wait until nothing is pending anywhere; False where that took too long."""
        return all(await asyncio.gather(*(writer.drained(timeout_s) for writer in self.writers)))

    async def stop(self, deadline_s: float) -> None:
        """All at once: together they take no longer than the slowest."""
        ended = await asyncio.gather(
            *(writer.stop(deadline_s) for writer in self.writers), return_exceptions=True
        )
        for one in self.all:
            await one.client.close()
            if one.api is not None:
                await one.api.close()
        failures = [one for one in ended if isinstance(one, BaseException)]
        if failures:
            raise failures[0]

    def troubles(self) -> tuple[str, ...]:
        """Why nothing reaches some receivers at present, a line for each."""
        return tuple(trouble for writer in self.writers if (trouble := writer.trouble))

    def quarantined(self) -> frozenset[LabelSet]:
        """Output series that some receiver refuses at present."""
        return frozenset(one for writer in self.writers for one in writer.quarantined())


def _endpoint(end: WriteEnd, folder: Path | None) -> Endpoint:
    # Sessions of their own: requests that hang at one receiver take no connection from another.
    client = HttpClient(end.http)
    settings = WriterSettings(path="", protocol=end.protocol, on_client_error=end.on_client_error)
    writer = RemoteWriter(client, folder and _spool(folder, end.name), settings)
    return Endpoint(end, client, HttpClient(end.api) if end.api else None, writer)


async def _learn_window(endpoint: Endpoint) -> None:
    if endpoint.api is None:
        return
    window_ms = await out_of_order_window_ms(endpoint.api)
    if window_ms is not None:
        await endpoint.writer.learn_window(window_ms)


def _spool(folder: Path, name: str) -> Path:
    return folder / f"{name}.sqlite"


def take_over(folder: Path, names: Sequence[str]) -> None:
    """Let the first endpoint go on with the spool of a single one that had no name.

    That is for a configuration that has just given its endpoint a name. A spool that then belongs
    to nobody is said: what waits in it is not delivered.
    """
    old, new = _spool(folder, UNNAMED), _spool(folder, names[0])
    if UNNAMED not in names and old.exists() and not new.exists():
        try:
            with closing(sqlite3.connect(old, timeout=1.0)) as db:
                # What is in the log goes into the file, so that one rename moves everything.
                busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not busy:
                old.rename(new)
                log.info("%s goes on as %s", old, new)
        except (sqlite3.Error, OSError) as error:
            log.warning("%s cannot go on as %s: %s", old, new, error)
    known = {_spool(folder, name) for name in names}
    for orphan in sorted(set(folder.glob("*.sqlite")) - known):
        log.warning(
            "%s is the spool of an endpoint that is not configured: what waits in it is not "
            "delivered; name an endpoint %r to go on with it, or delete it",
            orphan,
            orphan.stem,
        )
