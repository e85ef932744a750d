"""LUDB, the Lobachevsky University database (Kalyakulina et al. 2020): 200 12-lead ECGs of 10 s at 500 Hz.

The comments of a header are `<age>: 51`, `<sex>: F`, `<diagnoses>:`, and after that one diagnosis a line, such as
`Rhythm: Sinus bradycardia.`. The delineations of the waves (`1.i`, `1.ii`, ...) are not read.

Source: https://physionet.org/content/ludb/1.0.1/; public readers of the headers, and ECGBench
(github.com/vlbthambawita/ECGBench, `ludb.yaml`) for the layout and the one age that is no number.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from datasets import Features, List, Value

from hf_ecgtext.data.files.tree import FileTree
from hf_ecgtext.data.sources.ages import known_age
from hf_ecgtext.data.sources.base import SourceIndex, WfdbSource
from hf_ecgtext.data.sources.split_table import with_split_table
from hf_ecgtext.data.sources.tables import records_by_name
from hf_ecgtext.data.store.schema import ecg_features
from hf_ecgtext.data.subsets import split_of
from hf_ecgtext.data.tasks import LabelTask
from hf_ecgtext.data.wfdb.header import WfdbHeader
from hf_ecgtext.data.wfdb.reading import interpret_comments

logger = logging.getLogger(__name__)

NUM_RECORDS = 200
SPLIT_FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}

_RECORD_FILE = re.compile(r"([1-9]\d{0,2})\.(?:dat|hea)")
_DIAGNOSES = "<diagnoses>:"
_HOMEPAGE = "https://physionet.org/content/ludb/1.0.1/"


class Ludb(WfdbSource):
    """LUDB.

    Args:
        files ([`~hf_ecgtext.data.files.tree.FileTree`]): The download: the folder with `data`, or any folder with its
            records.
        split_table (`str`, *optional*): Path of a csv file of records and splits, in place of a hash of the records
            (80:10:10); see [`~hf_ecgtext.data.sources.split_table.read_split_table`].
    """

    name = "ludb"
    title = "Lobachevsky University database (LUDB)"
    version = "1.0.1"
    license_id = "odc-by"
    homepage = _HOMEPAGE
    access = "Open to everybody, at PhysioNet."
    citation = """@article{kalyakulina2020ludb,
  author = {Kalyakulina, Alena I. and Yusipov, Igor I. and Moskalenko, Viktor A. and others},
  title = {{LUDB}: A New Open-Access Validation Tool for Electrocardiogram Delineation Algorithms},
  journal = {IEEE Access}, volume = {8}, year = {2020}, doi = {10.1109/ACCESS.2020.3029211}
}"""
    description = (
        "`labels` holds the diagnoses of the header, one a line, as spelled there but for the full stop (`Rhythm: "
        "Sinus rhythm`); there is no task, because the list of all spellings is not known here. `header_comments` has "
        "the lines as they are. `age` is none where the header has no number (`>89`). The delineations of the waves "
        "are left out. Each record is of another patient: `patient_id` repeats the record id. The splits are by a hash "
        "of the record (80:10:10); none are published."
    )
    signal_suffix = ".dat"

    def __init__(self, files: FileTree, *, split_table: str | None = None):
        super().__init__(files, split_table=split_table)

    @property
    def features(self) -> Features:
        """See [`EcgSource`]."""
        return ecg_features({"header_comments": List(Value("string")), "age": Value("float64"), "sex": Value("string")})

    def tasks(self) -> tuple[LabelTask, ...]:
        """None: the spellings of the diagnoses are not known beforehand."""
        return ()

    def index(self) -> SourceIndex:
        """See [`EcgSource`]; records are in the order of their numbers."""
        found = records_by_name(self.files.list_files(), _RECORD_FILE, self.files.location)
        if not found:
            raise FileNotFoundError(
                f"There is no record such as '1.hea' in {self.files.location}. Download LUDB from {_HOMEPAGE} and name "
                "the folder that holds data."
            )
        names = sorted(found, key=int)
        records = pa.table(
            {
                "record_id": pa.array(names, pa.string()),
                "patient_id": pa.array(names, pa.string()),
                "split": pa.array([split_of(name, SPLIT_FRACTIONS, self.name) for name in names], pa.string()),
                "path": pa.array([found[name] for name in names], pa.string()),
            }
        )
        is_whole = len(names) == NUM_RECORDS
        notes = [] if is_whole else [f"There are {len(names):,} records here; LUDB has {NUM_RECORDS}."]
        return with_split_table(SourceIndex(records, notes=notes), self)

    def describe(
        self, entry: Mapping[str, Any], header: WfdbHeader
    ) -> tuple[str | None, Sequence[str], dict[str, Any]]:
        """See [`WfdbSource`]."""
        _, _, attributes = interpret_comments(header.comments)
        lines = [line.strip() for line in header.comments]
        if _DIAGNOSES in lines:
            diagnoses = [line.rstrip(". ") for line in lines[lines.index(_DIAGNOSES) + 1 :]]
        else:
            diagnoses = []
            logger.warning("%s.hea has no line '%s': the record has no labels.", entry["path"], _DIAGNOSES)
        labels = list(dict.fromkeys(diagnosis for diagnosis in diagnoses if diagnosis))
        about = {"age": known_age(attributes.get("age")), "sex": attributes.get("sex")}
        return None, labels, {"header_comments": list(header.comments), **about}


SOURCE = Ludb
