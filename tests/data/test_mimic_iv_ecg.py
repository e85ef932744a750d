"""MIMIC-IV-ECG from a tree in its original format: joined by id, split by subject, samples as wfdb reads them."""

import csv
import hashlib
import pickle
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from make_mimic import LEADS, REPORT_COLUMNS, MimicStudy, write_mimic_tree, write_waveform

from hf_ecgtext.data.files.tree import LocalTree
from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.records import INVALID_SAMPLE
from hf_ecgtext.data.report_cleaning import clean_mimic_report
from hf_ecgtext.data.sources.by_name import open_source, source_names
from hf_ecgtext.data.sources.mimic_iv_ecg import MIMIC_IV_ECG_FEATURES, MimicIvEcg
from hf_ecgtext.data.store.schema import decode_table, row_to_record, rows_to_table
from hf_ecgtext.data.subsets import split_of
from hf_ecgtext.errors import RecordError
from hf_ecgtext.methods import get_recipe, method_names, recipe_names

NUM_RECORDS = 120

uses_wfdb = pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb 4.3 on pandas 3


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[MimicStudy]]:
    folder = tmp_path_factory.mktemp("downloads") / "mimic-iv-ecg"
    return folder, write_mimic_tree(folder, NUM_RECORDS, num_samples=500, short_reports=0.2)


@pytest.fixture
def tables_only(tmp_path: Path) -> tuple[Path, list[MimicStudy]]:
    """Tables that a test may spoil."""
    return tmp_path, write_mimic_tree(tmp_path, 20, waveforms=False, short_reports=0.0)


