from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from hf_ecgtext.evaluation.protocols import EvaluationProtocol
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.reporting.figures.album import Drawn
from hf_ecgtext.reporting.html_report import write_html_report
from hf_ecgtext.reporting.report_facts import bad_news, protocol_table
from hf_ecgtext.reporting.tables.render import NamedTable

HOSTILE = "<script>alert('x')</script>\"><img src=https://evil.example/x.png>&{{ 7 * 7 }}"
PNG = b"\x89PNG\r\n\x1a\nnot really"
VOID = {"meta", "img", "link", "br", "hr", "input"}


def make_line(**fields):
    known = {
        "task": "ptbxl_super",
        "protocol": "strict",
        "metric": "auroc",
        "value": 0.7,
        "confidence_interval": (0.6, 0.8),
        "num_records": 100,
        "num_positives": {"NORM": 50, "MI": 7, "HYP": 0},
        "per_class": {"NORM": 0.7, "MI": 0.9, "HYP": None},
        "per_class_intervals": {"NORM": (0.6, 0.8), "MI": None, "HYP": None},
        "seed": 0,
        "checkpoint": "runs/merl",
        "data": {"name": "ptb-xl", "revision": "1.0.3", "split": "test"},
        "prompts": "plain",
        "encoder": "trained",
        "contamination": "none",
        "num_resamples": 1000,
        "command": "hf-ecgtext evaluate --model runs/merl",
        "date": "2026-11-21T10:00:00+00:00",
        "library_versions": {"torch": "2.13.0", "python": "3.11.7"},
    }
    return EvaluationResult(**{**known, **fields})


def clean_line(**fields):
    classes = {"num_positives": {"NORM": 50}, "per_class": {"NORM": 0.7}, "per_class_intervals": {"NORM": (0.6, 0.8)}}
    return make_line(**{**classes, **fields})


