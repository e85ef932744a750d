"""CG-DMER's processor: the shared one; docs/methods/cgdmer.md says which of its settings are our reading."""

from hf_ecgtext.processing import EcgTextProcessor


class CgdmerProcessor(EcgTextProcessor):
    """Prepares ECGs and reports for [`CgdmerModel`]."""
