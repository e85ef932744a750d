"""Label maps between datasets: the published table as printed, and the reviewed one by code."""

import itertools
import json
from importlib import resources

import numpy as np
import pytest

from hf_ecgtext.data.label_maps import VERSIONS, label_map, label_matches, map_targets, task_labels
from hf_ecgtext.data.sources.cinc2021.classes import diagnoses
from hf_ecgtext.data.sources.ptb_xl.labels import PTB_XL_CLASSES

TASKS = ("ptbxl_super", "cpsc2018", "csn")
DIRECTIONS = [*itertools.permutations(TASKS, 2)]

# C-MELT Table 11, typed from the paper's dossier; a class that maps to nothing is left out here.
PUBLISHED = {
    ("ptbxl_super", "cpsc2018"): {"NORM": {"NORM"}, "CD": {"1AVB", "CRBBB", "CLBBB"}, "STTC": {"STE", "STD"}},
    ("ptbxl_super", "csn"): {
        "HYP": {"RVH", "LVH"},
        "NORM": {"SR"},
        "CD": {"2AVB", "2AVB1", "1AVB", "AVB", "LBBB", "RBBB", "STDD"},
        "MI": {"MI"},
        "STTC": {"STTC", "STE", "TWO", "STTU", "QTIE", "TWC"},
    },
    ("cpsc2018", "csn"): {
        "AFIB": {"AFIB"},
        "VPC": {"VPB"},
        "NORM": {"SR"},
        "1AVB": {"1AVB"},
        "CRBBB": {"RBBB"},
        "STE": {"STE"},
        "PAC": {"APB"},
        "CLBBB": {"LBBB"},
        "STD": {"STE", "STTC", "STTU", "STDD"},
    },
}


def as_sets(mapping):
    return {source: set(targets) for source, targets in mapping.items() if targets}


def test_the_tasks_of_the_maps_are_those_of_the_sources():
    from hf_ecgtext.data.sources.cpsc2018 import CPSC2018_CLASSES
    from hf_ecgtext.data.sources.csn.labels import CSN_CLASSES

    assert set(task_labels("ptbxl_super")) == set(PTB_XL_CLASSES["super"])
    assert set(task_labels("cpsc2018")) == set(CPSC2018_CLASSES)
    assert set(task_labels("csn_exact")) == set(task_labels("csn_merl")) == set(CSN_CLASSES)


def test_the_classes_are_the_columns_of_the_published_splits(real_data):
    import pandas as pd

    columns = {
        "ptbxl_super": pd.read_csv(real_data / "merl_splits/ptbxl/super_class/ptbxl_super_class_test.csv").columns[6:],
        "cpsc2018": pd.read_csv(real_data / "merl_splits/icbeb/icbeb_test.csv").columns[7:],
        "csn": pd.read_csv(real_data / "merl_splits/chapman/chapman_test.csv").columns[3:],
    }
    for task, labels in columns.items():
        assert set(task_labels(task)) == set(labels)


@pytest.mark.parametrize(("source", "target"), [*PUBLISHED])
def test_the_published_maps_are_those_of_the_paper(source, target):
    assert as_sets(label_map(source, target, "as_published")) == PUBLISHED[source, target]


@pytest.mark.parametrize(("source", "target"), [*PUBLISHED])
def test_the_published_way_back_is_the_inverse(source, target):
    inverse = {}
    for label, matched in PUBLISHED[source, target].items():
        for other in matched:
            inverse.setdefault(other, set()).add(label)
    assert as_sets(label_map(target, source, "as_published")) == inverse


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_every_class_of_the_source_is_listed_and_every_target_class_exists(source, target, version):
    mapping = label_map(source, target, version)
    assert tuple(mapping) == task_labels(source)
    for targets in mapping.values():
        assert set(targets) <= set(task_labels(target))
        assert len(set(targets)) == len(targets)


@pytest.mark.parametrize(("source", "target"), [*PUBLISHED])
def test_the_reviewed_way_back_is_the_inverse_without_what_counts_only_alone(source, target):
    there = {(match.source, match.target) for match in label_matches(source, target) if not match.alone}
    back = {(match.target, match.source) for match in label_matches(target, source)}
    assert there == back
    relation = {(match.source, match.target): match.relation for match in label_matches(source, target)}
    for match in label_matches(target, source):
        expected = {"same": "same", "narrower": "broader", "broader": "narrower"}
        assert match.relation == expected[relation[match.target, match.source]]


def test_the_review_corrects_what_the_protocols_list():
    towards_csn = label_map("ptbxl_super", "csn")
    assert "STDD" not in towards_csn["CD"]
    assert "STDD" in towards_csn["STTC"]
    assert label_map("cpsc2018", "csn")["STD"] == ("STDD",)
    assert [match.alone for match in label_matches("super", "csn") if match.target == "SR"] == [True]
    assert label_map("csn", "super")["SR"] == ()
    assert label_map("csn", "cpsc2018")["SR"] == ()


