"""ETP's processor: the shared one; docs/methods/etp.md says which of its settings are our reading."""

from hf_ecgtext.processing import EcgTextProcessor


class EtpProcessor(EcgTextProcessor):
    """Prepares ECGs and reports for [`EtpModel`]."""
