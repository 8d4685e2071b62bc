"""Plain data that every part speaks in: label sets, selectors, samples, grids, forecasts.

N series, T instants, H steps, S samples. ``_ms`` is int64 milliseconds since the epoch, values are
float64, NaN means "no fresh sample at this instant".
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from hashlib import blake2b
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sidecar.names import METRIC_NAME

TimeArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float64]

# Prometheus marks the end of a series by a NaN with exactly these bits; an ordinary NaN is a value
# that is not a number, so the two are told apart as integers.
STALE_BITS: Final = 0x7FF0000000000002
STALE_NAN: Final = float(np.uint64(STALE_BITS).view(np.float64))

_PLAIN_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def is_stale(values: FloatArray) -> NDArray[np.bool_]:
    """Where ``values`` (any shape, float64) are staleness markers; other NaNs are not."""
    return np.equal(np.ascontiguousarray(values).view(np.uint64), np.uint64(STALE_BITS))


def quote(value: str) -> str:
    r"""A label value as a PromQL string literal.

    >>> print(quote('a"b' + chr(10) + chr(92)))
    "a\"b\n\\"
    """
    return f'"{value.translate(_ESCAPES)}"'


@dataclass(frozen=True)
class LabelSet:
    """The identity of a series: names and values, names unique and sorted, ``__name__`` included.

    An empty value is the same as no label, as in Prometheus, so empty values are left out.
    Build one with ``LabelSet.of``; the bare constructor trusts its caller (the codec) to have
    sorted the pairs.

    >>> print(LabelSet.of({"__name__": "up", "job": 'a"b'}))
    up{job="a\\"b"}
    """

    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, labels: Mapping[str, str] | Iterable[tuple[str, str]]) -> "LabelSet":
        """Sort, drop empty values. Later pairs of one name win."""
        return cls(tuple(sorted((n, v) for n, v in dict(labels).items() if v)))

    @cached_property
    def _by_name(self) -> dict[str, str]:
        return dict(self.pairs)

    @property
    def metric(self) -> str:
        """The value of ``__name__``, empty where there is none (as for an expression's result)."""
        return self.get(METRIC_NAME)

    def get(self, name: str) -> str:
        """The label's value, the empty string where the label is absent (as PromQL has it)."""
        return self._by_name.get(name, "")

    def without(self, *names: str) -> "LabelSet":
        return LabelSet(tuple(pair for pair in self.pairs if pair[0] not in names))

    def replaced(self, labels: Mapping[str, str]) -> "LabelSet":
        """These labels with others set over them; an empty value removes one."""
        return LabelSet.of({**self._by_name, **labels})

    @cached_property
    def key(self) -> str:
        """32 hex digits that name this label set, safe in file names and stable across restarts.

        A hash over length-prefixed parts: no choice of label values gives two sets one key.
        """
        digest = blake2b(digest_size=16)
        for part in (part for pair in self.pairs for part in pair):
            raw = part.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(4, "big") + raw)
        return digest.hexdigest()

    @cached_property
    def _hash(self) -> int:
        return hash(self.pairs)

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        rest = ", ".join(f"{n}={quote(v)}" for n, v in self.pairs if n != METRIC_NAME)
        if self.metric and not _PLAIN_NAME.fullmatch(self.metric):
            inner = quote(self.metric) + (f", {rest}" if rest else "")
            return "{" + inner + "}"
        return self.metric + ("{" + rest + "}" if rest or not self.metric else "")

    def __lt__(self, other: "LabelSet") -> bool:
        return self.pairs < other.pairs


class MatchOp(StrEnum):
    """The four operators of a Prometheus label matcher."""

    EQUAL = "="
    NOT_EQUAL = "!="
    REGEX = "=~"
    NOT_REGEX = "!~"


@dataclass(frozen=True)
class Matcher:
    """One condition on one label; regular expressions are anchored at both ends, ``.`` matches all.

    Raises:
        ValueError: the regular expression does not compile.
    """

    name: str
    op: MatchOp
    value: str

    def __post_init__(self) -> None:
        if self.op in (MatchOp.REGEX, MatchOp.NOT_REGEX):
            try:
                self._pattern  # noqa: B018 - compiled here so that a bad one fails at the edge
            except re.error as error:
                raise ValueError(f"{self.value!r} is not a regular expression: {error}") from None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self.value, re.DOTALL)

    def accepts(self, labels: LabelSet) -> bool:
        value = labels.get(self.name)
        match self.op:
            case MatchOp.EQUAL:
                return value == self.value
            case MatchOp.NOT_EQUAL:
                return value != self.value
            case MatchOp.REGEX:
                return self._pattern.fullmatch(value) is not None
            case MatchOp.NOT_REGEX:
                return self._pattern.fullmatch(value) is None

    def __str__(self) -> str:
        return f"{self.name}{self.op.value}{quote(self.value)}"


