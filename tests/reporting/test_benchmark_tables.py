from __future__ import annotations

import random
from dataclasses import replace

import pytest
from benchmark_lines import (
    CHECKPOINTS,
    DATA,
    FRACTIONS,
    TASKS,
    TITLES,
    all_lines,
    difference_lines,
    lead_lines,
    line,
    probe_lines,
    retrieval_lines,
    shift_lines,
    supervised_lines,
    zero_shot_lines,
)

from hf_ecgtext.reporting.published_numbers import SIX_TASKS, published_numbers
from hf_ecgtext.reporting.tables.all import benchmark_tables, headlines
from hf_ecgtext.reporting.tables.documents import readme_benchmark_table
from hf_ecgtext.reporting.tables.probes import inflation_summary
from hf_ecgtext.reporting.tables.render import percent


def tables_of(lines, **options):
    return {table.title: table for table in benchmark_tables(lines, titles=TITLES, **options)}


def cell(table, column: str, *titles: str) -> str:
    found = [row for row in table.rows if tuple(row[: len(titles)]) == titles]
    assert len(found) == 1, (titles, table.rows)
    return found[0][table.header.index(column)]


def value(lines, **wanted):
    def fits(result):
        return all(getattr(result, name) == expected for name, expected in wanted.items())

    (result,) = [result for result in lines if fits(result)]
    return result


def shown(result) -> str:
    return percent(result.value, result.confidence_interval)


def test_the_zero_shot_table_has_encoders_in_rows_tasks_in_columns_and_baselines_at_the_bottom():
    lines = [*zero_shot_lines(), *supervised_lines()]
    table = tables_of(lines, published=False)["Zero-shot: macro AUROC, plain prompts, strict protocol"]
    assert table.header == ["encoder", *TASKS]
    assert [row[0] for row in table.rows] == [
        *("MERL", "DERI", "supervised from scratch", "random weights (MERL)", "random weights (DERI)")
    ]
    for checkpoint, encoder, row in (
        ("runs/merl", "trained", "MERL"),
        ("runs/deri_v2", "random", "random weights (DERI)"),
    ):
        wanted = {"checkpoint": checkpoint, "encoder": encoder, "prompts": "plain", "metric": "auroc"}
        for task in TASKS:
            assert cell(table, task, row) == shown(value(lines, task=task, min_positives=1, **wanted))
    assert table.breaks == (2,)


def test_zero_shot_has_tables_for_prompt_sets_frequent_classes_and_auprc():
    titles = list(tables_of(zero_shot_lines()))
    for prompts in ("plain", "descriptions"):
        for metric in ("AUROC", "AUROC over classes with 20+ positives", "AUPRC"):
            assert f"Zero-shot: macro {metric}, {prompts} prompts, strict protocol" in titles
    assert "Zero-shot: spread over 2 prompt sets, strict protocol" in titles
    for metric in ("AUROC", "AUROC over classes with 20+ positives", "AUPRC"):
        assert f"Zero-shot: macro {metric}, mean over prompt sets, strict protocol" in titles
    assert len(titles) == 10


def test_published_numbers_stand_in_rows_of_their_own_above_ours_with_their_source():
    table = tables_of(zero_shot_lines())["Zero-shot: macro AUROC, plain prompts, strict protocol"]
    published = [row for row in table.rows if "as published" in row[0]]
    assert table.rows[: len(published)] == published
    assert cell(table, "ptbxl_sub", "C-MELT, as published (C-MELT, Table 3)") == "75.9"
    assert cell(table, "ptbxl_sub", "C-MELT, as published (CG-DMER, zero-shot table, re-run)") == "74.38"
    assert any("CKEPE prompts" in note for note in table.notes)
    assert any("enter none of our means" in note for note in table.notes)
    assert table.breaks == (len(published), len(published) + 2)


def test_published_numbers_change_no_row_of_ours_and_can_be_left_out():
    with_them, without = tables_of(all_lines()), tables_of(all_lines(), published=False)
    assert list(with_them) == list(without)
    for title, table in without.items():
        own = [row for row in with_them[title].rows if not any("as published" in text for text in row[:2])]
        assert own == table.rows, title
        assert not any("Sources:" in note for note in table.notes)


