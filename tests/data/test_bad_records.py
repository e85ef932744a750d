"""A record without one valid sample: every source skips it, training replaces it where it may, all others name it."""

from __future__ import annotations

import csv
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
from make_mimic import write_mimic_tree, write_waveform
from prepared_folder import records_of, write_prepared
from reading_fixtures import random_adc, write_record

from hf_ecgtext.cli import main
from hf_ecgtext.data.bad_records import for_validation_in_training
from hf_ecgtext.data.builders import MimicIvEcgBuilder
from hf_ecgtext.data.opening import open_data
from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.records import INVALID_SAMPLE, has_valid_sample
from hf_ecgtext.data.sources.base import EcgSource
from hf_ecgtext.data.sources.by_name import open_source, source_class, source_names
from hf_ecgtext.data.sources.cinc2021.segments import identification_data
from hf_ecgtext.data.sources.ptb_xl.labels import PTB_XL_CLASSES
from hf_ecgtext.data.store.dataset import ParquetEcgDataset
from hf_ecgtext.data.store.schema import iter_records
from hf_ecgtext.errors import RecordError

NO_SIGNAL = "all samples of all leads are missing."


def empty(num_samples: int = 60) -> np.ndarray:
    return np.full((12, num_samples), INVALID_SAMPLE, dtype=np.int16)


def one_sample_left(num_samples: int = 60) -> np.ndarray:
    adc = empty(num_samples)
    adc[7, -1] = 3
    return adc


def flat(num_samples: int = 60) -> np.ndarray:
    return np.zeros((12, num_samples), dtype=np.int16)


def with_gaps(num_samples: int = 60) -> np.ndarray:
    adc = random_adc(12, num_samples, seed=4, limit=400)
    adc[0] = INVALID_SAMPLE
    adc[3, 5:20] = INVALID_SAMPLE
    return adc


# Every source in its own format


class Written(NamedTuple):
    """A download, the options to read it with, and the ids of records by what is in them."""

    folder: Path
    options: dict[str, object]
    ids: dict[str, str]


def kinds() -> dict[str, np.ndarray]:
    return {
        "empty": empty(),
        "one sample left": one_sample_left(),
        "flat": flat(),
        "with gaps": with_gaps(),
        "whole": random_adc(12, 60, seed=9, limit=400),
    }


def mimic(folder: Path) -> Written:
    studies = write_mimic_tree(folder, len(kinds()), num_samples=60, short_reports=0.0)
    for study, adc in zip(studies, kinds().values(), strict=True):
        write_waveform(folder, study, adc)
    ids = dict(zip(kinds(), (str(study.study_id) for study in studies), strict=True))
    return Written(folder, {"min_words": 0}, ids)


def ptb_xl(folder: Path) -> Written:
    rows = []
    for number, adc in enumerate(kinds().values(), start=1):
        for rate, suffix in ((100, "lr"), (500, "hr")):
            path = folder / f"records{rate}" / "00000"
            path.mkdir(parents=True, exist_ok=True)
            write_record(path, f"{number:05d}_{suffix}", adc, record_line="{name} {num_leads} 100 {num_samples}")
        rows.append(
            {
                "ecg_id": number, "patient_id": float(number), "age": 60.0, "sex": 0, "report": "sinusrhythmus",
                "scp_codes": "{'NORM': 100.0}", "strat_fold": 1,
                "filename_lr": f"records100/00000/{number:05d}_lr", "filename_hr": f"records500/00000/{number:05d}_hr",
            }
        )  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "ptbxl_database.csv", index=False)
    statements = {code: {"form": 1.0} for code in PTB_XL_CLASSES["form"]}
    statements |= {code: {"rhythm": 1.0} for code in PTB_XL_CLASSES["rhythm"]}
    for column, task in (("diagnostic_class", "super"), ("diagnostic_subclass", "sub")):
        for label in PTB_XL_CLASSES[task]:
            statements.setdefault(label, {})[column] = label
    table = pd.DataFrame.from_dict(statements, orient="index")
    table.assign(description=table.index).to_csv(folder / "scp_statements.csv")
    options = {"sampling_rate_hz": 100, "report": "original", "check_version": False}
    return Written(folder, options, dict(zip(kinds(), (f"{row['ecg_id']:05d}" for row in rows), strict=True)))


