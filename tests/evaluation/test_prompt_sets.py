from __future__ import annotations

import json

import pytest

from hf_ecgtext.evaluation.prompt_sets import PromptError, build_prompts, list_prompt_sets, load_prompt_set

CLASS_NAMES = {"LVH": "left ventricular hypertrophy", "AFIB": "atrial fibrillation"}


def test_every_shipped_set_has_source_licence_and_a_place_for_the_name():
    shipped = {templates.name: templates for templates in list_prompt_sets()}
    assert set(shipped) == {"etp", "members", "plain", "template"}
    for templates in shipped.values():
        assert templates.source
        assert templates.licence
        assert templates.templates
        assert all(template.count("{name}") == 1 for template in templates.templates)


def test_plain_is_the_name_and_etp_is_the_sentence_of_the_paper():
    assert build_prompts(CLASS_NAMES) == {"LVH": ["left ventricular hypertrophy"], "AFIB": ["atrial fibrillation"]}
    assert build_prompts(CLASS_NAMES, "etp")["AFIB"] == ["this ECG indicates atrial fibrillation"]


def test_template_is_an_ensemble_in_which_every_prompt_holds_the_name():
    prompts = build_prompts(CLASS_NAMES, "template")
    assert list(prompts) == list(CLASS_NAMES)
    for label, name in CLASS_NAMES.items():
        assert len(set(prompts[label])) > 1
        assert all(name in prompt for prompt in prompts[label])


def test_a_name_with_braces_is_taken_literally():
    assert build_prompts({"X": "a {name} {0}"}, "etp") == {"X": ["this ECG indicates a {name} {0}"]}


def test_a_file_may_give_a_string_or_a_list_and_the_order_is_that_of_the_task(tmp_path):
    path = tmp_path / "ours.json"
    path.write_text(json.dumps({"AFIB": "irregular, no P waves", "LVH": ["tall R", "deep S"], "WPW": "delta wave"}))
    prompt_set = load_prompt_set(CLASS_NAMES, path)
    assert list(prompt_set.prompts.items()) == [("LVH", ["tall R", "deep S"]), ("AFIB", ["irregular, no P waves"])]
    assert prompt_set.name == "ours"
    assert str(path) in prompt_set.source
    assert "SHA-256" in prompt_set.source
    assert build_prompts(CLASS_NAMES, str(path)) == prompt_set.prompts


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"LVH": "x"}', r"no prompt for these classes: \['AFIB'\]"),
        ('{"LVH": "x", "AFIB": "y", "LVH": "z"}', r"more than once: \['LVH'\]"),
        ('{"LVH": "x", "AFIB": []}', "class 'AFIB' is neither"),
        ('{"LVH": "x", "AFIB": {"a": "b"}}', "class 'AFIB' is neither"),
        ('{"LVH": "x", "AFIB": ["y", " "]}', "class 'AFIB' has a prompt that is empty"),
        ('["x"]', "expected one JSON object"),
        ("LVH: x", "is not a JSON file"),
    ],
)
def test_a_malformed_file_is_refused_with_the_class_at_fault(tmp_path, content, problem):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(PromptError, match=problem):
        build_prompts(CLASS_NAMES, path)


def test_an_unknown_set_is_refused_with_the_names_there_are():
    with pytest.raises(PromptError, match=r"'CKEPE'\. The library has: etp, members, plain, template\."):
        build_prompts(CLASS_NAMES, "CKEPE")


def test_classes_without_a_name_in_words_are_refused():
    with pytest.raises(PromptError, match="class_names is empty"):
        build_prompts({})
    with pytest.raises(PromptError, match=r"no name in words: \['LVH'\]"):
        build_prompts({"LVH": " ", "AFIB": "atrial fibrillation"})


def test_the_published_file_of_merl_gives_one_prompt_per_class_commas_included(real_data):
    path = real_data / "prompts" / "CKEPE_prompt.json"
    labels = ["NORM", "MI", "STTC", "CD", "HYP"]
    prompts = build_prompts({label: label for label in labels}, path)
    assert list(prompts) == labels
    assert all(len(prompts[label]) == 1 for label in labels)
    assert prompts["NORM"][0].startswith("normal ECG, normal electrocardiogram")


def test_members_prompt_a_class_by_the_statements_it_groups():
    members = {"CD": ("left bundle branch block", "first degree AV block")}
    prompts = load_prompt_set({"CD": "conduction disturbance", "NORM": "normal ECG"}, "members", members).prompts
    assert prompts == {"CD": list(members["CD"]), "NORM": ["normal ECG"]}
    assert load_prompt_set({"CD": "conduction disturbance"}, "plain", members).prompts["CD"] == [
        "conduction disturbance"
    ]
