"""Sentinel: a forecasting sidecar for Prometheus."""
