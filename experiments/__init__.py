"""Experiments: one module per claim, run as `python -m experiments.NAME`."""
