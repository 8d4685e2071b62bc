"""What one cycle costs: align, judge, learn, forecast and prepare what is published, for N series.

The reference is copying every number that a watch knows of its series once, which is about the
least that a cycle could do with them.
"""

import resource
from argparse import Namespace, _ArgumentGroup
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from itertools import chain
from typing import Any, Final

import numpy as np

from sidecar.cycle import CycleRules, advance
from sidecar.known import Known
from sidecar.publish.outputs import OutputRules, due_blocks, plan_outputs
from sidecar.series import LabelSet, RawSeries
from tests.bench import Figure, Rounds, cpu_seconds, figures, row
from tests.unit.cycle.helpers import T0, G, begun, history, model, rules

SCRAPE_MS: Final = 15_000


def add_arguments(parser: _ArgumentGroup) -> None:
    parser.add_argument("--cycle-model", default="exponential_smoothing", help="whose cycle")


@row("cycle_1000", unit="s", reference="copy_of_all_that_is_known")
def cycle_1000(options: Namespace) -> Rounds:
    return _rounds(1_000, options.cycle_model)


@row("cycle_10000", unit="s", reference="copy_of_all_that_is_known")
def cycle_10000(options: Namespace) -> Rounds:
    return _rounds(10_000, options.cycle_model)


@figures("cycle_memory")
def cycle_memory(options: Namespace) -> Iterable[Figure]:
    """What is known of a series at rest, and the process' peak after a cycle of 10,000."""
    watch = _Watch(10_000, options.cycle_model)
    watch.cycle(watch.read())
    held = sum(array.nbytes for array in _arrays(watch.known)) / 10_000
    yield Figure("cycle_known_per_series", held / 1024, "KiB")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    yield Figure("cycle_peak_memory", peak, "MiB")


def _rounds(count: int, name: str) -> Rounds:
    watch = _Watch(count, name)

    def measure() -> float:
        raw = watch.read()
        return cpu_seconds(lambda: watch.cycle(raw))()

    return Rounds(
        measure,
        reference=cpu_seconds(lambda: [array.copy() for array in _arrays(watch.known)]),
    )


class _Watch:
    """N series of a level with noise, cycled minute by minute."""

    def __init__(self, count: int, name: str) -> None:
        self._rng = np.random.default_rng(0)
        self._labels = [
            LabelSet.of({"__name__": "x", "instance": f"i{row:05d}", "job": "bench"})
            for row in range(count)
        ]
        self._rules: CycleRules = rules(max_series=count)
        self._model = model(name)
        past = [self._raw(row, T0 - 288 * G, T0) for row in range(count)]
        self.known = begun(self._rules, self._model, history(self._rules, past))
        everywhere = np.ones(count, dtype=np.bool_)
        outputs = OutputRules(
            *("x", "5m", (1, 2, 3, 4, 5), False, True, "auto", True, True, False), model=name
        )
        versions = ["v1"] * count
        self._plan = partial(
            plan_outputs, outputs, versions=versions, owner=everywhere, predicts=everywhere
        )(self.known.labels)
        for _ in range(30):
            self.cycle(self.read())

    def _raw(self, row: int, start_ms: int, end_ms: int) -> RawSeries:
        times = np.arange(start_ms, end_ms + 1, SCRAPE_MS, dtype=np.int64)
        return RawSeries(self._labels[row], times, 50 + self._rng.standard_normal(times.size))

    def read(self) -> list[RawSeries]:
        """What a read for the next instant gives."""
        instant = self.known.origin_ms + G
        return [self._raw(row, instant - 2 * G, instant) for row in range(len(self._labels))]

    def cycle(self, raw: Sequence[RawSeries]) -> None:
        instant = self.known.origin_ms + G
        self.known, result = advance(self._rules, self._model, self.known, raw, instant)
        due_blocks(self._plan, result.outcomes[-1])


def _arrays(known: Known) -> Iterator[np.ndarray[Any, Any]]:
    """Every array that is held of a watch."""
    return chain.from_iterable(_within(getattr(known, field.name)) for field in fields(known))


def _within(value: object) -> Iterator[np.ndarray[Any, Any]]:
    if isinstance(value, np.ndarray):
        yield value
    elif is_dataclass(value):
        yield from chain.from_iterable(_within(getattr(value, f.name)) for f in fields(value))
    elif isinstance(value, dict):
        yield from chain.from_iterable(_within(one) for one in value.values())
    elif isinstance(value, tuple) and value and isinstance(value[0], dict):
        yield from chain.from_iterable(_within(one) for one in value)
