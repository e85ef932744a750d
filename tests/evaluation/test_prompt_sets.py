from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from hf_ecgtext.data.sources.code_test import CODE_TEST_CLASSES
from hf_ecgtext.data.sources.cpsc2018 import CPSC2018_CLASSES
from hf_ecgtext.data.sources.csn.labels import CSN_CLASSES
from hf_ecgtext.data.sources.ptb_xl.labels import PTB_XL_CLASSES
from hf_ecgtext.evaluation.prompts.sets import (
    PromptDescriptions,
    PromptError,
    build_prompts,
    list_prompt_sets,
    load_prompt_set,
    load_prompt_sets,
)

CLASS_NAMES = {"LVH": "left ventricular hypertrophy", "AFIB": "atrial fibrillation"}


def test_every_shipped_set_has_source_licence_and_a_place_for_the_name():
    shipped = {prompt_set.name: prompt_set for prompt_set in list_prompt_sets()}
    assert list(shipped) == ["descriptions", "etp", "members", "plain", "template"]
    for prompt_set in shipped.values():
        assert prompt_set.source
        assert prompt_set.licence
        if isinstance(prompt_set, PromptDescriptions):
            assert prompt_set.tasks
        else:
            assert prompt_set.templates
            assert all(template.count("{name}") == 1 for template in prompt_set.templates)


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
        ("[" * 100_000, "nested too deeply"),
        ('{"LVH": ' * 50_000, "nested too deeply"),
        ('{"LVH": ' + "9" * 5000 + "}", "is not a JSON file"),
    ],
)
def test_a_malformed_file_is_refused_with_the_class_at_fault(tmp_path, content, problem):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(PromptError, match=problem):
        build_prompts(CLASS_NAMES, path)


def test_an_unknown_set_is_refused_with_the_names_there_are():
    with pytest.raises(PromptError, match=r"'CKEPE'\. The library has: descriptions, etp, members, plain, template\."):
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


def test_descriptions_are_those_of_the_task_because_acronyms_are_ambiguous():
    flutter = load_prompt_set({"AF": "atrial flutter"}, "descriptions", task="csn_exact")
    fibrillation = load_prompt_set({"AF": "atrial fibrillation"}, "descriptions", task="code_test")
    assert "Atrial flutter." in flutter.prompts["AF"]
    assert "Atrial fibrillation." in fibrillation.prompts["AF"]
    assert (flutter.name, flutter.source, flutter.licence) == ("descriptions", "hf_ecgtext", "Apache-2.0")


def test_descriptions_of_an_unknown_task_name_the_sets_that_have_it():
    with pytest.raises(PromptError, match=r"no task 'mine'; it has: .*ptbxl_super.*have 'mine': etp, members, plain, "):
        load_prompt_set(CLASS_NAMES, "descriptions", task="mine")
    with pytest.raises(PromptError, match=r"written per task.*\(task=\)"):
        load_prompt_set(CLASS_NAMES, "descriptions")


def test_descriptions_without_a_class_name_it():
    with pytest.raises(PromptError, match=r"task 'ptbxl_sub' has no prompt for these classes: \['AFIB'\]"):
        load_prompt_set(CLASS_NAMES, "descriptions", task="ptbxl_sub")


def test_a_file_may_be_written_by_task(tmp_path):
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps({"one": {"LVH": "a", "AFIB": ["b", "c"]}, "two": {"LVH": "d"}}))
    assert build_prompts(CLASS_NAMES, path, task="one") == {"LVH": ["a"], "AFIB": ["b", "c"]}
    with pytest.raises(PromptError, match=r"tasks\.json, task 'two' has no prompt for these classes: \['AFIB'\]"):
        build_prompts(CLASS_NAMES, path, task="two")
    with pytest.raises(PromptError, match=r"has no task 'three'; it has: one, two\."):
        build_prompts(CLASS_NAMES, path, task="three")
    with pytest.raises(PromptError, match="written per task"):
        build_prompts(CLASS_NAMES, path)


def test_a_file_may_have_the_layout_of_our_descriptions(tmp_path):
    path = tmp_path / "concepts.json"
    content = {"concepts": {"thick": ["a"], "irregular": "b"}, "tasks": {"one": {"LVH": "thick", "AFIB": "irregular"}}}
    path.write_text(json.dumps(content))
    assert build_prompts(CLASS_NAMES, path, task="one") == {"LVH": ["a"], "AFIB": ["b"]}
    path.write_text(json.dumps({**content, "tasks": {"one": {"LVH": "thin"}}}))
    with pytest.raises(PromptError, match=r"name the concepts \['thin'\], which it does not word"):
        build_prompts(CLASS_NAMES, path, task="one")
    path.write_text(json.dumps({**content, "tasks": ["one"]}))
    with pytest.raises(PromptError, match="Write both as JSON objects"):
        build_prompts(CLASS_NAMES, path, task="one")


