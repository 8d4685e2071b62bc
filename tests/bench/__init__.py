"""Figures of speed, size and accuracy: ``python -m tests.bench [NAMES] [--json FILE]``.

NAMES are rows, or modules of this package (``wire`` runs all rows of ``wire.py``); none means all.

How to add rows: put a module into this package, named for what it measures. It is found by itself.
In it, decorate functions. They get the parsed command line; imports that only a bench needs belong
inside of them.

- A timed row. The function prepares, and returns what to do in each round::

      @row("decode_xor", unit="M samples/s", reference="decode_xor_python")
      def decode_xor(options: Namespace) -> Rounds:
          chunks = make_chunks()
          return Rounds(
              cpu_rate(count(chunks) / 1e6, lambda: fast(chunks)),
              reference=cpu_rate(count(chunks) / 1e6, lambda: slow(chunks)),
          )

  Each of both calls gives one measured value; ``cpu_rate``, ``wall_rate``, ``cpu_seconds`` and
  ``wall_seconds`` make them from plain functions. Rounds are interleaved: value, reference, value,
  reference ..., so that a busy machine hurts both. The row shows the median, the smallest and the
  largest value, and as ratio the median over the rounds of value / reference (for a rate more than
  1 is better, for a duration less).

- Figures that are not timed in rounds (errors of forecasts, bytes, an end-to-end run)::

      @figures("accuracy")
      def accuracy(options: Namespace) -> Iterable[Figure]:
          yield Figure("accuracy_holt", 0.93, "MASE", reference="seasonal_naive", ratio=1.07)

- Arguments of its own: define ``add_arguments(parser: ArgumentParser) -> None`` in the module, with
  defaults under which the rows run. Raise ``Skipped("why")`` where a row cannot run here; it is
  printed and the others go on.

Names of rows stay once they are published.
"""

import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

WARM_UP_ROUNDS: Final = 1

Measure = Callable[[], float]


class Skipped(Exception):
    """This row cannot run here; the text says why."""


@dataclass(frozen=True)
class Figure:
    """One line of the result.

    Attributes:
        value: the median where there were several rounds.
        reference: what it is compared with, in the same run; empty where there is nothing.
        ratio: value / reference.
    """

    name: str
    value: float
    unit: str
    reference: str = ""
    ratio: float | None = None
    smallest: float | None = None
    largest: float | None = None

    def as_json(self) -> dict[str, str | float | None]:
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "reference": self.reference or None,
            "ratio": self.ratio,
        }


@dataclass(frozen=True)
class Rounds:
    """What a timed row does in each round; both give one value in the row's unit."""

    measure: Measure
    reference: Measure | None = None


@dataclass(frozen=True)
class Bench:
    """A registered row or group of figures."""

    name: str
    module: str
    run: Callable[[Namespace], Iterable[Figure]]


REGISTRY: Final[dict[str, Bench]] = {}


def row(
    name: str, *, unit: str, reference: str = ""
) -> Callable[[Callable[[Namespace], Rounds]], Callable[[Namespace], Rounds]]:
    """Register a timed row; ``reference`` names what ``Rounds.reference`` measures."""

    def register(prepare: Callable[[Namespace], Rounds]) -> Callable[[Namespace], Rounds]:
        def run(options: Namespace) -> Iterable[Figure]:
            yield _timed(name, unit, reference, prepare(options), options.rounds)

        _register(Bench(name, prepare.__module__.rpartition(".")[2], run))
        return prepare

    return register


def figures(
    name: str,
) -> Callable[[Callable[[Namespace], Iterable[Figure]]], Callable[[Namespace], Iterable[Figure]]]:
    """Register a function that gives finished figures."""

    def register(
        run: Callable[[Namespace], Iterable[Figure]],
    ) -> Callable[[Namespace], Iterable[Figure]]:
        _register(Bench(name, run.__module__.rpartition(".")[2], run))
        return run

    return register


def cpu_rate(amount: float, work: Callable[[], object]) -> Measure:
    """``amount`` per second of this process' CPU time; independent of what else runs here."""
    return lambda: amount / _elapsed(work, time.process_time)


def wall_rate(amount: float, work: Callable[[], object]) -> Measure:
    return lambda: amount / _elapsed(work, time.perf_counter)


def cpu_seconds(work: Callable[[], object]) -> Measure:
    return lambda: _elapsed(work, time.process_time)


def wall_seconds(work: Callable[[], object]) -> Measure:
    return lambda: _elapsed(work, time.perf_counter)


def _elapsed(work: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    result = work()
    elapsed = clock() - start
    del result  # only now: giving back what was made is not part of making it
    return elapsed


def _register(bench: Bench) -> None:
    if bench.name in REGISTRY:
        raise ValueError(f"two benches are called {bench.name!r}")
    REGISTRY[bench.name] = bench


def _timed(name: str, unit: str, reference: str, rounds: Rounds, count: int) -> Figure:
    values, ratios = [], []
    for turn in range(WARM_UP_ROUNDS + count):
        value = rounds.measure()
        compared = rounds.reference() if rounds.reference else None
        if turn >= WARM_UP_ROUNDS:
            values.append(value)
            if compared is not None:
                ratios.append(value / compared)
    return Figure(
        name=name,
        value=statistics.median(values),
        unit=unit,
        reference=reference,
        ratio=statistics.median(ratios) if ratios else None,
        smallest=min(values),
        largest=max(values),
    )
