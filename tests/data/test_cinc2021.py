"""PhysioNet/CinC 2021: every row equals the files, windows join without a seam, and bad input is named."""

import pickle
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.io import loadmat, savemat

from hf_ecgtext.data.files.tree import LocalTree
from hf_ecgtext.data.ptb_xl_patients import WITHDRAWN_IN_1_0_3, recordings_of_patients
from hf_ecgtext.data.sources.base import EcgSource
from hf_ecgtext.data.sources.by_name import open_source, source_names
from hf_ecgtext.data.sources.cinc2021.classes import (
    CINC2021_CLASSES,
    CLASS_OF_CODE,
    class_members,
    class_names,
    classes_of_codes,
    diagnoses,
)
from hf_ecgtext.data.sources.cinc2021.sets import ORIGIN_SETS, find_recordings
from hf_ecgtext.data.sources.cinc2021.source import SPLIT_FRACTIONS
from hf_ecgtext.data.sources.cinc2021.windows import Window, cut, draw_splits
from hf_ecgtext.data.store.schema import decode_table, row_to_millivolts, rows_to_table
from hf_ecgtext.data.subsets import split_of
from hf_ecgtext.errors import RecordError

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def write_record(
    folder: Path,
    name: str,
    *,
    num_samples: int = 5000,
    rate: int = 500,
    dx: str | None = "426783006",
    age: str = "61",
    sex: str = "Female",
) -> np.ndarray:
    """A record as the challenge stores it: MATLAB 4 with one int16 matrix, and a header beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    adc = np.random.default_rng(len(name) * num_samples + int(name[-3:])).integers(-2000, 2000, (12, num_samples))
    savemat(folder / f"{name}.mat", {"val": adc.astype(np.int16)}, format="4")
    lines = [f"{name} 12 {rate} {num_samples} 12-May-2020 12:33:59"]
    lines += [
        f"{name}.mat 16+24 1000/mV 16 0 {lead[0]} {(int(lead.sum()) + 32768) % 65536 - 32768} 0 {lead_name}"
        for lead, lead_name in zip(adc, LEADS, strict=True)
    ]
    lines += [f"#Age: {age}", f"#Sex: {sex}", *([] if dx is None else [f"#Dx: {dx}"]), "#Rx: Unknown"]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    return adc


def cinc(folder: Path, **options) -> EcgSource:
    return open_source("cinc2021", folder, **options)


def index_rows(source: EcgSource) -> list[dict]:
    return source.index().records.to_pylist()


def read_all(source: EcgSource) -> dict:
    rows = index_rows(source)
    return dict(zip([row["record_id"] for row in rows], source.read(rows), strict=True))


# --- real recordings -------------------------------------------------------------------------------------------------


def test_every_real_recording_equals_its_matlab_file_in_millivolts(real_data):
    source = cinc(real_data / "cinc2021")
    entries = index_rows(source)
    rows = list(source.read(entries))
    assert len(rows) == 89
    stored = decode_table(rows_to_table(rows, source.features))
    for entry, row in zip(entries, stored, strict=True):
        path = real_data / "cinc2021" / entry["path"]
        counts = loadmat(f"{path}.mat")["val"]
        lines = path.with_suffix(".hea").read_text().splitlines()[1:13]
        gains = np.array([float(re.match(r"[\d.]+", line.split()[2])[0]) for line in lines])
        np.testing.assert_array_equal(row["samples"], counts)
        np.testing.assert_array_equal(row_to_millivolts(row), (counts / gains[:, None]).astype(np.float32))
        assert list(row["lead_names"]) == [line.split()[-1] for line in lines]


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb 4.3 on pandas 3
def test_real_recordings_without_a_date_equal_what_wfdb_reads(real_data):
    import wfdb

    source = cinc(real_data / "cinc2021", sets="ptb-xl")
    entries = index_rows(source)[::6]
    for entry, row in zip(entries, source.read(entries), strict=True):
        reference = wfdb.rdrecord(str(real_data / "cinc2021" / entry["path"]))
        np.testing.assert_array_equal(row_to_millivolts(row), reference.p_signal.T.astype(np.float32))
        assert row["lead_names"] == reference.sig_name
        assert row["sampling_rate_hz"] == reference.fs


def test_real_recordings_name_where_they_are_from(real_data):
    rows = index_rows(cinc(real_data / "cinc2021"))
    assert Counter(row["origin_set"] for row in rows) == {
        "cpsc_2018": 14,
        "cpsc_2018_extra": 10,
        "ptb": 4,
        "ptb-xl": 37,
        "chapman_shaoxing": 12,
        "ningbo": 12,
    }
    origin = {row["record_id"]: row["origin_id"] for row in rows}
    assert origin["HR06009"] == "ptb_xl:06009"
    assert origin["A0001"] == "cpsc2018:A0001"
    assert origin["JS00001"] == "csn:JS00001"
    assert origin["JS13888"] == "csn:JS13888"
    assert origin["Q0007"] == "cpsc_2018_extra:Q0007"
    assert len(set(origin.values())) == len(rows) == 89


def test_real_recordings_have_codes_short_names_and_scored_classes(real_data):
    rows = read_all(cinc(real_data / "cinc2021"))
    assert rows["JS00001"]["labels"] == ["164889003", "59118001", "164934002"]
    assert rows["JS00001"]["labels_short"] == ["AF", "RBBB", "TAb"]
    assert rows["JS00001"]["labels_cinc2021"] == ["AF", "CRBBB|RBBB", "TAb"]
    assert (rows["JS00001"]["age"], rows["JS00001"]["sex"]) == (85.0, "male")
    assert rows["S0003"]["labels_cinc2021"] == []  # myocardial infarction is not scored
    assert rows["S0003"]["labels_short"] == ["MI"]


def test_a_real_ptb_xl_recording_has_the_patient_and_fold_of_ptb_xl(real_data):
    table = real_data / "ptb-xl" / "ptbxl_database.csv"
    source = cinc(real_data / "cinc2021", sets="ptb-xl", ptb_xl_table=str(table))
    import pandas as pd

    metadata = pd.read_csv(table).set_index("ecg_id")
    rows = index_rows(source)
    assert len(rows) + len(source.index().left_out) == 37
    for row in rows:
        known = metadata.loc[int(row["record_id"].removeprefix("HR"))]
        assert row["patient_id"] == f"ptb_xl:{int(known.patient_id)}"
        assert row["split"] == {9: "validation", 10: "test"}.get(known.strat_fold, "train")
    assert not any("ptb_xl_table" in note for note in source.index().notes)
    assert any("ptb_xl_table" in note for note in cinc(real_data / "cinc2021").index().notes)


# --- the classes -----------------------------------------------------------------------------------------------------


def test_thirty_of_133_codes_make_26_classes():
    assert len(diagnoses()) == 133
    assert {code for code, diagnosis in diagnoses().items() if diagnosis.is_scored} == set(CLASS_OF_CODE)
    assert len(CLASS_OF_CODE) == 30
    assert len(class_names()) == len(set(class_names().values())) == 26
    assert len({diagnosis.abbreviation for diagnosis in diagnoses().values()}) == 133
    for label, codes in CINC2021_CLASSES.items():
        assert label == "|".join(diagnoses()[code].abbreviation for code in codes)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("733534002", "164909002"),
        ("713427006", "59118001"),
        ("284470004", "63593006"),
        ("427172004", "17338001"),
    ],
)
def test_equivalent_codes_count_once(first, second):
    assert classes_of_codes([first]) == classes_of_codes([second]) == classes_of_codes([first, second])
    assert set(class_members()[CLASS_OF_CODE[first]]) == {diagnoses()[first].name, diagnoses()[second].name}


def test_the_classes_are_in_the_order_of_the_official_weights():
    # header of weights.csv, github.com/physionetchallenges/evaluation-2021, final version
    header = (
        "164889003,164890007,6374002,426627000,733534002|164909002,713427006|59118001,270492004,713426002,39732003,"
        "445118002,164947007,251146004,111975006,698252002,426783006,284470004|63593006,10370003,365413008,"
        "427172004|17338001,164917005,47665007,427393009,426177001,427084000,164934002,59931005"
    )
    assert ["|".join(codes) for codes in CINC2021_CLASSES.values()] == header.split(",")


def test_the_sets_have_the_documented_88253_records():
    assert sum(origin.num_records for origin in ORIGIN_SETS.values()) == 88253


def test_the_task_finds_the_classes_of_stored_rows(tmp_path):
    from datasets import Dataset

    from hf_ecgtext.data.store.schema import EcgDataset

    write_record(tmp_path, "A0001", dx="17338001,733534002,164909002")
    write_record(tmp_path, "A0002", dx="164865005")
    source = cinc(tmp_path)
    (task,) = source.tasks()
    targets = task.targets(EcgDataset(Dataset(rows_to_table(list(read_all(source).values()), source.features))))
    labels = list(task.class_names)
    assert targets.shape == (2, 26)
    assert [labels[column] for column in np.flatnonzero(targets[0])] == ["CLBBB|LBBB", "PVC|VPB"]
    assert not targets[1].any()


# --- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "origin_set"),
    [
        ("training/cpsc_2018/g1/A0001", "cpsc_2018"),
        ("classification-of-12-lead-ecgs-1.0.3/training/ptb-xl/g22/HR21837", "ptb-xl"),
        ("WFDB_CPSC2018_2/Q0001", "cpsc_2018_extra"),
        ("WFDB_StPetersburg/I0001", "st_petersburg_incart"),
        ("WFDB_PTB/S0001", "ptb"),
        ("WFDB_Ga/E00001", "georgia"),
        ("WFDB_ChapmanShaoxing/JS00001", "chapman_shaoxing"),
        ("WFDB_Ningbo/JS10647", "ningbo"),
        ("Training_WFDB/A0001", "cpsc_2018"),
        ("JS10646", "chapman_shaoxing"),
        ("JS10647", "ningbo"),
        ("somewhere/HR00001", "ptb-xl"),
    ],
)
def test_the_folder_or_else_the_name_tells_the_set(path, origin_set):
    (recording,), left_out = find_recordings([f"{path}.hea", f"{path}.mat"])
    assert (recording.origin_set, recording.path) == (origin_set, path)
    assert not left_out


def test_files_that_are_no_records_are_left_out_by_name(tmp_path):
    write_record(tmp_path / "training" / "georgia" / "g1", "E00001")
    write_record(tmp_path / "training" / "georgia" / "g1", "A0001")
    (tmp_path / "training" / "georgia" / "RECORDS").write_text("g1/\n")
    index = cinc(tmp_path).index()
    assert index.records["record_id"].to_pylist() == ["E00001"]
    assert [skipped.record for skipped in index.left_out] == ["training/georgia/g1/A0001"]
    assert "georgia: 1 of 10,344 records" in index.notes


def test_a_record_that_two_folders_hold_is_refused_with_both_paths(tmp_path):
    write_record(tmp_path / "training" / "cpsc_2018" / "g1", "A0001")
    write_record(tmp_path / "WFDB_CPSC2018", "A0001")
    with pytest.raises(ValueError, match=r"'A0001' is there twice, as 'WFDB_CPSC2018/A0001' and 'training/cpsc_2018"):
        cinc(tmp_path).index()


def test_a_folder_without_records_says_where_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"physionet\.org/content/challenge-2021"):
        cinc(tmp_path).index()


def test_the_source_is_found_by_name_and_survives_pickling(tmp_path):
    assert "cinc2021" in source_names()
    adc = write_record(tmp_path, "A0001")
    source = pickle.loads(pickle.dumps(cinc(tmp_path, unknown_labels="keep")))  # noqa: S301
    np.testing.assert_array_equal(read_all(source)["A0001"]["samples"], adc)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sets": "cpsc_2018,mimic"}, "has no set 'mimic'"),
        ({"sets": ""}, "has no set"),
        ({"protocol": "dx"}, "protocol must be one of"),
        ({"protocol": "dx_published", "sets": "ptb"}, "leave `sets` out"),
        ({"max_duration_s": 0.0}, "max_duration_s"),
        ({"max_duration_s": float("nan")}, "max_duration_s"),
        ({"unknown_labels": "drop"}, "unknown_labels"),
    ],
)
def test_impossible_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        cinc(tmp_path, **options)


# --- bad records -----------------------------------------------------------------------------------------------------


def test_bad_records_are_errors_by_name_and_the_others_are_read(tmp_path):
    for number in range(1, 8):
        write_record(tmp_path, f"A000{number}", num_samples=600)
    write_record(tmp_path, "A0002", num_samples=600, dx="426783006,999")
    write_record(tmp_path, "A0003", num_samples=600, dx=None)
    write_record(tmp_path, "A0004", num_samples=600, dx="Unknown")
    (tmp_path / "A0005.mat").unlink()
    (tmp_path / "A0006.hea").unlink()
    (tmp_path / "A0007.mat").write_bytes((tmp_path / "A0007.mat").read_bytes()[:-100])
    rows = read_all(cinc(tmp_path))
    problems = {name: str(row) for name, row in rows.items() if isinstance(row, RecordError)}
    assert list(problems) == [f"A000{number}" for number in range(2, 8)]
    assert "codes 999 are not in the challenge's tables" in problems["A0002"]
    assert "names no diagnosis" in problems["A0003"]
    assert "names no diagnosis" in problems["A0004"]
    assert "'A0005.mat' is missing" in problems["A0005"]
    assert "'A0006.hea' is missing" in problems["A0006"]
    assert "bytes" in problems["A0007"]
    assert all(f"'{name}'" in problem for name, problem in problems.items())


def test_unknown_and_missing_codes_are_kept_on_request(tmp_path):
    write_record(tmp_path, "A0002", dx="999,164889003")
    write_record(tmp_path, "A0003", dx=None)
    rows = read_all(cinc(tmp_path, unknown_labels="keep"))
    assert rows["A0002"]["labels"] == ["999", "164889003"]
    assert rows["A0002"]["labels_short"] == ["AF"]
    assert rows["A0003"]["labels"] == []
    assert rows["A0003"]["labels_cinc2021"] == []


@pytest.mark.parametrize(
    ("age", "sex", "expected"),
    [
        ("NaN", "Unknown", (None, False, None)),
        ("300", "M", (None, True, "male")),
        ("7", "F", (7.0, False, "female")),
        ("-", "Male", (None, False, "male")),
        ("-1", "Male", (None, False, "male")),
        ("92", "Male", (None, True, "male")),
        ("91", "Male", (91.0, False, "male")),
    ],
)
def test_age_and_sex_are_read_or_unknown(tmp_path, age, sex, expected):
    for name in ("A0001", "Q0001"):
        write_record(tmp_path, name, num_samples=500, age=age, sex=sex)
    for row in read_all(cinc(tmp_path)).values():
        assert (row["age"], row["is_over_89"], row["sex"]) == expected


@pytest.mark.parametrize("name", ["E00001", "JS00001", "S0001", "HR00001"])
def test_92_is_an_age_where_the_set_has_older_people(tmp_path, name):
    write_record(tmp_path, name, num_samples=500, age="92")
    row = read_all(cinc(tmp_path))[name]
    assert (row["age"], row["is_over_89"]) == (92.0, False)


@pytest.mark.parametrize("folder", ["training/ningbo/g13", "WFDB_Ningbo", "."])
@pytest.mark.parametrize("limit_s", [150.0, 5.0])
def test_the_misnamed_header_of_ningbo_is_that_of_its_record(tmp_path, folder, limit_s):
    adc = write_record(tmp_path / folder, "JS23074", num_samples=5000)
    write_record(tmp_path / folder, "JS23075", num_samples=500)
    (tmp_path / folder / "JS23074.hea").rename(tmp_path / folder / "S23074.hea")
    source = cinc(tmp_path, max_duration_s=limit_s)
    index = source.index()
    assert index.left_out == []
    rows = list(source.read([row for row in index.records.to_pylist() if row["origin_id"] == "csn:JS23074"]))
    np.testing.assert_array_equal(np.concatenate([row["samples"] for row in rows], axis=1), adc)
    assert {row["origin_set"] for row in rows} == {"ningbo"}
    assert len(rows) == (1 if limit_s == 150.0 else 2)


def test_an_intact_header_of_that_record_comes_first_and_a_missing_one_is_named(tmp_path):
    write_record(tmp_path / "ningbo", "JS23074", num_samples=500, dx="427084000")
    (tmp_path / "ningbo" / "S23074.hea").write_text("nonsense")
    assert read_all(cinc(tmp_path))["JS23074"]["labels_short"] == ["STach"]
    for name in ("S23074", "JS23074"):
        (tmp_path / "ningbo" / f"{name}.hea").unlink()
    assert "JS23074.hea' is missing" in read_all(cinc(tmp_path))["JS23074"].problem


def test_the_38_records_that_ptb_xl_withdrew_are_left_out_by_name_or_kept(tmp_path):
    for name in ("HR00137", "HR18150", "HR00001", "E00137"):
        write_record(tmp_path, name, num_samples=500)
    assert len(WITHDRAWN_IN_1_0_3) == 38
    index = cinc(tmp_path).index()
    assert sorted(index.records["record_id"].to_pylist()) == ["E00137", "HR00001"]
    assert sorted(skipped.record for skipped in index.left_out) == ["HR00137", "HR18150"]
    assert all("withdrew" in skipped.problem for skipped in index.left_out)
    kept = cinc(tmp_path, withdrawn="keep")
    assert len(kept.index().records) == 4
    assert kept.options["withdrawn"] == "keep"
    with pytest.raises(ValueError, match="withdrawn must be one of leave_out, keep"):
        cinc(tmp_path, withdrawn="skip")


def test_the_withdrawn_records_are_those_that_the_current_table_lacks(real_data):
    table = pd.read_csv(real_data / "ptb-xl" / "ptbxl_database.csv", usecols=["ecg_id", "patient_id"])
    assert {int(name) for name in WITHDRAWN_IN_1_0_3} == set(range(1, 21838)) - set(table["ecg_id"])
    several = table.groupby(table["patient_id"].astype(int))["ecg_id"].apply(list)
    assert {
        int(patient): [int(record) for record in records] for patient, records in recordings_of_patients().items()
    } == {patient: ids for patient, ids in several.items() if len(ids) > 1}


def test_recordings_of_one_ptb_xl_patient_are_in_one_split_without_its_table(tmp_path):
    patients = dict(list(recordings_of_patients().items())[:12])
    for records in patients.values():
        for record in records:
            write_record(tmp_path / "ptb-xl", f"HR{record}", num_samples=50)
    rows = {row["origin_id"].partition(":")[2]: row for row in index_rows(cinc(tmp_path))}
    for patient, records in patients.items():
        assert {rows[record]["patient_id"] for record in records} == {f"ptb_xl:{patient}"}
        assert len({rows[record]["split"] for record in records}) == 1
    assert len({row["split"] for row in rows.values()}) > 1


@pytest.mark.parametrize("dx", ["426783006;164889003", "426783006.0,164889003.0"])
def test_codes_with_semicolons_or_decimals_are_the_same_codes(tmp_path, dx):
    write_record(tmp_path, "JS00001", num_samples=500, dx=dx)
    assert read_all(cinc(tmp_path))["JS00001"]["labels"] == ["426783006", "164889003"]


# --- windows ---------------------------------------------------------------------------------------------------------


def test_a_long_recording_becomes_windows_that_join_to_the_whole(tmp_path):
    adc = write_record(tmp_path / "st_petersburg_incart", "I0001", rate=257, num_samples=257 * 25 + 7)
    write_record(tmp_path / "ptb", "S0001", rate=1000, num_samples=30_000)
    source = cinc(tmp_path, max_duration_s=10)
    rows = read_all(source)
    parts = [rows[f"I0001_w00{part}"] for part in range(3)]
    assert [part["num_samples"] for part in parts] == [2570, 2570, 1292]
    assert [part["window_start_s"] for part in parts] == [0.0, 10.0, 20.0]
    np.testing.assert_array_equal(np.concatenate([part["samples"] for part in parts], axis=1), adc)
    assert {part["origin_id"] for part in parts} == {"st_petersburg_incart:I0001"}
    assert {part["patient_id"] for part in parts} == {"I0001"}
    assert [name for name in rows if name.startswith("S")] == ["S0001_w000", "S0001_w001", "S0001_w002"]
    assert len({row["split"] for row in index_rows(source) if row["path"].endswith("I0001")}) == 1
    decode_table(rows_to_table(list(rows.values()), source.features))


def test_by_default_only_the_half_hours_of_st_petersburg_are_cut(tmp_path):
    write_record(tmp_path / "st_petersburg_incart", "I0001", rate=257, num_samples=257 * 301)
    write_record(tmp_path / "ptb", "S0001", rate=1000, num_samples=120_000)
    rows = index_rows(cinc(tmp_path))
    assert [row["record_id"] for row in rows] == ["I0001_w000", "I0001_w001", "I0001_w002", "S0001"]
    assert [row["record_id"] for row in index_rows(cinc(tmp_path, max_duration_s=None))] == ["I0001", "S0001"]


def test_a_window_keeps_only_its_own_samples_in_memory(tmp_path):
    write_record(tmp_path / "st_petersburg_incart", "I0001", rate=257, num_samples=257 * 20)
    samples = read_all(cinc(tmp_path, max_duration_s=2))["I0001_w003"]["samples"]
    assert samples.base is None or samples.base.size == samples.size


def test_an_undocumented_long_recording_is_refused_rather_than_stored(tmp_path):
    write_record(tmp_path / "georgia", "E00001", rate=500, num_samples=500 * 160)
    assert "longer than max_duration_s" in str(read_all(cinc(tmp_path))["E00001"])


def test_a_long_recording_without_usable_header_is_an_error_by_name(tmp_path):
    write_record(tmp_path / "st_petersburg_incart", "I0001", num_samples=600)
    write_record(tmp_path / "st_petersburg_incart", "I0002", num_samples=600)
    (tmp_path / "st_petersburg_incart" / "I0001.hea").write_text("I0001 12 -5\n")
    (tmp_path / "st_petersburg_incart" / "I0002.hea").unlink()
    rows = read_all(cinc(tmp_path))
    assert "sampling rate" in str(rows["I0001"])
    assert "I0002.hea' is missing" in str(rows["I0002"])


@pytest.mark.parametrize(
    ("num_samples", "keep", "expected"),
    [(10, True, [(0, 4), (4, 4), (8, 2)]), (10, False, [(0, 4), (4, 4)]), (3, False, []), (3, True, [(0, 3)])],
)
def test_cut_covers_the_recording(num_samples, keep, expected):
    assert cut(num_samples, 4, keep_remainder=keep) == [Window(*window) for window in expected]


# --- splits ----------------------------------------------------------------------------------------------------------


def test_recordings_are_split_by_a_stable_hash_of_their_name(tmp_path):
    for number in range(1, 30):
        write_record(tmp_path / "georgia", f"E{number:05d}", num_samples=500)
    rows = index_rows(cinc(tmp_path))
    assert {row["record_id"]: row["split"] for row in rows} == {
        row["record_id"]: split_of(row["record_id"], SPLIT_FRACTIONS, salt="cinc2021") for row in rows
    }
    for name in ("E00001.hea", "E00001.mat"):
        (tmp_path / "georgia" / name).unlink()
    assert index_rows(cinc(tmp_path)) == rows[1:]


@pytest.fixture(scope="module")
def diagnosis_tree(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dx")
    for number in range(1, 31):
        write_record(folder / "cpsc_2018", f"A{number:04d}", num_samples=7600)
        write_record(folder / "georgia", f"E{number:05d}", num_samples=5000)
    write_record(folder / "georgia", "E00031", num_samples=2499)
    write_record(folder / "georgia", "E00032", rate=250)
    write_record(folder / "ptb-xl", "HR00001")
    return folder


def test_the_published_diagnosis_task_draws_segments_in_the_published_proportions(diagnosis_tree):
    source = cinc(diagnosis_tree, protocol="dx_published")
    index = source.index()
    rows = index.records.to_pylist()
    # 30 x 3 and 30 x 2 full segments; int(9.0) and int(6.0) of them are validation, and as many test
    assert Counter(row["split"] for row in rows) == {"train": 150 - 30, "validation": 15, "test": 15}
    assert {row["window_samples"] for row in rows} == {2500}
    assert {skipped.record for skipped in index.left_out} == {"E00031", "E00032"}
    splits_of_recording = {}
    for row in rows:
        splits_of_recording.setdefault(row["origin_id"], set()).add(row["split"])
    assert any(len(splits) > 1 for splits in splits_of_recording.values())  # what is wrong with it


def test_the_diagnosis_task_by_record_keeps_recordings_together(diagnosis_tree):
    rows = index_rows(cinc(diagnosis_tree, protocol="dx_by_record"))
    splits_of_recording = {}
    for row in rows:
        splits_of_recording.setdefault(row["origin_id"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in splits_of_recording.values())
    assert Counter(next(iter(splits)) for splits in splits_of_recording.values()) == {
        "train": 48,
        "validation": 6,
        "test": 6,
    }


def test_segments_of_the_diagnosis_task_are_the_samples_of_the_recording(diagnosis_tree):
    rows = read_all(cinc(diagnosis_tree, protocol="dx_published"))
    whole = loadmat(diagnosis_tree / "cpsc_2018" / "A0001.mat")["val"]
    parts = np.concatenate([rows[f"A0001_s00{part}"]["samples"] for part in range(3)], axis=1)
    np.testing.assert_array_equal(parts, whole[:, :7500])
    assert rows["A0001_s002"]["window_start_s"] == 10.0


def test_the_published_counts_are_those_of_a_draw_by_segment():
    # 40,798 segments in two sets; any division into two gives 4,079 each as long as the parts' remainders allow it
    sizes = (20120, 20678)
    splits = [draw_splits([f"{part}/{index}" for index in range(size)], 0.1, "x") for part, size in enumerate(sizes)]
    assert Counter(split for part in splits for split in part) == {"train": 32640, "validation": 4079, "test": 4079}


def test_draws_do_not_depend_on_the_order_of_the_keys():
    keys = [f"A{number:04d}" for number in range(100)]
    drawn = dict(zip(keys, draw_splits(keys, 0.1, "salt"), strict=True))
    backwards = dict(zip(keys[::-1], draw_splits(keys[::-1], 0.1, "salt"), strict=True))
    assert drawn == backwards
    assert drawn != dict(zip(keys, draw_splits(keys, 0.1, "pepper"), strict=True))


def test_each_file_is_fetched_once_for_all_windows_of_a_recording(diagnosis_tree):
    fetched = []

    class CountingTree(LocalTree):
        def read_many(self, paths):
            fetched.extend(names := list(paths))
            return super().read_many(names)

    source = cinc(diagnosis_tree, protocol="dx_published")
    entries = [row for row in index_rows(source) if row["origin_id"] == "cpsc2018:A0001"]
    source.files = CountingTree(diagnosis_tree)
    assert len(list(source.read(entries))) == 3
    assert sorted(fetched) == ["cpsc_2018/A0001.hea", "cpsc_2018/A0001.mat"]
