"""Forecasts of a user's own model in a process of its own. Real processes, no Prometheus."""

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidecar.learning.predicting import Bounds, Predictions, PredictionsEnded, aside
from sidecar.learning.worker import ModelSpec
from sidecar.models.contract import Intervals, take
from sidecar.models.custom import CustomModel, CustomState
from sidecar.models.registry import ModelContext, build
from sidecar.series import FloatArray
from tests.exporter import FunctionExporter
from tests.prometheus import PrometheusBinary, RealPrometheus
from tests.sidecar import Sidecar
from tests.unit.learning.toys import POISON, HarmfulOwnModel, OwnModel, instants

pytestmark = pytest.mark.integration

CONTEXT = ModelContext(granularity_ms=60_000, horizon_steps=3, n_lags=4)
T = 30
MIB = 1 << 20


class Aside:
    """A user's model whose forecasts come from a process, beside the same one in this process."""

    def __init__(
        self, harm: str = "", all_s: float = 60.0, series_s: float = 20.0, **more: object
    ) -> None:
        params = {"harm": harm, **more}
        self.spec = ModelSpec.of(HarmfulOwnModel, params, CONTEXT)
        self.bounds = Bounds(series_s, all_s, 256 * MIB)
        self.predictions = Predictions(self.spec, self.bounds)
        self.model, self.here = (_custom(params) for _ in range(2))
        self.model.predictor = self.predictions

    def forecast(self, state: CustomState) -> Intervals:
        return self.model.forecast(state, instants(3, T * 60_000))


def _custom(params: dict[str, object]) -> CustomModel:
    model = build(HarmfulOwnModel, params, CONTEXT)
    assert isinstance(model, CustomModel)
    return model


Make = Callable[..., Aside]


@pytest.fixture
def made() -> Iterator[Make]:
    """Makes models whose processes are ended whatever happens."""
    all_of_them: list[Aside] = []

    def make(*arguments: Any, **more: Any) -> Aside:
        all_of_them.append(Aside(*arguments, **more))
        return all_of_them[-1]

    yield make
    for one in all_of_them:
        one.predictions.close()


def values(n: int, *poisoned: int) -> FloatArray:
    y = np.random.default_rng(n).normal(10, 1, size=(n, T))
    y[list(poisoned), -1] = POISON
    return y


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def test_a_healthy_model_forecasts_as_it_does_in_this_process(made: Make) -> None:
    one = made()
    state = one.model.fit(instants(T), values(7))
    got = one.forecast(state)
    wanted = one.here.forecast(state, instants(3, T * 60_000))
    for name in ("mean", "lower", "upper"):
        np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))
    assert np.isfinite(got.mean).all()
    assert one.model.explain(state) == [""] * 7
    (pid,) = one.predictions.pids
    again = one.forecast(state)
    np.testing.assert_array_equal(again.mean, wanted.mean)
    assert one.predictions.pids == [pid], "it is kept for the next cycle"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("raise", "predict raised ZeroDivisionError: the poisoned series"),
        ("wrong_shape", "predict raised ValueError: "),
        ("hang", "predict took longer than 1 s; asked again after 1m"),
        ("spin", "predict took longer than 1 s; asked again after 1m"),
        ("segfault", "its process was ended by SIGSEGV; asked again after 1m"),
        ("exit", "its process ended with status 3; asked again after 1m"),
        ("allocate", "out of memory: "),
    ],
)
def test_only_the_series_that_does_harm_has_no_forecast(made: Make, harm: str, said: str) -> None:
    one = made(harm, series_s=1.0 if harm in {"hang", "spin"} else 20.0)
    state = one.model.fit(instants(T), values(4, 1))
    got = one.forecast(state)
    assert np.isnan(got.mean[1]).all()
    assert np.isnan(got.upper[1]).all()
    assert np.isfinite(got.mean[[0, 2, 3]]).all()
    lines = one.model.explain(state)
    assert lines[1].startswith(said)
    assert [lines[row] for row in (0, 2, 3)] == [""] * 3
    assert len(one.predictions.pids) == 1


def test_a_culprit_is_not_asked_again_until_its_pause_is_over(
    made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made("exit")
    state = one.model.fit(instants(T), values(3, 1))
    one.forecast(state)
    pids = one.predictions.pids
    assert np.isnan(one.forecast(state).mean[1]).all()
    assert one.predictions.pids == pids, "it was not asked: the process lives"
    assert one.model.explain(state)[1].endswith("asked again after 1m")
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 61.0)
    one.forecast(state)
    assert one.predictions.pids != pids
    assert one.model.explain(state)[1].endswith("asked again after 2m")


def test_a_new_version_of_a_culprit_is_asked_at_once(made: Make) -> None:
    one = made("exit")
    y = values(3, 1)
    one.forecast(one.model.fit(instants(T), y))
    y[1] = values(3)[1] + 5
    newer = one.model.fit(instants(T), y)
    assert np.isfinite(one.forecast(newer).mean).all()
    assert one.model.explain(newer) == [""] * 3


