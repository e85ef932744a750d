"""Prompt sets for zero-shot classification, with their sources and licences."""
