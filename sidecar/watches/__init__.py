"""The life of the watches around the cycle: how each begins, goes on, learns and takes orders.

From the top: ``fleet`` (all of them), ``watching`` (one), ``beginning`` (its first minute),
``wishes`` and ``trainer`` (what is fitted, why, and what becomes of it), ``snapshot`` and
``resume`` (how it survives a restart), ``operating`` (what an operator may order).
"""