def change_table(path: Path, change: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = change(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_the_source_is_found_by_its_name(download):
    assert "mimic_iv_ecg" in source_names()
    assert isinstance(open_source("mimic_iv_ecg", download[0], min_words=0), MimicIvEcg)


def test_reports_and_signals_of_one_study_meet_although_the_tables_have_different_orders(download):
    folder, studies = download
    source = MimicIvEcg(LocalTree(folder), min_words=0)
    index = source.index()
    assert index.left_out == []
    # `machine_measurements.csv` is shuffled: taken by row, nearly every report would be another study's.
    with (folder / "machine_measurements.csv").open(newline="") as file:
        assert [row["study_id"] for row in csv.DictReader(file)] != index.records["record_id"].to_pylist()
    rows = list(source.read(index.records.to_pylist()))
    assert [row["record_id"] for row in rows] == [str(study.study_id) for study in studies]
    for row, study in zip(rows, studies, strict=True):
        assert row["patient_id"] == str(study.subject_id)
        assert row["study_id"] == study.study_id
        assert row["report"] == (study.report or None)
        assert row["report_cleaned"] == (clean_mimic_report(study.statements) or None)
        assert np.array_equal(row["samples"], study.adc())
        assert row["labels"] == []


@uses_wfdb
def test_stored_samples_equal_what_wfdb_reads_in_millivolts_with_missing_ones_as_nan(download, tmp_path):
    import wfdb

    folder, studies = download
    spoiled = studies[5].adc()
    spoiled[3, 10:13] = INVALID_SAMPLE
    shutil.copytree(folder, tmp_path / "mimic")
    write_waveform(tmp_path / "mimic", studies[5], spoiled)
    source = MimicIvEcg(LocalTree(tmp_path / "mimic"), min_words=0)
    entries = source.index().records.to_pylist()[:8]
    table = rows_to_table(list(source.read(entries)), source.features)
    for row, study in zip(decode_table(table), studies, strict=False):
        record = row_to_record(row)
        reference = wfdb.rdrecord(str(tmp_path / "mimic" / study.path))
        np.testing.assert_array_equal(record.signal, reference.p_signal.T.astype(np.float32))
        assert np.isnan(record.signal).sum() == (3 if study is studies[5] else 0)
        assert record.lead_names == tuple(reference.sig_name) == LEADS
        assert record.lead_names[4:6] == ("aVF", "aVL")
        assert record.sampling_rate_hz == reference.fs == 500
        assert set(reference.units) == {"mV"}


@pytest.mark.parametrize("min_words", [0, 1, 3, 4])
def test_reports_with_fewer_words_than_asked_for_are_left_out_by_name(download, min_words):
    folder, studies = download
    index = MimicIvEcg(LocalTree(folder), min_words=min_words).index()
    # The tree has reports of no word, of two ("Sinus rhythm"), and of four or more.
    num_words = {
        str(study.study_id): 4 if sum(map(bool, study.statements)) > 1 else len(study.report.split())
        for study in studies
    }
    assert set(num_words.values()) == {0, 2, 4}
    short = {study for study, words in num_words.items() if words < min_words}
    assert {skipped.record for skipped in index.left_out} == short
    assert set(index.records["record_id"].to_pylist()) == set(num_words) - short
    for skipped in index.left_out:
        assert skipped.problem == f"its report has {num_words[skipped.record]} words, fewer than min_words={min_words}."
        assert skipped.fix == ""


def test_ornaments_are_no_words(tables_only):
    folder, studies = tables_only

    def change(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        for row in rows:
            row.update(dict.fromkeys(REPORT_COLUMNS, ""))
            is_first = row["study_id"] == str(studies[0].study_id)
            row["report_5"] = "*** Atrial fibrillation again ***" if is_first else "Atrial fibrillation once more"
        return rows

    change_table(folder / "machine_measurements.csv", change)
    [skipped] = MimicIvEcg(LocalTree(folder)).index().left_out
    assert skipped.record == str(studies[0].study_id)
    assert "3 words" in skipped.problem


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (("*** Atrial fibrillation again ***",), 3),
        (("Paced", "*** Atrial fibrillation ***"), 4),  # "Paced. *** Atrial fibrillation": the inner ornament counts
        (("*** Atrial fibrillation ***", "Paced"), 4),
        (("--- Poor quality ---", "Paced"), 4),
        (("=-=- Sinus rhythm =-=-",), 2),
        (("Sinus rhythm.", "Normal ECG"), 4),
        (("***",), 0),
    ],
)
def test_words_are_counted_as_merl_counts_them(tables_only, statements, words):
    folder, studies = tables_only

    def change(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        for row in rows:
            if row["study_id"] == str(studies[0].study_id):
                row.update(dict.fromkeys(REPORT_COLUMNS, ""))
                row.update(zip(REPORT_COLUMNS, statements, strict=False))
        return rows

    change_table(folder / "machine_measurements.csv", change)
    [skipped] = MimicIvEcg(LocalTree(folder), min_words=5).index().left_out[:1]
    assert (skipped.record, skipped.problem) == (
        str(studies[0].study_id),
        f"its report has {words} words, fewer than min_words=5.",
    )
    kept = MimicIvEcg(LocalTree(folder), min_words=words).index().records["record_id"].to_pylist()
    assert str(studies[0].study_id) in kept


def without_measurements(folder: Path) -> list[MimicStudy]:
    studies = write_mimic_tree(folder, 25, num_samples=40, note_links=False)
    (folder / "machine_measurements.csv").unlink()
    return studies


@pytest.mark.parametrize("inside", ["", "mimic-iv-ecg-diagnostic-electrocardiogram-matched-subset-demo-0.1"])
def test_the_open_demo_is_prepared_without_reports_and_says_so(tmp_path, inside):
    studies = without_measurements(tmp_path / "demo" / inside)
    source = open_source("mimic_iv_ecg", tmp_path / "demo")
    manifest = prepare(source, tmp_path / "out", workers=1, progress=False)
    assert sum(manifest.num_records(split) for split in manifest.splits) == len(studies)
    assert manifest.summary["skipped"] == manifest.summary["left_out"] == 0
    assert any("as in the open demo, which is read without reports" in note for note in manifest.summary["notes"])
    row = next(source.read(source.index().records.to_pylist()))
    assert (row["report"], row["report_cleaned"], row["qrs_onset"]) == (None, None, None)
    np.testing.assert_array_equal(row["samples"], studies[0].adc())


@pytest.mark.parametrize(("num_records", "note_links"), [(700, False), (100, True)])
def test_a_download_that_is_not_the_demo_needs_its_reports(tmp_path, num_records, note_links):
    write_mimic_tree(tmp_path, num_records, waveforms=False, note_links=note_links)
    (tmp_path / "machine_measurements.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no 'machine_measurements.csv'"):
        MimicIvEcg(LocalTree(tmp_path), min_words=0).index()


def test_no_subject_is_in_two_splits_and_the_shares_are_those_asked_for(tmp_path):
    write_mimic_tree(tmp_path, 12_000, waveforms=False, records_per_subject=3, note_links=False)
    source = MimicIvEcg(LocalTree(tmp_path), min_words=0, validation_fraction=0.1, test_fraction=0.2)
    records = source.index().records.select(["patient_id", "split"]).to_pylist()
    split_of_patient = {}
    for record in records:
        assert split_of_patient.setdefault(record["patient_id"], record["split"]) == record["split"]
    shares = Counter(split_of_patient.values())
    total = len(split_of_patient)
    assert total > 3000
    # About four standard deviations of a binomial draw.
    assert shares["validation"] / total == pytest.approx(0.1, abs=0.02)
    assert shares["test"] / total == pytest.approx(0.2, abs=0.03)

    other = MimicIvEcg(LocalTree(tmp_path), min_words=0, validation_fraction=0.1, test_fraction=0.2, split_seed=1)
    assert other.index().records["split"].to_pylist() != [record["split"] for record in records]
    default = Counter(MimicIvEcg(LocalTree(tmp_path), min_words=0).index().records["split"].to_pylist())
    assert default["train"] / len(records) == pytest.approx(0.98, abs=0.01)


def test_a_subject_stays_in_its_split_when_others_are_added_or_left_out(download, tmp_path):
    folder, _ = download
    options = {"validation_fraction": 0.3, "test_fraction": 0.3}
    whole = MimicIvEcg(LocalTree(folder), min_words=0, **options).index().records
    kept = MimicIvEcg(LocalTree(folder), min_words=4, **options).index().records
    split_of_record = dict(zip(whole["record_id"].to_pylist(), whole["split"].to_pylist(), strict=True))
    assert 0 < len(kept) < len(whole)
    assert set(kept["split"].to_pylist()) == {"train", "validation", "test"}
    for record, split in zip(kept["record_id"].to_pylist(), kept["split"].to_pylist(), strict=True):
        assert split_of_record[record] == split


def test_the_hash_of_the_splits_is_as_documented_and_does_not_change():
    fractions = {"train": 0.5, "validation": 0.25, "test": 0.25}
    for key in ("10000032", "p1", "", "Ü"):
        digest = hashlib.blake2b(f"salt\0{key}".encode(), digest_size=8).hexdigest()
        expected = ["train", "train", "validation", "test"][int(digest[0], 16) // 4]
        assert split_of(key, fractions, "salt") == expected
    # Written down once: prepared data and the ledgers of checkpoints rely on it, so it may never change.
    golden = "test train train validation train train test test"
    assert " ".join(split_of(str(number), fractions, "golden") for number in range(8)) == golden


def test_a_larger_validation_split_takes_nothing_from_test():
    def keys_of(split: str, validation: float) -> set[int]:
        fractions = {"train": 0.8 - validation, "validation": validation, "test": 0.2}
        return {number for number in range(500) if split_of(str(number), fractions, "any") == split}

    assert keys_of("test", 0.1) == keys_of("test", 0.3)
    assert keys_of("validation", 0.1) < keys_of("validation", 0.3)
    assert keys_of("validation", 0.0) == set()


@pytest.mark.parametrize("fractions", [{"train": 0.5, "test": 0.4}, {"train": 1.5, "test": -0.5}, {}])
def test_fractions_that_are_none_are_refused(fractions):
    with pytest.raises(ValueError, match="add up to 1"):
        split_of("key", fractions, "salt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_words": -1}, "min_words"),
        ({"validation_fraction": -0.1}, "validation_fraction"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "less than 1"),
    ],
)
def test_impossible_options_are_refused(download, options, message):
    with pytest.raises(ValueError, match=message):
        open_source("mimic_iv_ecg", download[0], **options)


