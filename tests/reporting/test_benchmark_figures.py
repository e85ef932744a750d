from __future__ import annotations

import builtins
import logging

import numpy as np
import pytest

from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.evaluation.scores import TaskScores
from hf_ecgtext.evaluation.statistics.calibration import calibrate
from hf_ecgtext.evaluation.statistics.calibration_metrics import wilson_interval
from hf_ecgtext.reporting.figures.album import draw_all
from hf_ecgtext.reporting.figures.classes import class_bars, class_order, class_pages
from hf_ecgtext.reporting.figures.curves import ProbeVariant, fraction_curves, recall_curves, shift_slopes
from hf_ecgtext.reporting.figures.dots import inflation_dots, panel_groups, prompt_dots
from hf_ecgtext.reporting.figures.reliability import reliability_panels, reliability_questions
from hf_ecgtext.reporting.figures.style import EncoderRow, own_values, parts, row_styles

matplotlib = pytest.importorskip("matplotlib", reason='figures need pip install "hf-ecgtext[plots]"')

STRICT_PROBE = ProbeVariant("strict", "logistic_regression", None)
TEST_EPOCH = ProbeVariant("published", "merl", "best test epoch")
VALIDATION_EPOCH = ProbeVariant("published", "merl", "best validation epoch")


def make_line(value=0.7, checkpoint="runs/merl", encoder="trained", interval=(0.65, 0.75), **fields):
    per_class = fields.pop("per_class", {"NORM": value, "MI": 0.9, "HYP": None})
    intervals = {name: None if v is None else (v - 0.1, v + 0.05) for name, v in per_class.items()}
    known = {
        "task": "ptbxl_super",
        "protocol": "strict",
        "metric": "auroc",
        "num_records": 2158,
        "num_positives": {name: 30 if v is not None else 0 for name, v in per_class.items()},
        "seed": 0,
        "data": {"name": "ptb-xl", "revision": "1.0.3", "split": "test"},
        "prompts": None,
        "num_resamples": 1000,
    }
    return EvaluationResult(
        value=value,
        confidence_interval=interval,
        per_class=per_class,
        per_class_intervals=intervals,
        checkpoint=checkpoint,
        encoder=encoder,
        **{**known, **fields},
    )


def probe_line(value, fraction, variant=STRICT_PROBE, interval=None, **fields):
    settings = {"fraction": fraction, "solver": variant.solver}
    details = {}
    if variant.selection is not None:
        settings["selection"] = variant.selection
    if variant == TEST_EPOCH:
        details["upper_bound"] = "The epoch was chosen on the test split."
    return make_line(
        value,
        interval=interval or (value - 0.02, value + 0.03),
        evaluation="linear_probe",
        protocol=variant.protocol,
        settings=settings,
        details=details,
        **fields,
    )


def make_scores(
    checkpoint="runs/merl", encoder="trained", num_runs=1, score_kind="logit", with_validation=True, **fields
):
    rng = np.random.default_rng(0)
    targets, validation = (rng.integers(0, 2, (60, 3)).astype(np.int8) for _ in range(2))
    logits, of_validation = (
        (3.0 * (t - 0.5) + rng.normal(size=(num_runs, 60, 3))).astype(np.float32) for t in (targets, validation)
    )
    known = {
        "evaluation": "linear_probe",
        "task": "ptbxl_super",
        "protocol": "strict",
        "data": {"name": "ptb-xl", "revision": "1.0.3", "split": "test"},
        "settings": {"fraction": 1.0, "solver": "logistic_regression"},
    }
    return TaskScores(
        checkpoint=checkpoint,
        encoder=encoder,
        class_names=("HYP", "MI", "NORM"),
        record_ids=tuple(f"{number:05d}" for number in range(60)),
        targets=targets,
        patients=None,
        scores=logits,
        validation_targets=validation if with_validation else None,
        validation_scores=of_validation if with_validation else None,
        score_kind=score_kind,
        **{**known, **fields},
    )


