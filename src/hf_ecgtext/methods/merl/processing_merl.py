"""MERL's processor: the shared one; docs/methods/merl.md says which of its settings the paper uses."""

from hf_ecgtext.processing import EcgTextProcessor


class MerlProcessor(EcgTextProcessor):
    """Prepares ECGs (500 Hz, 10 s, scaled to [0, 1] per record) and reports (at most 256 tokens) for [`MerlModel`]."""
