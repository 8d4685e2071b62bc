"""Names, label values, series and metadata: the upstream's with ours among them.

Pure, for a thread: lists may be long.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sidecar import names
from sidecar.series import LabelSet
from sidecar.serve.promql.answering import TRUNCATED
from sidecar.serve.promql.replies import Garbage

_HELP: Final = {
    names.EXPECTED: "What {metric} should be at this instant, as forecast one step before; "
    "past now: the newest forecast.",
    names.EXPECTED + names.LOWER: "Lower bound of what {metric} should be.",
    names.EXPECTED + names.UPPER: "Upper bound of what {metric} should be.",
    names.PREDICTED: "What {metric} will be sentinel_step instants later.",
    names.PREDICTED + names.LOWER: "Lower bound of the prediction of {metric}.",
    names.PREDICTED + names.UPPER: "Upper bound of the prediction of {metric}.",
    names.ACTUAL: "What the model of {metric} saw at this instant.",
    names.ANOMALY_SCORE: "0 at the expected value of {metric}, 1 at its bound, above 1 outside.",
    names.MODEL_INFO: "Which model and version serve forecasts of {metric}.",
}

Listing = Callable[[Any], Any]


def help_text(metric: str) -> str:
    """HELP of a metric that we emit.

    >>> help_text("up_sentinel_expected_lower")
    'Lower bound of what up should be.'
    """
    for suffix, text in _HELP.items():
        if metric.endswith(suffix):
            return text.format(metric=metric.removesuffix(suffix))
    return "A forecast."


def with_strings(body: bytes | None, own: Sequence[str], limit: int) -> tuple[bytes, bool]:
    """A list of strings, sorted, each once.

    Args:
        body: the upstream's answer; None where there is none.
        limit: at most so many, 0 = all.

    Returns:
        The answer's JSON without warnings of ours, and whether it was cut.

    Raises:
        Garbage
    """
    answer = _read(body, list)
    found = sorted({*(str(one) for one in answer["data"]), *own})
    return _cut(answer, found, limit)


def with_series(body: bytes | None, own: Sequence[LabelSet], limit: int) -> tuple[bytes, bool]:
    """A list of label sets, sorted, each once."""
    answer = _read(body, list)
    try:
        theirs = {LabelSet.of(one) for one in answer["data"]}
    except (TypeError, ValueError) as error:
        raise Garbage(f"not a list of series: {error}") from None
    found = [dict(one.pairs) for one in sorted(theirs.union(own))]
    return _cut(answer, found, limit)


def with_metadata(body: bytes | None, own: Sequence[str], limit: int | None) -> bytes:
    """Metadata by metric; ours are gauges, and added only where the upstream knows nothing."""
    answer = _read(body, dict)
    data: Mapping[str, Any] = answer["data"]
    added = {
        metric: [{"type": "gauge", "help": help_text(metric), "unit": ""}]
        for metric in own
        if not data.get(metric)
    }
    merged = {**data, **added}
    if limit is not None and len(merged) > limit:
        merged = dict(list(merged.items())[:limit])
    return _dump({**answer, "data": merged})


def with_warning(body: bytes, warning: str) -> bytes:
    """An answer with one more warning.

    Raises:
        Garbage
    """
    try:
        answer = json.loads(body)
        answer["warnings"] = [*(answer.get("warnings") or []), warning]
    except (ValueError, TypeError, RecursionError, AttributeError) as error:
        raise Garbage(f"not an answer: {error}") from None
    return _dump(answer)


def _read(body: bytes | None, kind: type) -> dict[str, Any]:
    if body is None:
        return {"status": "success", "data": kind()}
    try:
        answer = json.loads(body)
        # Prometheus 2 writes null for an empty list.
        data = kind() if answer["data"] is None else answer["data"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Garbage(f"not an answer: {error}") from None
    if not isinstance(data, kind):
        raise Garbage(f"an answer whose data is no {kind.__name__}")
    return {**answer, "data": data}


def _cut(answer: dict[str, Any], found: list[Any], limit: int) -> tuple[bytes, bool]:
    cut = 0 < limit < len(found)
    warnings = list(answer.get("warnings") or [])
    if cut and TRUNCATED not in warnings:
        warnings.append(TRUNCATED)
    notes = {"warnings": warnings} if warnings else {}
    return _dump({**answer, "data": found[:limit] if cut else found, **notes}), cut


def _dump(answer: Mapping[str, Any]) -> bytes:
    text = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")
