"""Metrics of texts: pure functions. experiments/analysis/metrics.py lists them."""
