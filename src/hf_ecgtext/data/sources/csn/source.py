"""CSN, the Chapman-Shaoxing-Ningbo database (Zheng et al. 2022): 45,152 12-lead ECGs of 10 s with SNOMED CT codes.

The benchmark of the field uses 23,026 of them with 38 classes; see `csn_labels` for the two labellings.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from datasets import Features, List, Value

from hf_ecgtext.data.files.tree import FileTree, checked_path
from hf_ecgtext.data.sources.ages import known_age
from hf_ecgtext.data.sources.base import SourceIndex, WfdbSource
from hf_ecgtext.data.sources.csn.headers import MERGED_IN_1_0_0, mend_merged_header
from hf_ecgtext.data.sources.csn.labels import (
    CSN_ACRONYMS,
    CSN_CLASSES,
    exact_classes,
    merl_classes,
    read_condition_names,
)
from hf_ecgtext.data.sources.merl_splits import check_split_of_others, split_by_list
from hf_ecgtext.data.sources.snomed import tidy_codes
from hf_ecgtext.data.sources.split_table import with_split_table
from hf_ecgtext.data.sources.tables import records_by_name
from hf_ecgtext.data.store.schema import ecg_features
from hf_ecgtext.data.tasks import LabelTask
from hf_ecgtext.data.wfdb.header import WfdbHeader
from hf_ecgtext.data.wfdb.reading import interpret_comments
from hf_ecgtext.errors import RecordError

logger = logging.getLogger(__name__)

CONDITION_NAMES_FILE = "ConditionNames_SNOMED-CT.csv"
UNKNOWN_LABELS = ("keep", "raise")

_RECORD_FILE = re.compile(r"(JS\d{5})\.(?:mat|hea)")
_RECORDS_FILE = "RECORDS"
_HOMEPAGE = "https://physionet.org/content/ecg-arrhythmia/1.0.0/"

_INDEX_SCHEMA = pa.schema(
    {"record_id": pa.string(), "patient_id": pa.string(), "split": pa.string(), "path": pa.string()}
)


class Csn(WfdbSource):
    """The Chapman-Shaoxing-Ningbo database.

    Args:
        files ([`~hf_ecgtext.data.files.tree.FileTree`]): The download: the folder with `WFDBRecords`, or any folder
            with its records.
        split_of_others (`str`): `"leave_out"`, or `"train"` for the 22,126 records outside the published splits.
        unknown_labels (`str`): `"keep"` for SNOMED CT codes that the table of acronyms does not name (about a third
            of the codes): they stay in `labels` and are listed in `labels_unknown`; or `"raise"` to skip such records.
        split_table (`str`, *optional*): Path of a csv file of records and splits, in place of the splits above; see
            [`~hf_ecgtext.data.sources.split_table.read_split_table`].

    Raises:
        ValueError: If an option has another value.
    """

    name = "csn"
    title = "Chapman-Shaoxing-Ningbo (CSN)"
    version = "1.0.0"
    license_id = "cc-by-4.0"
    homepage = _HOMEPAGE
    access = "Open to everybody, at PhysioNet."
    citation = """@article{zheng2022csn,
  author = {Zheng, Jianwei and Guo, Hangyuan and Chu, Huimin},
  title = {A large scale 12-lead electrocardiogram database for arrhythmia study (version 1.0.0)},
  journal = {PhysioNet}, year = {2022}, doi = {10.13026/wgex-er52}
}"""
    description = (
        "`labels` holds the SNOMED CT codes of the header, `labels_short` CSN's acronyms for them (`AF` is atrial "
        "flutter, `AFIB` atrial fibrillation), `labels_unknown` the codes without acronym. `labels_csn_exact` and "
        "`labels_csn_merl` are the benchmark's 38 classes: by whole acronyms, and as published, where `AFIB` also "
        "counts as `AF`. The splits are those of MERL (70:10:20 = 16,546, 1,860 and 4,620 records), by record name. "
        "No patient ids are published: `patient_id` repeats the record id."
    )
    signal_suffix = ".mat"

    def __init__(
        self,
        files: FileTree,
        *,
        split_of_others: str = "leave_out",
        unknown_labels: str = "keep",
        split_table: str | None = None,
    ):
        super().__init__(
            files,
            split_of_others=check_split_of_others(split_of_others),
            unknown_labels=unknown_labels,
            split_table=split_table,
        )
        if unknown_labels not in UNKNOWN_LABELS:
            raise ValueError(f"unknown_labels is '{unknown_labels}'; choose one of {', '.join(UNKNOWN_LABELS)}.")
        self.split_of_others = split_of_others
        self.unknown_labels = unknown_labels
        self._tables: dict[str, dict[str, str]] = {}

    @property
    def features(self) -> Features:
        """See [`EcgSource`]."""
        texts = ("labels_short", "labels_unknown", "labels_csn_exact", "labels_csn_merl")
        return ecg_features(
            {**{name: List(Value("string")) for name in texts}, "age": Value("float64"), "sex": Value("string")}
        )

    def tasks(self) -> tuple[LabelTask, ...]:
        """See [`EcgSource`]."""
        return (
            LabelTask("csn_exact", "labels_csn_exact", dict(CSN_CLASSES)),
            LabelTask("csn_merl", "labels_csn_merl", dict(CSN_CLASSES)),
        )

    def acronyms(self, record_path: str) -> dict[str, str]:
        """SNOMED CT code -> acronym, by the download's own table where it has one.

        Args:
            record_path (`str`): Path of any record; the table lies beside the folder `WFDBRecords` of it.

        Raises:
            ValueError: If the table is damaged.
        """
        above, folder, _ = record_path.partition("WFDBRecords/")
        path = f"{above if folder else ''}{CONDITION_NAMES_FILE}"
        if path not in self._tables:
            self._tables[path] = (
                read_condition_names(self.files.read(path), f"{self.files.location}/{path}")
                if self.files.exists(path)
                else CSN_ACRONYMS
            )
        return self._tables[path]

    def index(self) -> SourceIndex:
        """See [`EcgSource`]."""
        found = records_by_name(self._list_records(), _RECORD_FILE, self.files.location)
        if not found:
            raise FileNotFoundError(
                f"There is no record such as 'JS00001.hea' in {self.files.location}. Download CSN from {_HOMEPAGE} "
                "and name the folder that holds WFDBRecords."
            )
        kept, left_out = split_by_list(
            self.name,
            ({"record_id": name, "patient_id": name, "path": path} for name, path in found.items()),
            "train" if self.split_table else self.split_of_others,  # a table may name any record
        )
        notes = [
            "CSN publishes no patient ids; patient_id is the record id.",
            *self._merged_headers(found),
            *_differences(self.acronyms(next(iter(found.values())))),
        ]
        index = SourceIndex(pa.Table.from_pylist(kept, schema=_INDEX_SCHEMA), left_out, notes)
        return with_split_table(index, self)

    def decode(self, entry: Mapping[str, Any], contents: Mapping[str, bytes]) -> dict[str, Any]:
        """See [`WfdbSource`]."""
        header_path, _ = self.files_of(entry)
        mended = mend_merged_header(contents[header_path], entry["record_id"])
        if mended is not None:
            if entry["record_id"] not in MERGED_IN_1_0_0:  # of those the notes say it
                logger.warning("%s has its first two lines merged; it is read nevertheless.", header_path)
            contents = {**contents, header_path: mended}
        return super().decode(entry, contents)

    def describe(
        self, entry: Mapping[str, Any], header: WfdbHeader
    ) -> tuple[str | None, Sequence[str], dict[str, Any]]:
        """See [`WfdbSource`]."""
        spelled, _, attributes = interpret_comments(header.comments)
        codes = tidy_codes(spelled)
        acronyms = self.acronyms(entry["path"])
        unknown = [code for code in codes if code not in acronyms]
        if unknown and self.unknown_labels == "raise":
            raise RecordError(
                entry["record_id"],
                f"its diagnoses {unknown} have no acronym.",
                "Keep them with unknown_labels='keep', or add them to the download's table of acronyms.",
            )
        short = [acronyms[code] for code in codes if code in acronyms]
        return (
            None,
            codes,
            {
                "labels_short": short,
                "labels_unknown": unknown,
                "labels_csn_exact": exact_classes(short),
                "labels_csn_merl": merl_classes(short),
                "age": known_age(attributes.get("age")),
                "sex": attributes.get("sex"),
            },
        )

    def _merged_headers(self, found: Mapping[str, str]) -> list[str]:
        known = {name: f"{found[name]}.hea" for name in MERGED_IN_1_0_0 if name in found}
        contents = self.files.read_many(known.values())
        merged = [
            name
            for name, path in known.items()
            if isinstance(content := contents[path], bytes) and mend_merged_header(content, name) is not None
        ]
        if not merged:
            return []
        return [
            f"Version 1.0.0 has the first two lines of some headers merged, here of {' and '.join(merged)}: they are "
            "read as 12 leads of 5,000 samples at 500 Hz and 1,000 units per mV, as all others are."
        ]

    def _list_records(self) -> list[str]:
        """Paths of header files: by the lists of the download, which are few files, else by its folders."""
        if not self.files.exists(_RECORDS_FILE):
            return self.files.list_files()
        lines = _lines(self.files.read(_RECORDS_FILE))
        folders = [checked_path(line) for line in lines if line.endswith("/")]
        records = [line for line in lines if not line.endswith("/")]
        lists = self.files.read_many(f"{folder}{_RECORDS_FILE}" for folder in folders)
        for folder in folders:
            content = lists[f"{folder}{_RECORDS_FILE}"]
            if isinstance(content, OSError):
                raise FileNotFoundError(
                    f"{self.files.location}/{_RECORDS_FILE} names the folder '{folder}', whose own {_RECORDS_FILE} "
                    f"cannot be read ({content}). Download it again, or remove the first list to take what is there."
                ) from content
            records.extend(f"{folder}{line}" for line in _lines(content))
        if len(set(records)) != len(records):
            twice = next(record for record in records if records.count(record) > 1)
            raise ValueError(f"The {_RECORDS_FILE} lists of {self.files.location} name '{twice}' twice. Download them.")
        return [checked_path(f"{record}.hea") for record in records]


def _differences(acronyms: Mapping[str, str]) -> list[str]:
    """What the download's table of acronyms says differently from the one that this library knows."""
    if acronyms is CSN_ACRONYMS:
        return [f"The download has no {CONDITION_NAMES_FILE}; the acronyms are those of version 1.0.0."]
    differences = [
        f"{code} is {acronym}, not {CSN_ACRONYMS.get(code, 'unknown')}"
        for code, acronym in acronyms.items()
        if CSN_ACRONYMS.get(code) != acronym
    ]
    differences.extend(
        f"{code} ({acronym}) is missing" for code, acronym in CSN_ACRONYMS.items() if code not in acronyms
    )
    return [f"{CONDITION_NAMES_FILE} differs from version 1.0.0: {'; '.join(differences)}."] if differences else []


def _lines(content: bytes) -> list[str]:
    return [line.strip() for line in content.decode("utf-8", errors="replace").splitlines() if line.strip()]


SOURCE = Csn