def test_reviewed_matches_between_findings_agree_in_their_snomed_code():
    from hf_ecgtext.data.sources.csn.labels import CSN_ACRONYMS

    code_of = {acronym: code for code, acronym in reversed(CSN_ACRONYMS.items())}
    # CPSC2018's classes by the codes of its copy in PhysioNet/CinC 2021
    cpsc = {
        "AFIB": "164889003",
        "1AVB": "270492004",
        "CLBBB": "164909002",
        "CRBBB": "59118001",
        "PAC": "284470004",
        "STD": "429622005",
        "STE": "164931005",
    }
    for match in label_matches("cpsc2018", "csn"):
        if match.source in cpsc:
            assert code_of[match.target] == cpsc[match.source], match


def test_every_reviewed_match_has_a_reason_and_its_codes_exist():
    document = json.loads((resources.files("hf_ecgtext.data") / "label_maps.json").read_text(encoding="utf-8"))
    codes = set()
    for entry in document["versions"]["reviewed"]["maps"]:
        mapped = {match["source"] for match in entry["matches"]}
        assert mapped | set(entry["unmatched"]) == set(task_labels(entry["source_task"]))
        assert not mapped & set(entry["unmatched"])
        for match in entry["matches"]:
            assert len(match["comment"]) > 20, match
            words = match["comment"].replace(",", " ").replace(".", " ").replace("(", " ").replace(")", " ").split()
            codes |= {word for word in words if word.isdigit() and len(word) > 6}
    assert len(codes) > 15
    assert codes <= set(diagnoses())


def test_a_source_class_is_present_where_any_of_its_target_classes_is():
    labels = task_labels("cpsc2018")
    targets = np.eye(len(labels), dtype=np.int8)
    mapped, classes = map_targets(targets, labels, "ptbxl_super", "cpsc2018", "as_published")
    assert classes == ("NORM", "STTC", "CD")
    rows = dict(zip(labels, mapped.tolist(), strict=True))
    assert rows["NORM"] == [1, 0, 0]
    assert rows["STE"] == rows["STD"] == [0, 1, 0]
    assert rows["1AVB"] == rows["CRBBB"] == rows["CLBBB"] == [0, 0, 1]
    assert rows["AFIB"] == rows["PAC"] == rows["VPC"] == [0, 0, 0]  # kept, all zero
    both = targets[labels.index("STE")] | targets[labels.index("CRBBB")]
    assert map_targets(both[None], labels, "super", "cpsc2018")[0].tolist() == [[0, 1, 1]]


def test_sinus_rhythm_is_a_normal_ecg_only_when_it_is_alone():
    labels = task_labels("csn")
    targets = np.zeros((3, len(labels)), dtype=np.int8)
    targets[0, labels.index("SR")] = 1
    targets[1, [labels.index("SR"), labels.index("TWC")]] = 1
    mapped, classes = map_targets(targets, labels, "super", "csn")
    assert mapped[:, classes.index("NORM")].tolist() == [1, 0, 0]
    published, classes = map_targets(targets, labels, "super", "csn", "as_published")
    assert published[:, classes.index("NORM")].tolist() == [1, 1, 0]


def test_columns_are_found_by_name_in_any_order():
    labels = task_labels("csn")
    rng = np.random.default_rng(0)
    targets = (rng.random((50, len(labels))) < 0.1).astype(np.int8)
    order = rng.permutation(len(labels))
    expected, _ = map_targets(targets, labels, "cpsc2018", "csn")
    shuffled, _ = map_targets(targets[:, order], [labels[index] for index in order], "cpsc2018", "csn")
    np.testing.assert_array_equal(shuffled, expected)


def test_unknown_tasks_versions_and_columns_are_refused():
    with pytest.raises(ValueError, match=r"no label maps for the task 'ptbxl_form'.*ptbxl_super"):
        label_map("ptbxl_form", "csn")
    with pytest.raises(ValueError, match="no version 'mine'"):
        label_map("super", "csn", "mine")
    with pytest.raises(ValueError, match="have the same classes"):
        label_map("csn_exact", "csn_merl")
    labels = task_labels("cpsc2018")
    targets = np.zeros((2, 9), dtype=np.int8)
    with pytest.raises(ValueError, match=r"unknown \['CLBBS'\], missing \['CLBBB'\]"):
        map_targets(targets, ["CLBBS" if label == "CLBBB" else label for label in labels], "super", "cpsc2018")
    with pytest.raises(ValueError, match="missing"):
        map_targets(targets[:, :8], labels[:8], "super", "cpsc2018")
    with pytest.raises(ValueError, match="9 columns are needed"):
        map_targets(targets[:, :8], labels, "super", "cpsc2018")
