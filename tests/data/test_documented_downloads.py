"""Downloads in their documented layout, with every oddity that is known of the real ones, are prepared as they come.

What is planted follows public reports about the files (the module that mends each names them); what is skipped, what a
rule leaves out and what is read nevertheless must be exactly that.
"""

import csv
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from datasets import load_dataset
from make_mimic import REPORT_COLUMNS, write_mimic_tree, write_waveform
from reading_fixtures import random_adc, write_record
from test_code_test import write_tables

from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.records import INVALID_SAMPLE, EcgRecord
from hf_ecgtext.data.sources.by_name import open_source
from hf_ecgtext.data.sources.merl_splits import read_split_list
from hf_ecgtext.data.store.manifest import Manifest
from hf_ecgtext.data.store.schema import iter_records

NAMES_OF_CSN = "Acronym Name,Full Name,Snomed_CT\nSR,Sinus Rhythm,426783006\nST,Sinus Tachycardia,427084000\n"


class Prepared:
    """What `prepare` made of a download."""

    def __init__(self, name: str, download: Path, out: Path, **options: object):
        self.manifest: Manifest = prepare(open_source(name, download, **options), out, workers=1, progress=False)
        self.out = out

    def column(self, file: str, name: str) -> dict[str, str]:
        """A column of `skipped.csv` or `left_out.csv` by record."""
        if not (self.out / file).is_file():
            return {}
        with (self.out / file).open(newline="") as opened:
            return {row["record"]: row[name] for row in csv.DictReader(opened)}

    @property
    def skipped(self) -> dict[str, str]:
        return self.column("skipped.csv", "problem")

    @property
    def left_out(self) -> dict[str, str]:
        return self.column("left_out.csv", "reason")

    @property
    def notes(self) -> str:
        return "\n".join(self.manifest.summary["notes"])

    def records(self) -> dict[str, EcgRecord]:
        return {
            record.record_id: record
            for split in self.manifest.splits
            for record in iter_records(load_dataset(str(self.out), split=split, streaming=True))
        }


def write_matlab(
    folder: Path,
    name: str,
    dx: str,
    *,
    seed: int | None = None,
    num_samples: int = 5000,
    rate: int = 500,
    age: str = "61",
    unit: str = "mV",
) -> np.ndarray:
    """A record as PhysioNet's challenges and CSN store it."""
    folder.mkdir(parents=True, exist_ok=True)
    adc = random_adc(num_samples=num_samples, seed=int(name[-4:]) if seed is None else seed)
    write_record(
        folder,
        name,
        adc,
        storage="16+24",
        extension=".mat",
        scale=f"1000/{unit}",
        record_line=f"{{name}} {{num_leads}} {rate} {{num_samples}} 12-May-2020 12:33:59",
        comments=[f"#Age: {age}", "#Sex: Male", f"#Dx: {dx}", "#Rx: Unknown", "#Hx: Unknown", "#Sx: Unknown"],
    )
    return adc


def merge_first_lines(folder: Path, name: str) -> None:
    """As ecg-arrhythmia 1.0.0 has it: `5000` and `00/mV` in one, the break and what is between them gone."""
    header = folder / f"{name}.hea"
    text = header.read_text().replace(" 12-May-2020 12:33:59", "")
    header.write_text(text.replace(f"5000\n{name}.mat 16+24 1000/mV", "500000/mV"))
    assert header.read_text().startswith(f"{name} 12 500 500000/mV 16 0 ")


# --- CSN -------------------------------------------------------------------------------------------------------------


