"""What a finetune starts from."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from sidecar.learning.records import NewVersions
from sidecar.learning.store import VersionStore
from sidecar.learning.training import FINETUNE, train
from sidecar.learning.warm import warm_states
from sidecar.models.contract import to_arrays
from sidecar.models.registry import ModelContext, build
from tests.unit.learning.stored import SETTINGS, WATCH, batch, labels, opened
from tests.unit.learning.toys import MeanModel, MeanState, instants


def saved(store: VersionStore, rows: slice, value: float, model: str = "toy_mean") -> MeanState:
    series = labels(6)[rows]
    y = np.full((len(series), 40), value) + np.arange(float(len(series)))[:, None]
    state = MeanModel().fit(instants(40), y)
    new = batch(series, value, model=model)
    store.save(NewVersions(**{**vars(new), "arrays": to_arrays(state)}))
    return state


def test_states_come_back_in_the_order_they_are_asked_for(tmp_path: Path) -> None:
    store = opened(tmp_path)
    first = saved(store, slice(0, 3), 10.0)
    second = saved(store, slice(3, 5), 20.0)
    asked = [labels(6)[k] for k in (4, 0, 5, 2)]
    state = warm_states(store.load(WATCH, asked), MeanModel(), SETTINGS, asked)
    assert state is not None
    assert state.mean[[0, 1, 3]].tolist() == [second.mean[1], first.mean[0], first.mean[2]]
    assert np.isnan(state.sigma).tolist() == [False, False, True, False]
    assert (state.last_ms[[0, 1, 3]] == instants(40)[-1]).all()


def test_there_is_nothing_to_start_from_in_another_models_states(tmp_path: Path) -> None:
    store = opened(tmp_path)
    asked = labels(3)
    assert warm_states(store.load(WATCH, asked), MeanModel(), SETTINGS, asked) is None
    saved(store, slice(0, 3), 10.0, model="naive")
    assert warm_states(store.load(WATCH, asked), MeanModel(), SETTINGS, asked) is None
    store.save(batch(asked, 1.0, model="toy_mean"))  # fields of an older program
    assert warm_states(store.load(WATCH, asked), MeanModel(), SETTINGS, asked) is None


def test_states_of_other_settings_are_no_start(tmp_path: Path) -> None:
    store, asked = opened(tmp_path), labels(2)
    context = ModelContext(granularity_ms=60_000, horizon_steps=3, n_lags=4)
    narrow = build("sgd", {}, context)
    wide = build("sgd", {}, replace(context, n_lags=6))
    y = np.random.default_rng(0).normal(size=(2, 90))
    new = batch(asked, 1.0, model="sgd")
    arrays = to_arrays(narrow.fit(instants(90), y))
    store.save(NewVersions(**{**vars(new), "arrays": arrays}))
    assert warm_states(store.load(WATCH, asked), narrow, SETTINGS, asked) is not None
    assert warm_states(store.load(WATCH, asked), wide, SETTINGS, asked) is None
    assert warm_states(store.load(WATCH, asked), narrow, {"damped": False}, asked) is None


def test_a_finetune_goes_on_from_where_the_stored_version_was_trained(tmp_path: Path) -> None:
    store = opened(tmp_path)
    saved(store, slice(0, 2), 100.0)
    asked = labels(3)
    warm = warm_states(store.load(WATCH, asked), MeanModel(), SETTINGS, asked)
    y = np.zeros((3, 120))
    outcome = train(MeanModel(), instants(120), y, warm, horizon_steps=5, mode=FINETUNE)
    assert isinstance(outcome.state, MeanState)
    assert outcome.state.mean.tolist() == [50.0, 50.5, 0.0]  # the third had none: fitted anew
    assert outcome.holdout.tolist() == [30, 30, 30]
