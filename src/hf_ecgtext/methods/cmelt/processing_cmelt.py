"""C-MELT's processor: the shared one; docs/methods/cmelt.md says which of its settings the paper uses."""

from hf_ecgtext.processing import EcgTextProcessor


class CmeltProcessor(EcgTextProcessor):
    """Prepares ECGs (500 Hz, 10 s, not scaled) and reports (at most 254 tokens) for [`CmeltModel`]."""
