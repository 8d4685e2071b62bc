"""``sentinel backtest``: how models would have forecast a past range of the user's own series.

``history`` reads it, ``replay`` serves it instant by instant with the live cycle, ``tally`` and
``summary`` count, ``table`` and ``report`` show. Nothing is written to Prometheus or to the store.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sidecar.backtest.history import Past, Span, read_past
from sidecar.backtest.replay import Model, replay, yardstick
from sidecar.backtest.summary import (
    NAIVE,
    SEASONAL_NAIVE,
    ModelResult,
    WatchResult,
    result_of,
    verdict,
)
from sidecar.config import SentinelConfig, WatchConfig
from sidecar.duration import format_duration
from sidecar.errors import ConfigError, DataError, Problem
from sidecar.models.registry import ModelContext, build
from sidecar.remote.http import HttpClient, open_session
from sidecar.source import Source

__all__ = ["ModelResult", "Progress", "Span", "WatchResult", "run_backtest", "verdict"]

YARDSTICKS: Final = (NAIVE, SEASONAL_NAIVE)


class Progress(Protocol):
    """Told how far a backtest has come."""

    def __call__(self, what: str, done: float) -> None:
        """``done`` of 0 to 1 of the step ``what``."""


@dataclass(frozen=True)
class _Candidate:
    """A model to test; None stands for a yardstick that needs none."""

    name: str
    model: Model | None


def run_backtest(
    config: SentinelConfig, span: Span, models: Sequence[str], progress: Progress
) -> tuple[list[WatchResult], list[DataError]]:
    """Test models on every watch that has something to test on; and why the others have not.

    Args:
        models: names of built-in models; empty for the one that each watch is configured with.

    Raises:
        ConfigError: a model that there is not, or that does not suit the watch.
        RemoteError: the server does not answer, or reading failed.
    """
    candidates = [_candidates(config, watch, models) for watch in config.watches]
    pasts = asyncio.run(_read(config, span, candidates, progress))
    results = [
        _tested(watch, past, found, progress)
        for watch, past, found in zip(config.watches, pasts, candidates, strict=True)
        if isinstance(past, Past)
    ]
    return results, [past for past in pasts if isinstance(past, DataError)]


def _candidates(
    config: SentinelConfig, watch: WatchConfig, models: Sequence[str]
) -> list[_Candidate]:
    """The models to test, the watch's own with its settings, then the yardsticks."""
    context = ModelContext(watch.granularity_ms, watch.horizon_steps, watch.n_lags, config.timezone)
    names = list(dict.fromkeys(models or [watch.model_name]))
    found = []
    for name in names:
        own = name == watch.model_name
        params: Mapping[str, Any] = watch.model_params if own else {}
        try:
            model = build(watch.model_choice if own else name, params, context)
        except ValueError as error:
            raise ConfigError([Problem("--models", str(error))]) from None
        found.append(_Candidate(name, model))
    return [*found, *(_Candidate(name, None) for name in YARDSTICKS if name not in names)]


async def _read(
    config: SentinelConfig,
    span: Span,
    candidates: Sequence[Sequence[_Candidate]],
    progress: Progress,
) -> list[Past | DataError]:
    async with open_session() as session:
        source = Source(config, session)
        try:
            await source.ask(HttpClient(config.write_http(), session))
            pasts: list[Past | DataError] = []
            for watch, found in zip(config.watches, candidates, strict=True):
                longest = max(one.model.longest_fit for one in found if one.model is not None)
                what = f"reading {watch.selector}"

                def note(share: float, what: str = what) -> None:
                    progress(what, share)

                try:
                    pasts.append(await read_past(watch, span, source, longest, note))
                except DataError as error:
                    pasts.append(error)
                progress(what, 1.0)
            return pasts
        finally:
            await source.close()


def _tested(
    watch: WatchConfig, past: Past, candidates: Sequence[_Candidate], progress: Progress
) -> WatchResult:
    plan, rows = past.plan, []
    for at, candidate in enumerate(candidates):
        if candidate.model is None:
            rows.append(result_of(yardstick(candidate.name, plan)))
            continue
        what, done = f"{candidate.name} on {watch.selector}", 0

        def note(instants: int, what: str = what) -> None:
            nonlocal done
            done += instants
            progress(what, done / plan.tested)

        rows.append(
            result_of(replay(candidate.model, candidate.name, plan, keep=at == 0, note=note))
        )
    return WatchResult(
        selector=str(watch.selector),
        granularity=watch.granularity,
        horizon=format_duration(watch.horizon_ms),
        configured=watch.model_name,
        plan=plan,
        rows=tuple(rows),
        left_out=past.left_out,
    )
