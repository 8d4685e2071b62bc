"""Why a PromQL expression gives nothing, or is refused. Pure."""

import json
from collections.abc import Collection
from difflib import get_close_matches

from sidecar.errors import RemoteError
from sidecar.serve.promql.frames import QueryError
from sidecar.serve.promql.parse import Unparsable, parse
from sidecar.serve.promql.syntax import metric_of, selectors


def why_nothing(expr: str, known_names: Collection[str]) -> str:
    """What to say of an expression without a result now.

    Args:
        known_names: metrics on the server.
    """
    try:
        names = sorted({one for part in selectors(parse(expr)) if (one := metric_of(part))})
    except (Unparsable, QueryError):
        names = []
    unknown = [name for name in names if name not in known_names]
    if not unknown:
        return (
            f"the expression {expr!r} gives nothing now: ask the server for it, part by part; a "
            "comparison or a label that no series has leaves nothing over"
        )
    near = get_close_matches(unknown[0], known_names, n=3)
    meant = f", did you mean {' or '.join(near)}?" if near else ": is it scraped already?"
    named = ", ".join(repr(name) for name in unknown)
    return f"the expression gives nothing: the server knows no series called {named}{meant}"


def refused(expr: str, error: RemoteError) -> str:
    """The server's own words about an expression that it does not take, where it said any.

    >>> from sidecar.errors import Rejected
    >>> refused("sum(", Rejected("400", body='{"error": "1:5: parse error: unclosed"}'))
    "the server refuses the expression 'sum(': 1:5: parse error: unclosed"
    """
    try:
        said = json.loads(getattr(error, "body", ""))["error"]
    except (ValueError, KeyError, TypeError):
        return str(error)
    return f"the server refuses the expression {expr!r}: {said}"
