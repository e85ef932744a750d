"""PTB-XL: the source, its labels and its reports."""

from hf_ecgtext.data.sources.ptb_xl.source import SOURCE

__all__ = ["SOURCE"]
