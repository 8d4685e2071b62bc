"""Forecasts of a user's own model, asked for in a process of its own, one for each watch.

    start      when first needed; it keeps its instances for the next cycle
    ask        one series after another, each with a deadline, all of them with another
    culprit    the series whose answer was awaited when the process ended, or was killed at the
               deadline: it has no forecast, and is not asked again for a pause that doubles with
               each time; another process takes over, and the series after it have theirs
    end        with the watch; by itself when the sidecar is gone

Called in the thread of a cycle, which waits for sockets with a timeout and for nothing else.
"""

import hashlib
import logging
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sidecar.duration import format_duration
from sidecar.errors import SidecarError
from sidecar.learning import predictor
from sidecar.learning.payload import PREFIX, Message, decode, encode, sizes
from sidecar.learning.processes import how_it_ended, kill, spawn
from sidecar.learning.worker import ModelSpec
from sidecar.models.contract import ForecastModel
from sidecar.models.custom import CustomModel
from sidecar.series import FloatArray

log = logging.getLogger(__name__)

SERIES_S: Final = 5.0
LEAST_S: Final = 1.0
START_S: Final = 60.0
PATIENCE_S: Final = 10.0
REAP_S: Final = 2.0
PAUSE_S: Final = 60.0
LONGEST_PAUSE_S: Final = 3600.0
_CYCLES_LEFT: Final = 8  # halves of the granularity: see ``Bounds.within``

Asked = tuple[int, bytes]
_START: Final[Asked] = (-1, b"")  # what is blamed where no process can be started


class PredictionsEnded(SidecarError):
    """The watch ended while it waited for forecasts of a user's model."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much forecasts of a watch may cost.

    Attributes:
        series_s: how long one series may take.
        all_s: after so long no further series is asked in this cycle; those that are left come
            first in the next one.
        memory_limit_bytes: how much the process may grow once the model's module is imported
            (Linux); 0 for no limit.
    """

    series_s: float
    all_s: float
    memory_limit_bytes: int = 1 << 30

    @classmethod
    def within(cls, granularity_ms: int) -> "Bounds":
        """Bounds that leave a quarter of the granularity to the rest of the cycle, where that is
        4 s or more.

        >>> Bounds.within(60_000).series_s, Bounds.within(8_000).all_s
        (5.0, 4.0)
        """
        granularity_s = granularity_ms / 1000
        return cls(min(SERIES_S, max(LEAST_S, granularity_s / 4)), granularity_s / 2)


def aside(model: ForecastModel[Any], spec: ModelSpec) -> Callable[[], None]:
    """Have the forecasts of ``model`` made in another process, where it is a user's own.

    Returns:
        What to call when the model is no longer needed, from any thread but the event loop's: the
        process ends.
    """
    if not isinstance(model, CustomModel):
        return _nothing
    predictions = Predictions(spec, Bounds.within(model.granularity_ms))
    model.predictor = predictions
    return predictions.close