def drawn_line(axes, label):
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return line


def whiskers_of(axes):
    """Ends of all error bars, one row each."""
    from matplotlib.collections import LineCollection

    return np.array([s for c in axes.collections if isinstance(c, LineCollection) for s in c.get_segments()])


def band_heights(axes, x):
    """Low and high of every band at a place on the x axis."""
    from matplotlib.collections import PolyCollection

    corners = [c.get_paths()[0].vertices for c in axes.collections if isinstance(c, PolyCollection)]
    return [(v[v[:, 0] == x, 1].min(), v[v[:, 0] == x, 1].max()) for v in corners]


def test_fraction_curves_show_the_values_and_intervals_of_their_variant():
    lines = [
        probe_line(value, fraction, variant)
        for variant, values in ((STRICT_PROBE, (0.6, 0.7, 0.8)), (TEST_EPOCH, (0.65, 0.75, 0.85)))
        for fraction, value in zip((1.0, 0.01, 0.1), (values[2], values[0], values[1]), strict=True)
    ]
    lines.append(make_line(0.88, "net", "supervised", (0.86, 0.9), evaluation="supervised", settings={"fraction": 1.0}))
    figure = fraction_curves(lines, row_styles(lines), [TEST_EPOCH, STRICT_PROBE])
    published, strict = figure.axes
    assert published.get_title(loc="left") == "published: merl, best test epoch"
    for axes, expected in ((published, [65, 75, 85]), (strict, [60, 70, 80])):
        curve = drawn_line(axes, "runs/merl")
        assert curve.get_xdata() == pytest.approx([1, 10, 100])
        assert curve.get_ydata() == pytest.approx(expected)
        assert band_heights(axes, 10)[0] == pytest.approx((expected[1] - 2, expected[1] + 3))
        assert axes.get_xscale() == "log"
    assert drawn_line(strict, "supervised from scratch").get_ydata() == pytest.approx([88])
    assert whiskers_of(strict)[0][:, 1] == pytest.approx([86, 90])
    assert "supervised from scratch" not in [line.get_label() for line in published.lines]


def test_trained_encoders_are_solid_and_baselines_grey_and_dashed():
    lines = [make_line(), make_line(checkpoint="runs/etp"), make_line(encoder="random")]
    lines.append(make_line(checkpoint="interval features", encoder="interval_features"))
    styles = row_styles(lines, {"runs/etp": "ETP"})
    merl, etp = styles[EncoderRow("runs/merl", "trained")], styles[EncoderRow("runs/etp", "trained")]
    assert (merl.line, etp.line, etp.label) == ("-", "-", "ETP")
    assert (merl.colour, merl.marker) != (etp.colour, etp.marker)
    for kind, name in (("random", "runs/merl"), ("interval_features", "interval features")):
        style = styles[EncoderRow(name, kind)]
        red, green, blue = style.colour[1:3], style.colour[3:5], style.colour[5:7]
        assert red == green == blue
        assert style.line != "-"
    assert styles[EncoderRow("runs/merl", "random")].label == "random weights (runs/merl)"


def test_twelve_encoders_are_all_told_apart():
    lines = [make_line(checkpoint=f"run{number}") for number in range(12)]
    styles = row_styles(lines)
    assert len({(style.colour, style.marker) for style in styles.values()}) == 12
    for part in parts(list(styles)):
        assert len(part) == 6
        assert len({styles[row].colour for row in part}) == 6


def test_every_encoder_is_in_one_part_with_its_random_initialisation_and_shared_baselines_are_in_all():
    trained = [EncoderRow(f"run{number}", "trained") for number in range(7)]
    untrained = [row._replace(encoder="random") for row in trained]
    shared = EncoderRow("interval features", "interval_features")
    divided = parts([*trained, shared, *untrained])
    assert [len(part) for part in divided] == [4 + 1 + 4, 3 + 1 + 3]
    assert sorted(row for part in divided for row in part if row != shared) == sorted([*trained, *untrained])
    assert all(shared in part for part in divided)


