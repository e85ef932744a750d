"""Figures from result lines and predictions."""
