"""Which model a watch asked for, by name, by class, or not at all; and whether it can be built."""

import importlib
import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias

from sidecar.models.contract import BaseModel, ForecastModel
from sidecar.models.registry import (
    ALIASES,
    MODEL_NAMES,
    ModelContext,
    accepted_settings,
    build,
    model_type,
    validate_params,
)

Choice: TypeAlias = str | type[Any]


def default_model() -> str:
    """The model of a watch that names none."""
    return "auto" if "auto" in MODEL_NAMES else "exponential_smoothing"


def check_model(value: object) -> str:
    """A model's name, an alias replaced by what it stands for.

    Raises:
        ValueError: there is no such model.
    """
    name = str(value)
    known = (*MODEL_NAMES, *ALIASES)
    if name not in known:
        near = get_close_matches(name.lower(), known, n=1)
        meant = f", did you mean {near[0]!r}?" if near else f": there are {', '.join(known)}"
        raise ValueError(f"{value!r} is not a model{meant}")
    return ALIASES.get(name, name)


def check_model_class(value: object) -> Choice:
    """A class of one's own; the name of a built-in model where it is one of these.

    Accepts a class, ``package.module:Class``, and the name of a built-in model or of its class.

    Raises:
        ValueError: no such class, or one that is no model.
    """
    built_in = {model_type(name).__name__: name for name in MODEL_NAMES}
    if isinstance(value, str) and ":" not in value:
        if value in built_in:
            return built_in[value]
        if value in MODEL_NAMES or value in ALIASES:
            return check_model(value)
        near = get_close_matches(value, built_in, n=1)
        meant = f", or did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"{value!r} is not a class: write your own as 'package.module:Class', and the name of "
            f"a built-in model under 'model'{meant}"
        )
    chosen = _imported(value) if isinstance(value, str) else value
    if not inspect.isclass(chosen) or not issubclass(chosen, BaseModel | ForecastModel):
        raise ValueError(f"{value!r} is not a model: write a subclass of sidecar.BaseModel")
    if inspect.isabstract(chosen):
        missing = ", ".join(sorted(chosen.__abstractmethods__))
        raise ValueError(f"{chosen.__name__!r} is not finished: it lacks {missing}")
    name = built_in.get(chosen.__name__)
    return name if name is not None and model_type(name) is chosen else chosen


def _imported(name: str) -> object:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # noqa: BLE001 - a user's module may raise anything; it is shown
        raise ValueError(
            f"{name!r} cannot be imported ({type(error).__name__}: {error}): write "
            "'package.module:Class' and see that the package is installed beside Sentinel"
        ) from None


def name_of(choice: Choice) -> str:
    """What a model is called in logs, labels and the identity of a watch."""
    return choice if isinstance(choice, str) else f"{choice.__module__}:{choice.__qualname__}"


def params_problems(
    choice: Choice, params: Mapping[str, Any], context: ModelContext
) -> list[tuple[str, str]]:
    """What is wrong with the settings of a model: the setting (or nothing) and the message."""
    if not isinstance(choice, str):
        return [_by_setting(text, params) for text in _build_problems(choice, params, context)]
    names = accepted_settings(model_type(choice))
    unknown = [name for name in params if names and name not in names]
    known = {name: value for name, value in params.items() if name not in unknown}
    texts = validate_params(choice, known) or _build_problems(choice, known, context)
    found = [(name, _no_such_setting(choice, name, names)) for name in unknown]
    return found + [_by_setting(text, params) for text in texts]


def _build_problems(choice: Choice, params: Mapping[str, Any], context: ModelContext) -> list[str]:
    try:
        build(choice, params, context)
    except ValueError as error:
        return str(error).splitlines()
    return []


def _no_such_setting(model: str, name: str, names: tuple[str, ...]) -> str:
    near = get_close_matches(name, names, n=1)
    meant = f", did you mean {near[0]!r}?" if near else f": it has {', '.join(names)}"
    return f"{model} has no setting {name!r}{meant}"


def _by_setting(text: str, params: Mapping[str, Any]) -> tuple[str, str]:
    name, colon, message = text.partition(": ")
    return (name, message) if colon and name in params else ("", text)


def needed_instants(choice: Choice, params: Mapping[str, Any], context: ModelContext) -> int:
    """How many instants the model needs before it can be fitted; its settings must be right."""
    return build(choice, params, context).min_instants
