"""PromQL that nobody thought of, over the world of ``query_world``: as hypothesis strategies.

Only what the evaluator covers past now; types are right, matching and labels need not be.
"""

from hypothesis import strategies as st

from tests.integration.query_expressions import NOW, ODD, E

_METRICS = st.sampled_from(
    [E, f"{E}_upper", f"{E}_lower", "demo_load", "demo_temperature", "demo_info", ODD]
)
_MATCHERS = st.sampled_from(
    [
        "",
        "",
        '{instance="a"}',
        '{instance=~"a|b"}',
        '{instance!="a"}',
        '{instance="new"}',
        '{instance="gone"}',
        '{zone=""}',
        '{instance=~".+",job="api"}',
    ]
)
_SELECTORS = st.one_of(
    st.builds("{}{}".format, _METRICS, _MATCHERS),
    st.sampled_from([E, f'{{__name__=~"{E}.*"}}', '{job="api"}']),
)
_OFFSETS = st.sampled_from(["", "", *(f" offset {one}" for one in ("5m", "-10m", "-1h", "-90s"))])
_AT = st.sampled_from(
    ["", "", "", " @ end()", " @ start()", f" @ {NOW:.0f}", f" @ {NOW + 600:.0f}"]
)
_RANGES = st.sampled_from(["1m", "61s", "5m", "10m", "1h"])
_NUMBERS = st.sampled_from(["0", "1", "2", "0.5", "-3", "15", "20", "NaN", "Inf", "time()"])

_OVER_TIME = ["sum", "avg", "min", "max", "count", "stddev", "stdvar", "last", "present", "absent"]
_AGGREGATIONS = ["sum", "avg", "min", "max", "count", "group", "stddev", "stdvar"]
_GROUPINGS = ["", "by (instance)", "without (instance)", "by (instance, zone)", "by (__name__)"]
_ELEMENTWISE = ["abs", "ceil", "floor", "round", "sgn", "exp", "sqrt", "ln", "absent"]
_ELEMENTWISE += ["sort", "hour", "minute", "day_of_week", "-"]
_ARITHMETIC = ["+", "-", "*", "/", "%", "^", "atan2"]
_COMPARISONS = [">", "<", ">=", "<=", "==", "!=", "> bool", "<= bool"]
_MATCHING = ["", "on (instance)", "on (job, instance)", "ignoring (zone)"]
_GROUPED = ["on (instance) group_left ()", "on (instance) group_right ()", "on () group_left ()"]
_GROUPED += ["on (instance) group_left (version)"]
_SET_MATCHING = [*_MATCHING, "on ()", "ignoring (instance)"]

_WINDOWS = st.builds("{}[{}]{}{}".format, _SELECTORS, _RANGES, _OFFSETS, _AT)
_LEAVES = st.one_of(
    st.builds("{}{}{}".format, _SELECTORS, _OFFSETS, _AT),
    st.builds("{}_over_time({})".format, st.sampled_from(_OVER_TIME), _WINDOWS),
    st.builds("quantile_over_time({}, {})".format, st.sampled_from(["0.5", "0.9", "0"]), _WINDOWS),
    st.builds("vector({})".format, _NUMBERS),
)


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Expressions with ``inner`` ones in them."""
    scalars = st.one_of(_NUMBERS, st.builds("scalar({})".format, inner))
    between = st.builds(
        "{} {}".format, st.sampled_from([*_ARITHMETIC, *_COMPARISONS]), st.sampled_from(_MATCHING)
    )
    grouped = st.builds("{} {}".format, st.sampled_from(["+", "*", ">"]), st.sampled_from(_GROUPED))
    sets = st.builds(
        "{} {}".format, st.sampled_from(["and", "or", "unless"]), st.sampled_from(_SET_MATCHING)
    )
    with_number = st.sampled_from([*_ARITHMETIC, *_COMPARISONS])
    return st.one_of(
        st.builds(
            "{} {} ({})".format, st.sampled_from(_AGGREGATIONS), st.sampled_from(_GROUPINGS), inner
        ),
        # Of equals any may be chosen, so only from those that are never equal.
        st.builds("topk({}, {}{})".format, st.sampled_from(["1", "2"]), st.just(E), _OFFSETS),
        st.builds("quantile({}, {})".format, st.sampled_from(["0.5", "1"]), inner),
        st.builds('count_values("v", {}{}{})'.format, _SELECTORS, _OFFSETS, _AT),
        st.builds("{}({})".format, st.sampled_from(_ELEMENTWISE), inner),
        st.builds("clamp({}, {}, {})".format, inner, scalars, scalars),
        st.builds("round({}, {})".format, inner, _NUMBERS),
        st.builds("({} {} {})".format, inner, with_number, scalars),
        st.builds("({} {} {})".format, scalars, with_number, inner),
        st.builds("({} {} {})".format, inner, st.one_of(between, grouped, sets), inner),
    )


EXPRESSIONS = st.recursive(_LEAVES, _grown, max_leaves=5)
