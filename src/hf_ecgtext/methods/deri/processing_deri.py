"""DERI's processor: the shared one; docs/methods/deri.md says which of its settings the paper uses."""

from hf_ecgtext.processing import EcgTextProcessor


class DeriProcessor(EcgTextProcessor):
    """Prepares ECGs (500 Hz, 10 s, scaled to [0, 1] per record) and reports for [`DeriModel`].

    Its `max_length` must not exceed the config's `max_text_tokens`; [`DeriModel`] refuses longer reports.
    """