def test_an_unknown_option_is_refused(download):
    with pytest.raises(ValueError, match=r"has no option 'minimum_words'; it has: min_words, .*mean 'min_words'"):
        open_source("mimic_iv_ecg", download[0], minimum_words=3)


def test_records_with_missing_samples_are_kept_or_skipped_as_asked(download, tmp_path):
    folder, studies = download
    shutil.copytree(folder, tmp_path / "mimic")
    spoiled = studies[3].adc()
    spoiled[:, 7] = INVALID_SAMPLE
    write_waveform(tmp_path / "mimic", studies[3], spoiled)
    kept, skipped = (
        list(source.read(source.index().records.to_pylist()))
        for source in (MimicIvEcg(LocalTree(tmp_path / "mimic"), min_words=0, drop_nan=drop) for drop in (False, True))
    )
    assert np.array_equal(kept[3]["samples"], spoiled)
    errors = [row for row in skipped if isinstance(row, RecordError)]
    assert [error.record for error in errors] == [str(studies[3].study_id)]
    assert "12 of its samples are missing" in errors[0].problem
    assert len(skipped) == len(kept) == NUM_RECORDS


def test_missing_and_damaged_files_are_named_and_leave_the_others_alone(download, tmp_path):
    folder, studies = download
    shutil.copytree(folder, tmp_path / "mimic")
    (tmp_path / "mimic" / f"{studies[1].path}.dat").unlink()
    header = tmp_path / "mimic" / f"{studies[4].path}.hea"
    header.write_text(header.read_text().replace(str(studies[4].subject_id), "19999999"))
    with (tmp_path / "mimic" / f"{studies[6].path}.dat").open("r+b") as file:
        file.truncate(1000)
    source = MimicIvEcg(LocalTree(tmp_path / "mimic"), min_words=0)
    rows = list(source.read(source.index().records.to_pylist()[:8]))
    assert [isinstance(row, RecordError) for row in rows] == [number in (1, 4, 6) for number in range(8)]
    assert "is missing" in str(rows[1])
    assert f"of subject 19999999, but record_list.csv says {studies[4].subject_id}" in str(rows[4])
    for number in (1, 4, 6):
        assert rows[number].record == str(studies[number].study_id)
        assert rows[number].fix


