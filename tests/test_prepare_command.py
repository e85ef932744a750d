"""`hf-ecgtext prepare` as a user meets it: what it prints, how it ends."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hf_ecgtext.cli import main
from hf_ecgtext.data.store.manifest import read_manifest

sys.path.insert(0, str(Path(__file__).parent / "data"))
from make_mimic import write_mimic_tree


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "tree"
    return folder, write_mimic_tree(folder, 100, num_samples=10, short_reports=0.0)


@pytest.fixture
def command_line(capsys):
    """Runs `hf-ecgtext prepare` and returns exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["prepare", *(str(argument) for argument in arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_download_becomes_a_prepared_folder_with_summary_and_progress(tree, tmp_path, command_line):
    code, output, errors = command_line("mimic_iv_ecg", "--source", tree[0], "--output-dir", tmp_path / "out")
    assert code == 0
    manifest = read_manifest(tmp_path / "out")
    assert f" {manifest.num_records('train')} |" in output
    assert "Left out by rule: 0. Skipped because of faults: 0." in output
    assert "100/100" in errors
    assert "records/s" in errors


def test_the_same_command_again_has_nothing_to_do(tree, tmp_path, command_line):
    command_line("mimic_iv_ecg", "--source", tree[0], "--output-dir", tmp_path / "out")
    code, output, _ = command_line("mimic_iv_ecg", "--source", tree[0], "--output-dir", tmp_path / "out")
    assert code == 0
    assert "was prepared before, with the same settings: nothing to do" in output
    code, _, errors = command_line(
        "mimic_iv_ecg", "--source", tree[0], "--output-dir", tmp_path / "out", "--data-set", "min_words=0"
    )
    assert code == 1
    assert "min_words=4 (now 0)" in errors


@pytest.mark.parametrize(("limit", "code"), [([], 3), (["--max-skipped", "10"], 0)])
def test_many_skipped_records_end_in_a_code_of_their_own(tree, tmp_path, command_line, limit, code):
    for study in tree[1][:8]:
        (tree[0] / study.path).with_suffix(".dat").unlink()
    found, output, errors = command_line("mimic_iv_ecg", "--source", tree[0], "--output-dir", tmp_path / "out", *limit)
    assert found == code
    assert "Skipped because of faults: 8 (skipped.csv)." in output
    assert ("8 of 100 records were skipped, more than 5 %" in errors) == (code == 3)


def test_errors_are_one_line_and_code_1(tree, tmp_path, command_line):
    (tree[0] / "record_list.csv").unlink()
    code, output, errors = command_line("mimic_iv_ecg", "--source", tree[0], "--output-dir", tmp_path / "out")
    assert (code, output) == (1, "")
    assert errors.startswith("hf-ecgtext prepare: ")
    assert errors.count("\n") == 1
    assert command_line("mimic_iv_ecg", "--source", tmp_path / "no", "--output-dir", tmp_path / "out")[0] == 1


def test_an_unknown_option_of_the_dataset_is_named(tree, tmp_path, command_line):
    code, _, errors = command_line(
        "mimic_iv_ecg", "--source", tree[0], "--output-dir", tmp_path / "out", "--data-set", "minwords=1"
    )
    assert code == 1
    assert "mimic_iv_ecg has no option 'minwords'; it has: min_words, drop_nan" in errors


def test_an_unknown_dataset_is_a_usage_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "mimic", "--source", str(tmp_path), "--output-dir", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "mimic_iv_ecg" in capsys.readouterr().err


def test_ctrl_c_ends_with_code_130_and_says_what_is_kept(tree, tmp_path, command_line, monkeypatch):
    from hf_ecgtext.data.sources.mimic_iv_ecg import MimicIvEcg

    def interrupt(self, entries):
        raise KeyboardInterrupt

    monkeypatch.setattr(MimicIvEcg, "read", interrupt)
    code, _, errors = command_line("mimic_iv_ecg", "--source", tree[0], "--output-dir", tmp_path / "out")
    assert code == 130
    assert "hf-ecgtext prepare: stopped; 0 of" in errors
    monkeypatch.undo()
    assert command_line("mimic_iv_ecg", "--source", tree[0], "--output-dir", tmp_path / "out")[0] == 0


def test_the_folder_is_pushed_where_asked_for(tree, tmp_path, command_line, monkeypatch):
    pushed = []
    monkeypatch.setattr(
        "hf_ecgtext.commands.prepare.push_folder_to_hub", lambda folder, repo: pushed.append((folder, repo)) or "URL"
    )
    options = ["--compression", "zstd", "--push-to-hub", "me/mimic"]
    code, output, _ = command_line("mimic_iv_ecg", "--source", tree[0], "--output-dir", tmp_path / "out", *options)
    assert code == 0
    assert pushed == [(tmp_path / "out", "me/mimic")]
    assert "Pushed to URL" in output
    assert read_manifest(tmp_path / "out").compression == "zstd"
