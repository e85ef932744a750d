"""Records, their sources and their stored form."""

from hf_ecgtext.data.records import DigitalEcg, EcgRecord
from hf_ecgtext.data.wfdb.reading import read_digital, read_record

__all__ = ["DigitalEcg", "EcgRecord", "read_digital", "read_record"]
