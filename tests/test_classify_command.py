"""`hf-ecgtext classify` with many records, some of them bad, in the forms that people and programs read."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline

from hf_ecgtext.cli import main
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator

LABELS = ["atrial fibrillation", "sinus rhythm"]


def write(folder: Path, name: str, signal: np.ndarray, leads: tuple[str, ...]) -> str:
    adc = np.rint(signal * 1000).astype("<i2")
    lines = [f"{name} {len(leads)} 100 {signal.shape[1]}"]
    for lead, row in zip(leads, adc, strict=True):
        lines.append(f"{name}.dat 16 1000(0)/mV 16 0 {row[0]} {row.sum(dtype=int) % 65536} 0 {lead}")
    (folder / f"{name}.dat").write_bytes(adc.T.tobytes())
    (folder / f"{name}.hea").write_text("\n".join([*lines, ""]))
    return str(folder / name)


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> dict[str, str]:
    """A record of 10 s, one of 25 s, one with leads of a Holter recorder, and one that is cut off."""
    folder = tmp_path_factory.mktemp("records")
    one, two, three = SyntheticEcgGenerator(seed=1, sampling_rate_hz=100.0).records(3)
    long = np.concatenate([two.signal, three.signal, one.signal[:, :500]], axis=1)
    paths = {
        "short": write(folder, "short", one.signal, one.lead_names),
        "long": write(folder, "long", long, one.lead_names),
        "holter": write(folder, "holter", one.signal[[1, 10]], ("MLII", "V5")),
        "cut": write(folder, "cut", one.signal, one.lead_names),
    }
    (folder / "cut.dat").write_bytes((folder / "short.dat").read_bytes()[:-2])
    return paths


@pytest.fixture
def classify(merl_folder, capsys):
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["classify", *words, "--model", str(merl_folder), "--labels", *LABELS])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def classifier(merl_folder):
    return pipeline("zero-shot-ecg-classification", model=str(merl_folder))


def approximately(answers) -> list[dict]:
    return [{"label": one["label"], "score": pytest.approx(one["score"], abs=1e-6)} for one in answers]


def test_json_has_a_line_for_each_record_in_order(classify, classifier, records):
    code, output, errors = classify(records["short"], records["cut"], records["long"], "--json", "--batch-size", "3")
    assert code == 1
    short, cut, long = map(json.loads, output.splitlines())
    assert short == {
        "record": records["short"],
        "answers": approximately(classifier(records["short"], candidate_labels=LABELS)),
    }
    assert cut["record"] == records["cut"]
    assert "signal file 'cut.dat' has 23998 bytes" in cut["error"]
    assert long["answers"] == approximately(classifier(records["long"], candidate_labels=LABELS))
    assert f"hf-ecgtext classify: Record '{records['cut']}': " in errors
    assert "not a medical device" in errors


def test_csv_has_a_line_for_each_label_and_window(classify, classifier, records):
    code, output, _ = classify(records["long"], records["cut"], "--csv", "--windows", "each")
    assert code == 1
    rows = list(csv.DictReader(io.StringIO(output)))
    assert [(row["start_s"], row["end_s"]) for row in rows[:-1:2]] == [
        ("0.0", "10.0"),
        ("7.5", "17.5"),
        ("15.0", "25.0"),
    ]
    windows = classifier(records["long"], candidate_labels=LABELS, windows="each")
    for row, answer in zip(rows, [one for window in windows for one in window["answers"]], strict=False):
        assert (row["record"], row["label"]) == (records["long"], answer["label"])
        assert float(row["score"]) == pytest.approx(answer["score"], abs=1e-6)
    assert rows[-1]["record"] == records["cut"]
    assert "signal file" in rows[-1]["error"]


def test_the_records_after_a_bad_one_are_answered_and_the_bad_ones_named_at_the_end(classify, records):
    code, output, errors = classify(records["cut"], records["short"], "/nowhere/r9")
    assert code == 1
    assert output.splitlines()[0] == records["short"]
    assert "not a medical device" in output.splitlines()[-1]
    lines = [line for line in errors.splitlines() if line.startswith("hf-ecgtext")]
    assert lines[0] == "hf-ecgtext classify: 2 of 3 records have no answer:"
    assert [line.split("'")[1] for line in lines[1:]] == [records["cut"], "/nowhere/r9"]


def test_windows_are_printed_with_their_times(classify, records):
    code, output, _ = classify(records["long"], "--windows", "each", "--exclusive")
    assert code == 0
    assert [line for line in output.splitlines() if line.endswith(" s")] == [
        "  0 to 10 s",
        "  7.5 to 17.5 s",
        "  15 to 25 s",
    ]
    first, average = (classify(records["long"], "--json", "--windows", windows)[1] for windows in ("first", "average"))
    assert first != average


def test_the_advice_about_leads_works_on_the_command_line(classify, classifier, records):
    code, output, errors = classify(records["holter"])
    assert (code, output) == (1, "")
    assert "by --lead-names MLII=II, or leave these rows out by --unknown-leads ignore." in errors
    expected = approximately(classifier(records["holter"], candidate_labels=LABELS, lead_names={"MLII": "II"}))
    for words in (["MLII=II"], ["II", "V5"]):
        code, output, _ = classify(records["holter"], "--json", "--lead-names", *words)
        assert (code, json.loads(output)["answers"]) == (0, expected)
    assert classify(records["holter"], "--unknown-leads", "ignore")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "cuda:99"], "--device cuda:99: there is no such device here"),
        (["--device", "gpu"], "--device gpu: there is no such device here"),
        (["--lead-names", "MLII=II", "V5"], "--lead-names MLII=II V5: give one name per row, or OLD=NEW"),
        (["--batch-size", "0"], "batch_size must be a positive integer, not 0"),
        (["--template", "no place"], "template 'no place' has no {} for the label"),
    ],
)
def test_an_option_that_cannot_be_is_explained_in_one_line(classify, records, words, message):
    code, output, errors = classify(records["short"], *words)
    assert (code, output) == (1, "")
    assert message in errors
    assert errors.count("\n") == 1


def test_a_device_by_name_answers_alike(classify, records):
    assert classify(records["short"], "--device", "cpu")[:2] == classify(records["short"])[:2]


def test_json_and_csv_exclude_each_other(classify, records, capsys):
    with pytest.raises(SystemExit):
        classify(records["short"], "--json", "--csv")
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.slow
def test_one_record_is_answered_without_the_packages_that_only_other_commands_need(records, merl_folder):
    program = (
        "import sys\n"
        "from hf_ecgtext_cli.main import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "heavy = {'datasets', 'pandas', 'pyarrow', 'sklearn', 'scipy.signal', 'scipy.stats', 'wfdb', 'peft',"
        " 'evaluate', 'hf_ecgtext.training', 'hf_ecgtext.evaluation', 'hf_ecgtext.harness',"
        " 'hf_ecgtext.data.store', 'transformers.trainer'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    words = ["classify", records["short"], "--model", str(merl_folder), "--labels", *LABELS]
    finished = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr


def test_weights_that_are_no_numbers_are_no_answer(records, merl_folder, tmp_path, capsys):
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(merl_folder)
    for parameter in model.ecg_encoder.parameters():
        parameter.data.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(merl_folder).save_pretrained(tmp_path)
    words = ["--model", str(tmp_path), "--labels", *LABELS]
    assert main(["classify", records["short"], records["long"], *words]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert "NaN" in errors
