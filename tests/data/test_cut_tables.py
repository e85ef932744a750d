"""Tables of a download that were cut off are refused by name and row, wherever the cut is."""

from __future__ import annotations

import pyarrow as pa
import pytest

from hf_ecgtext.data.files.tree import LocalTree
from hf_ecgtext.data.sources.cinc2021.source import _read_ptb_xl_table
from hf_ecgtext.data.sources.cpsc2018 import read_reference
from hf_ecgtext.data.sources.ptb_xl.tables import read_database, read_statements
from hf_ecgtext.data.sources.tables import check_rows, read_csv_columns

TABLE = b'ecg_id,patient_id,report,strat_fold\n1,12.0,"sinus, rhythm",3\n2,14.0,"two\nlines",10\n'
LAST_ROW = TABLE.rindex(b"2,14.0")


def test_a_whole_table_passes():
    check_rows(TABLE, "table.csv", "")
    check_rows(b"\xef\xbb\xbf" + TABLE.replace(b"\n", b"\r\n"), "table.csv", "")
    check_rows(b"", "table.csv", "")


@pytest.mark.parametrize("length", range(LAST_ROW + 1, len(TABLE)))
def test_every_cut_inside_the_last_row_is_named(length):
    with pytest.raises(ValueError, match=r"^table\.csv .*row [12].* Download it\."):
        check_rows(TABLE[:length], "table.csv", "Download it.")


def test_a_row_with_too_few_or_too_many_values_is_named():
    for row in (b"2,14.0\n", b"2,14.0,text,10,5\n"):
        with pytest.raises(ValueError, match=r"values instead of 4 in row 2 .* begins with '2'"):
            check_rows(TABLE[:LAST_ROW] + row, "table.csv", "")


@pytest.mark.parametrize("cut", [1, 3, 8])
def test_the_tables_of_ptb_xl_are_checked(cut, tmp_path):
    (tmp_path / "ptbxl_database.csv").write_bytes(TABLE[:-cut])
    (tmp_path / "scp_statements.csv").write_bytes(b",description\nNORM,normal ECG\n"[:-cut])
    with pytest.raises(ValueError, match=r"ptbxl_database\.csv .*row .*Download it again from https://physionet"):
        read_database(tmp_path)
    with pytest.raises(ValueError, match=r"scp_statements\.csv .*row 1"):
        read_statements(tmp_path)
    with pytest.raises(ValueError, match=r"ptbxl_database\.csv .*row .*Download PTB-XL's table again"):
        _read_ptb_xl_table(str(tmp_path / "ptbxl_database.csv"))


@pytest.mark.parametrize("content", [b"A0001,5,,\nA0002,1,5", b"A0001,5,,\nA0002,1\n", b"A0001,5,,\nA0002,1,5,"])
def test_labels_that_were_cut_off_are_not_taken_for_fewer(content):
    with pytest.raises(ValueError, match=r"REFERENCE\.csv .*row 2"):
        read_reference(b"Recording,First_label,Second_label,Third_label\n" + content, "x/REFERENCE.csv")


@pytest.mark.parametrize("cut", [1, 4, 12])
def test_the_tables_of_mimic_are_checked(cut, tmp_path):
    (tmp_path / "record_list.csv").write_bytes(
        b"subject_id,study_id,path\n10,20,files/p10/20\n11,21,files/p11/21\n"[:-cut]
    )
    types = {"subject_id": pa.int64(), "path": pa.string()}
    with pytest.raises(ValueError, match=r"'record_list\.csv' in .* (row that begins with '11,2|cannot be read)"):
        read_csv_columns(LocalTree(tmp_path), "record_list.csv", types, "https://physionet.org", "1.0")
