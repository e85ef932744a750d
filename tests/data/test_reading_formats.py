"""The other WFDB formats, and real recordings, against the `wfdb` package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
from reading_fixtures import random_adc, wfdb, write_record

from hf_ecgtext.data.wfdb.reading import read_digital, read_record
from hf_ecgtext.errors import RecordError

BYTES_OF_15_SAMPLES = {8: 15, 24: 45, 32: 60, 61: 30, 80: 15, 160: 30, 212: 23, 310: 20, 311: 20}


def write_bytes(
    folder: Path, signal_format: int, data: bytes, checksums: list[int], num_samples: int | str = 5
) -> Path:
    lines = [f"r {len(checksums)} 500 {num_samples}"]
    lines += [f"r.dat {signal_format} 40.5(3)/mV 16 0 7 {value} 0 V{i}" for i, value in enumerate(checksums)]
    (folder / "r.hea").write_text("\n".join(lines))
    (folder / "r.dat").write_bytes(data)
    return folder / "r"


@pytest.mark.parametrize("num_samples", [5, ""])
@pytest.mark.parametrize("signal_format", sorted(BYTES_OF_15_SAMPLES))
def test_other_formats_equal_wfdb(tmp_path: Path, signal_format: int, num_samples: int | str) -> None:
    data = np.random.default_rng(signal_format).bytes(BYTES_OF_15_SAMPLES[signal_format])
    path = write_bytes(tmp_path, signal_format, data, [0, 0, 0], num_samples)
    expected = wfdb.rdrecord(str(path)).p_signal.T.astype(np.float32)
    assert expected.shape == (3, 5)
    record = read_record(path, verify_checksum=False)
    assert np.array_equal(record.signal, expected, equal_nan=True)
    with pytest.raises(RecordError, match=f"format {signal_format}, not 16"):
        read_digital(path)


def pack_212(samples: np.ndarray) -> bytes:
    """Pairs of 12-bit samples in three bytes: low byte, two high nibbles, low byte."""
    first, second = (samples.reshape(-1, 2) & 0xFFF).T
    return np.stack([first & 0xFF, (second >> 8 << 4) | (first >> 8), second & 0xFF], axis=1).astype(np.uint8).tobytes()


@pytest.mark.parametrize(
    ("signal_format", "lowest", "encode"),
    [
        (32, -(2**31), lambda samples: samples.astype("<i4").tobytes()),
        (80, -(2**7), lambda samples: (samples + 128).astype(np.uint8).tobytes()),
        (160, -(2**15), lambda samples: (samples + 32768).astype("<u2").tobytes()),
        (212, -(2**11), pack_212),
    ],
)
def test_other_formats_have_closed_values_and_checksums(
    tmp_path: Path, signal_format: int, lowest: int, encode
) -> None:
    adc = np.random.default_rng(0).integers(lowest + 1, -lowest, (2, 30))
    adc[1, 4] = lowest
    path = write_bytes(tmp_path, signal_format, encode(adc.T.reshape(-1)), adc.sum(axis=1).tolist(), 30)
    expected = (adc - 3) / 40.5
    expected[1, 4] = np.nan
    assert np.array_equal(read_record(path).signal, expected.astype(np.float32), equal_nan=True)

    adc[0, 0] += 1
    path.with_suffix(".dat").write_bytes(encode(adc.T.reshape(-1)))
    with pytest.raises(RecordError, match="lead V0 do not match the header's checksum"):
        read_record(path)


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"\0\0"])
@pytest.mark.parametrize("signal_format", sorted(BYTES_OF_15_SAMPLES))
def test_other_formats_must_have_the_length_of_the_header(tmp_path: Path, signal_format: int, change) -> None:
    data = change(bytes(BYTES_OF_15_SAMPLES[signal_format]))
    with pytest.raises(RecordError, match="bytes; 3 leads of 5 samples"):
        read_record(write_bytes(tmp_path, signal_format, data, [0, 0, 0]), verify_checksum=False)


def test_files_of_two_formats_equal_wfdb(tmp_path: Path) -> None:
    adc = random_adc(2, 20)
    (tmp_path / "a.dat").write_bytes(adc.T.astype("<i2").tobytes())
    (tmp_path / "b.dat").write_bytes(bytes(range(20)))
    lines = [
        "r 3 500 20",
        *(f"a.dat 16 100/mV 16 0 0 {int(row.sum())} 0 A{i}" for i, row in enumerate(adc.astype(int))),
    ]
    (tmp_path / "r.hea").write_text("\n".join([*lines, f"b.dat 80 10/uV 8 0 0 {sum(range(20)) - 128 * 20} 0 B"]))
    expected = wfdb.rdrecord(str(tmp_path / "r")).p_signal.T
    signal = read_record(tmp_path / "r").signal
    assert np.array_equal(signal[:2], expected[:2].astype(np.float32))
    np.testing.assert_allclose(signal[2], expected[2] / 1000, rtol=1e-7, equal_nan=True)


def test_a_header_that_only_wfdb_misreads_is_refused_for_other_formats(tmp_path: Path) -> None:
    path = write_bytes(tmp_path, 80, bytes(15), [0, 0, 0])
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace("r 3", "r.mat 3", 1))
    with pytest.raises(RecordError, match="wfdb package cannot read it"):
        read_record(path)


def sample_of_real_records(folder: Path) -> list[Path]:
    """One record in 60 of each collection."""
    collections = ["ptb-xl/records100", "ptb-xl/records500", "csn/WFDBRecords"]
    collections += [f"cinc2021/training/{part}" for part in ("cpsc_2018", "cpsc_2018_extra", "ptb", "ptb-xl")]
    collections += ["cinc2021/training/chapman_shaoxing", "cinc2021/training/ningbo"]
    return [header for part in collections for header in sorted((folder / part).rglob("*.hea"))[::60]]


def test_real_records_equal_wfdb(real_data: Path) -> None:
    headers = sample_of_real_records(real_data)
    assert len(headers) > 40
    for header in headers:
        record = read_record(header)
        expected = wfdb.rdrecord(str(header.with_suffix("")))
        assert np.array_equal(record.signal, expected.p_signal.T.astype(np.float32), equal_nan=True), header
        assert record.lead_names == tuple(expected.sig_name)
        assert record.sampling_rate_hz == expected.fs
        assert record.comments == tuple(expected.comments)


def test_real_stored_integers_equal_wfdb(real_data: Path) -> None:
    for header in sample_of_real_records(real_data)[::4]:
        parsed, digital = read_digital(header)
        expected = wfdb.rdrecord(str(header.with_suffix("")), physical=False)
        assert np.array_equal(digital.adc, expected.d_signal.T), header
        assert digital.gain_per_mv.tolist() == expected.adc_gain
        assert digital.baseline.tolist() == expected.baseline
        assert [lead.initial_value for lead in parsed.leads] == expected.init_value


def test_a_real_challenge_record_has_its_diagnoses(real_data: Path) -> None:
    record = read_record(real_data / "cinc2021/training/cpsc_2018/g1/A0001.mat")
    assert record.labels == ("59118001",)
    assert record.attributes == {"age": 74.0, "sex": "Male", "base_date": "2020-05-12", "base_time": "12:33:59"}
    assert record.signal.shape == (12, 7500)


def test_a_real_header_in_the_spelling_of_2020_gives_the_same_record(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "cinc2021/training/cpsc_2018/g1/A0001"
    header = source.with_suffix(".hea").read_text()
    (tmp_path / "A0001.hea").write_text(header.replace("A0001 12", "A0001.mat 12", 1))
    (tmp_path / "A0001.mat").symlink_to(source.with_suffix(".mat"))
    assert np.array_equal(read_record(tmp_path / "A0001").signal, read_record(source).signal)


def test_real_cpsc2018_files_are_read_in_millivolts(real_data: Path) -> None:
    lengths = {}
    for path in sorted((real_data / "cpsc2018/TrainingSet").glob("*.mat")):
        record = read_record(path)
        lengths[record.record_id] = record.num_samples
        fields = scipy.io.loadmat(path)["ECG"][0, 0]
        assert np.array_equal(record.signal, fields["data"].astype(np.float32))
        assert record.attributes == {"age": float(fields["age"].item()), "sex": fields["sex"].item()}
        assert 0.5 < np.nanmax(np.abs(record.signal)) < 10  # an R wave, whatever the record
        lead_i, lead_ii, lead_iii = record.signal[:3]
        assert np.abs(lead_i + lead_iii - lead_ii).max() < 0.1
    assert lengths == {"A1980": 5000, "A1981": 7950, "A1982": 5000, "A1983": 7500, "A1984": 9500}


def test_the_checksum_covers_the_whole_real_file(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "ptb-xl/records500/00000/00001_hr"
    data = bytearray(source.with_suffix(".dat").read_bytes())
    data[-1] ^= 1
    (tmp_path / "00001_hr.hea").write_bytes(source.with_suffix(".hea").read_bytes())
    (tmp_path / "00001_hr.dat").write_bytes(data)
    with pytest.raises(RecordError, match="lead V6 do not match"):
        read_record(tmp_path / "00001_hr")


def test_the_fixture_writer_agrees_with_wfdb(tmp_path: Path) -> None:
    adc = random_adc()
    path = write_record(tmp_path, adc=adc)
    assert np.array_equal(wfdb.rdrecord(str(path), physical=False).d_signal.T, adc)