def test_csn_1_0_0(tmp_path):
    """Merged headers, equal recordings across both parts, semicolons, decimals, unknown codes and lists of records."""
    top = tmp_path / "a-large-scale-12-lead-electrocardiogram-database-for-arrhythmia-study-1.0.0"
    place = {
        "JS00002": "01/010",
        "JS01052": "02/021",
        "JS00004": "01/010",
        "JS00006": "01/010",
        "JS20001": "20/206",
        "JS23074": "23/235",
        "JS00001": "01/010",
    }
    dx = {
        "JS00002": "426783006",
        "JS01052": "427084000",
        "JS00004": "426783006;427084000",
        "JS00006": "426783006.0,55827005",  # no acronym has the second
        "JS20001": "427084000",  # the samples of JS00002, and another rhythm
        "JS23074": "426783006",
        "JS00001": "426783006",
    }
    written = {}
    for name, folder in place.items():
        seed = 2 if name == "JS20001" else None
        written[name] = write_matlab(top / "WFDBRecords" / folder, name, dx[name], seed=seed)
    for name in ("JS01052", "JS23074"):
        merge_first_lines(top / "WFDBRecords" / place[name], name)
    damaged = top / "WFDBRecords" / place["JS00001"] / "JS00001.mat"
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    folders = sorted(set(place.values()))
    (top / "RECORDS").write_text("".join(f"WFDBRecords/{folder}/\n" for folder in folders))
    for folder in folders:
        names = sorted(name for name, where in place.items() if where == folder)
        (top / "WFDBRecords" / folder / "RECORDS").write_text("\n".join(names) + "\n")
    (top / "ConditionNames_SNOMED-CT.csv").write_text(NAMES_OF_CSN)

    published = read_split_list("csn")
    prepared = Prepared("csn", top, tmp_path / "out")
    assert set(prepared.skipped) == ({"JS00001"} & set(published))
    assert set(prepared.left_out) == set(place) - set(published)
    everything = Prepared("csn", top, tmp_path / "all", split_of_others="train")
    assert set(everything.skipped) == {"JS00001"}
    assert everything.left_out == {}
    records = everything.records()
    assert set(records) == set(place) - {"JS00001"}
    for name, record in records.items():
        np.testing.assert_array_equal(record.signal, (written[name] / 1000.0).astype(np.float32))
    assert published["JS01052"] == "train"
    assert records["JS01052"].attributes["labels_short"] == ["ST"]
    assert records["JS00004"].labels == ("426783006", "427084000")
    assert records["JS00006"].attributes["labels_unknown"] == ["55827005"]
    assert "merged, here of JS01052 and JS23074" in everything.notes
    assert "2 records hold the same samples as another one" in everything.notes
    assert everything.manifest.summary["equal_recordings"]["different_labels"] == 1


# --- PhysioNet/CinC 2021 ---------------------------------------------------------------------------------------------


def test_cinc_2021_1_0_3(tmp_path):
    """All eight sets: a misnamed header, withdrawn records, a lower-case unit, ages that are none, a long record."""
    training = tmp_path / "challenge-2021-1.0.3" / "training"
    normal = "426783006"
    write_matlab(training / "cpsc_2018" / "g1", "A0001", normal, age="-1")
    write_matlab(training / "cpsc_2018" / "g1", "A0002", normal, age="92")
    write_matlab(training / "cpsc_2018_extra" / "g1", "Q0001", normal, age="-1")
    write_matlab(training / "st_petersburg_incart" / "g1", "I0001", normal, rate=257, num_samples=257 * 200)
    write_matlab(training / "ptb" / "g1", "S0001", normal, rate=1000, unit="mv", age="NaN")
    for name in ("HR00001", "HR00137", "HR18150"):
        write_matlab(training / "ptb-xl" / "g1", name, normal, unit="mv", age="300")
    write_matlab(training / "georgia" / "g1", "E00001", normal, age="92")
    write_matlab(training / "chapman_shaoxing" / "g1", "JS01052", normal)
    misnamed = write_matlab(training / "ningbo" / "g13", "JS23074", normal)
    (training / "ningbo" / "g13" / "JS23074.hea").rename(training / "ningbo" / "g13" / "S23074.hea")
    write_matlab(training / "ningbo" / "g13", "JS23075", "999999999")  # a code that the tables do not have
    for folder in training.rglob("g*"):
        (folder / "RECORDS").write_text("\n".join(sorted(path.stem for path in folder.glob("*.hea"))) + "\n")

    prepared = Prepared("cinc2021", tmp_path / "challenge-2021-1.0.3", tmp_path / "out")
    assert set(prepared.skipped) == {"JS23075"}
    assert set(prepared.left_out) == {"HR00137", "HR18150"}
    records = prepared.records()
    windows = {"I0001_w000", "I0001_w001"}
    assert set(records) == windows | {"A0001", "A0002", "Q0001", "S0001", "HR00001", "E00001", "JS01052", "JS23074"}
    np.testing.assert_array_equal(records["JS23074"].signal, (misnamed / 1000.0).astype(np.float32))
    ages = {name: (record.attributes["age"], record.attributes["is_over_89"]) for name, record in records.items()}
    assert ages["A0001"] == ages["Q0001"] == ages["S0001"] == (None, False)
    assert ages["A0002"] == ages["HR00001"] == (None, True)
    assert ages["E00001"] == (92.0, False)
    assert "ptb-xl: 1 of 21,837 records" in prepared.notes