def test_an_ensemble_has_all_prompts_of_its_sets_and_each_text_once(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"LVH": ["thick", "left ventricular hypertrophy"], "AFIB": "irregular"}))
    ensemble = load_prompt_set(CLASS_NAMES, f"plain+{path}+etp")
    assert ensemble.name == "plain+mine+etp"
    assert ensemble.prompts == {
        "LVH": ["left ventricular hypertrophy", "thick", "this ECG indicates left ventricular hypertrophy"],
        "AFIB": ["atrial fibrillation", "irregular", "this ECG indicates atrial fibrillation"],
    }
    assert "SHA-256" in ensemble.source
    assert "etp: A sentence quoted" in ensemble.licence


def test_an_ensemble_with_members_and_descriptions_keeps_both():
    members = {"CD": ("left bundle branch block", "first degree AV block")}
    names = {"CD": "conduction disturbance"}
    ensemble = load_prompt_set(names, "plain+members+descriptions", members, task="ptbxl_super")
    described = build_prompts(names, "descriptions", task="ptbxl_super")["CD"]
    assert ensemble.prompts["CD"] == ["conduction disturbance", *members["CD"], *described]


@pytest.mark.parametrize(
    ("ensemble", "problem"),
    [
        ("plain+plain", "more than one set named plain"),
        ("plain+", "no prompt set or JSON file ''"),
        ("plain+nothing", "no prompt set or JSON file 'nothing'"),
    ],
)
def test_an_ensemble_of_a_set_twice_or_of_an_unknown_one_is_refused(ensemble, problem):
    with pytest.raises(PromptError, match=problem):
        load_prompt_set(CLASS_NAMES, ensemble)


def test_two_files_of_the_same_name_are_refused_because_results_could_not_tell_them_apart(tmp_path):
    paths = [tmp_path / folder / "mine.json" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(json.dumps({"LVH": path.parent.name, "AFIB": "x"}))
    with pytest.raises(PromptError, match="more than one set named mine"):
        load_prompt_sets(CLASS_NAMES, paths)
    with pytest.raises(PromptError, match="more than one set named plain"):
        load_prompt_sets(CLASS_NAMES, ["plain", "plain"])
    with pytest.raises(PromptError, match="No prompt set is asked for"):
        load_prompt_sets(CLASS_NAMES, [])


@pytest.mark.parametrize(
    ("task", "class_names"),
    [
        *((f"ptbxl_{name}", classes) for name, classes in PTB_XL_CLASSES.items()),
        ("cpsc2018", CPSC2018_CLASSES),
        ("csn_exact", CSN_CLASSES),
    ],
)
def test_the_published_file_has_the_classes_of_all_six_tasks(real_data, task, class_names):
    path = real_data / "prompts" / "CKEPE_prompt.json"
    prompts = build_prompts(class_names, path, task=task)
    published = json.loads(path.read_text())
    assert prompts == {label: [published[label]] for label in class_names}


def test_the_published_file_lacks_a_class_of_code_test_and_says_which(real_data):
    with pytest.raises(PromptError, match=r"no prompt for these classes: \['1dAVb'\]"):
        build_prompts(CODE_TEST_CLASSES, real_data / "prompts" / "CKEPE_prompt.json")


def test_every_set_says_when_it_was_fixed_and_which_scores_had_been_seen():
    about = {each.name: each.provenance for each in list_prompt_sets()}
    assert all(re.fullmatch("[0-9a-f]{7}", each.commit) and each.scores_seen for each in about.values())
    assert "eight hours after" in about["descriptions"].scores_seen
    assert "nothing shows an earlier date" in about["descriptions"].scores_seen
    assert "added after that test" in about["members"].scores_seen


def test_the_commit_of_a_set_is_the_one_that_brought_its_wording():
    """Only the provenance has been added since."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        pytest.skip("needs the history of the repository")
    for each in list_prompt_sets():
        path = f"src/hf_ecgtext/evaluation/prompts/{each.name}.json"
        show = ["git", "-C", str(root), "show", f"{each.provenance.commit}:{path}"]
        found = subprocess.run(show, capture_output=True, text=True, check=False)
        if found.returncode != 0 and "does not exist" not in found.stderr:
            pytest.skip("the history of the repository does not reach back that far")
        then, now = json.loads(found.stdout), json.loads((root / path).read_text(encoding="utf-8"))
        for key in ("templates", "per_member", "concepts", "tasks"):
            assert then.get(key) == now.get(key), (each.name, key)


def test_a_file_called_as_the_mean_over_sets_is_refused(tmp_path):
    path = tmp_path / "mean.json"
    path.write_text('{"A": "a"}')
    with pytest.raises(PromptError, match="which stands for the mean over prompt sets"):
        load_prompt_set({"A": "a"}, path)
