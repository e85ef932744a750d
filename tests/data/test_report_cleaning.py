import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ecgtext.processing import (
    REPORT_CLEANERS,
    clean_12sl_report,
    clean_cmelt_report,
    clean_dbeta_report,
    clean_mimic_report,
    clean_ptbxl_report,
)


def test_mimic_statements_become_one_lower_case_report():
    statements = ["Sinus rhythm", "Possible right atrial abnormality", None, "Borderline ECG", float("nan"), ""]
    assert clean_mimic_report(statements) == "sinus rhythm. possible right atrial abnormality. borderline ecg."


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("*** Consider acute ST elevation MI ***", "consider acute st elevation mi."),
        (["Sinus rhythm", "***", "=-=-=-="], "sinus rhythm."),
        ("Normal EKG.", "normal ecg."),
        ("ST-T changes\n\tin V1-V3", "st-t changes in v1-v3."),
        ("Sinus rhythm. *** . Normal ECG.", "sinus rhythm. normal ecg."),
        ("--- Warning: data quality ---", "warning: data quality."),
        ("** ** ACUTE MI / STEMI ** **", "acute mi / stemi."),
        ("  ", ""),
        ([], ""),
        ([None], ""),
        ("***", ""),
    ],
)
def test_mimic_ornaments_go_and_words_stay(raw, clean):
    assert clean_mimic_report(raw) == clean


def test_a_statement_that_is_no_text_is_refused():
    with pytest.raises(TypeError, match="statement"):
        clean_mimic_report(["Sinus rhythm", 5.0])


def test_dbeta_joins_by_a_space():
    assert clean_dbeta_report(["Sinus rhythm", None, "*** Abnormal EKG ***"]) == "sinus rhythm abnormal ecg"


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        (["Sinus rhythm.", None, "*** Abnormal EKG ***"], "sinus rhythm abnormal ecg"),
        ("ST-T changes, V1-V3; anterior/lateral (old?)", "st t changes v1 v3 anterior lateral old"),
        ("QTc > 500 ms", "qtc 500 ms"),
        ("sinusrhythmus, überdrehter linkstyp", "sinusrhythmus überdrehter linkstyp"),
        ("EKG_2", "ecg 2"),
        ("*** . ***", ""),
    ],
)
def test_cmelt_s_paper_removes_punctuation_too_and_words_stay_apart(raw, clean):
    assert clean_cmelt_report(raw) == clean
    assert clean_cmelt_report(clean) == clean


def test_12sl_continuations_follow_their_statement():
    raw = ["Sinus rhythm", "Inferior infarct", ", age undetermined", "Abnormal ECG"]
    assert clean_12sl_report(raw) == "sinus rhythm. inferior infarct, age undetermined. abnormal ecg."


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        (
            "sinusrhythmus linkstyp sonst normales ekg 4.46                          unbestÄtigter bericht",
            "sinusrhythmus linkstyp sonst normales ekg",
        ),
        ("sinusrhythmus 4.46                          unbestÄtigter be", "sinusrhythmus"),
        ("sinusrhythmus 4.46              ", "sinusrhythmus"),
        ("sinus rhythm. normal ecg. Edit: NORM 100, (NORM 100)", "sinus rhythm. normal ecg."),
        ("ekg 4.46       unbestÄtigter bericht Edit: NORM 100, (NORM 100)", "ekg"),
        ("sinusrytmconsensus label derived from: {'LVH': 100.0},{'LVH': 100.0}", "sinusrytm"),
        ("kein anhalt f#r ischÄmie    alter unbest.", "kein anhalt für ischämie alter unbest."),
        ("prolonged pr interval 0.24 sec.", "prolonged pr interval 0.24 sec."),
    ],
)
def test_ptbxl_trailers_go_and_findings_stay(raw, clean):
    assert clean_ptbxl_report(raw) == clean


_PIECES = st.sampled_from(
    [
        "EKG",
        "ekg",
        "***",
        "*",
        "=-=",
        "=",
        "-",
        ".",
        ",",
        ". ",
        " ",
        "\n",
        "4.46",
        "  unbestÄtigter bericht",
        "u",
        "Edit: NORM",
        "#",
        "consensus label derived from: {}",
        "Sinus",
    ]
)


@pytest.mark.slow
@settings(deadline=None, max_examples=400)
@given(st.one_of(st.text(max_size=40), st.lists(_PIECES, max_size=12).map("".join)))
@pytest.mark.parametrize("name", list(REPORT_CLEANERS))
def test_cleaning_a_clean_report_changes_nothing(name, report):
    clean = REPORT_CLEANERS[name]
    assert clean(clean(report)) == clean(report)


def test_no_real_ptbxl_report_keeps_a_trailer_or_label_codes(real_data):
    with open(real_data / "ptb-xl" / "ptbxl_database.csv", encoding="utf-8", newline="") as file:
        reports = [row["report"] for row in csv.DictReader(file)]
    cleaned = [clean_ptbxl_report(report) for report in reports]
    assert len(cleaned) == 21_799
    for text in cleaned:
        assert not any(mark in text for mark in ("unbestätigt", "edit:", "label derived", "4.46", "#", "  ")), text
    emptied = [report for report, text in zip(reports, cleaned, strict=True) if report.strip() and not text]
    assert len(emptied) < 20, emptied[:5]


def test_real_mimic_statements_become_a_report(real_data):
    with open(real_data / "mimic-iv-ecg" / "machine_measurements.csv", encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file))
    report = clean_mimic_report(row[f"report_{index}"] for index in range(18))
    assert report == "sinus rhythm. possible right atrial abnormality. borderline ecg."