class Predictions:
    """Asks one process, started when first needed and replaced when it dies.

    Args:
        spec: how the process builds the model.
    """

    def __init__(self, spec: ModelSpec, bounds: Bounds) -> None:
        self.spec, self.bounds = spec, bounds
        self._line: _Line | None = None
        self._pauses: dict[Asked, _Pause] = {}
        # Not asked last time, for want of time; and when that was. A cycle may ask several times,
        # each time for others: predecessors run beside what serves.
        self._left: dict[Asked, float] = {}
        self._asking, self._changing = threading.Lock(), threading.Lock()
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """The process that lives now, if any."""
        line = self._line
        return [] if line is None else [line.process.pid]

    def predict(
        self, asked: Sequence[Asked], X: FloatArray, steps: int
    ) -> tuple[FloatArray, list[str]]:
        """See ``sidecar.models.custom.Predictor``.

        Raises:
            PredictionsEnded: ``close`` was called, from another thread.
        """
        told, said = np.full((3, len(asked), steps), np.nan), [""] * len(asked)
        with self._asking:
            self._forget_old_pauses()
            # A first start counts for nobody, but holds one of the few threads.
            patience_s = min(START_S, max(PATIENCE_S, self.bounds.all_s))
            trouble, left = self._ready(time.monotonic() + patience_s), set()
            until_s = time.monotonic() + self.bounds.all_s
            for at in sorted(range(len(asked)), key=lambda at: asked[at] not in self._left):
                one = asked[at]
                if pause := self._paused(one):
                    said[at] = pause
                    continue
                trouble = trouble or self._no_time(until_s) or self._ready(until_s)
                if trouble:
                    said[at] = trouble
                    left.add(one)
                    continue
                said[at] = self._answered(one, X[at : at + 1], told[:, at])
            self._note_left(asked, left)
        return told, said

    def _note_left(self, asked: Sequence[Asked], left: Collection[Asked]) -> None:
        """Who comes first next time; those that nobody has asked for during a while are gone."""
        now_s = time.monotonic()
        gone_s, settled = now_s - _CYCLES_LEFT * self.bounds.all_s, set(asked)
        kept = {one: at for one, at in self._left.items() if at > gone_s and one not in settled}
        self._left = {**kept, **dict.fromkeys(left, now_s)}

    def _no_time(self, until_s: float) -> str:
        if time.monotonic() < until_s:
            return ""
        return f"not asked: predict of all series took longer than {self.bounds.all_s:g} s"

    def _answered(self, one: Asked, x: FloatArray, told: FloatArray) -> str:
        """Ask for one series and write the answer into ``told`` (3, steps); why there is none."""
        line = self._line
        assert line is not None, "it is ready"
        try:
            reply = line.ask(one[1], x, told.shape[1], time.monotonic() + self.bounds.series_s)
            if reply.kind == predictor.SAID:
                told[:] = reply.arrays["told"]
                self._pauses.pop(one, None)
                return ""
        except TimeoutError:
            self._replace()
            return self._blamed(one, f"predict took longer than {self.bounds.series_s:g} s")
        except (OSError, EOFError, ValueError, KeyError) as error:
            ended = line.how_it_ended() or f"gave a wrong answer ({error})"
            self._replace()
            return self._blamed(one, f"its process {ended}")
        if reply.kind == predictor.MEMORY:
            self._replace()
            return self._blamed(one, str(reply.meta["message"]))
        return str(reply.meta["message"])

    def _ready(self, until_s: float) -> str:
        """See to it that a process waits for requests; why none does."""
        if said := self._paused(_START):
            return said
        try:
            line = self._current()
            line.greeted(until_s)
        except TimeoutError:
            if self._line is not None and self._line.age_s < START_S:
                return "not asked: the process for predict is still starting"
            self._replace(again=False)
            return self._blamed(_START, f"no process for predict started within {START_S:g} s")
        except (OSError, EOFError, ValueError) as error:
            why = str(error)
            if isinstance(error, EOFError) and self._line is not None:
                why = f"it {self._line.how_it_ended() or why}"
            self._replace(again=False)
            return self._blamed(_START, f"no process for predict can be started: {why}")
        return ""

    def _current(self) -> "_Line":
        """The process; a new one where there is none, or where it ended while nothing was asked."""
        with self._changing:
            if self._closed:
                raise PredictionsEnded("the watch has ended")
            if self._line is not None and self._line.process.poll() is not None:
                if not self._line.is_ready:
                    return self._line  # its greeting says why
                self._line.end()
                self._line = None
            if self._line is None:
                self._line = _Line(self.spec, self.bounds.memory_limit_bytes)
            return self._line

    def _replace(self, *, again: bool = True) -> None:
        """End the process; another begins to start while the cycle goes on."""
        with self._changing:
            line, self._line = self._line, None
            if line is not None:
                line.end()
            if self._closed:
                raise PredictionsEnded("the watch has ended")
            if again:
                with suppress(OSError):  # if it still cannot be had when needed, that is said
                    self._line = _Line(self.spec, self.bounds.memory_limit_bytes)

    def _paused(self, one: Asked) -> str:
        pause = self._pauses.get(one)
        return pause.said if pause is not None and time.monotonic() < pause.until_s else ""

    def _blamed(self, one: Asked, what: str) -> str:
        before = self._pauses.get(one)
        times = 1 if before is None else before.times + 1
        pause_s = min(LONGEST_PAUSE_S, PAUSE_S * 2.0 ** min(times - 1, 10))
        said = f"{what}; asked again after {format_duration(int(pause_s * 1000))}"
        self._pauses[one] = _Pause(said, time.monotonic() + pause_s, times)
        log.warning("model %s: a forecast failed: %s", self.spec.model, said)
        return said

    def _forget_old_pauses(self) -> None:
        """Those of series and versions that went; a culprit asked meanwhile has a newer one."""
        old_s = time.monotonic() - LONGEST_PAUSE_S
        for one in [one for one, pause in self._pauses.items() if pause.until_s < old_s]:
            del self._pauses[one]

    def close(self) -> None:
        """End the process; whoever waits for it is woken. From any thread, harmless twice."""
        with self._changing:
            self._closed = True
            line = self._line
            if line is not None:
                line.end()


