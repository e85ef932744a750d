"""Records too long for the memory: read in pieces, each equal to that part of the whole."""

from __future__ import annotations

import numpy as np
import pytest
from reading_fixtures import random_adc, wfdb, write_record

from hf_ecgtext.data.wfdb import reading, signal
from hf_ecgtext.data.wfdb.reading import LongRecord, open_record, read_record
from hf_ecgtext.errors import RecordError

SPANS = [(0, 10), (7, 30), (30, 31), (0, 100), (95, 100), (12, 12)]


@pytest.fixture
def small_memory(monkeypatch):
    """Pieces of a few samples, and the longest one that was read."""
    monkeypatch.setattr(reading, "_LARGEST_READ_AT_ONCE", 240)  # 20 samples of 12 leads; pieces of 5
    monkeypatch.setattr(signal, "_VALUES_PER_PIECE", 96)
    asked = []
    integers = signal.SignalPieces._integers

    def watched(self, start, stop):
        asked.append(stop - start)
        return integers(self, start, stop)

    monkeypatch.setattr(signal.SignalPieces, "_integers", watched)
    return asked


@pytest.mark.parametrize("options", [{}, {"storage": "16+24", "extension": ".mat"}, {"scale": "200.0(7)/uV"}])
def test_pieces_equal_the_whole(tmp_path, small_memory, options):
    adc = random_adc(num_samples=100)
    adc[3, 40] = -32768
    path = write_record(tmp_path, adc=adc, comments=["#Dx: 426783006"], **options)
    whole = read_record(path)
    long = open_record(path)
    assert isinstance(long, LongRecord)
    assert (long.num_samples, long.sampling_rate_hz, long.lead_names) == (100, 500, whole.lead_names)
    for start, stop in SPANS:
        piece = long.read(start, stop)
        np.testing.assert_array_equal(piece.signal, whole.signal[:, start:stop])
        assert (piece.record_id, piece.labels, piece.comments) == (whole.record_id, whole.labels, whole.comments)
    assert max(small_memory) == 100, "the span that asks for all"


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # of wfdb's writer
@pytest.mark.parametrize("storage", ["212", "24", "80"])
def test_pieces_of_other_formats_equal_the_whole(tmp_path, small_memory, storage):
    values = np.random.default_rng(0).normal(size=(301, 2))
    wfdb.wrsamp("r", fs=250, units=["mV", "mV"], sig_name=["II", "V5"], p_signal=values, fmt=[storage] * 2,
                write_dir=str(tmp_path))  # fmt: skip
    whole, long = read_record(tmp_path / "r"), open_record(tmp_path / "r")
    assert isinstance(long, LongRecord)
    for start, stop in [*SPANS[:-1], (299, 301)]:
        np.testing.assert_array_equal(long.read(start, stop).signal, whole.signal[:, start:stop])


def test_window_after_window_reads_every_sample_about_once_and_never_much(tmp_path, small_memory):
    path = write_record(tmp_path, adc=random_adc(num_samples=1000))
    long = open_record(path)
    assert max(small_memory) == 8, "checksums are verified in pieces"
    assert sum(small_memory) == 1000
    small_memory.clear()
    for start in range(0, 1000, 2):
        long.read(start, start + 2)
    assert max(small_memory) <= 5
    assert sum(small_memory) <= 1300


def test_a_long_record_is_verified_before_any_of_it_is_used(tmp_path, small_memory):
    path = write_record(tmp_path, adc=random_adc(num_samples=100))
    content = bytearray((tmp_path / "r1.dat").read_bytes())
    content[-1] ^= 1
    (tmp_path / "r1.dat").write_bytes(content)
    with pytest.raises(RecordError, match="the samples of lead V6 do not match the header's checksum"):
        open_record(path)
    np.testing.assert_array_equal(
        open_record(path, verify_checksum=False).read(0, 100).signal, read_record(path, verify_checksum=False).signal
    )
    (tmp_path / "r1.dat").write_bytes(content[:-2])
    with pytest.raises(RecordError, match=r"its signal file 'r1.dat' has 2398 bytes"):
        open_record(path)


def test_a_header_without_a_length_is_read_in_pieces_too(tmp_path, small_memory):
    path = write_record(tmp_path, adc=random_adc(num_samples=100), record_line="{name} {num_leads} 500")
    np.testing.assert_array_equal(open_record(path).read(50, 100).signal, read_record(path).signal[:, 50:])


def test_short_records_are_read_at_once(tmp_path):
    path = write_record(tmp_path, adc=random_adc(num_samples=100))
    np.testing.assert_array_equal(open_record(path).signal, read_record(path).signal)


# A path without the file it names never reads another file.


def test_a_signal_file_is_not_read_under_the_name_of_another(tmp_path):
    write_record(tmp_path, "a")
    for name in ("a.mat", "b.dat", "a.csv", "a.txt"):
        with pytest.raises(RecordError, match=r"does not name|no header"):
            read_record(tmp_path / name)
    assert read_record(tmp_path / "a.dat").num_samples == read_record(tmp_path / "a").num_samples


@pytest.mark.parametrize("extension", [".csv", ".xml", ".pdf", ".dcm", ".edf", ".npy"])
def test_a_file_of_another_format_is_answered_with_the_known_ones(tmp_path, extension):
    write_record(tmp_path, "a")
    (tmp_path / f"a{extension}").write_bytes(b"something")
    with pytest.raises(RecordError, match=rf"does not read '{extension}' files\. It reads WFDB records \(\.hea with"):
        read_record(tmp_path / f"a{extension}")
