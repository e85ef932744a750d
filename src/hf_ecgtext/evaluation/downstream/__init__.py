"""The evaluations: zero-shot, linear probe, retrieval, distribution shift, identification."""