def test_bars_and_whiskers_of_each_encoder_are_those_of_its_line():
    lines = [
        make_line(per_class={"NORM": 0.7, "MI": 0.9, "HYP": None}),
        make_line(checkpoint="runs/etp", per_class={"NORM": 0.8, "MI": 0.6, "HYP": 0.55}),
    ]
    styles = row_styles(lines)
    assert class_order(lines, styles) == ["MI", "NORM", "HYP"]
    (axes,) = class_bars(lines, styles).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["MI  (30)", "NORM  (30)", "HYP  (0)"]
    merl, etp = [container for container in axes.containers if hasattr(container, "patches")]
    assert [bar.get_width() for bar in merl] == pytest.approx([90, 70])
    assert [bar.get_width() for bar in etp] == pytest.approx([60, 80, 55])
    assert [round(bar.get_y() + bar.get_height() / 2) for bar in etp] == [0, 1, 2]
    ends = whiskers_of(axes)
    assert ends[:2, :, 0] == pytest.approx(np.array([[80, 95], [60, 75]]))
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first class on top


def test_bars_refuse_two_lines_of_one_encoder():
    lines = [make_line(prompts="plain"), make_line(prompts="etp")]
    with pytest.raises(ValueError, match="2 lines of 1 encoders"):
        class_bars(lines, row_styles(lines))


def test_pages_of_classes_hold_each_class_once():
    labels = [f"C{number}" for number in range(71)]
    pages = class_pages(labels)
    assert [label for page in pages for label in page] == labels
    assert [len(page) for page in pages] == [24, 24, 23]


def test_prompt_dots_show_each_prompt_set_and_the_range():
    lines = [make_line(v, prompts=name, interval=(v - 0.02, v + 0.01)) for name, v in (("plain", 0.6), ("etp", 0.7))]
    (axes,) = prompt_dots(lines, row_styles(lines)).axes
    dots = [c for c in axes.containers if c.get_label() in ("plain", "etp")]
    assert [dot.lines[0].get_xdata()[0] for dot in dots] == pytest.approx([60, 70])
    assert [segment[:, 0].tolist() for segment in whiskers_of(axes)] == [
        pytest.approx([58, 61]),
        pytest.approx([68, 71]),
    ]
    assert drawn_line(axes, "range").get_xdata() == pytest.approx([60, 70])


def test_inflation_dots_show_each_way_to_choose_per_task():
    values = {TEST_EPOCH: 0.85, VALIDATION_EPOCH: 0.82, STRICT_PROBE: 0.8}
    lines = [
        probe_line(value - shift, 0.1, variant, task=task)
        for task, shift in (("ptbxl_super", 0.0), ("ptbxl_sub", 0.1))
        for variant, value in values.items()
    ]
    first, second = inflation_dots(lines, row_styles(lines), list(values)).axes
    for axes, shift in ((first, 0), (second, 10)):
        dots = [c.lines[0].get_xdata()[0] for c in axes.containers]
        assert dots == pytest.approx([85 - shift, 82 - shift, 80 - shift])
    assert second.get_title(loc="left") == "ptbxl_sub"


def test_shift_slopes_join_the_two_sides_of_one_classifier():
    lines = [
        make_line(
            value,
            task="ptbxl_super->cpsc2018",
            evaluation="distribution_shift",
            settings={"classifier": "linear_probe", "target_task": "cpsc2018", "label_map": "reviewed", "side": side},
        )
        for side, value in (("target", 0.6), ("source", 0.8))
    ]
    (axes,) = shift_slopes(lines, row_styles(lines)).axes
    curve = drawn_line(axes, "runs/merl")
    assert curve.get_ydata() == pytest.approx([80, 60])
    assert curve.get_xdata() == pytest.approx([0, 1], abs=0.06)
    assert axes.get_title(loc="left") == "ptbxl_super → cpsc2018"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["source", "target"]


