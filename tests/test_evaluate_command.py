"""`hf-ecgtext evaluate` as a user types it: killed, run twice at once, on several datasets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_ecgtext.cli import main
from hf_ecgtext.commands.evaluate import open_all, parse_protocol, parse_protocols
from hf_ecgtext.evaluation.protocols import factorial_protocols
from hf_ecgtext.evaluation.results import read_results

SYNTHETIC = ["--data", "synthetic", "--data-set", "num_records=200", "sampling_rate_hz=100.0"]
SMALL = ["--resamples", "20", "--random-encoders", "1", "--baselines", "random"]


def lines_of(path: Path) -> list[dict]:
    """Result lines without when and by which command they were made."""
    return [{**json.loads(line), "date": "", "command": ""} for line in path.read_text().splitlines()]


def start(model: Path, out: Path, cache: Path, data_cache: Path) -> subprocess.Popen:
    command = [
        sys.executable, "-m", "hf_ecgtext.cli", "evaluate", "--model", str(model), *SYNTHETIC, *SMALL,
        "--evaluations", "zero_shot", "linear_probe", "retrieval", "--protocols", "strict", "published",
        "--fractions", "0.5", "1.0", "--output-dir", str(out), "--cache", str(cache),
    ]  # fmt: skip
    environment = {**os.environ, "HF_DATASETS_CACHE": str(data_cache), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process: subprocess.Popen) -> str:
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return printed


@pytest.mark.slow
def test_killed_and_simultaneous_runs_give_the_results_of_one_that_was_left_alone(merl_folder, tmp_path):
    data_cache = tmp_path / "data"
    alone = start(merl_folder, tmp_path / "alone", tmp_path / "alone_cache", data_cache)
    printed = finished(alone)
    expected = lines_of(tmp_path / "alone" / "results.jsonl")
    assert "result lines" in printed
    assert {(line["evaluation"], line["protocol"]) for line in expected} == {
        (name, protocol) for name in ("zero_shot", "linear_probe", "retrieval") for protocol in ("strict", "published")
    }

    cells = tmp_path / "killed" / "cells"
    killed = start(merl_folder, tmp_path / "killed", tmp_path / "killed_cache", data_cache)
    while killed.poll() is None and len(list(cells.glob("*/cell.json"))) < 3:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL, "it was done before it could be killed"
    assert not (tmp_path / "killed" / "results.jsonl").exists()
    pair = [start(merl_folder, tmp_path / "killed", tmp_path / "killed_cache", data_cache) for _ in range(2)]
    for process in pair:
        finished(process)
    assert lines_of(tmp_path / "killed" / "results.jsonl") == expected
    assert not list(tmp_path.glob("killed/cells/*.unfinished"))
    assert len(list(cells.iterdir())) == len(list((tmp_path / "alone" / "cells").iterdir()))


@pytest.fixture
def data_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "data"))


@pytest.mark.slow
def test_pages_hold_the_tables_the_figures_and_what_failed(merl_folder, tmp_path, data_cache, capsys):
    out = tmp_path / "out"
    code = main(
        ["evaluate", "--model", str(merl_folder), *SYNTHETIC, *SMALL, "--output-dir", str(out), "--pages",
         "--evaluations", "zero_shot", "linear_probe", "--fractions", "0.0001", "--prompts", "plain", "template"]
    )  # fmt: skip
    assert code == 1
    printed = capsys.readouterr().out
    assert "Not evaluated: linear_probe of" in printed
    assert "0.0001 of the 160 training records" in printed
    page = (out / "pages" / "index.html").read_text()
    assert "0.0001 of the 160 training records" in page
    assert page.count("<img") == len(list((out / "pages" / "figures").glob("*.png"))) > 0
    results = read_results(out / "results.jsonl")
    value = next(line.value for line in results if (line.metric, line.encoder) == ("auroc", "trained"))
    assert f"{100 * value:.1f}" in (out / "pages" / "tables.md").read_text()


def test_several_data_are_opened_by_name_and_place(real_data, merl_folder, tmp_path, capsys):
    out, native = tmp_path / "out", tmp_path / "TrainingSet"
    native.mkdir()
    files = sorted((real_data / "cpsc2018" / "TrainingSet").glob("*.mat"))
    for path in files:
        (native / path.name).symlink_to(path)
    header, *rows = (real_data / "cpsc2018" / "TrainingSet" / "REFERENCE.csv").read_text().splitlines(keepends=True)
    present = tuple(path.stem for path in files)
    (native / "REFERENCE.csv").write_text(header + "".join(row for row in rows if row.startswith(present)))
    code = main(
        ["evaluate", "--model", str(merl_folder), "--data", f"csn={real_data / 'csn'}", f"cpsc2018={native.parent}",
         "--data-set", "csn.split_of_others=train", "--tasks", "csn_exact",
         "cpsc2018", "--evaluations", "zero_shot", "distribution_shift", "--protocols", "strict", "published",
         "--baselines", "--resamples", "20", "--output-dir", str(out), "--markdown"]
    )  # fmt: skip
    printed = capsys.readouterr().out
    results = read_results(out / "results.jsonl")
    assert {line.data["name"] for line in results} == {"csn", "cpsc2018"}
    shifts = {line.task for line in results if line.evaluation == "distribution_shift"}
    assert shifts == {"csn_exact->cpsc2018", "cpsc2018->csn_exact"}
    sides = {(line.protocol, line.settings["side"]) for line in results if line.evaluation == "distribution_shift"}
    assert {("strict", "source"), ("strict", "target"), ("published", "target")} <= sides
    # Probes need labelled records that this sample does not hold in every split; they are listed, nothing else is.
    assert code == 1
    failures = [line for line in printed.splitlines() if line.startswith("Not evaluated")]
    assert failures
    assert all("distribution_shift linear_probe" in line for line in failures)


@pytest.mark.parametrize(
    ("names", "data_dir", "settings", "message"),
    [
        (["csn=a", "cpsc2018=b"], "c", [], "--data-dir is the place of one data"),
        (["synthetic"], None, ["ptb_xl.report=12sl"], "--data-set ptb_xl.report: there is no such data"),
        (["synthetic"], None, ["num_record=5"], "synthetic has no option 'num_record'"),
        (["nothing"], None, [], "There is no data 'nothing'"),
    ],
)
def test_data_that_cannot_be_opened_is_named(names, data_dir, settings, message):
    with pytest.raises(ValueError, match=message):
        open_all(names, data_dir, settings)


def test_factorial_stands_for_every_switch_alone_and_no_protocol_is_taken_twice():
    protocols = parse_protocols(["strict", "factorial", "published:probe_solver=deri"])
    names = [protocol.name for protocol in protocols]
    assert names == [*(protocol.name for protocol in factorial_protocols()), "published probe_solver=deri"]
    assert [protocol.name for protocol in parse_protocols(["strict", "strict"])] == [
        "strict"
    ] * 2  # the plan refuses it


def test_a_protocol_may_be_named_with_other_switches():
    protocol = parse_protocol("published:probe_solver=cmelt,num_draws=3")
    assert (protocol.probe_solver, protocol.num_draws, protocol.probe_selection) == ("cmelt", 3, "test")
    assert parse_protocol("strict").name == "strict"
    for text, message in (
        ("strickt", "no protocol"),
        ("strict:draws=3", "no switch draws"),
        ("strict:x", "NAME=VALUE"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_protocol(text)
