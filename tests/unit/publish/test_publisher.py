"""What a watch hands to the page, the spool and the query API."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from sidecar.config import SentinelConfig, WatchConfig
from sidecar.publish.exposition import GaugeRules, Page, join
from sidecar.publish.outputs import InstantOutcome, output_rules
from sidecar.publish.ownership import Ownership
from sidecar.publish.paths import ForecastPaths
from sidecar.publish.publisher import Publication, WatchPublisher
from sidecar.remote.intake import WriteBlock
from sidecar.series import Forecast, LabelSet

T = TypeVar("T")
SOURCES = tuple(LabelSet.of({"__name__": "x", "instance": name}) for name in "ab")
BOUNDED = SentinelConfig(emit_confidence_bounds=True)


async def at_once(function: Callable[..., T], /, *arguments: object) -> T:
    return function(*arguments)


def pages(watches: list[WatchConfig], *, gauge_limit: int = 2_000) -> list[Page]:
    """Each watch's page after one cycle in which it forecast the sources it selects."""
    config = SentinelConfig(watches=watches)
    ownership = Ownership.among(config.watches, dict)
    found = []
    for place, watch in enumerate(config.watches):
        publisher = WatchPublisher(
            watch.id,
            output_rules(BOUNDED, watch),
            GaugeRules(watch.output_metric, watch.horizon, bounds=True),
            watch.horizon_steps,
            partial(ownership.of, place),
            [],
            ForecastPaths(),
            gauge_limit,
        )
        sources = tuple(one for one in SOURCES if watch.selector.accepts(one))
        path = np.full((len(sources), watch.horizon_steps), float(place))
        forecast = Forecast(sources, 0, watch.granularity_ms, path, path, path)
        one = np.ones(len(sources))
        outcome = InstantOutcome(0, one, one, one, one, one, forecast)
        versions = np.ones(len(sources), dtype=np.int64)
        publication = Publication(sources, versions, (outcome,), ())
        asyncio.run(publisher.publish(publication, at_once))
        found.append(publisher.page)
    return found


def gauges(page: str) -> list[str]:
    return [line.rsplit(" ", 1)[0] for line in page.splitlines() if not line.startswith("#")]


def test_a_gauge_that_two_watches_would_show_is_on_the_page_once() -> None:
    shown = pages(
        [
            WatchConfig("x", {"instance": "a"}, granularity="1m", horizon="5m"),
            WatchConfig("x", granularity="15s", horizon="5m"),
            WatchConfig("x", granularity="1m", horizon="10m"),
        ]
    )
    names = gauges(join(shown))
    assert len(names) == len(set(names)) == 3 * (5 + 20 + 2 * 10)
    assert [page.series for page in shown] == [3 * 5, 3 * 20, 3 * 2 * 10]


def test_gauges_of_another_watch_do_not_count_against_the_limit() -> None:
    watches = [WatchConfig("x", {"instance": "a"}), WatchConfig("x")]
    assert [page.series for page in pages(watches, gauge_limit=5)] == [15, 15]


class Sinking:
    """Takes note of what comes, which series get samples, and which end when."""

    def __init__(self) -> None:
        self.blocks: list[WriteBlock] = []
        self.ended: list[tuple[str, int]] = []
        self.named: list[set[str]] = []

    async def append(self, blocks: Sequence[WriteBlock]) -> None:
        self.blocks += blocks
        due = [np.ones(len(b.labels), dtype=np.bool_) if b.due is None else b.due for b in blocks]
        self.named.append(
            {
                str(one.metric)
                for block, may in zip(blocks, due, strict=True)
                for one, it_may in zip(block.labels, may.tolist(), strict=True)
                if it_may
            }
        )

    async def end_series(self, labels: Sequence[LabelSet], timestamp_ms: int) -> None:
        self.ended += [(str(one), timestamp_ms) for one in labels]


def _publisher(watch: WatchConfig, sink: Sinking, *, version_label: bool = False) -> WatchPublisher:
    ownership = Ownership.among([watch], dict)
    return WatchPublisher(
        watch.id,
        replace(output_rules(BOUNDED, watch), version_label=version_label),
        GaugeRules(watch.output_metric, watch.horizon, bounds=False),
        watch.horizon_steps,
        partial(ownership.of, 0),
        [sink],
        ForecastPaths(),
        2_000,
    )