def retrieval_line(k, value, direction="ecg_to_report"):
    return make_line(
        value,
        metric=f"recall_at_{k}",
        evaluation="retrieval",
        per_class={},
        settings={"direction": direction, "duplicates": "recognised"},
        details={"chance": k / 100},
        interval=(value - 0.01, value + 0.02),
    )


def test_recall_curves_show_recall_and_chance_by_k():
    lines = [retrieval_line(10, 0.5), retrieval_line(1, 0.2), retrieval_line(5, 0.4)]
    lines.append(make_line(12.0, metric="median_rank", evaluation="retrieval", interval=(10.0, 14.0), per_class={}))
    (axes,) = recall_curves(lines, row_styles(lines)).axes
    curve, chance = drawn_line(axes, "runs/merl"), drawn_line(axes, "chance")
    assert (curve.get_xdata().tolist(), curve.get_ydata().tolist()) == ([1, 5, 10], pytest.approx([20, 40, 50]))
    assert chance.get_ydata() == pytest.approx([1, 5, 10])
    assert band_heights(axes, 5)[0] == pytest.approx((39, 42))


def test_reliability_panels_show_observed_shares_with_wilson_bars():
    scores = make_scores()
    curves, histogram = reliability_panels([scores], ["MERL"]).axes
    after = drawn_line_of(curves, "after")
    expected = calibrate(scores).reliability(0, 10, "equal_width")["after"]
    assert after.lines[0].get_ydata() == pytest.approx(expected.observed)
    assert after.lines[0].get_xdata() == pytest.approx(expected.mean_predicted)
    low, high = wilson_interval(expected.observed * expected.counts, expected.counts)
    bars = np.array(after.lines[2][0].get_segments())[:, :, 1]
    assert bars[:, 0] == pytest.approx(low)
    assert bars[:, 1] == pytest.approx(high)
    assert sum(expected.counts) == 60 * 3
    assert histogram.lines[-1].get_ydata() == pytest.approx(expected.counts)


def drawn_line_of(axes, label):
    (container,) = [container for container in axes.containers if container.get_label() == label]
    return container


def test_reliability_is_of_strict_probes_on_most_labels_and_says_what_is_left_out():
    scores = [
        make_scores(),
        make_scores("runs/etp"),
        make_scores(settings={"fraction": 0.1, "solver": "logistic_regression"}),
        make_scores(encoder="random"),
        make_scores(protocol="published"),
        make_scores("runs/old", with_validation=False, task="ptbxl_form"),
    ]
    (question,), notes = reliability_questions(scores)
    assert question.title == "ptbxl_super: reliability, linear probe"
    assert [answer.checkpoint for answer in question.scores] == ["runs/merl", "runs/etp"]
    assert "n = 60 records" in question.caption()
    assert notes == [
        "Reliability is not drawn where there are no validation scores to calibrate on: ptbxl_form.",
    ]


def test_similarities_have_no_curve_before_calibration():
    curves, _ = reliability_panels([make_scores(score_kind="similarity", evaluation="zero_shot")], ["MERL"]).axes
    assert [c.get_label() for c in curves.containers] == ["after"]


def test_differences_and_repeated_lines_are_not_drawn():
    first, again = make_line(0.6), make_line(0.7)
    difference = make_line(0.1, compared_with="runs/etp")
    frequent = make_line(0.9, min_positives=20)
    assert own_values([first, difference, frequent, again]) == [again]


def whole_run():
    lines = []
    for checkpoint, encoder in (("runs/merl", "trained"), ("runs/$etp_\\x", "trained"), ("runs/merl", "random")):
        who = {"checkpoint": checkpoint, "encoder": encoder}
        lines += [make_line(0.7, prompts=name, **who) for name in ("plain", "etp")]
        lines += [
            probe_line(v, f, var, **who) for f, v in ((0.1, 0.6), (1.0, 0.8)) for var in (STRICT_PROBE, TEST_EPOCH)
        ]
        lines += [
            make_line(
                task="a->b",
                evaluation="distribution_shift",
                settings={"classifier": "linear_probe", "target_task": "b", "label_map": "reviewed", "side": side},
                **who,
            )
            for side in ("source", "target")
        ]
    return [*lines, retrieval_line(1, 0.2), retrieval_line(5, 0.3)]


