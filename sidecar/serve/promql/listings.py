"""Names, label values, series and metadata: the upstream's with ours among them.

Pure, for a thread: lists may be long.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Final, TypeVar

from sidecar import names
from sidecar.series import LabelSet
from sidecar.serve.promql.answering import TRUNCATED
from sidecar.serve.promql.cursor import Cursor, Garbage, decoded
from sidecar.serve.promql.replies import read_data
from sidecar.serve.promql.writing import PIECE_BYTES, in_pieces, metric_text

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


def help_text(metric: str) -> str:
    """HELP of a metric that we emit.

    >>> help_text("up_sentinel_expected_lower")
    'Lower bound of what up should be.'
    """
    for suffix, text in _HELP.items():
        if metric.endswith(suffix):
            return text.format(metric=metric.removesuffix(suffix))
    return "A forecast."


def with_strings(
    body: bytes | None, own: Sequence[str], limit: int, warning: str = ""
) -> list[bytes]:
    """A list of strings, sorted, each once.

    Args:
        body: the upstream's answer; None where there is none.
        own: sorted.
        limit: at most so many, 0 = all.
        warning: to go with it, unless empty.

    Raises:
        Garbage
    """
    theirs, rest = _read(body, _list, list[Any]())
    found = [*(str(one) for one in theirs), *own]
    found.sort()  # two runs that are in order: quick, however long
    texts = (json.dumps(one, ensure_ascii=False) for one in dict.fromkeys(found))
    return _list_of(texts, limit, rest, warning)


def with_series(
    body: bytes | None, own: Sequence[LabelSet], limit: int, warning: str = ""
) -> list[bytes]:
    """A list of label sets, sorted, each once."""
    theirs, rest = _read(body, _list, list[Any]())
    try:
        every = {LabelSet.of(one) for one in theirs}.union(own)
    except (TypeError, ValueError) as error:
        raise Garbage(f"not a list of series: {error}") from None
    return _list_of((metric_text(one) for one in sorted(every)), limit, rest, warning)


def with_metadata(
    body: bytes | None, own: Sequence[str], limit: int | None, warning: str = ""
) -> list[bytes]:
    """Metadata by metric; ours are gauges, and added only where the upstream knows nothing."""
    theirs, rest = _read(body, _object, dict[str, Any]())
    added = {
        metric: [{"type": "gauge", "help": help_text(metric), "unit": ""}]
        for metric in own
        if not theirs.get(metric)
    }
    merged = {**theirs, **added}
    texts = (f"{_dump(metric)}:{_dump(about)}" for metric, about in islice(merged.items(), limit))
    return _around("{", texts, "}", rest, [warning] if warning else [])


def with_warning(body: bytes, warning: str) -> list[bytes]:
    """An answer to a query with one more warning, its data as they are.

    Raises:
        Garbage
    """

    def data(cursor: Cursor) -> tuple[int, int]:
        cursor.peek()
        begin = cursor.at
        read_data(cursor)
        return begin, cursor.at

    text = decoded(body)
    (begin, end), rest = _read(text, data, (0, 0))
    parts = (text[at : min(at + PIECE_BYTES, end)] for at in range(begin, end, PIECE_BYTES))
    return _around("", parts, "", rest, [warning], between="")


T = TypeVar("T")


def _read(
    body: bytes | str | None, read: Callable[[Cursor], T], nothing: T
) -> tuple[T, dict[str, Any]]:
    """``data`` as ``read`` takes it, and the other members; null and no answer are ``nothing``."""
    if body is None:
        return nothing, {}
    data, rest = nothing, dict[str, Any]()
    try:
        cursor = Cursor(body if isinstance(body, str) else decoded(body))
        for key in cursor.members():
            # Prometheus 2 writes null for an empty list.
            if key == "data" and cursor.peek() != "n":
                rest[key], data = None, read(cursor)
            else:
                rest[key] = cursor.value()
    except (ValueError, TypeError, RecursionError) as error:
        raise Garbage(f"not an answer: {error}") from None
    if "data" not in rest:
        raise Garbage("an answer without data")
    return data, {key: value for key, value in rest.items() if key not in ("status", "data")}


def _list(cursor: Cursor) -> list[Any]:
    return [cursor.value() for _ in cursor.elements()]


def _object(cursor: Cursor) -> dict[str, Any]:
    return {key: cursor.value() for key in cursor.members()}


def _list_of(
    texts: Iterable[str], limit: int, rest: Mapping[str, Any], warning: str
) -> list[bytes]:
    every = list(texts)
    warnings = [warning] if warning else []
    if 0 < limit < len(every):
        warnings.append(TRUNCATED)
        del every[limit:]
    return _around("[", every, "]", rest, warnings)


def _around(
    begin: str,
    texts: Iterable[str],
    end: str,
    rest: Mapping[str, Any],
    warnings: Sequence[str],
    between: str = ",",
) -> list[bytes]:
    """The whole answer: ``data`` of ``texts``, what else was in the upstream's, and warnings."""
    notes = list(dict.fromkeys([*(rest.get("warnings") or ()), *warnings]))
    others = {**rest, **({"warnings": notes} if notes else {})}
    last = "".join(f",{_dump(key)}:{_dump(value)}" for key, value in others.items())
    parts = (f"{between if number else ''}{text}" for number, text in enumerate(texts))
    return in_pieces(chain(('{"status":"success","data":', begin), parts, (end, last, "}")))


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
