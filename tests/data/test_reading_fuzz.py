"""Whatever the bytes: a `RecordError`, or exactly what the files say; no other exception, no wrong signal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st
from reading_fixtures import FUZZ, header_text, millivolts, random_adc, wfdb, write_record

from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.data.wfdb.reading import read_digital, read_record
from hf_ecgtext.errors import RecordError

LEADS = ("I", "II", "V1")
ADC = random_adc(3, 20)
HEADER = header_text("r1", ADC, lead_names=LEADS, scale="200.0(-5)/mV", comments=["#Age: 50", "#Dx: 426783006"])
DATA = ADC.T.astype("<i2").tobytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def read_or_refuse(folder: Path, header: bytes | str, data: bytes, *, verify_checksum: bool = True) -> EcgRecord | None:
    """The record, or `None` where the reader refuses it; any other exception fails the test."""
    (folder / "r1.hea").write_bytes(header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header)
    (folder / "r1.dat").write_bytes(data)
    try:
        record = read_record(folder / "r1", verify_checksum=verify_checksum)
    except RecordError:
        return None
    assert record.signal.dtype == np.float32
    assert record.signal.size > 0
    assert not np.isinf(record.signal).any()
    assert 0 < record.sampling_rate_hz < np.inf
    assert len(set(record.lead_names)) == len(record.lead_names) == len(record.signal)
    return record


def expected_from(header: str, data: bytes) -> np.ndarray:
    """The signal by a naive reading of a format-16 header that is known to be well formed."""
    lines = [line.split() for line in header.splitlines() if not line.startswith("#")]
    adc = np.frombuffer(data, "<i2").reshape(-1, int(lines[0][1])).T
    signal = np.empty(adc.shape, np.float32)
    for row, samples, fields in zip(signal, adc, lines[1:], strict=True):
        gain, _, rest = fields[2].partition("(")
        row[:] = millivolts(samples, float(gain) or 200.0, float(rest.partition(")")[0]))
    return signal


def test_the_naive_reading_agrees_on_the_unchanged_record(folder: Path) -> None:
    record = read_or_refuse(folder, HEADER, DATA)
    assert record is not None
    assert np.array_equal(record.signal, expected_from(HEADER, DATA))
    assert np.array_equal(record.signal, millivolts(ADC, 200, -5))


@FUZZ
@given(header=st.binary(max_size=300), data=st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_or_read(folder: Path, header: bytes, data: bytes) -> None:
    read_or_refuse(folder, header, data)


FIELDS = ["r1", "r1.dat", "0", "1", "2", "3", "16", "80", "212", "16+2", "200.0(-5)/mV", "0(0)/uV", "5/V", "/mV", "I"]
FIELDS += ["II", "-", "~", "#", "# a: b", "12:00", "1/1/2000", "1e9", "nan", "500/", "\N{MICRO SIGN}V", "\0", "\t"]
FIELDS += ["\n", "\n", "\n", "\r\n"]


@FUZZ
@given(header=st.lists(st.sampled_from(FIELDS), max_size=40).map(" ".join), data=st.binary(max_size=60))
def test_arbitrary_sequences_of_header_fields_are_refused_or_read(folder: Path, header: str, data: bytes) -> None:
    read_or_refuse(folder, header, data, verify_checksum=False)


# format, whole samples in whole bytes
BLOCKS = {8: (1, 1), 16: (1, 2), 24: (1, 3), 32: (1, 4), 61: (1, 2), 80: (1, 1), 160: (1, 2), 212: (2, 3), 310: (3, 4)}


@pytest.mark.slow
@FUZZ
@given(data=st.data())
def test_a_random_record_in_any_format_equals_wfdb(folder: Path, data: st.DataObject) -> None:
    signal_format = data.draw(st.sampled_from(sorted(BLOCKS)))
    block_samples, block_bytes = BLOCKS[signal_format]
    num_leads = data.draw(st.integers(1, 3))
    num_samples = block_samples * data.draw(st.integers(1, 4))
    num_bytes = num_leads * num_samples // block_samples * block_bytes
    offset = data.draw(st.sampled_from([0, 0, 24]))
    content = data.draw(st.binary(min_size=offset + num_bytes, max_size=offset + num_bytes))
    lines = [f"r1 {num_leads} {data.draw(st.sampled_from(['100', '257.5', '1000/2(3)']))} {num_samples}"]
    for lead in LEADS[:num_leads]:
        gain = data.draw(st.sampled_from(["0", "200", "-3.5(-70000)/mV", "1e3(4)", "4.88", "1000.0(0)/mV"]))
        zero, initial = data.draw(st.integers(-9, 9)), data.draw(st.integers(-9, 9))
        lines.append(f"r1.dat {signal_format}{f'+{offset}' * bool(offset)} {gain} 16 {zero} {initial} 0 0 {lead}")
    record = read_or_refuse(folder, "\n".join(lines), content, verify_checksum=False)
    assert record is not None
    expected = wfdb.rdrecord(str(folder / "r1"))
    assert np.array_equal(record.signal, expected.p_signal.T.astype(np.float32), equal_nan=True)
    assert record.sampling_rate_hz == expected.fs


@FUZZ
@given(
    position=st.integers(0, len(DATA) - 1),
    change=st.one_of(
        st.just(("drop", b"")),
        st.tuples(st.just("insert"), st.binary(min_size=1, max_size=12)),
        st.tuples(st.just("replace"), st.binary(min_size=1, max_size=1)),
    ),
)
def test_a_changed_signal_file_is_refused(folder: Path, position: int, change: tuple[str, bytes]) -> None:
    kind, new = change
    data = DATA[:position] + new + DATA[position + (kind != "insert") :]
    record = read_or_refuse(folder, HEADER, data)
    assert (record is None) == (data != DATA)


@FUZZ
@given(data=st.data())
def test_a_changed_digit_in_the_header_is_refused_or_followed(folder: Path, data: st.DataObject) -> None:
    places = [index for index, character in enumerate(HEADER) if character.isdigit()]
    place = data.draw(st.sampled_from(places))
    header = HEADER[:place] + data.draw(st.sampled_from("0123456789")) + HEADER[place + 1 :]
    record = read_or_refuse(folder, header, DATA)
    if record is not None:
        assert np.array_equal(record.signal, expected_from(header, DATA))
        assert record.sampling_rate_hz == float(header.split()[2])
        assert np.array_equal(read_digital(folder / "r1")[1].to_millivolts(), record.signal)


@FUZZ
@given(data=st.data())
def test_a_header_with_a_character_more_or_less_never_gives_another_signal_silently(
    folder: Path, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(HEADER) - 1))
    new = data.draw(
        st.sampled_from(["", " ", "\n", "x", "1", "/", "(", "-", "+", ":", "#", "\xff", "\0", "\N{DIGIT ONE}"])
    )
    header = HEADER[:place] + new + HEADER[place + (not new) :]
    record = read_or_refuse(folder, header, DATA)
    if record is not None:
        header_now, digital = read_digital(folder / "r1")
        assert np.array_equal(digital.adc, ADC)
        assert np.array_equal(record.signal, digital.to_millivolts())
        for row, lead in zip(record.signal, header_now.leads, strict=True):
            exact = (ADC[header_now.leads.index(lead)] - np.float64(lead.baseline)) / lead.gain_per_mv
            np.testing.assert_allclose(row, exact, rtol=1e-6)


@FUZZ
@given(position=st.floats(0, 1, exclude_max=True), new=st.binary(max_size=4), compress=st.booleans())
def test_a_changed_cpsc2018_file_is_refused_or_read_as_twelve_leads(
    folder: Path, position: float, new: bytes, compress: bool
) -> None:
    path = folder / "A1.mat"
    contents = {"sex": "Male", "age": 52.0, "data": np.zeros((12, 5)) + 0.25}
    scipy.io.savemat(path, {"ECG": contents}, do_compression=compress)
    content = path.read_bytes()
    place = 128 + int(position * (len(content) - 128))  # after the text that makes it a MATLAB 5 file
    path.write_bytes(content[:place] + new + content[place + 1 :])
    try:
        record = read_record(path)
    except RecordError:
        return
    assert record.signal.shape[0] == 12
    assert record.signal.shape[1] > 0
    assert not np.isinf(record.signal).any()


def test_a_record_written_in_place_of_another_is_read_anew(tmp_path: Path) -> None:
    for seed in range(3):
        adc = random_adc(seed=seed)
        assert np.array_equal(read_record(write_record(tmp_path, adc=adc)).signal, millivolts(adc))
