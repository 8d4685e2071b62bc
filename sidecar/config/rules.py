"""Rules between settings, on what was written: a setting that cannot be read is skipped here."""

from collections.abc import Mapping
from typing import Any, Final

from sidecar.config import model_choice, values
from sidecar.config.messages import join
from sidecar.duration import format_duration, parse_duration_ms
from sidecar.errors import Problem
from sidecar.models.registry import ModelContext

# Beyond this a horizon is a slip of the pen; a week of minutes is 10,080.
MOST_STEPS: Final = 10_080
# As many lags as that make feature rows of 80 KB.
MOST_LAGS: Final = 10_080


def of_watch(given: Mapping[str, Any]) -> list[Problem]:
    """Problems between the settings of one watch."""
    return [*_source(given), *_times(given), *_thresholds(given), *_model(given), *_steps(given)]


def _source(given: Mapping[str, Any]) -> list[Problem]:
    expr, name, metric = given.get("expr"), given.get("name"), given.get("metric")
    if expr is not None:
        found = [
            Problem(key, f"goes with 'metric' only: write it into the expression {expr!r}")
            for key in ("labels", "matchers")
            if given.get(key)
        ]
        if given.get("transform") in ("rate", "delta"):
            found.append(
                Problem("transform", "goes with 'metric' only: an expression is taken as it is")
            )
        if metric:
            found.append(Problem("metric", "is given beside 'expr', and only one can hold"))
        if name is None:
            found.append(Problem("name", "is missing: 'expr' needs a name for its result"))
        return found
    found = []
    if name is not None:
        found.append(Problem("name", "goes with 'expr' only: take it out"))
    if not metric:
        found.append(Problem("metric", "is missing: write the name of the series to forecast"))
    return found


def _times(given: Mapping[str, Any]) -> list[Problem]:
    granularity, horizon = _ms(given, "granularity"), _ms(given, "horizon")
    lookback, window = _ms(given, "lookback"), _ms(given, "training_window")
    found = []
    if granularity and horizon:
        found += _horizon(given, granularity, horizon)
    if granularity and lookback:
        found += _lookback(given, granularity, lookback)
    if lookback and window and window <= lookback:
        found.append(
            Problem(
                "training_window",
                (
                    f"{given['training_window']!r} is not longer than the lookback of "
                    f"{given['lookback']}: write more, such as '8d', or shorten the lookback"
                ),
            )
        )
    return found


def _lookback(given: Mapping[str, Any], granularity: int, lookback: int) -> list[Problem]:
    least, most = 2 * granularity, MOST_LAGS * granularity
    if least <= lookback <= most:
        return []
    message = (
        f"{given['lookback']!r} is {lookback / granularity:.4g} times the granularity of "
        f"{given['granularity']}: write {format_duration(least)} to {format_duration(most)}"
    )
    return [Problem("lookback", message)]


def _horizon(given: Mapping[str, Any], granularity: int, horizon: int) -> list[Problem]:
    text, step = given["horizon"], given["granularity"]
    if horizon % granularity:
        below, above = (
            horizon // granularity * granularity,
            -(-horizon // granularity) * granularity,
        )
        near = " or ".join(repr(format_duration(ms)) for ms in (below, above) if ms)
        return [
            Problem(
                "horizon",
                (f"{text!r} is not a multiple of the granularity of {step}: write {near}"),
            )
        ]
    if horizon > MOST_STEPS * granularity:
        return [
            Problem(
                "horizon",
                (
                    f"{text!r} is {horizon // granularity} steps of {step}, and at most "
                    f"{MOST_STEPS} are possible: write {format_duration(MOST_STEPS * granularity)} "
                    "or less, or a coarser granularity"
                ),
            )
        ]
    return []


def _ms(given: Mapping[str, Any], name: str) -> int | None:
    try:
        return parse_duration_ms(given[name])
    except (ValueError, TypeError):
        return None


def _thresholds(given: Mapping[str, Any]) -> list[Problem]:
    try:
        finetune, finetune_unit = values.threshold_parts(given["drift_finetune_threshold"])
        retrain, retrain_unit = values.threshold_parts(given["drift_retrain_threshold"])
    except ValueError:
        return []
    if finetune_unit != retrain_unit or finetune <= retrain:
        return []
    return [
        Problem(
            "drift_retrain_threshold",
            (
                f"{given['drift_retrain_threshold']!r} is below drift_finetune_threshold "
                f"({given['drift_finetune_threshold']!r}), so that no finetune would ever happen: "
                "write the larger one here"
            ),
        )
    ]


def _model(given: Mapping[str, Any]) -> list[Problem]:
    if given.get("model") is not None and given.get("model_class") is not None:
        return [
            Problem("model_class", "is given beside 'model', and only one can hold: take one out")
        ]
    choice, context = _choice(given), _context(given)
    params = given.get("model_params")
    if choice is None or context is None or not isinstance(params, Mapping):
        return []
    found = model_choice.params_problems(choice, params, context)
    if found:
        return [Problem(join("model_params", name), message) for name, message in found]
    return _long_enough(given, model_choice.needed_instants(choice, params, context))


def _choice(given: Mapping[str, Any]) -> model_choice.Choice | None:
    """The model that was asked for, None where there is no such model."""
    try:
        if given.get("model_class") is not None:
            return model_choice.check_model_class(given["model_class"])
        if given.get("model") is not None:
            return model_choice.check_model(given["model"])
    except ValueError:
        return None
    return model_choice.default_model()


def _context(given: Mapping[str, Any]) -> ModelContext | None:
    granularity, horizon = _ms(given, "granularity"), _ms(given, "horizon")
    lookback = _ms(given, "lookback")
    if not granularity or not horizon or not lookback:
        return None
    if not granularity <= horizon <= MOST_STEPS * granularity:
        return None
    if not 2 * granularity <= lookback <= MOST_LAGS * granularity:
        return None
    return ModelContext(granularity, horizon // granularity, lookback // granularity)


def _long_enough(given: Mapping[str, Any], needed: int) -> list[Problem]:
    granularity, window = _ms(given, "granularity"), _ms(given, "training_window")
    if not granularity or not window or window >= needed * granularity:
        return []
    return [
        Problem(
            "training_window",
            f"{given['training_window']!r} is {window // granularity} steps of "
            f"{given['granularity']}, but the model needs at least {needed}: write "
            f"{format_duration(needed * granularity)!r} or more",
        )
    ]


def _steps(given: Mapping[str, Any]) -> list[Problem]:
    granularity, horizon = _ms(given, "granularity"), _ms(given, "horizon")
    publish = given.get("publish")
    steps = (
        publish.get("steps") if isinstance(publish, Mapping) else getattr(publish, "steps", None)
    )
    if not granularity or not horizon or steps is None or steps == "auto":
        return []
    try:
        beyond = [
            k
            for k in values.check_steps(steps)
            if isinstance(k, int) and k > horizon // granularity
        ]
    except ValueError:
        return []
    if not beyond:
        return []
    return [
        Problem(
            "publish.steps",
            (
                f"{beyond[0]} is beyond the horizon, which has {horizon // granularity} steps of "
                f"{given['granularity']}: write steps up to that, or a longer horizon"
            ),
        )
    ]
