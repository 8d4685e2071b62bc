"""What ``sentinel check`` learns before it judges: plain values, gathered by the shell."""

from dataclasses import dataclass, field

from sidecar.check.writers import Elsewhere
from sidecar.remote.probe import ReceiverFacts, ServerFacts
from sidecar.series import LabelSet


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing the operator should know.

    Attributes:
        level: ``error``: it will not work; ``warning``: probably not as meant; ``note``.
        where: ``watches[0]``, a setting, or the URL of a server.
        message: what was found and what to do.
    """

    level: str
    where: str
    message: str


@dataclass(frozen=True, slots=True)
class ServerView:
    """The server, as far as it matters here.

    Attributes:
        facts: what it said of itself; None where it did not answer at all.
        trouble: why not.
        others: the endpoints beyond the first that predictions are written to, as in
            ``write_ends``; what the first said stands in ``facts``.
    """

    facts: ServerFacts | None
    trouble: str = ""
    others: tuple[ReceiverFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class WatchView:
    """What the server has for one watch.

    Attributes:
        series: what its selector matches now, external labels taken off.
        interval_ms: the usual distance between samples; None where there are too few.
        kind: the type that the metadata gives the metric; None where it has none.
        counter: the watch's ``auto`` transform takes the metric for a counter.
        known_names: metrics on the server, asked for only where nothing matches.
        histograms: some of its series of native histograms, which have no plain samples.
        trouble: why the series could not be read; empty where they could.
        elsewhere: what somebody else writes of its output at present.
        young_ms: how long ago its oldest sample was, where it has only just begun; else None.
    """

    series: tuple[LabelSet, ...] = ()
    interval_ms: int | None = None
    kind: str | None = None
    counter: bool = False
    known_names: frozenset[str] = field(default_factory=frozenset)
    histograms: tuple[LabelSet, ...] = ()
    trouble: str = ""
    elsewhere: Elsewhere | None = None
    young_ms: int | None = None
