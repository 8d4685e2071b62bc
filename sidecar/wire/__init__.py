"""Bytes to arrays and back, pure: what remote read and remote write speak."""