@dataclass(frozen=True)
class Selector:
    """Which series: those that every matcher accepts."""

    matchers: tuple[Matcher, ...]

    @classmethod
    def of(cls, metric: str, *matchers: Matcher) -> "Selector":
        return cls((Matcher(METRIC_NAME, MatchOp.EQUAL, metric), *matchers))

    def accepts(self, labels: LabelSet) -> bool:
        return all(matcher.accepts(labels) for matcher in self.matchers)

    def as_read(self, external_labels: Mapping[str, str]) -> "Selector":
        """What a server with these external labels makes of it: it leaves out the matchers that
        one of them answers (remote read, ``=`` only), since its own series are without them.

        >>> print(Selector.of("up", Matcher("zone", MatchOp.EQUAL, "c")).as_read({"zone": "c"}))
        up
        """
        asked = tuple(
            one
            for one in self.matchers
            if one.op is not MatchOp.EQUAL or external_labels.get(one.name) != (one.value or None)
        )
        return self if len(asked) == len(self.matchers) else Selector(asked)

    def with_matchers(self, *matchers: Matcher) -> "Selector":
        return Selector((*self.matchers, *matchers))

    def __str__(self) -> str:
        """As PromQL, with the metric's name in front where it is one plain equality.

        >>> print(Selector.of("up", Matcher("job", MatchOp.REGEX, "a|b")))
        up{job=~"a|b"}
        """
        names = [m for m in self.matchers if m.name == METRIC_NAME and m.op is MatchOp.EQUAL]
        plain = len(names) == 1 and _PLAIN_NAME.fullmatch(names[0].value) is not None
        rest = [m for m in self.matchers if not (plain and m is names[0])]
        inner = ", ".join(str(matcher) for matcher in rest)
        return (names[0].value if plain else "") + ("{" + inner + "}" if inner or not plain else "")


@dataclass(frozen=True, eq=False)
class RawSeries:
    """Samples of one series as the server keeps them.

    Attributes:
        timestamps_ms: (S,) int64, strictly increasing.
        values: (S,) float64; ordinary NaN and staleness markers pass bit-exact.
    """

    labels: LabelSet
    timestamps_ms: TimeArray
    values: FloatArray


@dataclass(frozen=True, slots=True)
class Grid:
    """``size`` instants, ``step_ms`` apart, the newest at ``end_ms``; aligned to the epoch.

    >>> Grid(end_ms=120_000, step_ms=60_000, size=2).instants_ms.tolist()
    [60000, 120000]

    Raises:
        ValueError: ``end_ms`` is not a multiple of ``step_ms``, or a size or step below 1.
    """

    end_ms: int
    step_ms: int
    size: int

    def __post_init__(self) -> None:
        if self.step_ms < 1 or self.size < 1:
            raise ValueError(f"a grid has a step and a size of at least 1: {self!r}")
        if self.end_ms % self.step_ms:
            raise ValueError(f"{self.end_ms} is not a multiple of the step of {self.step_ms} ms")

    @property
    def start_ms(self) -> int:
        return self.end_ms - (self.size - 1) * self.step_ms

    @property
    def instants_ms(self) -> TimeArray:
        """(T,) int64, oldest first."""
        return np.arange(self.start_ms, self.end_ms + 1, self.step_ms, dtype=np.int64)

    @classmethod
    def between(cls, start_ms: int, end_ms: int, step_ms: int) -> "Grid":
        """The instants t with ``start_ms`` <= t <= ``end_ms``.

        Raises:
            ValueError: there is none.
        """
        first, last = -(-start_ms // step_ms), end_ms // step_ms
        return cls(last * step_ms, step_ms, last - first + 1)


@dataclass(frozen=True, eq=False)
class SeriesBatch:
    """N series on one grid.

    Attributes:
        labels: N, sorted, unique.
        values: (N, T) float64, C order; NaN = no fresh sample at that instant.
    """

    labels: tuple[LabelSet, ...]
    grid: Grid
    values: FloatArray

    def __post_init__(self) -> None:
        expected = (len(self.labels), self.grid.size)
        if self.values.shape != expected:
            raise ValueError(f"values have shape {self.values.shape}, expected {expected}")


@dataclass(frozen=True, eq=False)
class Forecast:
    """What N series will be at the H instants after ``origin_ms``.

    Attributes:
        origin_ms: the newest instant the forecast rests on; step k speaks of origin + k * step.
        mean, lower, upper: each (N, H) float64; a NaN row means "no forecast for this series".
    """

    labels: tuple[LabelSet, ...]
    origin_ms: int
    step_ms: int
    mean: FloatArray
    lower: FloatArray
    upper: FloatArray

    @property
    def instants_ms(self) -> TimeArray:
        """(H,) int64: the instants spoken of."""
        steps = np.arange(1, self.mean.shape[1] + 1, dtype=np.int64)
        return self.origin_ms + steps * self.step_ms


def index_by_labels(labels: Sequence[LabelSet]) -> dict[LabelSet, int]:
    """Row of each label set."""
    return {one: row for row, one in enumerate(labels)}
