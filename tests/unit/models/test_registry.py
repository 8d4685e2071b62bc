from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

from sidecar.models.auto import AutoModel
from sidecar.models.contract import ForecastModel
from sidecar.models.holt import ExponentialSmoothingModel
from sidecar.models.lags import LagsModel
from sidecar.models.naive import NaiveModel, NaiveState, SeasonalNaiveModel
from sidecar.models.registry import (
    ALIASES,
    MODEL_NAMES,
    ModelContext,
    build,
    describe,
    model_type,
    validate_params,
)
from sidecar.models.seasonal import SeasonalModel
from sidecar.models.sgd import SGDRegressorModel

CONTEXT = ModelContext(granularity_ms=15_000, horizon_steps=8, n_lags=20, timezone="Asia/Tokyo")


def base_of(model: ForecastModel[Any]) -> ForecastModel[Any]:
    assert isinstance(model, SeasonalModel)
    base: ForecastModel[Any] = model.base
    return base


def test_the_names_that_are_promised_are_there() -> None:
    promised = {"linear", "exponential_smoothing", "arima", "sgd", "naive", "seasonal_naive"}
    assert promised | {"lags", "zscore", "auto"} == set(MODEL_NAMES)
    assert ALIASES["holt"] == "exponential_smoothing"
    assert model_type("holt") is ExponentialSmoothingModel


@pytest.mark.parametrize("name", [*MODEL_NAMES, *ALIASES])
def test_every_model_can_be_built_from_its_name_alone(name: str) -> None:
    model = build(name, {}, CONTEXT)
    assert model.name == ALIASES.get(name, name)
    assert validate_params(name, {}) == []


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_model_documents_itself(name: str) -> None:
    text = describe(name)
    assert "Settings:" in text
    assert len(text) > 400


def test_what_the_watch_knows_reaches_the_models_that_ask_for_it() -> None:
    model = build("sgd", {}, CONTEXT)
    sgd = base_of(model)
    assert isinstance(sgd, SGDRegressorModel)
    assert (sgd.settings.n_lags, sgd.settings.timezone) == (20, "Asia/Tokyo")
    assert (model.settings.granularity_ms, model.settings.horizon_steps) == (15_000, 8)
    auto = base_of(build("auto", {}, CONTEXT))
    assert isinstance(auto, AutoModel)
    assert auto.settings.horizon_steps == 8
    naive = build("seasonal_naive", {}, CONTEXT)
    assert isinstance(naive, SeasonalNaiveModel)
    assert naive.settings.timezone == "Asia/Tokyo"


def test_what_the_user_sets_comes_before_what_the_watch_knows() -> None:
    model = build("sgd", {"n_lags": 5, "timezone": "UTC", "season": "12h"}, CONTEXT)
    assert base_of(model).settings.n_lags == 5
    assert (model.settings.timezone, model.settings.season) == ("UTC", "12h")


def test_a_class_of_ours_is_as_good_as_its_name() -> None:
    assert isinstance(base_of(build(LagsModel, {"order": 3}, CONTEXT)), LagsModel)


@dataclass(frozen=True)
class OwnSettings:
    horizon_steps: int = 1
    depth: int = 2


class Own(NaiveModel):
    """A batched model of a user's own."""

    name: ClassVar[str] = "own"
    settings_type: ClassVar[type[Any]] = OwnSettings
    state_type = NaiveState

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.own = OwnSettings(**settings)


def test_a_users_batched_model_is_built_as_it_is() -> None:
    model = build(Own, {"depth": 7}, CONTEXT)
    assert isinstance(model, Own)
    assert model.own == OwnSettings(horizon_steps=8, depth=7)


def test_an_unknown_model_is_named_with_the_nearest_there_is() -> None:
    with pytest.raises(ValueError, match=r"'linera' is not a model, did you mean 'linear'\?"):
        build("linera", {}, CONTEXT)
    with pytest.raises(ValueError, match="neither a model's name nor a class"):
        build(dict, {}, CONTEXT)


def test_every_wrong_setting_is_named_at_once_with_what_was_meant() -> None:
    found = validate_params("sgd", {"lerning_rate": 0.1, "l2": -1, "n_lags": "x", "colour": 1})
    assert found[0].startswith(
        "lerning_rate: sgd has no such setting, did you mean 'learning_rate'"
    )
    assert found[1].startswith("colour: sgd has no such setting; it has n_lags, learning_rate,")
    assert [line.partition(":")[0] for line in found[2:]] == ["n_lags", "l2"]


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("auto", {"season": "monthly"}, "'monthly' is not a duration"),
        ("auto", {"timezone": "Moon"}, "timezone: 'Moon' is not a time zone"),
        ("naive", {"season": "1d"}, "season: naive has no such setting"),
        ("arima", {"p": -1}, "p"),
        ("holt", {"damped": "yes"}, "damped"),
        ("lags", {"means": "24"}, "means: '24' is not a list of whole numbers from 2 on"),
        ("nothing", {}, "'nothing' is not a model"),
    ],
)
def test_a_wrong_setting_says_what_to_write(
    name: str, params: dict[str, object], message: str
) -> None:
    found = validate_params(name, params)
    assert len(found) == 1
    assert message in found[0]


def test_building_with_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="orders: lags has no such setting, did you mean 'order'"):
        build("lags", {"orders": 3}, CONTEXT)


def test_a_model_that_looks_back_has_another_recipe_with_another_lookback() -> None:
    short = replace(CONTEXT, n_lags=10)
    assert build("sgd", {}, CONTEXT).recipe == build("sgd", {}, CONTEXT).recipe
    assert build("sgd", {}, CONTEXT).recipe != build("sgd", {}, short).recipe


def test_every_setting_is_part_of_the_recipe() -> None:
    plain = build("holt", {}, CONTEXT).recipe
    for setting in ({"damped": False}, {"season": "none"}):
        assert build("holt", setting, CONTEXT).recipe != plain
