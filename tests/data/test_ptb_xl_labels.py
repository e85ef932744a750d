"""Classes and folds of PTB-XL's tasks; `test_ptb_xl.py` compares the labels of every record with published ones."""

import ast
from pathlib import Path

import pandas as pd
import pytest

from hf_ecgtext.data.sources.ptb_xl.labels import (
    PTB_XL_CLASSES,
    class_members,
    class_names,
    class_of_code,
    labels_of_codes,
    split_of_fold,
)
from hf_ecgtext.data.sources.ptb_xl.tables import read_statements

PUBLISHED_SPLIT = {"train": "train", "validation": "val", "test": "test"}


@pytest.fixture(scope="module")
def statements(real_data: Path) -> pd.DataFrame:
    return read_statements(real_data / "ptb-xl")


def test_a_record_with_several_codes_of_one_class_has_the_class_once(statements):
    sub = class_of_code(statements, "sub")
    assert labels_of_codes(["ASMI", "LAFB", "ALMI", "SR"], sub) == ("AMI", "LAFB/LPFB")
    assert labels_of_codes(["1AVB", "NST_", "ISC_"], sub) == ("AVB", "NST", "ISC")
    assert labels_of_codes(["PRC(S)", "TAB_", "NST_"], class_of_code(statements, "form")) == ("PRC(S)", "TAB", "NST")


def test_the_tasks_have_5_23_19_and_12_classes_each_with_its_own_name():
    assert {task: len(class_names(task)) for task in PTB_XL_CLASSES} == {
        "super": 5,
        "sub": 23,
        "form": 19,
        "rhythm": 12,
    }
    for task in PTB_XL_CLASSES:
        names = list(class_names(task).values())
        assert len(set(names)) == len(names)
        assert all(name == name.strip() and name for name in names)


def test_form_and_rhythm_names_are_those_of_the_statements(statements):
    reworded = {
        "DIG": "digitalis effect",
        "PRC(S)": "premature complexes",
        "BIGU": "bigeminal pattern",
        "TRIGU": "trigeminal pattern",
        "VCLVH": "voltage criteria for left ventricular hypertrophy",
    }
    for task in ("form", "rhythm"):
        for code, name in class_of_code(statements, task).items():
            assert class_names(task)[name] == reworded.get(code, statements.description[code])


def test_a_subclass_of_one_statement_is_named_like_the_statement(statements):
    members = pd.Series(class_of_code(statements, "sub")).reset_index().groupby(0)["index"].apply(list)
    single = {name: codes[0] for name, codes in members.items() if len(codes) == 1}
    ours_differs = {"NST", "ISC", "IVCD", "WPW", "LAO/LAE", "RAO/RAE"}  # brackets, plural, slash, misspelt Wolff
    assert len(single) > 10
    for name, code in single.items():
        if name not in ours_differs:
            assert class_names("sub")[name] == statements.description[code]


def test_unknown_tasks_and_foreign_statement_tables_are_refused(statements):
    with pytest.raises(ValueError, match="Unknown PTB-XL task 'all'"):
        class_names("all")
    with pytest.raises(ValueError, match=r"scp_statements\.csv gives the task 'rhythm'"):
        class_of_code(statements.drop(index="SR"), "rhythm")


def test_folds_1_to_8_train_9_validate_and_10_test():
    assert [split_of_fold(fold) for fold in range(1, 11)] == ["train"] * 8 + ["validation", "test"]
    with pytest.raises(ValueError, match="not 0"):
        split_of_fold(0)


def test_the_published_list_column_says_the_same_as_the_published_matrix(real_data):
    # Guards the oracle itself: the columns are permuted between the published files (docs/protocols.md, "Evaluation
    # protocols", defect 19).
    folder = real_data / "merl_splits" / "ptbxl" / "sub_class"
    for split in PUBLISHED_SPLIT.values():
        table = pd.read_csv(folder / f"ptbxl_sub_class_{split}.csv")
        classes = table.columns[6:]
        for text, row in zip(table.sub_class.iloc[::20], table[classes].to_numpy()[::20], strict=True):
            assert {name.strip("_") for name in ast.literal_eval(text)} == set(classes[row == 1])


def test_class_members_are_the_statements_that_a_class_groups(real_data):
    statements = read_statements(real_data / "ptb-xl")
    superclasses = class_members(statements, "super")
    assert "NORM" not in superclasses, "one statement makes it"
    assert {"left anterior fascicular block", "complete left bundle branch block"} <= set(superclasses["CD"])
    assert "left ventricular hypertrophy" in superclasses["HYP"]
    assert class_members(statements, "rhythm") == {}
    assert len(class_members(statements, "sub")["LAFB/LPFB"]) == 2
