"""Residuals and drift, schedule, workers, promotion gate, version store."""
