"""Which model a watch asked for, by name, by class, or not at all."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, Final

from sidecar.models.contract import BaseModel, ForecastModel

MODEL_NAMES: Final = ("linear", "exponential_smoothing", "arima", "sgd")
_ALIASES: Final = {"holt": "exponential_smoothing"}
# The class names that users of sentinel-mlops write.
_CLASS_NAMES: Final = {
    "LinearTrendModel": "linear",
    "ExponentialSmoothingModel": "exponential_smoothing",
    "ARIMAModel": "arima",
    "SGDRegressorModel": "sgd",
}


def default_model() -> str:
    return "auto" if "auto" in MODEL_NAMES else "exponential_smoothing"


def check_model(value: object) -> str:
    """A model's name as configured.

    Raises:
        ValueError: there is no such model.
    """
    name = str(value)
    if name not in MODEL_NAMES and name not in _ALIASES:
        raise ValueError(
            f"{value!r} is not a model: write one of {', '.join((*MODEL_NAMES, *_ALIASES))}"
        )
    return _ALIASES.get(name, name)


def check_model_class(value: object) -> str | type[Any]:
    """A class, or the name of one: of a built-in model, or ``package.module:Class``.

    Raises:
        ValueError: no such class, or one that is no model.
    """
    if isinstance(value, str):
        if value in _CLASS_NAMES:
            return _CLASS_NAMES[value]
        if ":" not in value:
            try:
                return check_model(value)
            except ValueError:
                raise ValueError(
                    f"{value!r} is not a model: write a class as 'package.module:Class', or one "
                    f"of {', '.join(_CLASS_NAMES)}"
                ) from None
        value = _imported(value)
    if not inspect.isclass(value) or not issubclass(value, BaseModel | ForecastModel):
        raise ValueError(f"{value!r} is not a model: write a subclass of sidecar.BaseModel")
    if inspect.isabstract(value):
        missing = ", ".join(sorted(value.__abstractmethods__))
        raise ValueError(f"{value.__name__!r} is not finished: it lacks {missing}")
    return value


def _imported(name: str) -> object:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{name!r} cannot be imported ({error}): write 'package.module:Class' and see that "
            "the package is installed beside Sentinel"
        ) from None


def name_of(choice: str | type[Any]) -> str:
    """What a model is called in logs, labels and the identity of a watch."""
    return choice if isinstance(choice, str) else f"{choice.__module__}:{choice.__qualname__}"


def params_problems(choice: str | type[Any], params: Mapping[str, Any]) -> list[str]:
    """What is wrong with the settings of a model."""
    del choice, params
    return []