def csn(folder: Path) -> Written:
    ids = {kind: f"JS{number:05d}" for number, kind in enumerate(kinds(), start=1)}
    path = folder / "WFDBRecords" / "01" / "010"
    path.mkdir(parents=True)
    for kind, adc in kinds().items():
        write_record(
            path, ids[kind], adc, storage="16+24", extension=".mat", scale="1000/mV", comments=["#Dx: 426783006"]
        )
    return Written(folder, {"split_of_others": "train"}, ids)


def cpsc2018_copy(folder: Path) -> Written:
    ids = {kind: f"A{number:04d}" for number, kind in enumerate(kinds(), start=1)}
    for kind, adc in kinds().items():
        write_record(
            folder, ids[kind], adc, storage="16+24", extension=".mat", scale="1000/mV", comments=["#Dx: 426783006"]
        )
    return Written(folder, {"split_of_others": "train"}, ids)


def cpsc2018_native(folder: Path) -> Written:
    ids = {kind: f"A{number:04d}" for number, kind in enumerate(kinds(), start=1)}
    for kind, adc in kinds().items():
        signal = np.where(adc == INVALID_SAMPLE, np.nan, adc / 1000.0)
        scipy.io.savemat(folder / f"{ids[kind]}.mat", {"ECG": {"sex": "Male", "age": 60.0, "data": signal}})
    lines = ["Recording,First_label,Second_label,Third_label", *(f"{name},1,," for name in ids.values())]
    (folder / "REFERENCE.csv").write_text("\n".join(lines) + "\n")
    return Written(folder, {"split_of_others": "train"}, ids)


def cinc2021(folder: Path) -> Written:
    ids = {kind: f"E{number:05d}" for number, kind in enumerate(kinds(), start=1)}
    path = folder / "training" / "georgia" / "g1"
    path.mkdir(parents=True)
    for kind, adc in kinds().items():
        comments = ["#Age: 61", "#Sex: Male", "#Dx: 426783006"]
        write_record(path, ids[kind], adc, storage="16+24", extension=".mat", scale="1000/mV", comments=comments)
    return Written(folder, {}, ids)


def sph(folder: Path) -> Written:
    ids = {kind: f"A{number:05d}" for number, kind in enumerate(kinds(), start=1)}
    (folder / "records").mkdir()
    for kind, adc in kinds().items():
        with h5py.File(folder / "records" / f"{ids[kind]}.h5", "w") as file:
            file["ecg"] = np.where(adc == INVALID_SAMPLE, np.nan, adc / 1000.0).astype(np.float16)
    rows = [f"{name},1,S{name[1:]},60,M,60,2020-01-01" for name in ids.values()]
    (folder / "metadata.csv").write_text("\n".join(["ECG_ID,AHA_Code,Patient_ID,Age,Sex,N,Date", *rows, ""]))
    (folder / "code.csv").write_text("Category,Code,Description\nA,1,Normal ECG\n")
    return Written(folder, {}, ids)


def ludb(folder: Path) -> Written:
    ids = {kind: str(number) for number, kind in enumerate(kinds(), start=1)}
    (folder / "data").mkdir()
    for kind, adc in kinds().items():
        write_record(folder / "data", ids[kind], adc, comments=["#<diagnoses>:", "#Rhythm: Sinus rhythm."])
    return Written(folder, {}, ids)


WRITERS: dict[str, Callable[[Path], Written]] = {
    "mimic_iv_ecg": mimic,
    "ptb_xl": ptb_xl,
    "csn": csn,
    "cpsc2018 as published": cpsc2018_native,
    "cpsc2018 as PhysioNet copied it": cpsc2018_copy,
    "cinc2021": cinc2021,
    "sph": sph,
    "ludb": ludb,
}
"""CODE-test, CODE-15 % and SaMi-Trop, whose tracings share files, have the same test in modules of their own."""


