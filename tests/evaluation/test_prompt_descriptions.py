"""The library's own descriptions: complete, unambiguous, and free of what belongs to another class."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import pytest

from hf_ecgtext.data.sources.cinc2021.classes import class_names as cinc2021_class_names
from hf_ecgtext.data.sources.code_test import CODE_TEST_CLASSES
from hf_ecgtext.data.sources.cpsc2018 import CPSC2018_CLASSES
from hf_ecgtext.data.sources.csn.labels import CSN_CLASSES
from hf_ecgtext.data.sources.ptb_xl.labels import PTB_XL_CLASSES
from hf_ecgtext.data.synthetic import CONDITIONS
from hf_ecgtext.evaluation.prompts.sets import build_prompts

CLASSES = {
    **{f"ptbxl_{task}": classes for task, classes in PTB_XL_CLASSES.items()},
    "cpsc2018": CPSC2018_CLASSES,
    "csn_exact": CSN_CLASSES,
    "csn_merl": CSN_CLASSES,
    "code_test": CODE_TEST_CLASSES,
    "cinc2021": cinc2021_class_names(),
    "synthetic": {key: condition.name for key, condition in CONDITIONS.items()},
}
CONTENT = json.loads((files("hf_ecgtext.evaluation") / "prompts" / "descriptions.json").read_text("utf-8"))
CONCEPTS: dict[str, list[str]] = CONTENT["concepts"]

# What would be wrong to say of a concept, as regular expressions on lower-case text.
EXCLUSIONS = {
    "normal_ecg": r"tachy|brady|block|infarct|hypertroph|depress|elevat|invert|prolong",
    "sinus_rhythm": r"tachy|brady|arrhythmia|fibrill|flutter",
    "sinus_bradycardia": r"tachy|above|fast",
    "sinus_tachycardia": r"brady|below|slow|supraventricular",
    "sinus_arrhythmia": r"tachy|brady|fibrill|premature",
    "bradycardia": r"tachy|above|fast",
    "atrial_fibrillation": r"flutter|sawtooth|\bregular",
    "atrial_flutter": r"fibrill|irregular",
    "atrial_tachycardia": r"flutter|fibrill|ventricular|junctional",
    "supraventricular_tachycardia": r"flutter|fibrill|\bventricular|paroxysm|wide",
    "paroxysmal_supraventricular_tachycardia": r"flutter|fibrill|\bventricular|wide",
    "atrial_premature_complex": r"\bventricular|wide|late|escape",
    "ventricular_premature_complex": r"atrial|supraventricular|narrow|late|escape",
    "bigeminal_pattern": r"trigem|third",
    "trigeminal_pattern": r"bigem|second",
    "ventricular_bigeminy": r"trigem|third|atrial|supraventricular|narrow",
    "junctional_escape_beat": r"early|premature|wide|ventricular",
    "ventricular_escape_beat": r"early|premature|narrow|junctional",
    "left_bundle_branch_block": r"right|rbbb|incomplete",
    "complete_left_bundle_branch_block": r"right|rbbb|incomplete",
    "incomplete_left_bundle_branch_block": r"right|rbbb|120",
    "right_bundle_branch_block": r"left|lbbb|incomplete",
    "complete_right_bundle_branch_block": r"left|lbbb|incomplete",
    "incomplete_right_bundle_branch_block": r"left|lbbb|120",
    "left_anterior_fascicular_block": r"right|posterior",
    "left_posterior_fascicular_block": r"right|anterior",
    "first_degree_av_block": r"second|third|complete|mobitz|wenckebach|not conducted|dropped",
    "second_degree_av_block": r"first|third|complete|mobitz|wenckebach",
    "wenckebach_block": r"first|third|complete|type ii",
    "third_degree_av_block": r"first|second|mobitz|wenckebach",
    "left_axis_deviation": r"right|block",
    "right_axis_deviation": r"left|block",
    "clockwise_rotation": r"counter|early",
    "counterclockwise_rotation": r"late|(?<!counter)clockwise",
    "left_ventricular_hypertrophy": r"right|atrial",
    "lvh_voltage_criteria": r"right|atrial",
    "right_ventricular_hypertrophy": r"left|atrial",
    "left_atrial_enlargement": r"right|pulmonale|ventric",
    "right_atrial_enlargement": r"left|mitrale|ventric",
    "st_depression": r"elevat|above|t wave",
    "nonspecific_st_depression": r"elevat|above|t wave",
    "st_elevation": r"depress|below|t wave",
    "nonspecific_st_elevation": r"depress|below|t wave",
    "upsloping_st_elevation": r"depress|below|downslop",
    "st_extension": r"elevat|depress",
    "inverted_t_waves": r"flat|low|tall|st segment",
    "low_t_waves": r"invert|negative|tall|st segment",
    "prolonged_qt": r"short|below|pr interval",
    "prolonged_pr": r"short|below|qt",
    "high_qrs_voltage": r"\blow|below|hypertroph",
    "low_qrs_voltage": r"high|tall|increased",
    "low_qrs_voltage_everywhere": r"high|tall|increased",
    "pacemaker": r"failure|malfunction|sinus",
}
REGIONS = {
    "anterior": {"V1", "V2", "V3", "V4"},
    "anteroseptal": {"V1", "V2", "V3"},
    "anterolateral": {"V3", "V4", "V5", "V6", "I", "aVL"},
    "lateral": {"I", "aVL", "V5", "V6"},
    "inferior": {"II", "III", "aVF"},
    "inferolateral": {"II", "III", "aVF", "V5", "V6"},
}
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def leads_in(text: str) -> set[str]:
    """The leads that a text names, those inside a range such as `V1 to V4` too."""
    for low, high in re.findall(r"V(\d) to V(\d)", text):
        text += " ".join(["", *(f"V{number}" for number in range(int(low), int(high) + 1))])
    return set(re.findall(r"\b(aV\w|V\d|I{1,3})\b", text))


@pytest.mark.parametrize("task", CLASSES)
def test_every_class_of_every_task_has_a_description_and_no_other_label_has(task):
    prompts = build_prompts(CLASSES[task], "descriptions", task=task)
    assert set(CONTENT["tasks"][task]) == set(CLASSES[task])
    assert all(1 <= len(texts) <= 3 for texts in prompts.values())


def test_all_71_statements_of_ptb_xl_have_a_description(real_data):
    import pandas as pd

    codes = pd.read_csv(real_data / "ptb-xl" / "scp_statements.csv", index_col=0).index
    assert set(CONTENT["tasks"]["ptbxl_all"]) == set(codes)
    assert len(codes) == 71


@pytest.mark.parametrize("task", CONTENT["tasks"])
def test_no_two_classes_of_a_task_share_a_description(task):
    concepts = list(CONTENT["tasks"][task].values())
    assert len(set(concepts)) == len(concepts)


def test_no_text_stands_under_two_concepts():
    texts = [" ".join(re.findall(r"\w+", text.lower())) for group in CONCEPTS.values() for text in group]
    assert sorted(set(texts)) == sorted(texts)


def test_every_concept_is_used_by_a_task():
    assert {concept for labels in CONTENT["tasks"].values() for concept in labels.values()} == set(CONCEPTS)


@pytest.mark.parametrize("concept", EXCLUSIONS)
def test_nothing_in_a_description_belongs_to_another_class(concept):
    found = [text for text in CONCEPTS[concept] if re.search(EXCLUSIONS[concept], text.lower())]
    assert not found


@pytest.mark.parametrize("concept", CONCEPTS)
def test_a_description_is_one_short_sentence_of_plain_characters_without_advice(concept):
    for text in CONCEPTS[concept]:
        assert text.isascii()
        assert 5 <= len(text) <= 130
        assert text[0].isupper()
        assert text.endswith(".")
        assert text == " ".join(text.split())
        assert not re.search(
            r"recommend|advis|should|consult|follow.?up|refer|please|\byou|sure,|certainly|e\.g\.|\?|!|\{", text.lower()
        )


@pytest.mark.parametrize("concept", CONCEPTS)
def test_leads_exist_and_fit_the_region(concept):
    named = set().union(*map(leads_in, CONCEPTS[concept]))
    assert named <= set(LEADS)
    region, _, finding = concept.partition("_")
    if region in REGIONS and finding != "axis_deviation":
        assert named <= REGIONS[region]
        assert named
        assert not any(other in " ".join(CONCEPTS[concept]).lower() for other in set(REGIONS) - {region} - {"lateral"})


def test_the_file_says_whose_words_these_are_and_who_reviewed_them():
    assert CONTENT["source"] == "hf_ecgtext"
    assert CONTENT["licence"] == "Apache-2.0"
    assert "not by a cardiologist" in CONTENT["review"]


def test_no_text_is_taken_from_the_published_file(real_data):
    published = json.loads((real_data / "prompts" / "CKEPE_prompt.json").read_text())
    phrases = {phrase.strip(" .").lower() for text in published.values() for phrase in text.split(",")}
    # A bare name is the field's; whatever is longer than a name must be our own.
    copied = [text for group in CONCEPTS.values() for text in group if text.strip(" .").lower() in phrases]
    assert not [text for text in copied if len(text.split()) > 6]
