"""`hf-ecgtext report` as a user types it."""

from __future__ import annotations

import numpy as np
import pytest
from benchmark_lines import DATA, all_lines, line, zero_shot_lines

from hf_ecgtext.cli import main
from hf_ecgtext.evaluation.results import append_result
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.reporting.tables.all import benchmark_tables

TITLES = ["--titles", "runs/merl=MERL", "runs/deri_v2=DERI"]


def write(path, lines):
    path.write_text("".join(result.to_json() + "\n" for result in lines), encoding="utf-8")
    return str(path)


def test_report_writes_tables_latex_and_a_page(tmp_path, capsys):
    lines, out = all_lines(), tmp_path / "out"
    results = write(tmp_path / "results.jsonl", lines)
    assert main(["report", results, "--output-dir", str(out), "--latex", "--no-figures", *TITLES]) == 0
    tables = benchmark_tables(lines, titles={"runs/merl": "MERL", "runs/deri_v2": "DERI"})
    markdown = (out / "tables.md").read_text(encoding="utf-8")
    latex = (out / "tables.tex").read_text(encoding="utf-8")
    page = (out / "index.html").read_text(encoding="utf-8")
    for table in tables:
        assert table.render() in markdown
        assert table.render("latex") in latex
    assert page.count("<table") >= len(tables)
    assert f"{len(lines)} result lines, {len(tables)} tables, 0 figures" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["index.html", "tables.md", "tables.tex"]


def test_figures_come_with_it(tmp_path):
    results = write(tmp_path / "results.jsonl", [line(prompts="plain"), line(prompts="plain", encoder="random")])
    assert main(["report", results, "--output-dir", str(tmp_path / "out")]) == 0
    assert list((tmp_path / "out" / "figures").glob("*.png"))
    assert "data:image/png;base64," in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert not (tmp_path / "out" / "tables.tex").exists()


def test_several_files_are_one_run_and_the_papers_may_be_left_out(tmp_path):
    lines = zero_shot_lines()
    files = [write(tmp_path / f"{number}.jsonl", lines[number::2]) for number in range(2)]
    assert main(["report", *files, "--output-dir", str(tmp_path / "out"), "--no-figures", "--no-published"]) == 0
    markdown = (tmp_path / "out" / "tables.md").read_text(encoding="utf-8")
    assert "runs/merl" in markdown
    assert "runs/deri_v2" in markdown
    assert "as published" not in markdown


def test_scores_are_found_below_the_folder(tmp_path):
    targets = np.array([[1, 0], [0, 1]] * 30, dtype=np.int8)
    noise = np.random.default_rng(0).normal(size=(1, 60, 2)).astype(np.float32)
    scores = TaskScores(
        evaluation="linear_probe",
        task="ptbxl_super",
        protocol="strict",
        checkpoint="runs/merl",
        encoder="trained",
        class_names=("MI", "NORM"),
        record_ids=tuple(f"{number:02d}" for number in range(60)),
        targets=targets,
        patients=None,
        scores=targets[None] + noise,
        data=DATA,
        validation_targets=targets,
        validation_scores=targets[None] + noise,
        settings={"fraction": 1.0, "solver": "logistic_regression"},
    )
    scores.save(tmp_path / "scores" / "cell" / "scores-000.npz")
    results = tmp_path / "results.jsonl"
    append_result(results, line(evaluation="linear_probe", settings=scores.settings))
    out = tmp_path / "out"
    assert main(["report", str(results), "--scores", str(tmp_path / "scores"), "--output-dir", str(out)]) == 0
    assert any("reliability" in path.name for path in (out / "figures").iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--titles", "runs/merl"], "expected CHECKPOINT=NAME"),
        (["--titles", "runs/merl="], "expected CHECKPOINT=NAME"),
        (["--titles", "runs/other=X"], "no result is of 'runs/other'; checkpoints: runs/merl"),
        (["--titles", "runs/merl=X", "runs/deri_v2=X"], "both called 'X'"),
        (["--scores", "nowhere"], "There are no scores (.npz) in 'nowhere'"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(tmp_path, capsys, options, message):
    results = write(tmp_path / "results.jsonl", zero_shot_lines())
    out = tmp_path / "out"
    assert main(["report", results, "--output-dir", str(out), *options]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_files_that_are_missing_empty_or_of_another_version_are_refused(tmp_path, capsys):
    out = ["--output-dir", str(tmp_path / "out"), "--no-figures"]
    assert main(["report", str(tmp_path / "missing.jsonl"), *out]) == 1
    assert "missing.jsonl" in capsys.readouterr().err
    assert main(["report", write(tmp_path / "empty.jsonl", []), *out]) == 1
    assert "no results to show" in capsys.readouterr().err
    newer = line().to_json().replace('"schema_version": 3', '"schema_version": 99')
    (tmp_path / "newer.jsonl").write_text(newer + "\n", encoding="utf-8")
    assert main(["report", str(tmp_path / "newer.jsonl"), *out]) == 1
    assert "line 1: is of schema version 99" in capsys.readouterr().err


def test_titles_may_belong_to_paths_with_equals_signs(tmp_path):
    results = write(tmp_path / "results.jsonl", [line(prompts="plain", checkpoint="runs/lr=1e-3")])
    options = ["--output-dir", str(tmp_path / "out"), "--no-figures", "--titles", "runs/lr=1e-3=MERL"]
    assert main(["report", results, *options]) == 0
    assert "| MERL | " in (tmp_path / "out" / "tables.md").read_text(encoding="utf-8")