def skipped(out: Path) -> list[dict[str, str]]:
    with (out / "skipped.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_source_is_tested_and_none_goes_around_the_check():
    assert {name.split()[0] for name in WRITERS} | {"code_test", "code15", "sami_trop"} == set(source_names())
    assert all(source_class(name).read is EcgSource.read for name in source_names())


@pytest.mark.parametrize("name", WRITERS)
def test_prepare_lists_the_empty_record_alone_whatever_the_source(name, tmp_path):
    (tmp_path / "tree").mkdir()
    written = WRITERS[name](tmp_path / "tree")
    source = open_source(name.split()[0], written.folder, **written.options)
    manifest = prepare(source, tmp_path / "out", workers=1, progress=False)
    (row,) = skipped(tmp_path / "out")
    assert (row["record"], row["problem"]) == (written.ids["empty"], NO_SIGNAL)
    assert row["fix"]
    data = open_data(str(tmp_path / "out"))
    kept = {item["ecg"].record_id: item["ecg"] for split in manifest.splits for item in iterate(data.split(split))}
    assert kept.keys() == set(written.ids.values()) - {written.ids["empty"]}
    for kind, adc in kinds().items():
        if kind != "empty":
            missing = np.isnan(kept[written.ids[kind]].signal)
            np.testing.assert_array_equal(missing, adc == INVALID_SAMPLE)


def iterate(rows):
    return rows.__getitems__(range(len(rows)))


def test_a_window_of_a_long_recording_is_skipped_alone(tmp_path):
    path = tmp_path / "tree" / "training" / "georgia" / "g1"
    path.mkdir(parents=True)
    adc = random_adc(12, 3000, limit=400)
    adc[:, 1000:2000] = INVALID_SAMPLE
    comments = ["#Age: 61", "#Sex: Male", "#Dx: 426783006"]
    write_record(path, "E00001", adc, storage="16+24", extension=".mat", scale="1000/mV", comments=comments)
    prepare(open_source("cinc2021", tmp_path / "tree", max_duration_s=2.0), tmp_path / "out", progress=False)
    assert [row["record"] for row in skipped(tmp_path / "out")] == ["E00001_w001"]


def test_leaving_out_records_with_missing_samples_names_the_empty_one_as_what_it_is(tmp_path):
    written = mimic(tmp_path / "tree")
    prepare(
        open_source("mimic_iv_ecg", written.folder, drop_nan=True, **written.options), tmp_path / "out", progress=False
    )
    problems = {row["record"]: row["problem"] for row in skipped(tmp_path / "out")}
    assert problems.pop(written.ids["empty"]) == NO_SIGNAL
    assert problems == {
        written.ids["one sample left"]: "719 of its samples are missing (NaN).",
        written.ids["with gaps"]: "75 of its samples are missing (NaN).",
    }


def test_a_builder_stops_at_the_empty_record_or_skips_it(tmp_path, caplog):
    written = mimic(tmp_path / "tree")
    options = {**written.options, "validation_fraction": 0.0, "test_fraction": 0.0}

    def stream(**settings):
        builder = MimicIvEcgBuilder(
            source=str(written.folder), cache_dir=str(tmp_path / "cache"), options=options, **settings
        )
        return [record.record_id for record in iter_records(builder.as_streaming_dataset("train"))]

    with pytest.raises(RecordError, match=f"Record '{written.ids['empty']}': {NO_SIGNAL}"):
        stream()
    assert set(stream(bad_records="skip")) == set(written.ids.values()) - {written.ids["empty"]}
    assert NO_SIGNAL in caplog.text


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (empty(), False),
        (one_sample_left(), True),
        (flat(), True),
        (np.full((2, 9), np.nan, np.float32), False),
        (np.full((2, 9), np.inf, np.float32), False),
        (np.array([[np.nan, np.nan], [np.nan, 0.0]], np.float32), True),
        (np.empty((12, 0), np.int16), False),
    ],
)
def test_a_valid_sample_is_one_that_is_neither_missing_nor_infinite(samples, expected):
    assert has_valid_sample(samples) is expected


# Training on the download as it is


def test_the_download_of_mimic_is_trained_on_by_a_named_policy(tmp_path, caplog):
    written = mimic(tmp_path / "tree")
    options = {**written.options, "validation_fraction": 0.0, "test_fraction": 0.0}
    train = open_data("mimic_iv_ecg", written.folder, **options).train
    with pytest.raises(RecordError, match=rf"'{written.ids['empty']}': {NO_SIGNAL} .*prepare.*bad_records=replace"):
        iterate(train)
    train = open_data("mimic_iv_ecg", written.folder, bad_records="replace", **options).train
    read = [item["ecg"].record_id for item in iterate(train)]
    assert len(read) == len(kinds())
    assert set(read) == set(written.ids.values()) - {written.ids["empty"]}
    assert f"Record '{written.ids['empty']}': {NO_SIGNAL}" in caplog.text
    assert f"In its place: record '{read[0]}'" in caplog.text


