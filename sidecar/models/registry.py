"""Models by name, and what a watch tells each of them.

A setting that is named like a field of ``ModelContext`` is filled from the watch unless the user
sets it, so a model asks for what it needs by declaring it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from inspect import Parameter, signature
from typing import Any, Final

from sidecar.models.contract import BaseModel, ForecastModel
from sidecar.models.custom import CustomModel
from sidecar.models.linear import LinearTrendModel
from sidecar.models.naive import NaiveModel
from sidecar.models.sgd import SGDRegressorModel

_MODELS: Final[dict[str, type[ForecastModel[Any]]]] = {
    model.name: model for model in (LinearTrendModel, SGDRegressorModel, NaiveModel)
}
ALIASES: Final = {"holt": "exponential_smoothing"}
MODEL_NAMES: Final = tuple(_MODELS)


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
        raise ValueError(f"{model!r} is neither a model's name nor a class derived from BaseModel")  # noqa: TRY004 - configuration
    problems = _unknown(chosen, params)
    if problems:
        raise ValueError("\n".join(problems))
    accepted = setting_names(chosen)
    given = {k: v for k, v in context_of(context).items() if accepted is None or k in accepted}
    return chosen(**{**(given if accepted else {}), **params})


def validate_params(name: str, params: Mapping[str, object]) -> list[str]:
    """What is wrong with the settings ``params`` of the model ``name``, one line each."""
    try:
        model = model_type(name)
    except ValueError as error:
        return [str(error)]
    problems = _unknown(model, params)
    good = {key: value for key, value in params.items() if not _is_unknown(model, key)}
    try:
        build(model, good, ModelContext(granularity_ms=60_000, horizon_steps=5, n_lags=30))
    except ValueError as error:
        problems += str(error).splitlines()
    return problems


def context_of(context: ModelContext) -> dict[str, Any]:
    """The context as settings by name."""
    return {f.name: getattr(context, f.name) for f in fields(context)}


def setting_names(model: type[Any]) -> tuple[str, ...] | None:
    """What a model's constructor takes; None where it takes anything."""
    settings = getattr(model, "settings_type", None)
    if is_dataclass(settings):
        return tuple(f.name for f in fields(settings))
    parameters = list(signature(model).parameters.values())
    if any(one.kind is Parameter.VAR_KEYWORD for one in parameters):
        return None
    return tuple(one.name for one in parameters)


def _is_unknown(model: type[Any], name: str) -> bool:
    accepted = setting_names(model)
    return accepted is not None and name not in accepted


def _unknown(model: type[Any], params: Mapping[str, object]) -> list[str]:
    names = [*(setting_names(model) or ())]
    return [
        f"{name}: {model.name} has no such setting{_meant(name, names)}; it has {', '.join(names)}"
        for name in params
        if _is_unknown(model, name)
    ]


def _meant(name: str, names: list[str]) -> str:
    near = get_close_matches(name, names, n=1)
    return f", did you mean {near[0]!r}?" if near else ""