def test_a_mean_is_shown_over_all_six_tasks_only_and_never_over_papers_and_us():
    lines = [line(0.7 + place / 100, task=task, prompts="plain") for place, task in enumerate(SIX_TASKS)]
    (table,) = benchmark_tables(lines, titles=TITLES)
    assert table.header == ["encoder", *SIX_TASKS, "mean"]
    assert cell(table, "mean", "MERL") == "72.5"
    assert cell(table, "mean", "DERI, as published (DERI, Figure 3)") == "78.73"
    assert cell(table, "mean", "MERL (ResNet18), as published (MERL, zero-shot table)") == "75.25"
    (five,) = benchmark_tables(lines[:5], titles=TITLES)
    assert "mean" not in five.header
    assert not any("DERI" in row[0] for row in five.rows)


def test_an_encoder_that_lacks_a_task_has_no_mean():
    lines = [line(0.7, task=task, prompts="plain") for task in SIX_TASKS]
    lines += [line(0.6, task=task, prompts="plain", checkpoint="runs/deri_v2") for task in SIX_TASKS[1:]]
    (table,) = benchmark_tables(lines, titles=TITLES, published=False)
    assert cell(table, "mean", "DERI") == "-"
    assert cell(table, "ptbxl_super", "DERI") == "-"


def test_probes_of_a_task_stand_side_by_side_strict_and_published_with_interval_and_deviation():
    lines = [*probe_lines(), *supervised_lines()]
    table = tables_of(lines)["Linear probe on ptbxl_sub: macro AUROC, protocols side by side"]
    published = "published, merl, best test epoch"
    assert table.header == [
        "encoder",
        *(f"{share}, {name}" for share in ("1 %", "10 %", "100 %") for name in ("strict", published)),
    ]
    common = {"task": "ptbxl_sub", "checkpoint": "runs/merl", "encoder": "trained", "metric": "auroc"}
    strict = value(lines, settings={"fraction": 0.1, "solver": "logistic_regression"}, **common)
    low, high = strict.confidence_interval
    expected = f"{100 * strict.value:.1f} ± 1.3 ({100 * low:.1f} to {100 * high:.1f})"
    assert cell(table, "10 %, strict", "MERL") == expected
    best = {"fraction": 0.1, "solver": "merl", "selection": "best test epoch"}
    assert cell(table, f"10 %, {published}", "MERL") == shown(value(lines, settings=best, **common))
    assert [row[0] for row in table.rows][2:4] == ["supervised from scratch", "interval features"]
    assert cell(table, "10 %, strict", "supervised from scratch") == "-"
    assert any("upper bound" in note for note in table.notes)


def test_the_probe_overview_has_tasks_and_fractions_in_columns_and_the_papers_above():
    table = tables_of(probe_lines())["Linear probe: macro AUROC by fraction of the training split"]
    assert table.header[2:] == [f"{task} {share}" for task in TASKS for share in ("1 %", "10 %", "100 %")]
    deri = "DERI, as published (DERI, Table 1)"
    assert cell(table, "ptbxl_super 1 %", deri, "best test epoch") == "85.46"
    assert cell(table, "ptbxl_sub 100 %", "SimCLR, as published (MERL, linear-probe table)") == "-"
    assert not any("last epoch" in row[1] or "best validation epoch" in row[1] for row in table.rows)
    assert not any("Intervals:" in note for note in table.notes)


def test_a_published_recipe_whose_epoch_validation_chose_is_shown_where_the_best_test_epoch_is_not():
    settings = {"fraction": 1.0, "solver": "merl", "selection": "best validation epoch"}
    lines = [line(0.8, evaluation="linear_probe", settings=settings, protocol="strict probe_solver=merl")]
    overview, detail = benchmark_tables(lines, published=False)
    assert overview.rows == [["runs/merl", "strict probe_solver=merl, merl, best validation epoch", "80.0"]]
    assert detail.rows == [["runs/merl", "80.0 (78.0 to 82.0)"]]


def test_the_inflation_is_best_test_less_validation_at_the_same_optimiser_and_less_strict():
    def probe(number, **settings):
        protocol = "published" if "selection" in settings else "strict"
        return line(number, evaluation="linear_probe", protocol=protocol, settings={"fraction": 0.01, **settings})

    lines = [
        probe(0.812, solver="merl", selection="best test epoch"),
        probe(0.793, solver="merl", selection="best validation epoch"),
        probe(0.741, solver="merl", selection="last epoch"),
        probe(0.833, solver="logistic_regression"),
    ]
    name = "Inflation: the best test epoch against honest choices, merl recipe, published protocol"
    table = tables_of(lines)[name]
    assert table.header[3:] == [
        *("best test epoch", "best validation epoch", "last epoch"),
        *("best test less best validation", "strict", "best test less strict"),
    ]
    assert table.rows == [["MERL", "ptbxl_super", "1 %", "81.2", "79.3", "74.1", "+1.9", "83.3", "-2.1"]]