def test_both_ways_to_read_ptb_xl_have_a_policy(tmp_path, caplog):
    written = ptb_xl(tmp_path / "ptb-xl")
    bad, rest = written.ids["empty"], sorted(set(written.ids.values()) - {written.ids["empty"]})

    streamed = {**written.options, "streaming": True}
    with pytest.raises(RecordError, match=f"Record '{bad}': {NO_SIGNAL}"):
        iterate(open_data("ptb_xl", written.folder, **streamed).train)
    train = open_data("ptb_xl", written.folder, bad_records="replace", **streamed).train
    assert sorted({item["ecg"].record_id for item in iterate(train)}) == rest

    cached = {**written.options, "cache_dir": tmp_path / "cache"}
    with pytest.raises(RecordError, match=rf"Record '{bad}': {NO_SIGNAL} .*bad_records=skip"):
        open_data("ptb_xl", written.folder, **cached)
    caplog.clear()
    kept = open_data("ptb_xl", written.folder, bad_records="skip", **cached).train
    assert sorted(kept.column("record_id")) == rest
    assert f"Record '{bad}': {NO_SIGNAL}" in caplog.text
    with pytest.raises(ValueError, match=r"bad_records must be 'raise' or 'skip'.*streaming=true"):
        open_data("ptb_xl", written.folder, bad_records="replace", **cached)


def test_a_damaged_file_of_ptb_xl_is_named_in_the_same_way(tmp_path):
    written = ptb_xl(tmp_path / "ptb-xl")
    file = written.folder / "records100" / "00000" / "00004_lr.dat"
    file.write_bytes(file.read_bytes()[:-10])
    cached = {**written.options, "cache_dir": tmp_path / "cache", "bad_records": "skip"}
    train = open_data("ptb_xl", written.folder, **cached).train
    assert sorted(train.column("record_id")) == ["00002", "00003", "00005"]


# Prepared folders of earlier versions

BAD = (3, 70, 149)


@pytest.fixture
def old_folder(tmp_path, monkeypatch):
    """A prepared folder in which some training records have no valid sample, as earlier versions wrote them."""
    return write_old(tmp_path / "old", monkeypatch, "train", BAD)


def write_old(folder: Path, monkeypatch, split: str, bad: tuple[int, ...]) -> Path:
    def spoiled(of_split: str, count: int, rate_hz: float = 100.0):
        records = records_of(of_split, count, rate_hz)
        for place in bad if of_split == split else ():
            records[place].signal[:] = np.nan
        return records

    monkeypatch.setattr("prepared_folder.records_of", spoiled)
    write_prepared(folder, {"train": (150,), "validation": (40,), "test": (70,)})
    return folder


