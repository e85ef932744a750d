"""CG-DMER's processor: the shared one; PAPERS.md says which of its settings are our reading."""

from hf_ecgtext.processing import EcgTextProcessor


class CgdmerProcessor(EcgTextProcessor):
    """Prepares ECGs and reports for [`CgdmerModel`]."""
