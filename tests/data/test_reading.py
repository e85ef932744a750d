from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from reading_fixtures import millivolts, random_adc, write_record

from hf_ecgtext.data.wfdb.reading import read_digital, read_record
from hf_ecgtext.errors import RecordError
from hf_ecgtext.leads import STANDARD_LEADS


def test_a_format_16_record_is_adc_minus_baseline_over_gain(tmp_path: Path) -> None:
    adc = random_adc(limit=32767)
    record = read_record(write_record(tmp_path, adc=adc, scale="1000.0(0)/mV"))
    assert record.signal.dtype == np.float32
    assert record.signal.shape == (12, 50)
    assert record.signal.flags.c_contiguous
    assert np.array_equal(record.signal, millivolts(adc))
    assert record.lead_names == STANDARD_LEADS
    assert record.sampling_rate_hz == 500.0
    assert record.record_id == "r1"
    assert record.report is None
    assert record.patient_id is None


@pytest.mark.parametrize("extension", ["", ".hea", ".dat"])
@pytest.mark.parametrize("convert", [str, Path])
def test_a_record_is_named_with_or_without_extension_as_text_or_path(tmp_path: Path, extension: str, convert) -> None:
    adc = random_adc()
    path = convert(str(write_record(tmp_path, "a.b", adc)) + extension)
    record = read_record(path)
    assert record.record_id == "a.b"
    assert np.array_equal(record.signal, millivolts(adc))


def test_a_record_is_found_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert read_record("r1").record_id == "r1"


@pytest.mark.parametrize("path_extension", ["", ".mat", ".hea"])
def test_a_mat_signal_file_is_read_from_its_byte_offset(tmp_path: Path, path_extension: str) -> None:
    adc = random_adc()
    path = write_record(tmp_path, "A0001", adc, storage="16+24", extension=".mat")
    assert np.array_equal(read_record(f"{path}{path_extension}").signal, millivolts(adc))


def test_a_long_record_is_read_whole(tmp_path: Path) -> None:
    adc = random_adc(2, 20_000, limit=32767)
    assert np.array_equal(read_digital(write_record(tmp_path, adc=adc))[1].adc, adc)


def test_the_stored_integers_come_back_without_loss(tmp_path: Path) -> None:
    adc = random_adc(limit=32767)
    adc[3, 7] = -32768
    header, digital = read_digital(write_record(tmp_path, adc=adc, scale="200.5(-12)/mV"))
    assert np.array_equal(digital.adc, adc)
    assert digital.adc.dtype == np.int16
    assert digital.adc.flags.c_contiguous
    assert digital.gain_per_mv.tolist() == [200.5] * 12
    assert digital.baseline.tolist() == [-12] * 12
    assert digital.baseline.dtype == np.int32
    assert header.num_samples == 50
    record = read_record(tmp_path / "r1")
    assert np.array_equal(record.signal, digital.to_millivolts(), equal_nan=True)
    assert np.array_equal(record.signal, millivolts(adc, 200.5, -12), equal_nan=True)


def test_an_invalid_sample_is_nan(tmp_path: Path) -> None:
    adc = random_adc()
    adc[3, 7] = -32768
    assert np.argwhere(np.isnan(read_record(write_record(tmp_path, adc=adc)).signal)).tolist() == [[3, 7]]


def test_format_16_is_read_without_the_wfdb_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_record(tmp_path)
    monkeypatch.setitem(sys.modules, "wfdb", None)  # importing it would raise
    assert read_record(path).num_samples == 50
    assert read_digital(path)[1].adc.shape == (12, 50)