def test_measurements_that_no_record_can_have_become_null(download):
    folder, _ = download
    records = MimicIvEcg(LocalTree(folder), min_words=0).index().records.to_pylist()
    with (folder / "machine_measurements.csv").open(newline="") as file:
        table = {row["study_id"]: row for row in csv.DictReader(file)}
    num_null = 0
    for record in records:
        row = table[record["record_id"]]
        assert (record["bandwidth"], record["filtering"]) == (row["bandwidth"], row["filtering"])
        for name in (
            "rr_interval",
            "p_onset",
            "p_end",
            "qrs_onset",
            "qrs_end",
            "t_end",
            "p_axis",
            "qrs_axis",
            "t_axis",
        ):
            if row[name] == "29999":
                assert record[name] is None
                num_null += 1
            else:
                assert record[name] == int(row[name])
    assert num_null > 0


def test_notes_are_linked_where_there_are_any(download, tmp_path):
    folder, _ = download
    index = MimicIvEcg(LocalTree(folder), min_words=0).index()
    with (folder / "waveform_note_links.csv").open(newline="") as file:
        links = {row["study_id"]: row["note_id"] for row in csv.DictReader(file)}
    notes = dict(zip(index.records["record_id"].to_pylist(), index.records["note_id"].to_pylist(), strict=True))
    assert notes == {study: links.get(study) for study in notes}
    assert 0 < len(links) < len(notes)
    assert index.notes == []

    for name in ("record_list.csv", "machine_measurements.csv"):
        shutil.copyfile(folder / name, tmp_path / name)
    without = MimicIvEcg(LocalTree(tmp_path), min_words=0).index()
    assert without.records["note_id"].null_count == NUM_RECORDS
    assert "waveform_note_links.csv" in without.notes[0]


