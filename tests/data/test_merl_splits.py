"""The packaged splits of CPSC2018, CSN and PTB-XL's tasks against the published tables."""

import re
from collections import Counter

import pandas as pd
import pytest

from hf_ecgtext.data.sources import merl_splits
from hf_ecgtext.data.sources.merl_splits import check_split_of_others, read_split_list, split_by_list

PUBLISHED_SIZES = {
    "cpsc2018": {"train": 4950, "validation": 551, "test": 1376},
    "csn": {"train": 16546, "validation": 1860, "test": 4620},
    "ptbxl_diagnostic": {"train": 17084, "validation": 2146, "test": 2158},
    "ptbxl_form": {"train": 7197, "validation": 901, "test": 880},
    "ptbxl_rhythm": {"train": 16832, "validation": 2100, "test": 2098},
}


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_the_splits_have_the_published_sizes(name):
    assert Counter(read_split_list(name).values()) == PUBLISHED_SIZES[name]


def test_the_list_of_cpsc2018_names_every_record():
    assert list(read_split_list("cpsc2018")) == [f"A{number:04d}" for number in range(1, 6878)]


def test_the_names_of_csn_are_sorted_and_spelled_like_its_files():
    names = list(read_split_list("csn"))
    assert names == sorted(names)
    assert all(re.fullmatch(r"JS\d{5}", name) for name in names)


@pytest.mark.parametrize(
    ("name", "tables", "column", "pattern"),
    [
        ("cpsc2018", "icbeb/icbeb", "filename", r"(A\d{4})"),
        ("csn", "chapman/chapman", "ecg_path", r"/(JS\d{5})\.mat$"),
        ("ptbxl_diagnostic", "ptbxl/super_class/ptbxl_super_class", "filename_hr", r"/(\d{5})_hr"),
        ("ptbxl_diagnostic", "ptbxl/sub_class/ptbxl_sub_class", "filename_hr", r"/(\d{5})_hr"),
        ("ptbxl_form", "ptbxl/form/ptbxl_form", "filename_hr", r"/(\d{5})_hr"),
        ("ptbxl_rhythm", "ptbxl/rhythm/ptbxl_rhythm", "filename_hr", r"/(\d{5})_hr"),
    ],
)
def test_the_packaged_lists_equal_the_published_tables(real_data, name, tables, column, pattern):
    published = {}
    for part, split in {"train": "train", "val": "validation", "test": "test"}.items():
        table = pd.read_csv(real_data / "merl_splits" / f"{tables}_{part}.csv", usecols=[column])
        published |= dict.fromkeys(table[column].str.extract(pattern)[0], split)
    assert read_split_list(name) == published


def test_records_outside_the_list_are_left_out_by_name_or_trained_on():
    entries = [{"record_id": "JS00001", "path": "a"}, {"record_id": "JS99999", "path": "b"}]
    kept, left_out = split_by_list("csn", entries, "leave_out")
    assert kept == [{"record_id": "JS00001", "path": "a", "split": read_split_list("csn")["JS00001"]}]
    assert [record.record for record in left_out] == ["JS99999"]
    assert "none of the published splits" in left_out[0].problem

    kept, left_out = split_by_list("csn", entries, "train")
    assert [entry["split"] for entry in kept] == [read_split_list("csn")["JS00001"], "train"]
    assert left_out == []


def test_an_unknown_list_and_an_unknown_option_are_named():
    with pytest.raises(ValueError, match=r"no split list 'ptb_xl'. Known lists: cpsc2018, csn"):
        read_split_list("ptb_xl")
    with pytest.raises(ValueError, match="split_of_others is 'test'; choose one of leave_out, train"):
        check_split_of_others("test")


def test_a_damaged_list_is_refused(tmp_path, monkeypatch):
    (tmp_path / "csn.txt").write_text("# CSN\nJS00000 .tvex\n")
    monkeypatch.setattr(merl_splits.resources, "files", lambda _: tmp_path)
    with pytest.raises(ValueError, match=r"'csn' is damaged at 'JS00000 .tvex'"):
        read_split_list.__wrapped__("csn")


def test_the_lists_name_their_source_and_licence():
    folder = merl_splits.resources.files(merl_splits.__name__)
    assert "Copyright (c) 2024 Che Liu" in folder.joinpath("LICENSE").read_text()
    for name in PUBLISHED_SIZES:
        head = folder.joinpath(f"{name}.txt").read_text().splitlines()[:5]
        assert all(line.startswith("#") for line in head)
        assert "MERL-ICML2024" in head[3]
        assert "MIT" in head[4]
