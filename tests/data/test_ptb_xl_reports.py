"""12SL statements become the sentences an ECG machine prints."""

from pathlib import Path

import pandas as pd
import pytest

from hf_ecgtext.data.sources.ptb_xl.reports import read_12sl_reports, read_full_texts, write_report
from hf_ecgtext.errors import RecordError

FULL_TEXTS = {
    "SRTH": "Sinus rhythm",
    "OCC": "with occasional",
    "CSEC": "and consecutive",
    "PVC": "premature ventricular complexes",
    "PO": "Possible",
    "LAE": "Left atrial enlargement",
    "QRSV": "Minimal voltage criteria for LVH",
    "RAVL": "R in aVL",
    "SOKOLYON": "Sokolow-Lyon",
    "IMI": "Inferior infarct",
    "AU": ", age undetermined",
    "AB": "Abnormal ECG",
    "LPAREN": "(",
    "RPAREN": ")",
    "COMMA": ",",
}


@pytest.fixture(scope="module")
def reports(real_data: Path) -> dict[int, str]:
    return read_12sl_reports(real_data / "ptb-xl-plus")


@pytest.mark.parametrize(
    ("statements", "groups", "report"),
    [
        (["SRTH", "AB"], ["SRTH", "AB"], "Sinus rhythm. Abnormal ECG"),
        (["IMI", "AU", "AB"], ["IMI;AU", "AB"], "Inferior infarct, age undetermined. Abnormal ECG"),
        (["SRTH", "PO", "LAE"], ["SRTH", "PO;LAE"], "Sinus rhythm. Possible Left atrial enlargement"),
        (
            ["SRTH", "OCC", "CSEC", "PVC", "AB"],
            ["SRTH", "OCC;CSEC", "PVC", "AB"],
            "Sinus rhythm with occasional and consecutive premature ventricular complexes. Abnormal ECG",
        ),
        (
            ["QRSV", "LPAREN", "RAVL", "COMMA", "SOKOLYON", "RPAREN", "AB"],
            ["QRSV", "RAVL", "SOKOLYON", "AB"],
            "Minimal voltage criteria for LVH (R in aVL, Sokolow-Lyon). Abnormal ECG",
        ),
        (["PVC", "AB"], ["PVC", "AB"], "Premature ventricular complexes. Abnormal ECG"),
    ],
)
def test_statements_become_sentences(statements, groups, report):
    assert write_report(statements, groups, FULL_TEXTS, "any") == report


def test_a_statement_without_text_is_refused_and_named():
    with pytest.raises(RecordError, match=r"'PTB-XL 7'.*'XYZ'.*original"):
        write_report(["SRTH", "XYZ"], ["SRTH", "XYZ"], FULL_TEXTS, "PTB-XL 7")


def test_columns_that_disagree_are_refused():
    with pytest.raises(RecordError, match="differ"):
        write_report(["SRTH", "AB"], ["SRTH"], FULL_TEXTS, "PTB-XL 7")


@pytest.mark.parametrize(
    ("ecg_id", "report"),
    [
        (1, "Normal sinus rhythm. Normal ECG"),
        (
            4,
            "Sinus rhythm with premature atrial complexes with aberrant conduction. Rightward axis. Minimal voltage "
            "criteria for LVH, may be normal variant (Cornell Product). Borderline ECG",
        ),
        (
            30,
            "Normal sinus rhythm. Left ventricular hypertrophy with QRS widening (Sokolow-Lyon, Cornell Product, "
            "Romhilt-Estes). Abnormal ECG",
        ),
        (
            21805,
            "Normal sinus rhythm. Left axis deviation. Anteroseptal infarct, age undetermined. ST & T wave "
            "abnormality, consider lateral ischemia. Abnormal ECG",
        ),
    ],
)
def test_known_records_read_as_their_statements_say(reports, ecg_id, report):
    assert reports[ecg_id] == report


def test_every_record_has_a_well_formed_report(reports):
    assert len(reports) == 21_799
    sentences = {sentence for report in set(reports.values()) for sentence in report.split(". ")}
    for sentence in sentences:
        assert sentence[0].isupper(), sentence
        assert sentence.count("(") == sentence.count(")"), sentence
        assert "*" not in sentence
        assert "  " not in sentence
        assert " ," not in sentence
        assert not sentence.endswith((" with", " occasional", " Possible", " and", ".")), sentence


def test_only_2st_lacks_its_own_row_and_takes_the_text_of_2(real_data):
    table = pd.read_csv(real_data / "ptb-xl-plus" / "labels" / "12slv23ToSNOMED.csv", encoding="utf-8-sig")
    texts = read_full_texts(real_data / "ptb-xl-plus")
    assert set(texts) - set(table.Acronym.dropna()) == {"2ST"}
    assert texts["2ST"] == texts["2"] == "with repolarization abnormality"
    assert texts["BIFB"] == "Bifascicular block"


def test_the_absence_of_ptb_xl_plus_is_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ptb-xl-plus.*report='original'"):
        read_12sl_reports(tmp_path / "ptb-xl-plus")


def test_the_table_of_texts_is_found_where_physionet_keeps_it(real_data, tmp_path):
    (tmp_path / "labels" / "mapping").mkdir(parents=True)
    labels = real_data / "ptb-xl-plus" / "labels"
    (tmp_path / "labels" / "12sl_statements.csv").symlink_to(labels / "12sl_statements.csv")
    with pytest.raises(FileNotFoundError, match="mapping"):
        read_full_texts(tmp_path)
    (tmp_path / "labels" / "mapping" / "12slv23ToSNOMED.csv").symlink_to(labels / "12slv23ToSNOMED.csv")
    assert read_full_texts(tmp_path)["SRTH"] == "Sinus rhythm"