def test_deris_own_gap_between_best_and_last_epoch_stands_beside_ours_of_the_same_recipe():
    settings = {"fraction": 1.0, "solver": "deri", "selection": "best test epoch"}
    lines = [line(0.8, evaluation="linear_probe", protocol="published", settings=settings)]
    name = "Inflation: the best test epoch against honest choices, deri recipe, published protocol"
    table = tables_of(lines)[name]
    row = ("DERI, as published (DERI's repository)", "ptbxl_super", "1 %")
    assert (cell(table, "best test epoch", *row), cell(table, "last epoch", *row)) == ("85.85", "81.58")
    assert cell(table, "best test less best validation", "MERL", "ptbxl_super", "100 %") == "-"


def test_the_shift_shows_both_sides_of_each_classifier_and_both_maps():
    lines = shift_lines()
    tables = tables_of(lines)
    reviewed = tables["Distribution shift: macro AUROC, reviewed label map, strict protocol"]
    assert reviewed.header == ["encoder", "classifier", "side", "ptbxl_super->cpsc2018", "ptbxl_super->csn_merl"]
    assert [row[1:3] for row in reviewed.rows if row[0] == "MERL"] == [
        ["linear probe", "source"],
        ["linear probe", "target"],
        ["zero-shot (plain)", "source"],
        ["zero-shot (plain)", "target"],
    ]
    settings = {"classifier": "linear_probe", "target_task": "cpsc2018", "label_map": "reviewed", "side": "target"}
    expected = shown(value(lines, settings=settings, checkpoint="runs/deri_v2"))
    assert cell(reviewed, "ptbxl_super->cpsc2018", "DERI", "linear probe", "target") == expected
    assert not any("as published" in row[0] for row in reviewed.rows)
    published = tables["Distribution shift: macro AUROC, as published label map, published protocol"]
    merl = "MERL (ResNet18), as published (MERL, distribution-shift table)"
    assert cell(published, "ptbxl_super->cpsc2018", merl, "zero-shot", "target") == "88.21"


def test_what_stands_for_csn_as_a_source_is_in_the_zero_shot_row_with_a_note():
    settings = {"classifier": "zero_shot", "target_task": "cpsc2018", "label_map": "as_published", "side": "target"}
    common = {"evaluation": "distribution_shift", "protocol": "published", "prompts": "plain"}
    lines = [
        line(0.8, task="ptbxl_super->cpsc2018", settings=settings, **common),
        line(0.7, task="csn_merl->cpsc2018", settings={**settings, "csn_as_source": "plain zero-shot"}, **common),
    ]
    (table,) = benchmark_tables(lines, published=False)
    assert [row[1:] for row in table.rows] == [["zero-shot (plain)", "target", shown(lines[0]), shown(lines[1])]]
    assert "csn_merl->cpsc2018, zero-shot: plain zero-shot, as in the papers." in table.notes


def test_retrieval_shows_both_directions_and_chance_and_ranks_are_no_percentages():
    lines = retrieval_lines()
    (table,) = benchmark_tables(lines, titles=TITLES)
    assert table.title == "Retrieval on ptb_xl, duplicates=recognised, strict protocol"
    metrics = ("R@1", "R@5", "R@10", "median rank")
    assert table.header == [
        "encoder",
        *(f"{way} {metric}" for way in ("ECG to report", "report to ECG") for metric in metrics),
    ]
    assert cell(table, "ECG to report median rank", "MERL") == "17.5 (12.0 to 1,024.0)"
    assert table.rows[-1] == ["chance", "0.1", "0.4", "0.8", "600.5", "0.1", "0.4", "0.8", "600.5"]
    wanted = {"metric": "recall_at_5", "checkpoint": "runs/merl", "encoder": "random"}
    expected = value(lines, settings={"direction": "report_to_ecg", "duplicates": "recognised"}, **wanted)
    assert cell(table, "report to ECG R@5", "random weights (MERL)") == shown(expected)


