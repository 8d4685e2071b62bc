"""States made of states: what a model that runs other models has learned.

The parts' fields lie side by side in one dataclass, each with its part's name before it, so that
everything that handles a state (storing, splitting, replacing rows) handles such a one too.

>>> import numpy as np
>>> Pair = composite(State, left=State, right=State)
>>> one = State(np.zeros(2, np.int64), np.ones(2))
>>> both = Pair(one.last_ms, one.sigma, **flat("left", one), **flat("right", one))
>>> part(both, "right", State).sigma.tolist()
[1.0, 1.0]
"""

from collections.abc import Mapping
from dataclasses import fields, make_dataclass
from functools import cache
from typing import Any, TypeVar, cast

from numpy.typing import NDArray

from sidecar.models.contract import State

S = TypeVar("S", bound=State)
O = TypeVar("O", bound=State)  # noqa: E741 - own
Parts = tuple[tuple[str, type[State]], ...]


def composite(own: type[O], **parts: type[State]) -> type[O]:
    """A state type with the fields of ``own`` and, prefixed, those of each of ``parts``.

    The same arguments give the same type.
    """
    return cast(type[O], _composite(cast(Any, own), tuple(parts.items())))


@cache
def _composite(own: type[State], parts: Parts) -> type[State]:
    names = [f"{prefix}_{f.name}" for prefix, type_ in parts for f in fields(type_)]
    return make_dataclass(
        "".join([own.__name__, *[type_.__name__ for _, type_ in parts]]),
        [(name, NDArray[Any]) for name in names],
        bases=(own,),
        namespace={"composed_of": (own, parts), "__reduce__": _reduce},
        frozen=True,
        eq=False,
    )


def part(state: State, prefix: str, state_type: type[S]) -> S:
    """One of the states that ``state`` is made of; its arrays are shared, not copied."""
    return state_type(**{f.name: getattr(state, f"{prefix}_{f.name}") for f in fields(state_type)})


def flat(prefix: str, state: State) -> dict[str, NDArray[Any]]:
    """The fields of a part under the names that they have in the whole."""
    return {f"{prefix}_{f.name}": getattr(state, f.name) for f in fields(state)}


# Types made here cannot be found by name in another process; states carry what makes them.


def _reduce(state: State) -> tuple[Any, ...]:
    return _rebuilt, (_spec(type(state)), {f.name: getattr(state, f.name) for f in fields(state)})


def _spec(state_type: type[State]) -> Any:
    composed = getattr(state_type, "composed_of", None)
    if composed is None:
        return state_type
    own, parts = composed
    return own, [(prefix, _spec(type_)) for prefix, type_ in parts]


def _type_of(spec: Any) -> type[State]:
    if isinstance(spec, type):
        return spec
    own, parts = spec
    return _composite(own, tuple((prefix, _type_of(type_)) for prefix, type_ in parts))


def _rebuilt(spec: Any, arrays: Mapping[str, NDArray[Any]]) -> State:
    return _type_of(spec)(**arrays)