def test_of_a_partial_download_only_what_is_there_is_listed_on_request(download, tmp_path):
    folder, studies = download
    for name in ("record_list.csv", "machine_measurements.csv", "waveform_note_links.csv"):
        shutil.copyfile(folder / name, tmp_path / name)
    for study in studies[10:17]:
        write_waveform(tmp_path, study)
    (tmp_path / f"{studies[12].path}.dat").unlink()
    index = MimicIvEcg(LocalTree(tmp_path), min_words=0, missing="skip").index()
    expected = [str(study.study_id) for number, study in enumerate(studies) if 10 <= number < 17 and number != 12]
    assert index.records["record_id"].to_pylist() == expected
    assert index.notes == [
        f"{NUM_RECORDS - 6} of {NUM_RECORDS} records have no files in 'files' here and are left out (missing=skip); "
        "6 remain."
    ]
    assert len(MimicIvEcg(LocalTree(tmp_path), min_words=0).index().records) == NUM_RECORDS


def test_studies_that_only_one_table_has_are_left_out_by_name(tables_only):
    folder, studies = tables_only
    only_listed, only_measured = str(studies[2].study_id), str(studies[9].study_id)
    change_table(
        folder / "machine_measurements.csv", lambda rows: [row for row in rows if row["study_id"] != only_listed]
    )
    change_table(folder / "record_list.csv", lambda rows: [row for row in rows if row["study_id"] != only_measured])
    index = MimicIvEcg(LocalTree(folder), min_words=0).index()
    reasons = {skipped.record: skipped.problem for skipped in index.left_out}
    assert set(reasons) == {only_listed, only_measured}
    assert "machine_measurements.csv has no row" in reasons[only_listed]
    assert "record_list.csv has no row" in reasons[only_measured]
    by_study = {str(study.study_id): study for study in studies}
    for record in index.records.to_pylist():
        assert record["report"] == by_study[record["record_id"]].report


@pytest.mark.parametrize("table", ["record_list.csv", "machine_measurements.csv"])
def test_a_study_that_stands_twice_in_a_table_is_refused_and_named(tables_only, table):
    folder, studies = tables_only
    study = str(studies[7].study_id)
    change_table(folder / table, lambda rows: rows + [row for row in rows if row["study_id"] == study])
    with pytest.raises(ValueError, match=rf"'{table}' names 1 study_ids more than once, such as {study}"):
        MimicIvEcg(LocalTree(folder)).index()


