"""The demo: a real Prometheus, a load generator and the sidecar, on loopback, for a look at it all.

``deploy/demo`` starts it. Reading order: ``__main__`` (what happens), ``generator`` (the signals),
``history``, ``processes``; the plot is ``sidecar.plot``.
"""