def test_chance_that_differs_between_encoders_is_a_range():
    lines = [
        replace(result, details={"chance": 0.1}) if result.encoder == "random" else result
        for result in retrieval_lines()
    ]
    (table,) = benchmark_tables([result for result in lines if result.metric == "recall_at_5"])
    assert table.rows[-1] == ["chance", "0.4 to 10.0", "0.4 to 10.0"]


def test_fine_tuning_and_identification_have_leads_in_columns_from_many_to_few():
    tables = tables_of(lead_lines())
    table = tables["Fine-tuning: CinC 2021 score on cinc2021 by leads, strict protocol"]
    assert table.header == ["encoder", "settings", "12 leads", "6 leads", "3 leads", "2 leads", "1 lead"]
    assert [row[1] for row in table.rows if row[0] == "MERL"] == ["lora=false, recipe=cmelt", "lora=true, recipe=cmelt"]
    assert table.rows[0][2:] == ["85.7", "81.1", "84.2", "81.9", "76.5"]
    identified = tables["Patient identification: accuracy on cinc2021 by leads, strict protocol"]
    assert identified.rows[0][2:] == ["65.4", "57.3", "60.5", "57.7", "41.1"]
    assert identified.rows[-1] == ["chance", "-", *["0.1"] * 5]
    plain = tables["Fine-tuning: AUROC on cinc2021 by leads, strict protocol"]
    assert not any("as published" in row[0] for row in plain.rows)


def test_p_values_are_corrected_by_holm_within_a_table():
    (table,) = benchmark_tables(difference_lines(), titles=TITLES)
    assert table.title == "Differences to MERL: Zero-shot, AUROC, strict protocol"
    assert table.header[3:] == ["less MERL", "p", "p (Holm)"]
    # Sorted 0.01, 0.03, 0.04: times 3, 2, 1, and never falling: 0.03, 0.06, 0.06.
    assert [row[4:] for row in table.rows] == [["0.010", "0.030"], ["0.040", "0.060"], ["0.030", "0.060"]]
    assert table.rows[0][3] == "-1.8 (-4.1 to 0.6)"
    assert any("corrected for the 3 distinct tests" in note for note in table.notes)


def test_differences_without_a_test_have_no_p_and_very_small_ones_a_bound():
    lines = [replace(result, p_value=p) for result, p in zip(difference_lines(), (None, 0.0001, None), strict=True)]
    (table,) = benchmark_tables(lines)
    assert [row[4:] for row in table.rows] == [["-", "-"], ["<0.001", "<0.001"], ["-", "-"]]


def test_a_difference_is_never_taken_for_a_value():
    lines = [*zero_shot_lines(), *difference_lines()]
    without = tables_of(zero_shot_lines())
    with_them = tables_of(lines)
    assert {title: with_them[title] for title in without} == without


def test_every_value_of_the_run_is_in_a_table():
    lines = all_lines()
    text = "\n".join(table.render() for table in benchmark_tables(lines, titles=TITLES))
    for result in lines:
        # Of F1 and the like, only the largest fraction is shown.
        is_ranking = result.metric in ("auroc", "average_precision")
        if result.evaluation == "linear_probe" and not is_ranking and result.settings["fraction"] < 1:
            continue
        number = f"{result.value:,.1f}" if result.metric == "median_rank" else percent(result.value)
        assert f"| {number}" in text, result


def test_decisions_calibration_and_unknown_evaluations_have_tables_of_metrics():
    tables = tables_of(all_lines())
    assert tables["Zero-shot: metrics, strict protocol"].header[3:] == [
        *("F1", "sensitivity", "specificity", "Brier score", "ECE")
    ]
    assert tables["Readers: metrics, strict protocol"].rows[0][2] == "reader=cardiologist_1"
    single = tables["Single-label records: metrics, strict protocol"]
    assert cell(single, "AUROC", "ETP, as published (ETP)", "ptbxl_super") == "54.6"
    assert [row[2] for row in tables["Linear probe: metrics, strict protocol"].rows] == ["100 %, strict"]