class Page(HTMLParser):
    """Tags that balance, text, and attributes."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.text, self.cells = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data
        elif self.open and self.open[-1] != "style":
            self.text.append(data)


def write(tmp_path, results=None, tables=(), figures=(), **options):
    path = write_html_report(
        tmp_path / "out" / "index.html",
        title=options.pop("title", "Run"),
        tables=tables,
        figures=figures,
        results=results or [make_line()],
        **options,
    )
    return path.read_text(encoding="utf-8")


def test_every_cell_and_note_of_the_tables_is_in_the_page(tmp_path):
    rows = [[f"encoder {row}", *(f"{row}{column}.{column} (1 to 2)" for column in range(4))] for row in range(5)]
    tables = [NamedTable("Zero-shot", ["encoder", "a", "b", "c", "d"], rows, ["First note.", "Second."], breaks=(2,))]
    page = Page(write(tmp_path, tables=tables))
    for row in [tables[0].header, *rows]:
        place = page.cells.index(row[0])
        assert page.cells[place : place + 5] == row
    text = " ".join(page.text)
    assert "Zero-shot" in text
    assert "First note." in text
    assert [value for tag, name, value in page.attributes if (tag, name) == ("tr", "class")] == ["block"]


def test_whatever_a_name_holds_is_shown_as_text(tmp_path):
    png = tmp_path / "x.png"
    png.write_bytes(PNG)
    results = [
        make_line(
            task=HOSTILE,
            checkpoint=HOSTILE,
            prompts=HOSTILE,
            protocol=HOSTILE,
            command=HOSTILE,
            contamination=HOSTILE,
            details={"absent_labels": {HOSTILE: 1}, "draws": 2, "upper_bound": HOSTILE},
            data={"name": HOSTILE, "revision": HOSTILE, "split": HOSTILE},
            num_positives={HOSTILE: 1},
            per_class={HOSTILE: None},
            per_class_intervals={HOSTILE: None},
        )
    ]
    text = write(
        tmp_path,
        results,
        [NamedTable(HOSTILE, [HOSTILE], [[HOSTILE]], [HOSTILE])],
        [Drawn(png, HOSTILE, HOSTILE)],
        title=HOSTILE,
        notes=[HOSTILE],
        failed={HOSTILE: HOSTILE},
    )
    page = Page(text)
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert page.cells.count(HOSTILE) >= 5
    assert "".join(page.text).count(HOSTILE) >= 8
    assert "49" not in "".join(page.text)


def test_the_page_asks_for_nothing_outside_itself(tmp_path):
    png = tmp_path / "x.png"
    png.write_bytes(PNG)
    text = write(tmp_path, figures=[Drawn(png, "One", "Caption.")])
    page = Page(text)
    addresses = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert len(addresses) >= 2
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in addresses)
    assert not re.search(r"https?:|url\(|@import|<script|<link", text)
    assert ("meta", "http-equiv", "Content-Security-Policy") in page.attributes


def test_figures_are_inside_the_page_with_title_and_caption(tmp_path):
    png = tmp_path / "x.png"
    png.write_bytes(PNG)
    page = Page(write(tmp_path, figures=[Drawn(png, "One figure", "n = 2,158 records.")]))
    (source,) = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == PNG
    assert ("img", "alt", "One figure") in page.attributes
    assert "n = 2,158 records." in page.text


def test_all_entries_of_the_contents_lead_somewhere(tmp_path):
    png = tmp_path / "x.png"
    png.write_bytes(PNG)
    tables = [NamedTable(f"Table {n}", ["a"], [["1"]]) for n in range(3)]
    page = Page(write(tmp_path, tables=tables, figures=[Drawn(png, "F", "C")]))
    targets = [value for _, name, value in page.attributes if name == "id"]
    links = [value[1:] for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert len(links) == 5 + 3 + 1
    assert set(links) == set(targets)
    assert len(targets) == len(set(targets))


def test_the_page_says_what_was_evaluated(tmp_path):
    page = Page(write(tmp_path, [make_line(), make_line(encoder="random", seed=(0, 1, 2, 3), contamination="none")]))
    for text in ("runs/merl", "random", "0 to 3", "ptb-xl", "1.0.3", "ptbxl_super (100)", "2.13.0", "plain"):
        assert text in page.cells
    assert "hf-ecgtext evaluate --model runs/merl" in page.cells


def test_switches_of_a_changed_protocol_are_read_from_its_name():
    names = ["strict", "published", "strict min_positives=(1, 5) num_draws=3", "own"]
    table = protocol_table([make_line(protocol=name) for name in names])
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.header == ["switch", *names]
    assert rows["num draws"] == ["5", "1", "3", "not recorded"]
    assert rows["min positives"] == ["(5, 1, 20)", "(5, 1, 20)", "(1, 5)", "not recorded"]
    assert rows["probe selection"] == ["validation", "test", "validation", "not recorded"]


def test_switches_of_an_own_protocol_can_be_given():
    own = EvaluationProtocol(name="own", num_draws=9)
    table = protocol_table([make_line(protocol="own")], [own])
    assert ["num draws", "9"] in table.rows


def news_by_title(results, failed=None):
    return {news.title: news.items for news in bad_news(results, failed or {})}


def test_a_clean_run_has_no_bad_news(tmp_path):
    assert bad_news([clean_line()], {}) == []
    assert any("None found" in text for text in Page(write(tmp_path, [clean_line()])).text)


def test_contamination_is_named_for_trained_encoders_only():
    seen = "12 of 500 test records were seen in training"
    news = news_by_title(
        [
            clean_line(contamination=seen),
            clean_line(checkpoint="runs/etp", contamination="unknown: the checkpoint has no ledger"),
            clean_line(checkpoint="runs/deri", contamination="not checked"),
            clean_line(encoder="random", contamination="not checked"),
        ]
    )
    assert news == {
        "Contaminated or unknown checkpoints": [
            f"runs/merl on ptb-xl: {seen}",
            "runs/etp on ptb-xl: unknown: the checkpoint has no ledger",
            "runs/deri on ptb-xl: not checked",
        ]
    }


def test_absent_labels_undefined_and_rare_classes_are_named_with_numbers():
    settings = {"fraction": 0.01, "solver": "logistic_regression"}
    details = {"absent_labels": {"MI": 3}, "draws": 5}
    news = news_by_title([make_line(settings=settings, details=details), make_line(encoder="random")])
    assert news["Labels absent from training draws"] == [
        "ptbxl_super, 1 % of the labels, protocol strict: MI (3 of 5 draws)"
    ]
    assert news["Classes without a value"] == ["ptbxl_super, auroc: HYP (0 of 100 records)"]
    assert news["Classes with fewer than 20 positive records"] == ["ptbxl_super, 1 of 3 classes: MI (7)"]


def test_upper_bounds_failed_evaluations_shaky_classes_and_mixed_runs_are_named():
    older = {"name": "ptb-xl", "revision": "1.0.1", "split": "test"}
    news = news_by_title(
        [
            clean_line(details={"upper_bound": "Chosen on test."}, num_undefined={"NORM": 400}),
            clean_line(
                data=older, library_versions={"torch": "2.12.0", "python": "3.11.7"}, num_undefined={"NORM": 50}
            ),
        ],
        {"linear_probe of merl": "There is no validation split."},
    )
    assert news == {
        "Evaluations that could not be done": ["linear_probe of merl: There is no validation split."],
        "Chosen on the test split": ["zero shot, protocol strict: Chosen on test. Tasks: ptbxl_super."],
        "Classes that lack a value in many resamples": ["ptbxl_super: NORM (40 %)"],
        "Mixed runs": ["ptb-xl: revisions 1.0.3, 1.0.1", "torch: versions 2.13.0, 2.12.0"],
    }


def test_repeated_lines_are_counted():
    assert news_by_title([clean_line(), clean_line()]) == {
        "Mixed runs": ["1 lines are repeated by later ones, which stand"]
    }


def test_a_macro_value_that_is_undefined_is_named():
    line = clean_line(
        value=None, confidence_interval=None, per_class={"NORM": None}, per_class_intervals={"NORM": None}
    )
    assert news_by_title([line])["Classes without a value"] == [
        "ptbxl_super, auroc: NORM (50 of 100 records)",
        "ptbxl_super, auroc: no value at all for runs/merl (zero_shot)",
    ]


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "out" / "index.html"
    before = write(tmp_path)
    pdf = tmp_path / "x.pdf"
    pdf.write_bytes(b"%PDF")
    with pytest.raises(ValueError, match="PNG or SVG"):
        write(tmp_path, figures=[Drawn(pdf, "F", "C")])
    with pytest.raises(FileNotFoundError):
        write(tmp_path, figures=[Drawn(tmp_path / "gone.png", "F", "C")])
    with pytest.raises(ValueError, match=r"'1 \| 2' has 2 cells for 1 columns"):
        write(tmp_path, tables=[NamedTable("T", ["a"], [["1", "2"]])])
    assert path.read_text(encoding="utf-8") == before
    assert [entry.name for entry in path.parent.iterdir()] == ["index.html"]


def test_a_page_needs_results(tmp_path):
    with pytest.raises(ValueError, match="no results"):
        write_html_report(tmp_path / "x.html", title="Run", tables=[], figures=[], results=[])
