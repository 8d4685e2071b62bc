"""The spool's thread: commits together, fails alone, opens anew what it cannot trust."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.errors import StoreError
from sidecar.remote.committer import Committer
from sidecar.remote.rows import Loose
from sidecar.remote.spool import Spool
from tests.unit.remote.test_spool import loose


class Opened:
    """A committer, and the spools it has opened."""

    def __init__(self, path: Path | None) -> None:
        self.spools: list[Spool] = []
        self.committer = Committer(path, 2, 2**30, on_open=self.spools.append)

    async def append(self, entry: Loose) -> None:
        await self.committer.run(lambda spool: spool.append([entry]))


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    made = Opened(tmp_path / "sub" / "spool")
    await made.committer.start()
    yield made
    await made.committer.close()


def failing_once(code: int) -> tuple[list[int], object]:
    """An operation that fails with an error of SQLite the first time."""
    calls: list[int] = []

    def operation(spool: Spool) -> str:
        calls.append(1)
        if len(calls) == 1:
            error = sqlite3.OperationalError("injected")
            error.sqlite_errorcode = code
            raise error
        spool.append([loose(0, 2**40, [5])])
        return "done"

    return calls, operation


async def test_operations_that_wait_together_share_a_commit(opened: Opened) -> None:
    commits = 0
    spool = opened.spools[0]
    plain = spool.commit

    def counting() -> None:
        nonlocal commits
        commits += 1
        plain()

    setattr(spool, "commit", counting)  # noqa: B010 - a spy
    await asyncio.gather(*(opened.append(loose(0, 2**40 + i, [0])) for i in range(200)))
    assert opened.committer.tally.enqueued == 200
    assert commits < 50


async def test_an_operation_that_fails_fails_alone(opened: Opened) -> None:
    def bad(spool: Spool) -> None:
        spool.append([loose(0, 2**40, [1, 2, 3])])
        raise ValueError("a bug of the caller")

    found = await asyncio.gather(
        *(opened.append(loose(0, 2**40 + i, [0])) for i in range(20)),
        opened.committer.run(bad),
        *(opened.append(loose(0, 2**41 + i, [0])) for i in range(20)),
        return_exceptions=True,
    )
    assert [one for one in found if one is not None and not isinstance(one, ValueError)] == []
    assert isinstance(found[20], ValueError)
    assert opened.committer.tally.enqueued == 40


async def test_after_an_input_output_error_the_file_is_opened_anew(opened: Opened) -> None:
    await opened.append(loose(0, 2**40, [0]))
    _, operation = failing_once(sqlite3.SQLITE_IOERR)
    assert await opened.committer.run(operation) == "done"  # type: ignore[arg-type]
    assert len(opened.spools) == 2
    assert opened.committer.tally.pending == 2


async def test_a_file_that_turns_out_to_be_corrupt_is_set_aside(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    await opened.append(loose(0, 2**40, [0]))
    _, operation = failing_once(sqlite3.SQLITE_CORRUPT)
    with caplog.at_level(logging.WARNING):
        assert await opened.committer.run(operation) == "done"  # type: ignore[arg-type]
    assert opened.committer.path is not None
    aside = list(opened.committer.path.parent.glob("spool.corrupt-*"))
    assert aside
    assert "set aside" in caplog.text
    assert opened.committer.tally.pending == 1


async def test_on_a_full_disk_the_oldest_go_and_the_operation_is_tried_again(
    opened: Opened,
) -> None:
    for i in range(10):
        await opened.append(loose(0, 2**40 + i, [0]))
    calls, operation = failing_once(sqlite3.SQLITE_FULL)
    assert await opened.committer.run(operation) == "done"  # type: ignore[arg-type]
    tally = opened.committer.tally
    assert len(calls) == 2
    assert sum(tally.dropped.values()) > 0
    assert tally.enqueued == tally.sent + tally.pending + sum(tally.dropped.values())


async def test_what_the_disk_never_takes_is_an_error_and_nothing_hangs(opened: Opened) -> None:
    def operation(spool: Spool) -> None:
        raise sqlite3.OperationalError("injected")

    async with asyncio.timeout(10):
        with pytest.raises(StoreError):
            await opened.committer.run(operation)
        await opened.append(loose(0, 2**40, [0]))


async def test_a_closed_spool_says_so() -> None:
    opened = Opened(None)
    await opened.committer.start()
    await opened.committer.close()
    with pytest.raises(StoreError, match="closed"):
        await opened.append(loose(0, 2**40, [0]))


async def test_a_wait_that_is_cancelled_does_not_undo_what_was_asked(opened: Opened) -> None:
    task = asyncio.create_task(opened.append(loose(0, 2**40, [0])))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await opened.append(loose(0, 2**41, [0]))
    assert opened.committer.tally.enqueued == 2
