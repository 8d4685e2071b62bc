"""PromQL over the forecasts: parse, find what needs them, ask the upstream for the rest, evaluate.

Reading order: ``syntax`` (the tree), ``parse``, ``split`` (from which step on a query needs the
forecasts), ``fetch`` (what the upstream is asked for), ``evaluate`` with ``windows``,
``aggregate``, ``binary`` and ``functions``, and ``engine``, which puts it all together.

Everything but ``engine`` is pure: arrays in, arrays out, no clock, no socket.
"""