@pytest.mark.parametrize(
    ("scale", "gain_per_mv", "baseline"),
    [
        ("1000/mV", 1000, 0),
        ("1000/mv", 1000, 0),
        ("2.5(3)/uV", 2500, 3),
        ("2.5/\N{MICRO SIGN}V", 2500, 0),
        ("2.5/\N{GREEK SMALL LETTER MU}V", 2500, 0),
        ("0.001/nV", 1000, 0),
        ("1e6/V", 1000, 0),
        ("400", 400, 0),
        ("400(-7)", 400, -7),
        ("0", 200, 0),
        ("0(5)/mV", 200, 5),
        ("-1000/mV", -1000, 0),
    ],
)
def test_every_unit_becomes_millivolts(tmp_path: Path, scale: str, gain_per_mv: float, baseline: int) -> None:
    adc = random_adc()
    record = read_record(write_record(tmp_path, adc=adc, scale=scale))
    np.testing.assert_allclose(record.signal, millivolts(adc, gain_per_mv, baseline), rtol=1e-7)


def test_a_latin_1_header_with_micro_sign_is_understood(tmp_path: Path) -> None:
    path = write_record(
        tmp_path, scale="1/\N{MICRO SIGN}V", comments=["# Ort: M\N{LATIN SMALL LETTER U WITH DIAERESIS}nchen"]
    )
    header = path.with_suffix(".hea")
    header.write_bytes(header.read_text("utf-8").encode("latin-1"))
    record = read_record(path)
    assert np.array_equal(record.signal, millivolts(random_adc()))
    assert record.comments == ("Ort: M\N{LATIN SMALL LETTER U WITH DIAERESIS}nchen",)


def test_two_signal_files_are_read_in_header_order(tmp_path: Path) -> None:
    adc = random_adc(5)
    (tmp_path / "a.dat").write_bytes(adc[:2].T.astype("<i2").tobytes())
    (tmp_path / "b.dat").write_bytes(bytes(6) + adc[2:].T.astype("<i2").tobytes())
    lines = ["r1 5 500 50"]
    lines += [f"a.dat 16 100/mV 16 0 0 {int(row.sum())} 0 V{i}" for i, row in enumerate(adc[:2].astype(int))]
    lines += [f"b.dat 16+6 100/mV 16 0 0 {int(row.sum())} 0 W{i}" for i, row in enumerate(adc[2:].astype(int))]
    (tmp_path / "r1.hea").write_text("\n".join(lines))
    assert np.array_equal(read_record(tmp_path / "r1").signal, millivolts(adc, 100))


def test_the_length_comes_from_the_file_where_the_header_gives_none(tmp_path: Path) -> None:
    adc = random_adc()
    for record_line in ("{name} {num_leads}", "{name} {num_leads} 500", "{name} {num_leads} 500 0"):
        assert np.array_equal(
            read_record(write_record(tmp_path, adc=adc, record_line=record_line)).signal, millivolts(adc)
        )


def test_comments_become_labels_patient_and_attributes(tmp_path: Path) -> None:
    comments = [
        "#Age: 85",
        "#Sex: Male",
        "# Dx: 164889003, 59118001,164889003",
        "#Rx: Unknown",
        "# <subject_id>: 10000032",
    ]
    record = read_record(write_record(tmp_path, comments=[*comments, "# no key here", "#Height: 1,70 m"]))
    assert record.labels == ("164889003", "59118001")
    assert record.patient_id == "10000032"
    assert record.attributes == {"age": 85.0, "sex": "Male", "height": "1,70 m"}
    assert record.comments[0] == "Age: 85"
    assert record.comments[5] == "no key here"


def test_several_bracketed_keys_may_share_a_comment(tmp_path: Path) -> None:
    record = read_record(write_record(tmp_path, comments=["# <age>: 63 <sex>: M <diagnoses>: (none)"]))
    assert record.attributes == {"age": 63.0, "sex": "M", "diagnoses": "(none)"}


@pytest.mark.parametrize("age", ["NaN", "Unknown", "> 89", "inf", ""])
def test_an_age_that_is_no_number_is_left_out(tmp_path: Path, age: str) -> None:
    record = read_record(write_record(tmp_path, comments=[f"#Age: {age}", "#Dx: Unknown"]))
    assert record.attributes == {}
    assert record.labels == ()