@pytest.fixture(params=["streamed", "cached"])
def opened(request, old_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return lambda **options: open_data(str(old_folder), streaming=request.param == "streamed", **options)


def test_an_old_folder_names_the_record_and_two_ways_out(opened):
    train = opened().train
    name = train.column("record_id")[3]
    assert len(train.__getitems__([0, 1, 2])) == 3
    with pytest.raises(RecordError, match=rf"'{name}': {NO_SIGNAL} .*prepare the data again.*bad_records=replace"):
        train.__getitems__([2, 3])


def test_an_old_folder_is_trained_on_with_another_record_in_its_place_always_the_same(opened, caplog):
    names = opened().train.column("record_id")
    train = opened(bad_records="replace").train
    items = iterate(train)
    assert [item["index"] for place, item in enumerate(items) if place not in BAD] == [
        place for place in range(150) if place not in BAD
    ]
    for place in BAD:
        assert items[place]["index"] not in BAD
        assert items[place]["ecg"].record_id == names[items[place]["index"]]
        assert sum(f"'{names[place]}': {NO_SIGNAL}" in message for message in caplog.messages) == 1
    again = pickle.loads(pickle.dumps(train))  # noqa: S301
    assert [item["index"] for item in iterate(again)] == [item["index"] for item in items]
    assert opened().train.bad_records == "raise"


def test_columns_fit_the_records_that_are_read_and_the_ledger_lists_those_that_are_stored(opened):
    train = opened(bad_records="replace").train
    items = iterate(train)
    assert train.column("report") == [item["ecg"].report for item in items]
    assert train.column("record_id") == [item["ecg"].record_id for item in items]
    assert train.index_column("record_id") == opened().train.column("record_id")
    assert train.unique_reports() == opened().train.unique_reports()


def test_only_training_records_of_a_prepared_folder_may_be_replaced(opened):
    data = opened(bad_records="replace")
    assert [data.split(split).bad_records for split in ("train", "validation", "test")] == ["replace", "raise", "raise"]
    with pytest.raises(ValueError, match=r"must be \"raise\" or \"replace\", not 'skip'.*prepare"):
        opened(bad_records="skip")


def test_a_folder_without_any_signal_is_not_searched_forever(tmp_path, monkeypatch):
    folder = write_old(tmp_path / "old", monkeypatch, "train", tuple(range(150)))
    with pytest.raises(RecordError, match=r"100 other records .* Prepare the data again from a complete download"):
        ParquetEcgDataset(folder, "train", bad_records="replace")[5]


def test_the_validation_loss_of_a_training_follows_its_policy_and_evaluation_does_not(tmp_path, monkeypatch):
    folder = write_old(tmp_path / "old", monkeypatch, "validation", (4,))
    data = open_data(str(folder), bad_records="replace")
    rows = for_validation_in_training(data.validation, data.train)
    assert rows[4]["index"] != 4
    with pytest.raises(RecordError, match=NO_SIGNAL):
        data.validation[4]
    data = open_data(str(folder))
    assert for_validation_in_training(data.validation, data.train) is data.validation
    assert for_validation_in_training(None, data.train) is None


def test_the_validation_rows_of_a_download_follow_the_policy_too(tmp_path):
    written = mimic(tmp_path / "tree")
    data = open_data(
        "mimic_iv_ecg", written.folder, bad_records="replace", validation_fraction=0.999, test_fraction=0, min_words=0
    )
    rows = for_validation_in_training(data.validation, ReplacingRows())
    assert written.ids["empty"] not in {item["ecg"].record_id for item in iterate(rows)}
    with pytest.raises(RecordError, match=NO_SIGNAL):
        iterate(data.validation)


class ReplacingRows:
    bad_records = "replace"


def test_persons_are_not_told_apart_by_records_that_may_be_somebody_elses(opened):
    with pytest.raises(ValueError, match=r"opened with bad_records=replace: another person's record"):
        identification_data(opened(bad_records="replace"))


# On the command line


@pytest.fixture
def train_command(tmp_path, capsys, caplog):
    """Runs `hf-ecgtext train` for one epoch or more and returns exit code, standard error and what was logged."""

    def run(*options: object) -> tuple[int, str, str]:
        caplog.clear()
        settings = ["training.max_steps=6", "training.per_device_train_batch_size=32", "training.logging_steps=1"]
        settings += ["training.disable_tqdm=true", "training.eval_strategy=epoch", "training.save_strategy=no"]
        command = ["train", "--method", "etp", "--recipe", "debug", "--no-zero-shot", "--set", *settings]
        code = main([*command, "--output-dir", str(tmp_path / "out"), *map(str, options)])
        return code, capsys.readouterr().err, caplog.text

    return run


@pytest.mark.slow
def test_training_on_an_old_folder_stops_with_the_name_of_the_record_or_goes_on(old_folder, train_command):
    name = open_data(str(old_folder)).train.column("record_id")[3]
    code, errors, _ = train_command("--data", old_folder)
    assert code == 1
    assert NO_SIGNAL in errors
    assert "bad_records=replace" in errors
    code, errors, log = train_command("--data", old_folder, "--data-set", "bad_records=replace")
    assert code == 0, errors
    assert f"'{name}': {NO_SIGNAL}" in log


@pytest.mark.slow
def test_training_on_a_download_replaces_empty_records_of_training_and_validation(tmp_path, train_command):
    studies = write_mimic_tree(tmp_path / "tree", 300, num_samples=1000, short_reports=0.0)
    for study in studies[::9]:
        write_waveform(tmp_path / "tree", study, empty(1000))
    options = ["--data", "mimic_iv_ecg", "--data-dir", tmp_path / "tree"]
    settings = ["validation_fraction=0.4", "test_fraction=0"]
    assert len(open_data("mimic_iv_ecg", tmp_path / "tree", validation_fraction=0.4, test_fraction=0).validation) > 32
    code, errors, _ = train_command(*options, "--data-set", *settings)
    assert code == 1
    assert NO_SIGNAL in errors
    code, errors, log = train_command(*options, "--data-set", *settings, "bad_records=replace")
    assert code == 0, errors
    assert log.count(NO_SIGNAL) > 20


@pytest.mark.slow
def test_evaluating_on_an_old_folder_names_the_record(tmp_path, monkeypatch, merl_folder, caplog):
    folder = write_old(tmp_path / "old", monkeypatch, "test", (5,))
    name = open_data(str(folder)).test.column("record_id")[5]
    for settings in ([], ["--data-set", "bad_records=replace"]):
        caplog.clear()
        command = ["evaluate", "--model", str(merl_folder), "--data", str(folder), *settings]
        assert main([*command, "--output-dir", str(tmp_path / "out")]) == 1
        assert f"Record '{name}': {NO_SIGNAL}" in caplog.text
