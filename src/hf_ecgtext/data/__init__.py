"""Records, their sources and their stored form."""

from hf_ecgtext.data.reading import read_digital, read_record
from hf_ecgtext.data.records import DigitalEcg, EcgRecord

__all__ = ["DigitalEcg", "EcgRecord", "read_digital", "read_record"]