def test_date_and_time_of_the_recording_are_attributes(tmp_path: Path) -> None:
    line = "{name}.mat {num_leads} 500 {num_samples} 12-May-2020 12:33:59"
    record = read_record(write_record(tmp_path, record_line=line, storage="16+24", extension=".mat"))
    assert record.attributes == {"base_date": "2020-05-12", "base_time": "12:33:59"}


# --- bad input ---------------------------------------------------------------------------------------------------


def expect_error(path: object, match: str) -> RecordError:
    with pytest.raises(RecordError, match=match) as caught:
        read_record(path)  # type: ignore[arg-type]
    assert caught.value.fix
    with pytest.raises(RecordError, match=match):
        read_digital(path)  # type: ignore[arg-type]
    return caught.value


def test_a_missing_record_is_named(tmp_path: Path) -> None:
    error = expect_error(tmp_path / "nothing", "no header")
    assert error.record == str(tmp_path / "nothing")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301


def test_a_path_with_a_nul_character_is_refused() -> None:
    expect_error("a\0b", "no header")


def test_a_folder_is_no_record(tmp_path: Path) -> None:
    expect_error(tmp_path, "it is a folder")


def test_a_signal_file_without_header_is_refused(tmp_path: Path) -> None:
    write_record(tmp_path, "A1", storage="16+24", extension=".mat")
    (tmp_path / "A1.hea").unlink()
    expect_error(tmp_path / "A1.mat", "no header")


def test_a_missing_signal_file_is_named(tmp_path: Path) -> None:
    path = write_record(tmp_path)
    path.with_suffix(".dat").unlink()
    expect_error(path, r"signal file 'r1\.dat' cannot be opened")


def test_a_signal_file_that_is_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    path = write_record(tmp_path)
    path.with_suffix(".dat").unlink()
    os.mkfifo(path.with_suffix(".dat"))
    expect_error(path, "is not a file")


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b[:-24], lambda b: b + b"\0", lambda b: b + b[:24]])
def test_a_signal_file_of_another_length_is_refused(tmp_path: Path, change) -> None:
    path = write_record(tmp_path)
    data = path.with_suffix(".dat").read_bytes()
    path.with_suffix(".dat").write_bytes(change(data))
    expect_error(path, "need 1200")


def test_an_empty_signal_file_is_refused(tmp_path: Path) -> None:
    path = write_record(tmp_path, record_line="{name} {num_leads} 500")
    path.with_suffix(".dat").write_bytes(b"")
    expect_error(path, "holds no samples")


def test_a_file_that_is_no_multiple_of_the_leads_is_refused_where_the_header_gives_no_length(tmp_path: Path) -> None:
    path = write_record(tmp_path, record_line="{name} {num_leads} 500")
    path.with_suffix(".dat").write_bytes(path.with_suffix(".dat").read_bytes() + b"\0\0")
    expect_error(path, "need 1200")


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..", ".", "sub/r1.dat", "..\\r1.dat", "c:r1.dat", "file://r1.dat"]
)
def test_a_signal_file_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    path = write_record(tmp_path)
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace("r1.dat", name))
    expect_error(path, "may lie outside the record's folder")


@pytest.mark.parametrize("name", ["~", "-"])
def test_a_lead_without_signal_file_is_refused(tmp_path: Path, name: str) -> None:
    path = write_record(tmp_path)
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace("r1.dat", name))
    expect_error(path, "lead I has no signal file")


@pytest.mark.parametrize("storage", ["16x2", "16:3", "16x0"])
def test_skewed_and_faster_leads_are_refused(tmp_path: Path, storage: str) -> None:
    expect_error(write_record(tmp_path, storage=storage), "samples per frame and a skew")


@pytest.mark.parametrize("storage", ["516", "17", "0"])
def test_an_unknown_format_is_refused(tmp_path: Path, storage: str) -> None:
    with pytest.raises(RecordError, match=f"WFDB format {storage}, which this reader does not know"):
        read_record(write_record(tmp_path, storage=storage))