def test_footnotes_say_protocol_records_data_seeds_and_contamination():
    seen = "12 of 500 test records were seen in training"
    lines = [
        line(prompts="plain"),
        line(prompts="plain", encoder="random"),
        line(prompts="plain", task="ptbxl_sub", num_records=2100, contamination=seen),
    ]
    (table,) = benchmark_tables(lines, titles=TITLES, published=False)
    for note in (
        "Protocol: strict.",
        "Intervals: 95 %, percentiles of a bootstrap of patients (1,000).",
        "Records: ptbxl_super 2,158, ptbxl_sub 2,100.",
        "Data: ptb_xl, 1.0.3, 100 Hz, test split.",
        "Seeds: MERL: 0; random weights (MERL): 0, 1.",
        f"Contamination: MERL on ptbxl_super, random weights (MERL): none; MERL on ptbxl_sub: {seen}.",
    ):
        assert note in table.notes


def test_the_same_task_on_other_data_is_another_column():
    other = {**DATA, "revision": "1.0.1"}
    (table,) = benchmark_tables([line(0.7, prompts="plain"), line(0.8, prompts="plain", data=other)], published=False)
    assert table.header == ["encoder", "ptbxl_super (ptb_xl 1.0.3, 100 Hz, test)", "ptbxl_super (ptb_xl 1.0.1, test)"]
    assert [text[:4] for text in table.rows[0][1:]] == ["70.0", "80.0"]


def test_a_repeated_line_counts_once_and_the_later_stands():
    (table,) = benchmark_tables([line(0.7, prompts="plain"), line(0.8, prompts="plain")], published=False)
    assert [row[1] for row in table.rows] == ["80.0 (78.0 to 82.0)"]


def test_the_order_of_lines_changes_no_number():
    def cells(tables):
        return {(table.title, frozenset(zip(table.header, row, strict=True))) for table in tables for row in table.rows}

    lines = all_lines()
    shuffled = random.Random(0).sample(lines, len(lines))
    assert cells(benchmark_tables(lines, titles=TITLES)) == cells(benchmark_tables(shuffled, titles=TITLES))


def test_undefined_values_are_dashes():
    undefined = replace(line(prompts="plain"), value=None, confidence_interval=None)
    (table,) = benchmark_tables([undefined], published=False)
    assert table.rows == [["runs/merl", "-"]]


def test_nothing_equal_titles_and_mixed_coverage_are_refused():
    with pytest.raises(ValueError, match="no results"):
        benchmark_tables([])
    with pytest.raises(ValueError, match=r"'runs/merl' and 'runs/deri_v2' are both called 'X'"):
        benchmark_tables(zero_shot_lines(), titles=dict.fromkeys(CHECKPOINTS, "X"))
    with pytest.raises(ValueError, match="different coverage"):
        benchmark_tables([line(prompts="plain"), line(prompts="plain", task="ptbxl_sub", confidence=0.9)])


def test_commands_print_auroc_over_all_classes_and_retrieval_and_what_else_is_asked_for():
    lines = all_lines()
    assert {result.metric for result in headlines(lines)} == {
        *("auroc", "recall_at_1", "recall_at_5", "recall_at_10", "median_rank")
    }
    assert {result.min_positives for result in headlines(lines)} == {1}
    assert "average_precision" in {result.metric for result in headlines(lines, "average_precision")}


def rows_of(markdown: str) -> list[list[str]]:
    return [[text.strip() for text in row.strip("| ").split(" | ")] for row in markdown.splitlines() if row[:1] == "|"]


def test_the_readme_table_has_zero_shot_probes_and_retrieval_of_one_task():
    lines = all_lines()
    header, _, *rows = rows_of(readme_benchmark_table(lines, titles=TITLES, tasks=["ptbxl_sub"], prompts="plain"))
    probes = [f"probe {share} {kind}" for share in ("1 %", "10 %", "100 %") for kind in ("strict", "published")]
    assert header == ["encoder", "zero-shot", *probes, "R@10 ECG to report", "R@10 report to ECG"]
    assert [row[0] for row in rows] == [
        *("MERL", "DERI", "supervised from scratch", "interval features"),
        *("random weights (MERL)", "random weights (DERI)"),
    ]
    common = {
        "task": "ptbxl_sub",
        "checkpoint": "runs/merl",
        "encoder": "trained",
        "metric": "auroc",
        "min_positives": 1,
    }
    expected = [value(lines, evaluation="zero_shot", prompts="plain", compared_with=None, **common)]
    for fraction in FRACTIONS:
        best = {"fraction": fraction, "solver": "merl", "selection": "best test epoch"}
        expected.append(value(lines, settings={"fraction": fraction, "solver": "logistic_regression"}, **common))
        expected.append(value(lines, settings=best, **common))
    for direction in ("ecg_to_report", "report_to_ecg"):
        settings = {"direction": direction, "duplicates": "recognised"}
        wanted = {"metric": "recall_at_10", "checkpoint": "runs/merl", "encoder": "trained"}
        expected.append(value(lines, settings=settings, **wanted))
    assert rows[0][1:] == [shown(result) for result in expected]