@dataclass(frozen=True, slots=True)
class _Pause:
    said: str
    until_s: float
    times: int


class _Line:
    """One process and our end of its socket pair.

    On Linux it is bound to the thread that starts it (``worker.end_with_parent``): the threads of
    cycles live as long as the sidecar.
    """

    def __init__(self, spec: ModelSpec, memory_limit_bytes: int) -> None:
        self.process, self._socket = spawn(predictor.__name__, memory_limit_bytes)
        self._begun_s = time.monotonic()
        self.is_ready = False
        # Also where nobody ends it: a watch that is dropped leaves no process behind.
        self.end = weakref.finalize(self, _end, self.process, self._socket)
        self._hello = encode(Message("model", {"spec": asdict(spec)}, {}))

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._begun_s

    def greeted(self, until_s: float) -> None:
        """Wait until it has built the model.

        Raises:
            TimeoutError: not yet, at ``until_s`` by the monotonic clock.
            OSError, EOFError: it ended.
            ValueError: it cannot build the model.
        """
        if self.is_ready:
            return
        for buffer in self._hello:
            self._sent(buffer, until_s)
        self._hello = []
        reply = self._received(until_s)
        if reply.kind != predictor.READY:
            raise ValueError(str(reply.meta["message"]))
        self.is_ready = True

    def ask(self, blob: bytes, x: FloatArray, steps: int, until_s: float) -> Message:
        """What it answers for one series; errors as for ``greeted``."""
        key = hashlib.blake2b(blob, digest_size=20).hexdigest()
        meta = {"key": key, "steps": steps}
        reply = self._asked(Message(predictor.PREDICT, meta, {"x": x}), until_s)
        if reply.kind != predictor.UNKNOWN:
            return reply
        whole: dict[str, NDArray[Any]] = {"x": x, "blob": np.frombuffer(blob, np.uint8)}
        return self._asked(Message(predictor.PREDICT, meta, whole), until_s)

    def _asked(self, message: Message, until_s: float) -> Message:
        for buffer in encode(message):
            self._sent(buffer, until_s)
        return self._received(until_s)

    def _sent(self, buffer: memoryview, until_s: float) -> None:
        self._socket.settimeout(_left(until_s))
        self._socket.sendall(buffer)

    def _received(self, until_s: float) -> Message:
        header_size, body_size = sizes(self._exactly(PREFIX.size, until_s))
        header = self._exactly(header_size, until_s)
        return decode(header, self._exactly(body_size, until_s))

    def _exactly(self, size: int, until_s: float) -> bytearray:
        buffer = bytearray(size)
        view, got = memoryview(buffer), 0
        while got < size:
            self._socket.settimeout(_left(until_s))
            count = self._socket.recv_into(view[got:])
            if count == 0:
                raise EOFError("it closed its socket")
            got += count
        return buffer

    def how_it_ended(self) -> str:
        """Its exit status in words; empty while it has none."""
        try:
            return how_it_ended(self.process.wait(1.0))
        except subprocess.TimeoutExpired:
            return ""


def _nothing() -> None:
    """Of a model without a process there is nothing to end."""


def _left(until_s: float) -> float:
    """Seconds up to ``until_s``; never 0, which would mean not to wait at all."""
    return max(0.001, until_s - time.monotonic())


def _end(process: "subprocess.Popen[bytes]", ours: socket.socket) -> None:
    """Kill and reap; whoever waits for the socket is woken."""
    kill(process)
    with suppress(OSError):
        ours.shutdown(socket.SHUT_RDWR)
    with suppress(subprocess.TimeoutExpired):
        process.wait(REAP_S)
    ours.close()
