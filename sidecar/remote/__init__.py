"""Speaking with Prometheus: HTTP, reading, writing, the spool, backoff."""
