"""CSN (Chapman-Shaoxing-Ningbo): the source and its label sets."""

from hf_ecgtext.data.sources.csn.source import SOURCE

__all__ = ["SOURCE"]