def test_the_readme_table_of_all_tasks_has_a_block_of_rows_per_task():
    text = readme_benchmark_table(all_lines(), titles=TITLES, prompts="plain", intervals=False)
    header, _, *rows = rows_of(text)
    assert header[:2] == ["task", "encoder"]
    assert [row[0] for row in rows] == [task for task in TASKS for _ in range(6)]
    assert " to " not in "".join(rows[0][2:])
    assert "best test epoch, an upper bound" in text
    assert "as published" not in text


def test_the_readme_table_asks_which_prompts_and_knows_its_tasks():
    own = [replace(each, prompts=f"my_{each.prompts}") for each in zero_shot_lines()]
    with pytest.raises(ValueError, match="my_plain, my_descriptions; choose one"):
        readme_benchmark_table(own)
    with pytest.raises(ValueError, match="tasks ptbxl_super, ptbxl_sub and prompts plain, descriptions"):
        readme_benchmark_table(zero_shot_lines(), tasks=["csn"], prompts="plain")
    with pytest.raises(ValueError, match="prompts etp"):
        readme_benchmark_table(zero_shot_lines(), prompts="etp")


def test_no_table_quotes_a_published_number_of_another_metric_or_task():
    numbers = {(number.row_title, number.text) for number in published_numbers()}
    for table in benchmark_tables(all_lines(), titles=TITLES):
        for row in table.rows:
            if "as published" in row[0]:
                texts = [text for text in row[1:] if text.replace(".", "").isdigit()]
                assert texts
                assert all((row[0], text) in numbers for text in texts)


def test_the_readme_table_shows_the_published_recipe_that_was_asked_for():
    lines = [
        line(
            number,
            evaluation="linear_probe",
            protocol="published",
            settings={"fraction": 1.0, "solver": solver, "selection": "best test epoch"},
        )
        for number, solver in ((0.71, "merl"), (0.82, "deri"))
    ]
    for recipe, expected in (("merl", "71.0"), ("deri", "82.0")):
        text = readme_benchmark_table(lines, titles=TITLES, recipe=recipe, intervals=False)
        assert rows_of(text)[2:] == [["MERL", expected]]
        assert f"Published: {recipe} recipe" in text


def test_the_inflation_is_summed_up_over_encoders_and_tasks():
    def probe(task, selection, value, checkpoint="a", solver="merl", **changes):
        settings = {"fraction": 0.1, "solver": solver} | ({"selection": selection} if selection else {})
        return line(
            value, evaluation="linear_probe", task=task, checkpoint=checkpoint, settings=settings,
            protocol="published" if selection else "strict", prompts=None, **changes,
        )  # fmt: skip

    lines = [
        probe("t", "best test epoch", 0.80), probe("t", "best validation epoch", 0.79), probe("t", "last epoch", 0.5),
        probe("u", "best test epoch", 0.70), probe("u", "best validation epoch", 0.66), probe("u", "last epoch", 0.5),
        probe("t", None, 0.85, solver="logistic_regression"), probe("u", None, 0.73, solver="logistic_regression"),
        probe("t", "best test epoch", 0.99, encoder="random"),
        probe("t", "best validation epoch", 0.1, encoder="random"),
    ]  # fmt: skip
    table = inflation_summary(lines)
    assert table.rows == [["merl", "10 %", "+2.50", "+4.0", "+4.0", "2"]]  # (1 + 4) / 2, and (5 + 3) / 2
    with pytest.raises(ValueError, match="no lines of published probes"):
        inflation_summary(lines[6:8])


