"""Reading through the HTTP query API, for servers without remote read, and for expressions.

Samples as they are stored come from an instant query with a bare range selector, ``x[1h]``. The
range is closed on both ends in Prometheus 2 and open on the left since 3 (and in VictoriaMetrics),
so one millisecond more is asked for and the answer is clipped. Staleness markers do not show as
such this way: Prometheus leaves them out, VictoriaMetrics gives ordinary NaNs.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Final

from sidecar.errors import DataError, Rejected, RemoteError, Unavailable, WireError
from sidecar.names import Reason
from sidecar.remote.backoff import A_FEW, BackoffSettings, retried
from sidecar.remote.http import HttpClient
from sidecar.remote.query_api import decode_matrix
from sidecar.remote.reader import ReaderStats
from sidecar.remote.sliced import Budget, Found, ReadLimits, SlicedReader, TooMuch, joined
from sidecar.remote.turns import ReadTurns
from sidecar.series import LabelSet, RawSeries
from sidecar.wire.requests import ReadQuery

# Prometheus refuses a range query of more points for each series.
MAX_POINTS: Final = 11_000
_FIRST_POINTS: Final = 500
_BYTES_PER_SAMPLE: Final = 64
DEFAULT_LIMITS: Final = ReadLimits(slice_samples=200_000)
_TOO_MANY: Final = ("too many samples", "exceeds the limit", "maxSamplesPer", "maximum resolution")


class QueryApiReader(SlicedReader):
    """As ``RemoteReader``, over ``/api/v1/query``. PromQL shows no external labels.

    Args:
        path: of the API, appended to the client's URL.
    """

    def __init__(
        self,
        client: HttpClient,
        *,
        path: str = "/api/v1",
        external_labels: Mapping[str, str] | None = None,
        limits: ReadLimits | None = None,
        turns: ReadTurns | None = None,
        retry: BackoffSettings = A_FEW,
    ) -> None:
        super().__init__(limits or DEFAULT_LIMITS, retry, external_labels or {})
        self._client, self._path = client, path
        self._turns = turns or ReadTurns()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decode-json")
        self._results: Counter[str] = Counter()
        self._stats = ReaderStats()

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def stats(self) -> ReaderStats:
        return replace(self._stats, requests=dict(self._results), pauses=self._turns.pauses)

    async def read_expression(
        self, expr: str, start_ms: int, end_ms: int, step_ms: int
    ) -> list[RawSeries]:
        """A PromQL expression at the instants ``start_ms``, + ``step_ms``, ... up to ``end_ms``.

        Split so that no request passes the server's limit of points, or ours of samples.

        Returns:
            Sorted by labels, each once; an instant without a result is left out.

        Raises:
            Unavailable, Rejected (the expression is wrong), DataError: as ``read``.
        """
        limits, parts, at_ms, points, samples = self._limits, [], start_ms, _FIRST_POINTS, 0
        while at_ms <= end_ms:
            last_ms = min(at_ms + (points - 1) * step_ms, end_ms)
            last_ms = at_ms + (last_ms - at_ms) // step_ms * step_ms
            params = {
                "query": expr,
                "start": _seconds(at_ms),
                "end": _seconds(last_ms),
                "step": _seconds(step_ms),
            }
            try:
                found = await retried(
                    partial(self._ask, "query_range", params, expr, None), self._retry
                )
            except TooMuch as error:
                if points == 1:
                    raise DataError(Reason.OVER_BUDGET, f"{expr}: {error}") from None
                points = max(points // 4, 1)
                continue
            samples += found.samples
            if samples > limits.max_samples or len(found.series) > limits.max_series:
                raise DataError(
                    Reason.OVER_BUDGET,
                    f"{expr}: more than {limits.max_samples} samples or {limits.max_series} series",
                )
            parts.append(found.series)
            per_point = max(len(found.series), 1)
            points = max(min(MAX_POINTS - 1, limits.slice_samples // per_point, points * 8), 1)
            at_ms = last_ms + step_ms
        if len(parts) > 1:
            return await asyncio.to_thread(joined, parts)
        return _by_labels(parts)

    async def _read(self, query: ReadQuery, budget: Budget) -> Found:
        start_ms, end_ms = query.start_ms, query.end_ms
        params = {
            "query": f"{query.selector}[{end_ms - start_ms + 1}ms]",
            "time": _seconds(end_ms),
        }
        found = await self._ask("query", params, str(query.selector), budget)
        found.series = [
            clipped
            for clipped in (_clip(one, start_ms, end_ms) for one in found.series)
            if len(clipped.timestamps_ms)
        ]
        budget.check(found.bytes, found.samples, len(found.series))
        return found

    async def _ask(
        self, endpoint: str, params: Mapping[str, str], what: str, budget: Budget | None
    ) -> Found:
        result = "over_budget"
        try:
            async with self._turns.turn():
                found = await self._post(endpoint, params, budget)
            result = "ok"
        except WireError as error:
            result = "unavailable"
            where = f"{self._client.settings.display_url}{self._path}/{endpoint}"
            raise Unavailable(f"{where}: reply discarded, {what}: {error}") from error
        except RemoteError as error:
            result = "unavailable" if isinstance(error, Unavailable) else "rejected"
            if isinstance(error, Rejected) and any(words in str(error) for words in _TOO_MANY):
                raise TooMuch(str(error)) from error
            raise
        finally:
            self._results[result] += 1
        return found

    async def _post(self, endpoint: str, params: Mapping[str, str], budget: Budget | None) -> Found:
        loop = asyncio.get_running_loop()
        sent_at = loop.time()
        pieces, size = [], 0
        most = _BYTES_PER_SAMPLE * 4 * self._limits.slice_samples
        async with self._client.stream(
            f"{self._path}/{endpoint}", form=params, deadline_s=self._limits.deadline_s
        ) as reply:
            self._turns.observe(loop.time() - sent_at)
            async for piece in reply.chunks:
                pieces.append(piece)
                size += len(piece)
                if budget is not None:
                    budget.check(size, 0, 0)
                if size > most:
                    raise TooMuch(f"more than {most} bytes in one answer")
        series = await loop.run_in_executor(self._thread, decode_matrix, b"".join(pieces))
        samples = sum(len(one.timestamps_ms) for one in series)
        stats = self._stats
        self._stats = replace(stats, samples=stats.samples + samples, bytes=stats.bytes + size)
        return Found(series, samples, size)


def _seconds(ms: int) -> str:
    """As the API takes times and steps, exact to the millisecond.

    >>> _seconds(1_700_000_000_123)
    '1700000000.123'
    """
    return f"{ms // 1000}.{ms % 1000:03d}"


def _clip(one: RawSeries, start_ms: int, end_ms: int) -> RawSeries:
    times = one.timestamps_ms
    inside = (times >= start_ms) & (times <= end_ms)
    return one if inside.all() else RawSeries(one.labels, times[inside], one.values[inside])


def _by_labels(parts: list[list[RawSeries]]) -> list[RawSeries]:
    found: dict[LabelSet, RawSeries] = {one.labels: one for part in parts for one in part}
    return [found[labels] for labels in sorted(found)]
