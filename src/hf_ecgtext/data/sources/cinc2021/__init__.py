"""PhysioNet/CinC Challenge 2021: the source, its datasets, classes and the identification task."""

from hf_ecgtext.data.sources.cinc2021.source import SOURCE

__all__ = ["SOURCE"]