def test_one_file_in_two_layouts_is_refused(tmp_path: Path) -> None:
    path = write_record(tmp_path)
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace("r1.dat 16 ", "r1.dat 16+2 ", 1))
    expect_error(path, "groups of different layout")


def test_a_changed_sample_fails_the_checksum_unless_that_is_switched_off(tmp_path: Path) -> None:
    adc = random_adc()
    path = write_record(tmp_path, adc=adc)
    adc[4, 9] ^= 1
    path.with_suffix(".dat").write_bytes(adc.T.astype("<i2").tobytes())
    error = expect_error(path, "lead aVL do not match the header's checksum")
    assert "verify_checksum=False" in error.fix
    assert np.array_equal(read_record(path, verify_checksum=False).signal, millivolts(adc))
    assert np.array_equal(read_digital(path, verify_checksum=False)[1].adc, adc)


def test_samples_under_another_number_of_leads_fail_the_checksum(tmp_path: Path) -> None:
    path = write_record(tmp_path, adc=random_adc(12, 50))
    lines = path.with_suffix(".hea").read_text().splitlines()
    path.with_suffix(".hea").write_text("\n".join(["r1 6 500 100", *lines[1:7]]))
    expect_error(path, "checksum")


# --- CPSC2018's own files ----------------------------------------------------------------------------------------


def write_cpsc(path: Path, **fields: object) -> Path:
    defaults = {"sex": "Female", "age": 48.0, "data": np.random.default_rng(0).normal(size=(12, 40))}
    scipy.io.savemat(path, {"ECG": {**defaults, **fields}}, do_compression=True)
    return path


@pytest.mark.parametrize("extension", ["", ".mat"])
def test_a_cpsc2018_file_has_millivolts_age_and_sex(tmp_path: Path, extension: str) -> None:
    data = np.random.default_rng(1).normal(size=(12, 70))
    write_cpsc(tmp_path / "A0001.mat", data=data)
    record = read_record(f"{tmp_path}/A0001{extension}")
    assert np.array_equal(record.signal, data.astype(np.float32))
    assert record.signal.flags.c_contiguous
    assert record.record_id == "A0001"
    assert record.sampling_rate_hz == 500.0
    assert record.lead_names == STANDARD_LEADS
    assert record.attributes == {"age": 48.0, "sex": "Female"}


def test_an_unknown_age_in_a_cpsc2018_file_is_left_out(tmp_path: Path) -> None:
    assert read_record(write_cpsc(tmp_path / "A1.mat", age=np.nan, sex="")).attributes == {}


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (np.zeros((11, 40)), r"shape \(11, 40\)"),
        (np.zeros((12, 0)), r"shape \(12, 0\)"),
        (np.zeros((40, 12)), r"shape \(40, 12\)"),
        (np.full((12, 40), np.inf), "cannot be mV"),
        (np.full((12, 40), 1e300), "cannot be mV"),
        (np.full((12, 40), 1j), "holds no real numbers"),
        ("text", "holds no real numbers"),
    ],
)
def test_a_cpsc2018_file_with_other_data_is_refused(tmp_path: Path, data: object, match: str) -> None:
    with pytest.raises(RecordError, match=match):
        read_record(write_cpsc(tmp_path / "A1.mat", data=data))


def test_a_matlab_file_of_something_else_is_refused(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "x.mat", {"val": np.zeros((12, 40))})
    with pytest.raises(RecordError, match="no struct 'ECG'"):
        read_record(tmp_path / "x.mat")
    scipy.io.savemat(tmp_path / "y.mat", {"ECG": np.zeros((12, 40))})
    with pytest.raises(RecordError, match="no struct 'ECG'"):
        read_record(tmp_path / "y")


def test_a_truncated_cpsc2018_file_is_refused(tmp_path: Path) -> None:
    path = write_cpsc(tmp_path / "A1.mat")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RecordError, match="cannot be read"):
        read_record(path)


def test_a_cpsc2018_file_holds_no_stored_integers(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no header"):
        read_digital(write_cpsc(tmp_path / "A1.mat"))
