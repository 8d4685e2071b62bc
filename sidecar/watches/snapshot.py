"""What a watch knows as plain arrays, and back: how it survives a restart.

A snapshot belongs to a recipe (model, settings, grid, transform). Under another recipe it is not
read back: the watch then begins anew, which is what a changed configuration asks for.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidecar.cycle import CycleRules
from sidecar.errors import StoreError
from sidecar.known import Known
from sidecar.learning import drift, trackers
from sidecar.models.contract import ForecastModel, State, from_arrays, to_arrays
from sidecar.models.intervals import Calibration
from sidecar.models.naive import NaiveState
from sidecar.names import Reason
from sidecar.series import LabelSet

FORMAT = 1
_PLAIN = (
    "recent",
    "last_seen_ms",
    "ended",
    "versions",
    "burst",
    "never_negative",
    "serves_naive",
)


def recipe(rules: CycleRules, model: ForecastModel[State]) -> dict[str, Any]:
    """What must be the same for a snapshot or a stored version to make sense again; plain JSON."""
    return {
        "format": FORMAT,
        "granularity_ms": rules.granularity_ms,
        "horizon_steps": rules.horizon_steps,
        "transform": rules.transform,
        "model": model.name,
        "settings": model.recipe,
    }


def pack(
    known: Known, made_by: Mapping[str, Any], wishes: Mapping[str, Any]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and plain JSON that ``unpack`` turns back.

    Args:
        wishes: ``FitWishes.memo``; kept beside the rest, as ``meta["wishes"]``.
    """
    arrays: dict[str, NDArray[Any]] = {name: getattr(known, name) for name in _PLAIN}
    parts: dict[str, dict[str, NDArray[Any]]] = {
        "state": to_arrays(known.state),
        "naive": to_arrays(known.naive),
        "calibration": {f.name: getattr(known.calibration, f.name) for f in fields(Calibration)},
        "tracker": trackers.to_arrays(known.tracker),
        "drift": drift.to_arrays(known.drift),
    }
    for part, named in parts.items():
        arrays |= {f"{part}.{name}": array for name, array in named.items()}
    meta = {
        "recipe": dict(made_by),
        "labels": [list(one.pairs) for one in known.labels],
        "origin_ms": known.origin_ms,
        "wishes": dict(wishes),
        "why_unfitted": [None if why is None else why.value for why in known.why_unfitted],
    }
    return arrays, meta


def unpack(
    arrays: Mapping[str, NDArray[Any]],
    meta: Mapping[str, Any],
    model: ForecastModel[State],
    made_by: Mapping[str, Any],
) -> Known | None:
    """What ``pack`` was given; None where the recipe is another one now.

    Raises:
        StoreError: not what this version of the program packs.
    """
    if meta.get("recipe") != dict(made_by):
        return None
    try:
        known = _known(arrays, meta, model)
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(f"a snapshot cannot be read: {error}") from error
    n = len(known.labels)
    lengths = {len(array) for array in (known.recent, known.state.sigma, known.naive.sigma)}
    if lengths != {n} or known.tracker.size != n or len(known.why_unfitted) != n:
        raise StoreError(f"a snapshot of {n} series holds arrays of other lengths")
    return known


def _known(
    arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any], model: ForecastModel[State]
) -> Known:
    def part(name: str) -> dict[str, NDArray[Any]]:
        prefix = f"{name}."
        return {
            key.removeprefix(prefix): array
            for key, array in arrays.items()
            if key.startswith(prefix)
        }

    plain: dict[str, Any] = {name: arrays[name] for name in _PLAIN}
    return Known(
        labels=tuple(
            LabelSet(tuple((str(name), str(value)) for name, value in pairs))
            for pairs in meta["labels"]
        ),
        origin_ms=int(meta["origin_ms"]),
        why_unfitted=tuple(None if why is None else Reason(why) for why in meta["why_unfitted"]),
        state=from_arrays(model.state_type, part("state")),
        naive=from_arrays(NaiveState, part("naive")),
        calibration=Calibration(**{k: np.asarray(v) for k, v in part("calibration").items()}),
        tracker=trackers.from_arrays(part("tracker")),
        drift=drift.from_arrays(part("drift")),
        **plain,
    )
