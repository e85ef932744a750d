from __future__ import annotations

import os
import pickle
import re
import struct
import sys
import tracemalloc
import zlib
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


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8])
def test_integers_in_a_cpsc2018_file_are_refused_whatever_their_size(tmp_path: Path, dtype: type) -> None:
    data = np.random.default_rng(0).integers(0, 3, (12, 40)).astype(dtype)
    with pytest.raises(RecordError, match=rf"holds integers \({np.dtype(dtype)}\).*Divide them by their gain"):
        read_record(write_cpsc(tmp_path / "A1.mat", data=data))


def test_whole_millivolts_that_matlab_stores_as_small_integers_stay_floating_point(tmp_path: Path) -> None:
    # scipy does not shrink as MATLAB does: the type of the numbers (9, double) becomes 1 (int8) by hand.
    path = write_cpsc(tmp_path / "A1.mat", data=np.zeros((12, 8)))
    scipy.io.savemat(path, {"ECG": {"data": np.tile(np.array([0.0, 1.0]), (12, 4))}}, do_compression=False)
    content = path.read_bytes()
    doubles = np.tile(np.array([0.0, 1.0]), (12, 4)).astype("<f8").tobytes(order="F")
    start = content.index(doubles) - 8
    assert struct.unpack_from("<II", content, start) == (9, 768)
    small = struct.pack("<II", 1, 96) + np.frombuffer(doubles, "<f8").astype(np.int8).tobytes()
    # What is gone stays as one unused element behind, so that no other length changes.
    filler = struct.pack("<II", 1, 768 - 96 - 8) + bytes(768 - 96 - 8)
    path.write_bytes(content[:start] + small + filler + content[start + 8 + 768 :])
    assert np.array_equal(read_record(path).signal, np.tile(np.array([0, 1], np.float32), (12, 4)))


@pytest.mark.parametrize(
    ("factor", "unit"), [(1000.0, "microvolts"), (200.0, "counts of a converter"), (1e-3, "volts")]
)
def test_a_cpsc2018_file_in_another_unit_is_refused_with_the_likely_one(
    tmp_path: Path, factor: float, unit: str
) -> None:
    data = np.random.default_rng(0).normal(size=(12, 500)) * factor
    with pytest.raises(RecordError, match=rf"'data' is no mV: its leads typically span .*{unit}"):
        read_record(write_cpsc(tmp_path / "A1.mat", data=data))


@pytest.mark.parametrize("start", [b"MATLAB 7.3 MAT-file, Platform: GLNXA64", b"\x89HDF\r\n\x1a\n"])
def test_a_matlab_7_3_file_is_named_with_the_way_to_save_it(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "A1.mat").write_bytes(start + bytes(1000))
    with pytest.raises(RecordError, match=r"version 7\.3 \(HDF5\).*save\(name, 'ECG', '-v7'\)"):
        read_record(tmp_path / "A1")


def _mat_of(*elements: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"".join(elements)


def _compressed(content: bytes) -> bytes:
    packed = zlib.compress(content, 9)
    return struct.pack("<II", 15, len(packed)) + packed


BOMBS = {
    "millions of empty elements": lambda: _mat_of(_compressed(struct.pack("<II", 1, 0) * 500_000)),
    "empty elements without compression": lambda: _mat_of(struct.pack("<II", 1, 0) * 1000),
    "an element that unpacks to more than 64 MB": lambda: _mat_of(_compressed(bytes((64 << 20) + 8))),
    "elements that do so together": lambda: _mat_of(
        *[_compressed(struct.pack("<II", 1, (32 << 20) - 8) + bytes((32 << 20) - 8))] * 3
    ),
    "an array within an array within an array": lambda: _mat_of(
        _compressed(struct.pack("<II", 14, 8_000_000) + struct.pack("<II", 14, 0) * 1_000_000)
    ),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_mat_file_that_unpacks_to_much_is_refused_in_bounded_memory(tmp_path: Path, kind: str) -> None:
    (tmp_path / "A1.mat").write_bytes(BOMBS[kind]())
    assert (tmp_path / "A1.mat").stat().st_size < 200_000
    tracemalloc.start()
    try:
        with pytest.raises(RecordError, match=r"more than (64 MB|256 elements)"):
            read_record(tmp_path / "A1")
        assert tracemalloc.get_traced_memory()[1] < 160 << 20
    finally:
        tracemalloc.stop()


# --- What is said and read all the same ----------------------------------------------------------------------------


def test_a_misprinted_date_is_named_and_the_other_field_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adc = random_adc()
    for number, moment in enumerate(("10:20:30 01/02/89", "10:20:30 31/02/2014", "10:20:30 14-Juni-2020")):
        path = write_record(
            tmp_path, f"d{number}", adc, record_line=f"{{name}} {{num_leads}} 500 {{num_samples}} {moment}"
        )
        record = read_record(path)
        assert np.array_equal(record.signal, millivolts(adc))
        assert (record.attributes["base_time"], record.attributes.get("base_date")) == ("10:20:30", None)
        assert f"Record '{path}': left unread in its header: '{moment.split()[1]}', which is no time" in caplog.text


def test_surplus_signal_lines_are_named_and_the_leads_announced_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_record(tmp_path, comments=("r1.dat 16 1000/mV 16 0 0 0 0 V7", "x.dat 8 1/mmHg 8 0 0 0 0 ABP"))
    assert read_record(path).lead_names == STANDARD_LEADS
    assert "the surplus line 'r1.dat 16 1000/mV 16 0 0 0 0 V7'; the surplus line 'x.dat" in caplog.text


def test_a_header_that_announces_too_few_of_its_leads_fails_by_the_size_of_the_file(tmp_path: Path) -> None:
    path = write_record(tmp_path, record_line="{name} 11 500 {num_samples}")
    expect_error(path, "11 leads of 50 samples .* need 1100")


def test_a_folder_in_the_record_name_is_read_and_one_in_the_file_name_is_named_as_that(tmp_path: Path) -> None:
    path = write_record(tmp_path, record_line="some/folder/{name} {num_leads} 500 {num_samples}")
    assert np.array_equal(read_record(path).signal, millivolts(random_adc()))
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace("r1.dat", "some/folder/r1.dat"))
    expect_error(path, "names the signal file 'some/folder/r1.dat', which may lie outside")


@pytest.mark.parametrize(
    ("scale", "unit"), [("1(0)/mV", "microvolts"), ("1000(0)/V", "microvolts"), ("1e9/uV", "volts")]
)
def test_the_reader_says_which_unit_a_header_should_have_named(
    tmp_path: Path, scale: str, unit: str, caplog: pytest.LogCaptureFixture
) -> None:
    read_record(write_record(tmp_path, scale=scale))
    assert re.search(rf"Record '.*r1': its leads typically span .*{unit}", caplog.text)


def test_more_samples_than_are_read_at_once_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = write_record(tmp_path, record_line="{name} {num_leads} 500 100000000")
    os.truncate(path.with_suffix(".dat"), 12 * 100_000_000 * 2)  # a sparse file: it takes no room
    expect_error(path, "12 leads of 100,000,000 samples are more than .*Cut it")