# --- CPSC2018 --------------------------------------------------------------------------------------------------------


def test_cpsc2018_as_everybody_downloads_it(tmp_path):
    """The table beside three archives, a label that stands twice, 144 s, a recording of the table that is in none."""
    signals = {}
    for number, names in enumerate((("A0001", "A0004"), ("A2501",), ("A5001",)), start=1):
        with zipfile.ZipFile(tmp_path / f"TrainingSet{number}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                length = 72_000 if name == "A5001" else 5000
                signal = np.random.default_rng(int(name[1:])).normal(0, 0.2, (12, length))
                signal[2, 7] = 1.4
                signals[name] = signal
                file = tmp_path.parent / f"{name}.mat"
                struct = {"sex": "Female", "age": -1.0 if name == "A0004" else 70.0, "data": signal}
                scipy.io.savemat(file, {"ECG": struct}, do_compression=True)
                archive.write(file, f"TrainingSet{number}/{name}.mat")
                file.unlink()
    table = "Recording,First_label,Second_label,Third_label\nA0001,5,,\nA0004,5,5,\nA2501,1,3,\nA5001,9,,\nA6877,2,,\n"
    (tmp_path / "REFERENCE.csv").write_text(table)

    prepared = Prepared("cpsc2018", tmp_path, tmp_path.parent / f"{tmp_path.name}-out")
    assert set(prepared.skipped) == {"A6877"}
    assert prepared.left_out == {}
    records = prepared.records()
    assert set(records) == set(signals)
    for name, record in records.items():
        np.testing.assert_array_equal(record.signal, signals[name].astype(np.float32))
    assert records["A0004"].attributes["labels_cpsc2018"] == ["CRBBB"]
    assert records["A0004"].attributes["age"] is None
    assert records["A5001"].num_samples / 500 == 144
    assert "The median record's largest deflection is 1.4 mV." in prepared.notes


@pytest.mark.parametrize("mirror", ["challenge-2020/training/cpsc_2018", "challenge-2021/training/cpsc_2018"])
def test_cpsc2018_from_its_copies(tmp_path, mirror):
    codes = {"A0001": "59118001", "A0002": "426783006", "A0003": "164889003,164931005"}
    for name, dx in codes.items():
        write_matlab(tmp_path / mirror / "g1", name, dx, age={"A0001": "-1", "A0002": "92", "A0003": "33"}[name])
    write_matlab(tmp_path / mirror / "g1", "A0004", "427393009")  # none of the nine
    prepared = Prepared("cpsc2018", tmp_path, tmp_path.parent / f"{tmp_path.name}-out")
    assert set(prepared.skipped) == {"A0004"}
    records = prepared.records()
    assert {name: record.attributes["age"] for name, record in records.items()} == {
        "A0001": None,
        "A0002": None,
        "A0003": 33.0,
    }


# --- MIMIC-IV-ECG ----------------------------------------------------------------------------------------------------


def test_mimic_iv_ecg_1_0(tmp_path):
    """Missing samples, an empty report, reports below MERL's four words, full stops doubled, studies of one table."""
    top = tmp_path / "mimic-iv-ecg-diagnostic-electrocardiogram-matched-subset-1.0"
    studies = write_mimic_tree(top, 40, num_samples=500, short_reports=0.0)
    reports = {
        studies[0].study_id: (),
        studies[1].study_id: ("Sinus rhythm", "Normal"),
        studies[2].study_id: ("Sinus rhythm.", "Normal ECG."),
        studies[3].study_id: ("Paced", "*** Atrial fibrillation ***"),
    }
    table = top / "machine_measurements.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if (study := int(row["study_id"])) in reports:
            row.update(dict.fromkeys(REPORT_COLUMNS, ""))
            row.update(zip(REPORT_COLUMNS, reports[study], strict=False))
    rows = [row for row in rows if int(row["study_id"]) != studies[4].study_id]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    spoiled = studies[5].adc()
    spoiled[3, 10:13] = INVALID_SAMPLE
    write_waveform(top, studies[5], spoiled)
    empty = np.full_like(spoiled, INVALID_SAMPLE)
    write_waveform(top, studies[6], empty)
    (top / f"{studies[7].path}.dat").unlink()

    def ids(*numbers: int) -> set[str]:
        return {str(studies[number].study_id) for number in numbers}

    prepared = Prepared("mimic_iv_ecg", tmp_path, tmp_path.parent / f"{tmp_path.name}-out")
    assert set(prepared.skipped) == ids(6, 7)
    assert set(prepared.left_out) == ids(0, 1, 4)
    records = prepared.records()
    assert set(records) == ids(*range(40)) - ids(0, 1, 4, 6, 7)
    assert np.isnan(records[str(studies[5].study_id)].signal).sum() == 3
    assert records[str(studies[2].study_id)].report == "Sinus rhythm.. Normal ECG."
    assert records[str(studies[2].study_id)].attributes["report_cleaned"] == "sinus rhythm. normal ecg."

    as_cmelt = Prepared(
        "mimic_iv_ecg", tmp_path, tmp_path.parent / f"{tmp_path.name}-cmelt", min_words=1, drop_nan=True
    )
    assert set(as_cmelt.skipped) == ids(5, 6, 7)
    assert set(as_cmelt.left_out) == ids(0, 4)


# --- CODE-test -------------------------------------------------------------------------------------------------------


def test_code_test_1_0_3(tmp_path):
    """All 827 tracings in millivolts, leads in the order of the description, dead leads, one without a recording."""
    (tmp_path / "data").mkdir()
    written = write_tables(tmp_path / "data")
    generator = np.random.default_rng(0)
    with h5py.File(tmp_path / "data" / "ecg_tracings.hdf5", "w") as file:
        # What is not written is a flat millivolt, which decides nothing.
        dataset = file.create_dataset("tracings", (827, 4096, 12), "f4", chunks=(1, 4096, 12), fillvalue=1.0)
        for row in range(14):
            one, two = np.cumsum(generator.normal(0, 0.02, (2, 4096)), axis=1)
            rest = generator.normal(0, 0.4, (6, 4096))
            tracing = np.stack([one, two, two - one, one - two / 2, two - one / 2, -(one + two) / 2, *rest])
            tracing[9] = 0  # a dead lead
            tracing[:, :648] = tracing[:, 3448:] = 0  # 7 s in the middle
            dataset[row] = tracing.T
        dataset[826] = np.zeros((4096, 12))
    prepared = Prepared("code_test", tmp_path, tmp_path.parent / f"{tmp_path.name}-out")
    assert prepared.skipped == {"826": "its tracing holds nothing but zeros."}
    assert prepared.manifest.num_records("test") == 826
    assert "The median record's largest deflection is 1 mV." in prepared.notes
    assert "The augmented leads are aVL, aVF, aVR: 14 of 827 records decide" in prepared.notes
    counts = prepared.manifest.summary["splits"]["test"]["labels"]["labels"]
    names = ("1dAVb", "RBBB", "LBBB", "SB", "AF", "ST")
    assert counts == dict(zip(names, written["gold_standard"][:826].sum(axis=0).tolist(), strict=True))
