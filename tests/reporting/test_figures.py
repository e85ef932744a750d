from __future__ import annotations

import builtins

import pytest

from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.reporting.figures.old_figures import per_class_bars

matplotlib = pytest.importorskip("matplotlib", reason='figures need pip install "hf-ecgtext[plots]"')


def make_result(encoder: str = "trained", task: str = "ptbxl_super") -> EvaluationResult:
    return EvaluationResult(
        task=task,
        protocol="strict",
        metric="auroc",
        value=0.7,
        confidence_interval=(0.6, 0.8),
        num_records=100,
        num_positives={"NORM": 50, "MI": 1, "HYP": 0},
        per_class={"NORM": 0.7, "MI": 0.9, "HYP": None},
        per_class_intervals={"NORM": (0.6, 0.8), "MI": None, "HYP": None},
        seed=0,
        checkpoint="runs/merl",
        data={"name": "ptb-xl", "revision": "1.0.3", "split": "test"},
        prompts="plain",
        encoder="random" if encoder == "random" else "trained",
    )


def drawn_figure(results, path, monkeypatch):
    """The figure that `per_class_bars` saves, after it has saved it."""
    from matplotlib.figure import Figure

    saved = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *args, **kw: (saved.append(figure), save(figure, *args, **kw))
    )
    per_class_bars(results, path)
    return saved[0]


def test_bars_and_whiskers_are_those_of_the_results(tmp_path, monkeypatch):
    path = tmp_path / "bars.png"
    figure = drawn_figure([make_result(), make_result("random")], path, monkeypatch)
    assert path.read_bytes().startswith(b"\x89PNG")
    (axes,) = figure.axes
    # Ascending from the bottom: HYP has no value, so no bar.
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["HYP  (0)", "NORM  (50)", "MI  (1)"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([70, 90, 70, 90])
    whisker = axes.collections[0].get_segments()[0]
    assert whisker[:, 0].tolist() == pytest.approx([60, 80])
    assert [text.get_text() for text in figure.legends[0].texts] == ["trained encoder", "random encoder", "chance"]


def test_without_a_random_encoder_there_is_one_bar_per_class(tmp_path, monkeypatch):
    figure = drawn_figure([make_result()], tmp_path / "bars.svg", monkeypatch)
    assert len(figure.axes[0].patches) == 2
    assert [text.get_text() for text in figure.legends[0].texts] == ["trained encoder", "chance"]


def test_the_global_backend_stays_as_it_is(tmp_path):
    before = matplotlib.rcParams._get_backend_or_none()
    per_class_bars([make_result()], tmp_path / "bars.png")
    assert matplotlib.rcParams._get_backend_or_none() == before


def test_a_figure_needs_a_trained_encoder_and_a_single_task(tmp_path):
    with pytest.raises(ValueError, match="no 'auroc' of a trained encoder"):
        per_class_bars([make_result("random")], tmp_path / "bars.png")
    with pytest.raises(ValueError, match="ptbxl_sub"):
        per_class_bars([make_result(), make_result(task="ptbxl_sub")], tmp_path / "bars.png")


def test_a_missing_matplotlib_is_named_with_its_extra(tmp_path, monkeypatch):
    real_import = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(f"No module named '{name}'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(ImportError, match=r'pip install "hf-ecgtext\[plots\]"'):
        per_class_bars([make_result()], tmp_path / "bars.png")