def test_a_study_of_two_subjects_is_refused_and_named(tables_only):
    folder, studies = tables_only
    study = str(studies[7].study_id)

    def change(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [{**row, "subject_id": "1"} if row["study_id"] == study else row for row in rows]

    change_table(folder / "machine_measurements.csv", change)
    with pytest.raises(ValueError, match=rf"1 studies to different subjects, such as study {study}"):
        MimicIvEcg(LocalTree(folder)).index()


@pytest.mark.parametrize("table", ["record_list.csv", "machine_measurements.csv"])
def test_a_missing_table_is_named_with_its_address(tables_only, table):
    folder, _ = tables_only
    (folder / table).unlink()
    with pytest.raises(FileNotFoundError, match=rf"'{table}'.*physionet\.org/content/mimic-iv-ecg"):
        MimicIvEcg(LocalTree(folder)).index()


@pytest.mark.parametrize(("table", "column"), [("record_list.csv", "path"), ("machine_measurements.csv", "report_17")])
def test_a_table_of_an_unknown_version_is_refused_with_the_column_that_it_lacks(tables_only, table, column):
    folder, _ = tables_only
    change_table(folder / table, lambda rows: [{k: v for k, v in row.items() if k != column} for row in rows])
    with pytest.raises(ValueError, match=rf"'{table}'.*lacks the columns \['{column}'\].*version 1\.0"):
        MimicIvEcg(LocalTree(folder)).index()


@pytest.mark.parametrize(
    ("cell", "message"), [("12a", "cannot be read.*12a"), ("", "no study_id in row 3"), ("4.5e7", "cannot be read")]
)
def test_ids_that_are_no_numbers_are_refused(tables_only, cell, message):
    folder, _ = tables_only

    def change(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        rows[2]["study_id"] = cell
        return rows

    change_table(folder / "record_list.csv", change)
    with pytest.raises(ValueError, match=rf"'record_list\.csv'.*{message}"):
        MimicIvEcg(LocalTree(folder)).index()


@pytest.mark.parametrize(
    "path", ["../outside/40000017", "/etc/passwd", "files/../../x", "C:\\x", "files\\x", "", "https://host/x"]
)
def test_a_table_with_a_path_outside_the_download_is_refused(tables_only, path):
    folder, _ = tables_only

    def change(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        rows[4]["path"] = path
        return rows

    change_table(folder / "record_list.csv", change)
    with pytest.raises(ValueError, match=r"'record_list\.csv' names paths outside the download"):
        MimicIvEcg(LocalTree(folder)).index()


def test_blank_cells_quotes_and_line_breaks_in_reports_survive(tables_only):
    folder, studies = tables_only
    study = str(studies[0].study_id)
    texts = ['He said "AF", twice', "", "Line\nbreak", "  ", "N/A"]

    def change(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        for row in rows:
            if row["study_id"] == study:
                row.update(dict.fromkeys(REPORT_COLUMNS, ""))
                row.update(zip(REPORT_COLUMNS[3:], texts, strict=False))
        return rows

    change_table(folder / "machine_measurements.csv", change)
    record = MimicIvEcg(LocalTree(folder)).index().records.to_pylist()[0]
    assert record["report"] == 'He said "AF", twice. Line\nbreak.   . N/A'
    assert record["report_cleaned"] == 'he said "af", twice. line break. n/a.'


def test_the_real_tables_are_understood(real_data):
    index = MimicIvEcg(LocalTree(real_data / "mimic-iv-ecg")).index()
    [record] = index.records.to_pylist()
    assert record["record_id"] == "40689238"
    assert record["patient_id"] == "10000032"
    assert record["path"] == "files/p1000/p10000032/s40689238/40689238"
    assert record["report"] == "Sinus rhythm. Possible right atrial abnormality. Borderline ECG"
    assert record["report_cleaned"] == "sinus rhythm. possible right atrial abnormality. borderline ecg."
    assert record["note_id"] == "10000032-EK-4"
    assert record["ecg_time"] == "2180-07-23 08:44:00"
    assert (record["rr_interval"], record["t_end"], record["p_axis"], record["t_axis"]) == (659, 518, 81, 79)
    assert (index.left_out, index.notes) == ([], [])


def test_rows_have_exactly_the_columns_of_the_features_and_the_source_can_be_pickled(download):
    source = pickle.loads(pickle.dumps(MimicIvEcg(LocalTree(download[0]))))  # noqa: S301
    row = next(iter(source.read(source.index().records.to_pylist()[:1])))
    assert set(row) == set(MIMIC_IV_ECG_FEATURES) == set(source.features)
    assert source.options == {
        "min_words": 4,
        "drop_nan": False,
        "validation_fraction": 0.01,
        "test_fraction": 0.01,
        "split_seed": 0,
        "only_present": False,
    }
    assert source.tasks() == ()


def test_the_data_options_of_every_recipe_are_options_of_the_source(download):
    options = {
        (method, recipe): get_recipe(method, recipe).data_options("mimic_iv_ecg")
        for method in method_names()
        for recipe in recipe_names(method)
    }
    for wanted in options.values():
        open_source("mimic_iv_ecg", download[0], **wanted)
    # Its paper keeps every report that is not empty, and no record with missing samples.
    assert options["cmelt", "paper"] == options["cmelt", "released"] == {"min_words": 1, "drop_nan": True}
    assert options["merl", "paper"] == {}


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_an_archive_with_everything_in_one_folder_gives_the_same_rows(download, tmp_path, suffix):
    folder, studies = download
    archive = shutil.make_archive(str(tmp_path / "mimic"), suffix[1:], folder.parent, folder.name)
    source = open_source("mimic_iv_ecg", archive, min_words=0)
    rows = list(source.read(source.index().records.to_pylist()[:20]))
    for row, study in zip(rows, studies, strict=False):
        assert np.array_equal(row["samples"], study.adc())
        assert row["report"] == (study.report or None)
    assert len(rows) == 20


def test_a_folder_that_is_no_download_is_refused_when_it_is_opened(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'record_list\.csv' or 'machine_measurements\.csv'"):
        open_source("mimic_iv_ecg", tmp_path)
