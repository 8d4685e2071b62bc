"""Models by name, and what a watch tells each of them.

A setting that is named like a field of ``ModelContext`` is filled from the watch unless the user
sets it, so a model asks for what it needs by declaring it.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from inspect import Parameter, getdoc, signature
from typing import Any, Final

from sidecar.models.arima import ARIMAModel
from sidecar.models.auto import AutoModel
from sidecar.models.contract import BaseModel, ForecastModel
from sidecar.models.custom import CustomModel
from sidecar.models.holt import ExponentialSmoothingModel
from sidecar.models.lags import LagsModel
from sidecar.models.linear import LinearTrendModel
from sidecar.models.naive import NaiveModel, SeasonalNaiveModel
from sidecar.models.seasonal import SeasonalModel
from sidecar.models.sgd import SGDRegressorModel
from sidecar.models.zscore import ZScoreModel

_MODELS: Final[dict[str, type[ForecastModel[Any]]]] = {
    model.name: model
    for model in (
        LinearTrendModel,
        ExponentialSmoothingModel,
        ARIMAModel,
        SGDRegressorModel,
        LagsModel,
        NaiveModel,
        SeasonalNaiveModel,
        ZScoreModel,
        AutoModel,
    )
}
# Models that run behind a seasonal profile: all but the yardsticks and the plain detector.
_FRONTED: Final = frozenset({*_MODELS.values()} - {NaiveModel, SeasonalNaiveModel, ZScoreModel})
_FRONT_SETTINGS: Final = ("season", "timezone")
ALIASES: Final = {"holt": "exponential_smoothing"}
MODEL_NAMES: Final = tuple(_MODELS)
PROFILE: Final = "seasonal"  # by this name ``describe`` knows the profile


@dataclass(frozen=True, slots=True)
class ModelContext:
    """What a watch knows that a model may need.

    Attributes:
        granularity_ms: between two instants.
        horizon_steps: how many instants ahead will be asked for.
        n_lags: lookback / granularity.
        timezone: whose clock days and weeks follow.
    """

    granularity_ms: int
    horizon_steps: int
    n_lags: int
    timezone: str = "UTC"


def model_type(name: str) -> type[ForecastModel[Any]]:
    """The class of a model by its name or an alias of it.

    Raises:
        ValueError: there is none, with the nearest that there is.
    """
    known = ALIASES.get(name, name)
    if known not in _MODELS:
        names = [*MODEL_NAMES, *ALIASES]
        raise ValueError(f"{name!r} is not a model{_meant(name, names)}; write one of {names}")
    return _MODELS[known]


def build(
    model: str | type[Any], params: Mapping[str, object], context: ModelContext
) -> ForecastModel[Any]:
    """A model ready to fit.

    Args:
        model: a name of ``MODEL_NAMES`` or an alias, a ``ForecastModel`` class, or a user's own
            ``BaseModel`` class.
        params: its settings; for a user's own class further keywords of its constructor.

    Raises:
        ValueError: an unknown name, an unknown setting, a value that a setting does not take; one
            line for each problem.
    """
    if isinstance(model, type) and issubclass(model, BaseModel):
        return CustomModel(model, params, context_of(context))
    chosen = model_type(model) if isinstance(model, str) else model
    if not issubclass(chosen, ForecastModel):
        raise ValueError(f"{model!r} is neither a model's name nor a class derived from BaseModel")
    problems = _unknown(chosen, params)
    if problems:
        raise ValueError("\n".join(problems))
    base = chosen(**_settings(setting_names(chosen), params, context))
    if chosen not in _FRONTED:
        return base
    return SeasonalModel(base, **_settings(setting_names(SeasonalModel), params, context))


def validate_params(name: str, params: Mapping[str, object]) -> list[str]:
    """What is wrong with the settings ``params`` of the model ``name``, one line each."""
    try:
        model = model_type(name)
    except ValueError as error:
        return [str(error)]
    problems = _unknown(model, params)
    good = {key: value for key, value in params.items() if key in accepted_settings(model)}
    try:
        build(model, good, ModelContext(granularity_ms=60_000, horizon_steps=5, n_lags=30))
    except (ValueError, TypeError) as error:
        problems += str(error).splitlines()
    return problems


def describe(name: str) -> str:
    """What the model says of itself: when to take it, how it works, its settings, its figures.

    ``PROFILE`` is what stands in front of all but the simplest.

    Raises:
        ValueError: there is no such model.
    """
    model = SeasonalModel if name == PROFILE else model_type(name)
    return getdoc(sys.modules[model.__module__]) or ""


def summary(name: str) -> str:
    """What the model is, in one line: the beginning of ``describe``, or what its class says where
    that speaks of several models.

    >>> summary("naive")
    'the newest value, for ever'
    """
    words = _first_sentence(describe(name))
    named, colon, rest = words.partition(": ")
    if not colon or not named.startswith("``"):
        return words
    if " and ``" not in named:
        return rest
    own = _first_sentence(getdoc(model_type(name)) or "")
    return own[:1].lower() + own[1:]


def _first_sentence(text: str) -> str:
    first, _, _ = text.partition("\n\n")
    return " ".join(first.split()).rstrip(".")


def defaults(name: str) -> dict[str, object]:
    """The settings of a model and what they are where they are not set; for those that the watch
    fills in (``ModelContext``) what a watch that sets nothing has.

    Raises:
        ValueError: there is no such model.
    """
    model = SeasonalModel if name == PROFILE else model_type(name)
    found = _defaults(model)
    return found | {
        one: _defaults(SeasonalModel)[one] for one in accepted_settings(model) if one not in found
    }


def is_fronted(name: str) -> bool:
    """Whether the profile stands in front of the model."""
    return model_type(name) in _FRONTED


def _defaults(model: type[Any]) -> dict[str, object]:
    settings = getattr(model, "settings_type", None)
    if is_dataclass(settings):
        return {f.name: f.default for f in fields(settings)}
    return {name: signature(model).parameters[name].default for name in setting_names(model)}


def context_of(context: ModelContext) -> dict[str, Any]:
    """The context as settings by name."""
    return {f.name: getattr(context, f.name) for f in fields(context)}


def setting_names(model: type[Any]) -> tuple[str, ...]:
    """What a model's constructor takes, as its settings or its signature say."""
    settings = getattr(model, "settings_type", None)
    if is_dataclass(settings):
        return tuple(f.name for f in fields(settings))
    return tuple(
        one.name
        for one in signature(model).parameters.values()
        if one.kind in (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    )


def accepted_settings(model: type[Any]) -> tuple[str, ...]:
    """What a user may set: the model's settings, and those of the profile in front of it."""
    front = _FRONT_SETTINGS if model in _FRONTED else ()
    return tuple(dict.fromkeys((*setting_names(model), *front)))


def _settings(
    names: tuple[str, ...], params: Mapping[str, object], context: ModelContext
) -> dict[str, Any]:
    """Of the settings ``names`` those that are given: by the user, or else by the watch."""
    given = {**context_of(context), **params}
    return {name: given[name] for name in names if name in given}


def _unknown(model: type[Any], params: Mapping[str, object]) -> list[str]:
    names = [*accepted_settings(model)]
    return [
        f"{name}: {model.name} has no such setting{_meant(name, names)}; it has {', '.join(names)}"
        for name in params
        if name not in names
    ]


def _meant(name: str, names: list[str]) -> str:
    near = get_close_matches(name, names, n=1)
    return f", did you mean {near[0]!r}?" if near else ""