def test_the_spread_over_prompt_sets_names_the_lowest_and_the_highest():
    def answer(value, prompts, **changes):
        return line(value, evaluation="zero_shot", prompts=prompts, **changes)

    lines = [
        answer(0.6, "plain"), answer(0.75, "members"), answer(0.7, "template"),
        answer(0.5, "plain", encoder="random"), answer(0.45, "members", encoder="random"),
        answer(0.9, "plain", min_positives=20), answer(0.1, "plain", metric="f1"),
    ]  # fmt: skip
    (table,) = [one for one in benchmark_tables(lines) if "spread" in one.title]
    assert table.title == "Zero-shot: spread over 3 prompt sets, strict protocol"
    assert [row[1:] for row in table.rows] == [
        ["ptbxl_super", "60.0 (plain)", "75.0 (members)", "15.0"],
        ["ptbxl_super", "45.0 (members)", "50.0 (plain)", "5.0"],
    ]
    assert not [one for one in benchmark_tables(lines[:1]) if "spread" in one.title]


def test_without_a_choice_the_readme_table_prints_the_mean_over_the_prompt_sets():
    lines = zero_shot_lines()
    text = readme_benchmark_table(lines, titles=TITLES, tasks=["ptbxl_super"], intervals=False)
    wanted = {"checkpoint": "runs/merl", "encoder": "trained", "metric": "auroc", "task": "ptbxl_super"}
    values = [value(lines, min_positives=1, prompts=prompts, **wanted).value for prompts in ("plain", "descriptions")]
    assert dict(row[:2] for row in rows_of(text)[2:])["MERL"] == f"{100 * sum(values) / 2:.1f}"
    assert "Mean over the prompt sets descriptions, plain; none was chosen by its score." in text


def counted(averaged, of, **changes):
    """A line over some classes of a task, of which the line holds those with enough positives."""
    names = [f"C{place}" for place in range(averaged)]
    return line(
        0.8,
        num_positives=dict.fromkeys(names, 30),
        per_class=dict.fromkeys(names, 0.8),
        per_class_intervals=dict.fromkeys(names),
        num_classes=averaged,
        num_task_classes=of,
        **{"min_positives": 20, "evaluation": "zero_shot", "prompts": "plain", **changes},
    )


def test_the_notes_say_over_how_many_classes_a_mean_is():
    lines = [counted(14, 17, task="ptbxl_form"), counted(5, 5)]
    (table,) = benchmark_tables(lines, published=False)
    assert "Means over classes: ptbxl_form 14 of 17; ptbxl_super all 5." in table.notes


def test_a_mean_over_one_class_names_it_and_is_called_no_macro_mean():
    (table,) = benchmark_tables([counted(1, 12, task="ptbxl_rhythm")], published=False)
    assert table.rows == [["runs/merl", "80.0 (78.0 to 82.0) [C0 alone]"]]
    assert "Means over classes: ptbxl_rhythm 1 of 12 (C0 alone, no macro mean)." in table.notes


def test_metrics_with_other_classes_are_told_apart_in_the_notes():
    lines = [counted(5, 5, min_positives=1, metric=name) for name in ("brier_score", "accuracy")]
    lines.append(counted(3, 5, min_positives=1, metric="f1"))
    (table,) = [table for table in benchmark_tables(lines, published=False) if "metrics" in table.title]
    assert "Means over classes: ptbxl_super all 5 (Brier score, accuracy), 3 of 5 (F1)." in table.notes


def test_a_line_of_before_classes_were_counted_says_what_it_knows():
    known = replace(counted(4, 17), num_task_classes=0)
    (table,) = benchmark_tables([known], published=False)
    assert "Means over classes: ptbxl_super 4." in table.notes


def test_probes_say_how_many_labels_they_used():
    def probe(protocol, fraction, **budget):
        settings = {"fraction": fraction, "solver": "logistic_regression"}
        common = {"evaluation": "linear_probe", "settings": settings, "protocol": protocol}
        return line(0.8, details={"label_budget": budget}, **common)

    lines = [
        probe("strict", 0.01, drawn=[14, 14], validation=242, total=[256, 256]),
        probe("strict", 0.1, drawn=[147, 148], validation=242, total=[389, 390]),
        probe("strict probe_selection=draw", 0.01, drawn=[14, 14], total=[14, 14]),
    ]
    table = next(t for t in benchmark_tables(lines, published=False) if "side by side" in t.title)
    assert (
        "Labelled records used: 1 %, strict: 14 + 242 of validation; 1 %, strict probe_selection=draw: 14; "
        "10 %, strict: 147 to 148 + 242 of validation." in table.notes
    )
