"""PTB-XL: the source, its labels and its reports."""

from hf_ecgtext.data.sources.ptb_xl.cached import SOURCE, open_data

__all__ = ["SOURCE", "open_data"]