def test_a_whole_run_gives_every_kind_of_figure_with_a_caption_that_tells_its_facts(tmp_path):
    skipped = []
    drawn = draw_all(whole_run(), [make_scores()], tmp_path, skipped=skipped)
    titles = " | ".join(figure.title for figure in drawn)
    for kind in ("Zero-shot by prompt set", "by class", "linear probe", "Published and strict", "shift", "retrieval"):
        assert kind in titles
    assert "reliability" in titles
    for figure in drawn:
        assert figure.path.read_bytes().startswith(b"\x89PNG")
        assert "n = " in figure.caption
        assert "Protocol: " in figure.caption
        assert "nterval" in figure.caption
    assert len({figure.path for figure in drawn}) == len(drawn)
    assert any("upper bound" in figure.caption for figure in drawn)
    assert skipped == [
        "Bars per class are of the prompts 'plain' only, not of etp.",
        "Embeddings are not drawn: none are given.",
    ]
    assert not list(tmp_path.glob("*.unfinished"))


def test_what_cannot_be_drawn_is_said(tmp_path, caplog):
    skipped = []
    with caplog.at_level(logging.INFO, logger="hf_ecgtext.reporting.figures.album"):
        drawn = draw_all([make_line(prompts="plain")], [], tmp_path, skipped=skipped)
    assert len(drawn) == 2  # by prompt set, by class
    for kind in ("Fraction curves", "test split adds", "Distribution shift", "Retrieval", "Reliability", "Embeddings"):
        assert any(kind.lower() in note.lower() for note in skipped)
        assert kind.lower() in caplog.text.lower()


def test_other_formats_lie_beside_the_first(tmp_path):
    drawn = draw_all([make_line(prompts="plain")], [], tmp_path, formats=("png", "pdf"))
    for figure in drawn:
        assert figure.path.suffix == ".png"
        assert figure.path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    first, second = (
        draw_all([make_line(prompts="plain")], [], tmp_path / name, formats=("png", "pdf")) for name in ("a", "b")
    )
    for one, other in zip(first, second, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
        assert one.path.with_suffix(".pdf").read_bytes() == other.path.with_suffix(".pdf").read_bytes()


def test_drawing_leaves_the_user_s_backend_as_it_is(tmp_path):
    before = matplotlib.rcParams._get_backend_or_none()
    draw_all([make_line(prompts="plain")], [], tmp_path)
    assert matplotlib.rcParams._get_backend_or_none() == before


def test_the_same_task_of_two_revisions_stands_in_two_panels():
    other = {"name": "ptb-xl", "revision": "1.0.1", "split": "test"}
    lines = [make_line(prompts="plain"), make_line(prompts="plain", data=other)]
    titles = [axes.get_title(loc="left") for axes in prompt_dots(lines, row_styles(lines)).axes]
    assert titles == ["ptbxl_super (ptb-xl, 1.0.3, test)", "ptbxl_super (ptb-xl, 1.0.1, test)"]


def test_many_tasks_are_shared_out_over_figures():
    lines = [make_line(prompts="plain", task=f"task{number}") for number in range(8)]
    groups = panel_groups(lines)
    assert [len(group) for group in groups] == [4, 4]
    assert [line for group in groups for line in group] == lines


def test_missing_matplotlib_is_named_with_its_extra(tmp_path, monkeypatch):
    real_import = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(f"No module named '{name}'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(ImportError, match=r'pip install "hf-ecgtext\[plots\]"'):
        draw_all([make_line(prompts="plain")], [], tmp_path)
