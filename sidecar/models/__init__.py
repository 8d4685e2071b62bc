"""Forecasting models, one file each, one contract (``contract.py``)."""
