"""Protocols, metrics with confidence intervals, prompts and results."""