def test_a_culprit_that_has_recovered_is_complained_of_no_more(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = tmp_path / "switch"
    switch.touch()
    one = made("exit", switch=str(switch))
    state = one.model.fit(instants(T), values(3, 1))
    assert np.isnan(one.forecast(state).mean[1]).all()
    switch.unlink()
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 61.0)
    assert np.isfinite(one.forecast(state).mean).all()
    switch.touch()
    one.forecast(state)
    assert one.model.explain(state)[1].endswith("asked again after 1m"), "the pause starts afresh"


def test_a_cycle_has_an_end_however_many_series_hang_and_those_left_come_first(
    made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made("hang", all_s=1.5, series_s=1.0)
    state = one.model.fit(instants(T), values(12, *range(1, 11)))
    got = one.forecast(state)
    assert np.isfinite(got.mean[0]).all()
    assert np.isnan(got.mean[1:]).all()
    lines = one.model.explain(state)
    assert 1 <= sum("took longer than 1 s" in line for line in lines) <= 2
    assert sum(line.startswith("not asked") for line in lines) >= 9
    order: list[int] = []
    answered = one.predictions._answered

    def noted(asked: tuple[int, bytes], *rest: Any) -> str:
        order.append(asked[0])
        return answered(asked, *rest)

    monkeypatch.setattr(one.predictions, "_answered", noted)
    first = next(row for row, line in enumerate(lines) if "not asked" in line)
    one.forecast(state)
    assert order[0] == first > 0


def test_those_left_come_first_though_a_predecessor_is_asked_in_between(made: Make) -> None:
    one = made("dawdle", all_s=1.0)
    state = one.model.fit(instants(T), values(6, *range(6)))
    before = one.model.fit(instants(T), values(2))
    answered = []
    for _ in range(4):
        answered.append(np.isfinite(one.forecast(state).mean[:, 0]))
        assert np.isfinite(one.forecast(before).mean).all()
    assert not answered[0].all()
    assert np.any(answered, axis=0).all()


def test_a_slow_model_is_asked_for_as_many_series_as_there_is_time_for_and_none_is_blamed(
    made: Make,
) -> None:
    one = made("dawdle", all_s=1.0)
    state = one.model.fit(instants(T), values(6, *range(6)))
    answered = [np.isfinite(one.forecast(state).mean[:, 0]) for _ in range(6)]
    assert not answered[0].all()
    assert np.any(answered, axis=0).all(), "the turn comes to each of them"
    late = "not asked: predict of all series took longer than 1 s"
    assert set(one.model.explain(state)) == {"", late}
    assert len(one.predictions.pids) == 1


def test_explain_names_the_culprit_among_some_of_the_series_too(made: Make) -> None:
    one = made("raise")
    state = one.model.fit(instants(T), values(4, 2))
    one.forecast(state)
    assert "ZeroDivisionError" in one.model.explain(take(state, np.array([2])))[0]
    assert one.model.explain(take(state, np.array([3]))) == [""]


def test_what_predict_prints_does_not_reach_our_output(
    made: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    one = made("print")
    state = one.model.fit(instants(T), values(2, 0))
    assert np.isfinite(one.forecast(state).mean).all()
    one.predictions.close()
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "printed by a model" in printed.err


def test_a_process_that_was_killed_between_cycles_is_replaced_and_nobody_blamed(made: Make) -> None:
    one = made()
    state = one.model.fit(instants(T), values(3))
    one.forecast(state)
    (pid,) = one.predictions.pids
    os.kill(pid, signal.SIGKILL)
    while alive(pid):
        time.sleep(0.005)
    assert np.isfinite(one.forecast(state).mean).all()
    assert one.predictions.pids != [pid]


def test_where_no_process_starts_it_is_said_and_tried_again_later(
    made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    one = made()
    state = one.model.fit(instants(T), values(2))
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refused)
        assert np.isnan(one.forecast(state).mean).all()
        assert "can be started: no more processes" in one.model.explain(state)[0]
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 61.0)
    assert np.isfinite(one.forecast(state).mean).all()


def test_a_model_that_the_process_cannot_build_is_said(made: Make) -> None:
    one = made()
    state = one.model.fit(instants(T), values(2))
    one.predictions.spec = ModelSpec("no_such_module:Mine", {}, one.spec.context)
    assert np.isnan(one.forecast(state).mean).all()
    assert "No module named 'no_such_module'" in one.model.explain(state)[0]
    assert one.predictions.pids == []


def test_close_ends_a_forecast_that_hangs_at_once(made: Make) -> None:
    one = made("hang", series_s=60.0, all_s=60.0)
    state = one.model.fit(instants(T), values(3, 1))
    failures: list[BaseException] = []

    def cycle() -> None:
        try:
            one.forecast(state)
        except PredictionsEnded as error:
            failures.append(error)

    thread = threading.Thread(target=cycle)
    thread.start()
    while not one.predictions.pids:
        time.sleep(0.01)
    pids = one.predictions.pids
    time.sleep(1.5)
    begun = time.monotonic()
    one.predictions.close()
    thread.join(5)
    assert not thread.is_alive()
    assert time.monotonic() - begun < 5
    assert len(failures) == 1
    assert not any(map(alive, pids))
    with pytest.raises(PredictionsEnded):
        one.forecast(state)
    one.predictions.close()


def test_a_watch_that_is_dropped_leaves_no_process(made: Make) -> None:
    one = Aside()
    one.forecast(one.model.fit(instants(T), values(2)))
    (pid,) = one.predictions.pids
    del one
    gc.collect()
    assert not alive(pid)


def test_it_ends_with_the_sidecar_even_in_the_middle_of_a_forecast(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    script = textwrap.dedent(
        """
        import sys, threading, time
        from pathlib import Path
        from tests.integration.test_predicting import Aside, T, instants, values

        one = Aside("spin", series_s=600.0)
        state = one.model.fit(instants(T), values(3, 1))
        threading.Thread(target=one.forecast, args=(state,), daemon=True).start()
        while not one.predictions.pids or not one.predictions._line.is_ready:
            time.sleep(0.01)
        time.sleep(0.5)
        Path(sys.argv[1]).write_text(str(one.predictions.pids[0]))
        time.sleep(600)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(note)], cwd=Path.cwd())
    try:
        deadline = time.monotonic() + 60
        while not note.exists() or not note.read_text():
            assert time.monotonic() < deadline
            assert parent.poll() is None
            time.sleep(0.02)
        pid = int(note.read_text())
        assert alive(pid)
    finally:
        parent.kill()
        parent.wait()
    for _ in range(400):
        if not alive(pid):
            return
        time.sleep(0.025)
    pytest.fail("it outlives the sidecar by 10 s")


def test_models_of_the_house_stay_in_this_process() -> None:
    model = build("linear", {}, CONTEXT)
    close = aside(model, ModelSpec.of("linear", {}, CONTEXT))
    close()
    own = build(OwnModel, {}, CONTEXT)
    assert isinstance(own, CustomModel)
    aside(own, ModelSpec.of(OwnModel, {}, CONTEXT))()
    assert isinstance(own.predictor, Predictions)
    assert own.predictor.bounds == Bounds.within(60_000)


def helpers(pid: int) -> list[int]:
    """The processes for forecasts of users' models that a sidecar has now."""
    lists = (one.read_text() for one in Path(f"/proc/{pid}/task").glob("*/children"))
    return [
        child
        for children in lists
        for child in map(int, children.split())
        if b"sidecar.learning.predictor" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


async def test_in_a_running_sidecar_a_hanging_model_costs_one_series_its_forecast_and_nothing_else(
    newest_prometheus: PrometheusBinary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    switch = tmp_path / "switch"
    times = {"granularity": "2s", "horizon": "6s", "lookback": "10s"}
    own: dict[str, Any] = {
        "metric": "mine",
        "model_class": "tests.unit.learning.toys:HarmfulOwnModel",
        "model_params": {"harm": "hang", "switch": str(switch)},
        **times,
    }
    with FunctionExporter() as exporter:
        exporter.gauge("mine", lambda _: POISON, which="culprit")
        exporter.gauge("mine", lambda t: 10 + t % 7, which="good")
        exporter.gauge("other", lambda t: t % 60)
        async with RealPrometheus(newest_prometheus, targets=[exporter.address]) as prometheus:
            await prometheus.until("count_over_time(other[30s]) > 25")
            watches = [own, {"metric": "other", **times}]
            async with Sidecar(prometheus.url, watches) as sidecar:
                await prometheus.until("count(mine_sentinel_expected) == 2")
                await prometheus.until("other_sentinel_expected")
                assert len(helpers(sidecar.pid)) == 1
                switch.touch()
                culprit = await told(sidecar, "culprit", lambda one: not one["ready"])
                assert culprit["reason"] == "non_finite"
                assert "predict took longer than 1 s" in str(culprit)
                await asyncio.sleep(5)
                await told(sidecar, "good", lambda one: bool(one["ready"]))
                for metric in ("mine_sentinel_expected", "other_sentinel_expected"):
                    fresh = f"count_over_time({metric}[5s]) >= 1"
                    await prometheus.until(fresh, timeout_s=3)
                (pid,) = helpers(sidecar.pid)
                status, seconds = await sidecar.terminate()
                assert status == 0
                assert seconds < 5
                assert not alive(pid)


async def told(
    sidecar: Sidecar, which: str, wanted: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """What the status says of a series of ``mine`` as soon as that is what is wanted."""
    for _ in range(150):
        _, text = await sidecar.get("/api/v1/status")
        for one in json.loads(text)["data"].values():
            if one["labels"].get("which") == which and wanted(one):
                found: dict[str, Any] = one
                return found
        await asyncio.sleep(0.2)
    pytest.fail(f"never so within 30 s: {text}\n{sidecar.log[-3000:]}")
