"""Measuring a model: validation losses and baselines."""