def _publication(
    watch: WatchConfig,
    at_ms: int,
    versions: tuple[int, ...] = (1, 1),
    sources: tuple[LabelSet, ...] = SOURCES,
) -> Publication:
    path, one = np.ones((len(sources), watch.horizon_steps)), np.ones(len(sources))
    forecast = Forecast(sources, at_ms, watch.granularity_ms, path, path, path)
    outcome = InstantOutcome(at_ms, one, one, one, one, one, forecast)
    return Publication(sources, np.array(versions), (outcome,), ())


def _owns_nothing(sources: Sequence[LabelSet]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    none = np.zeros(len(sources), dtype=np.bool_)
    return none, ~none


def test_a_reload_in_the_middle_of_a_cycle_changes_who_publishes_from_the_next_one_on() -> None:
    (watch,) = SentinelConfig(watches=[WatchConfig("x")]).watches
    sink = Sinking()
    publisher = _publisher(watch, sink)

    async def reloaded_meanwhile(function: Callable[..., T], /, *arguments: object) -> T:
        result = function(*arguments)
        if arguments:  # the plan is made; what comes after it lets the one before go
            publisher.owned_as(_owns_nothing)
        return result

    asyncio.run(publisher.publish(_publication(watch, 60_000), reloaded_meanwhile))
    asyncio.run(publisher.publish(_publication(watch, 120_000), at_once))
    before, after = sink.named
    assert "x_sentinel_expected" in before
    assert after
    assert {name.removesuffix("_lower").removesuffix("_upper") for name in after} == {
        "x_sentinel_predicted"
    }


@pytest.mark.parametrize("how", ["end", "expire"])
def test_what_was_published_can_be_ended_right_after_a_reload(how: str) -> None:
    (watch,) = SentinelConfig(watches=[WatchConfig("x")]).watches
    sink = Sinking()
    publisher = _publisher(watch, sink)
    asyncio.run(publisher.publish(_publication(watch, 60_000), at_once))
    publisher.owned_as(_owns_nothing)
    asyncio.run(publisher.end(60_001) if how == "end" else publisher.expire(60_000))
    assert {name.split("{")[0] for name, _ in sink.ended} >= sink.named[0]
    assert {at_ms for _, at_ms in sink.ended} == {60_001}


@pytest.mark.parametrize("version_label", [False, True])
def test_what_named_a_version_ends_with_a_marker_when_another_one_serves(
    version_label: bool,
) -> None:
    (watch,) = SentinelConfig(watches=[WatchConfig("x")]).watches
    sink = Sinking()
    publisher = _publisher(watch, sink, version_label=version_label)
    for at_ms, versions in ((60_000, (1, 1)), (120_000, (1, 1)), (180_000, (2, 1))):
        asyncio.run(publisher.publish(_publication(watch, at_ms, versions), at_once))
    assert {at_ms for _, at_ms in sink.ended} == {180_000}
    names = [name for name, _ in sink.ended]
    assert all('instance="a"' in name and 'sentinel_version="v1"' in name for name in names)
    if version_label:
        assert len(names) > 5
    else:
        assert [name.split("{")[0] for name in names] == ["x_sentinel_model_info"]
    assert 'sentinel_version="v1"' not in " ".join(
        line for line in join([publisher.page]).splitlines() if 'instance="a"' in line
    )


def test_the_writer_is_told_which_labels_are_never_handed_over_again() -> None:
    (watch,) = SentinelConfig(watches=[WatchConfig("x")]).watches
    sink = Sinking()
    publisher = _publisher(watch, sink)
    for minute, first in enumerate((0, 0, 1, 1), start=1):
        sources, at_ms = SOURCES[first:], minute * 60_000
        found = _publication(watch, at_ms, (1,) * len(sources), sources)
        asyncio.run(publisher.publish(found, at_once))
    by_instant = [[one for one in sink.blocks if one.timestamp_ms == m * 60_000] for m in range(5)]
    _, begun, same, other, still = by_instant
    assert [len(one) for one in (begun, same, other, still)] == [2] * 4
    assert all(one.before == () for one in (*begun, *same, *still))
    assert [one.before for one in other] == [one.labels for one in begun]
    assert all(one.before != one.labels for one in other)
