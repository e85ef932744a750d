"""PhysioNet/CinC Challenge 2021 (Reyna et al. 2021): 88,253 public 12-lead ECGs of eight sets with SNOMED CT codes."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Features, List, Value

from hf_ecgtext.data.files.tree import FileTree
from hf_ecgtext.data.ptb_xl_patients import WITHDRAWN_IN_1_0_3, patients_of_recordings
from hf_ecgtext.data.sources.ages import known_age
from hf_ecgtext.data.sources.base import SkippedRecord, SourceIndex, WfdbSource
from hf_ecgtext.data.sources.cinc2021.classes import class_members, class_names, classes_of_codes, diagnoses
from hf_ecgtext.data.sources.cinc2021.sets import HEADER_NAMES, ORIGIN_SETS, Recording, find_recordings
from hf_ecgtext.data.sources.cinc2021.windows import (
    DIAGNOSIS_SETS,
    INDEX_SCHEMA,
    SEGMENT_RATE_HZ,
    SEGMENT_S,
    Window,
    cut,
    draw_segment_splits,
    index_rows,
)
from hf_ecgtext.data.sources.ptb_xl.labels import split_of_fold
from hf_ecgtext.data.sources.snomed import tidy_codes
from hf_ecgtext.data.sources.split_table import with_split_table
from hf_ecgtext.data.sources.tables import check_rows
from hf_ecgtext.data.store.schema import ecg_features
from hf_ecgtext.data.subsets import split_of
from hf_ecgtext.data.tasks import LabelTask
from hf_ecgtext.data.wfdb.header import WfdbHeader, decode_wfdb_header
from hf_ecgtext.data.wfdb.reading import interpret_comments
from hf_ecgtext.errors import RecordError

PROTOCOLS = ("records", "dx_published", "dx_by_record")
SPLIT_FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}
_LONG_SET = "st_petersburg_incart"
_LONGEST_ELSEWHERE_S = 144.0  # as the challenge documents its sets; 30 min in the long one
_HEADERS_AT_ONCE = 1024
_SEXES = {"male": "male", "m": "male", "female": "female", "f": "female"}
_PTB_XL_AGE_OVER_89 = 300
_CPSC_AGE_OVER_89 = 92
_CPSC_SETS = ("cpsc_2018", "cpsc_2018_extra")
WITHDRAWN = ("leave_out", "keep")

CINC2021_FEATURES = ecg_features(
    {
        "origin_set": Value("string"),
        "origin_id": Value("string"),
        "window_start_s": Value("float64"),
        "labels_short": List(Value("string")),
        "labels_cinc2021": List(Value("string")),
        "age": Value("float64"),
        "is_over_89": Value("bool"),
        "sex": Value("string"),
    }
)


class Cinc2021(WfdbSource):
    """The public training data of PhysioNet/CinC 2021, as PhysioNet lays it out or as the challenge's tarballs do.

    Args:
        files ([`~hf_ecgtext.data.files.tree.FileTree`]): With `.hea` and `.mat` files, in folders or flat.
        sets (`str`, *optional*): Comma-separated names of `ORIGIN_SETS`; all that are there by default.
        protocol (`str`): `"records"`: every recording, split by a stable hash. `"dx_published"`: the diagnosis task of
            Oh et al. 2022 and C-MELT, 5-s segments of CPSC2018 and Georgia, each drawn for itself, so that one
            recording is in training and test. `"dx_by_record"`: the same with all segments of a recording together.
            The authors' lists are not public: the draw has their proportions, not their members.
        max_duration_s (`float`, *optional*): Recordings of the protocol `"records"` that are longer become consecutive
            windows, each a record of its own; `None` (`null` on the command line) for none. The default only concerns
            St Petersburg's 30 minutes, of which a row group of 64 would take 710 MB.
        unknown_labels (`str`): `"raise"`: a recording without diagnosis, or with a code outside the challenge's tables,
            is refused by name. `"keep"`: it is stored with the codes it has.
        ptb_xl_table (`str`, *optional*): Path of PTB-XL's `ptbxl_database.csv`, which gives PTB-XL's recordings their
            patients and folds. Without it, they are split by a hash as all others, those of one patient together.
        withdrawn (`str`): `"leave_out"`, or `"keep"` for the 38 recordings that PTB-XL withdrew after the challenge had
            copied it: they are copies of others.
        split_table (`str`, *optional*): Path of a csv file of records and splits, in place of the splits above; see
            [`~hf_ecgtext.data.sources.split_table.read_split_table`].

    Raises:
        ValueError: If an option has an impossible value.
    """

    name = "cinc2021"
    unlabelled_take_part = True  # the challenge scores all recordings, also those with other diagnoses only
    title = "PhysioNet/CinC Challenge 2021"
    version = "1.0.3"
    license_id = "cc-by-4.0"
    homepage = "https://physionet.org/content/challenge-2021/1.0.3/"
    access = "Open to everybody, at PhysioNet; the PTB part is under ODC-BY 1.0, all others under CC BY 4.0."
    citation = """@inproceedings{reyna2021will,
  author = {Reyna, Matthew A. and Sadr, Nadi and Perez Alday, Erick A. and Gu, Annie and Shah, Amit J. and
            Robichaux, Chad and Rad, Ali Bahrami and Elola, Andoni and Seyedi, Salman and Ansari, Sardar and
            Ghanbari, Hamid and Li, Qiao and Sharma, Ashish and Clifford, Gari D.},
  title = {Will Two Do? {V}arying Dimensions in Electrocardiography: The {PhysioNet/Computing in Cardiology}
           {C}hallenge 2021},
  booktitle = {Computing in Cardiology}, volume = {48}, year = {2021}, doi = {10.23919/CinC53138.2021.9662687}
}"""
    description = """Recordings of eight sets: CPSC2018 and its extra part, St Petersburg INCART, PTB, PTB-XL, Georgia,
Chapman-Shaoxing and Ningbo; 257 to 1000 Hz, 5 s to 30 min.

* `labels`: SNOMED CT codes as the headers give them. `labels_short`: the challenge's abbreviations. `labels_cinc2021`:
  the 26 scored classes, where four pairs of codes count as one. The challenge's `AF` is atrial fibrillation, `AFL`
  flutter. CPSC2018's ventricular premature beats carry the code 164884008 (`VEB`), which is not scored.
* `origin_set`, `origin_id`: where the recording is from, such as `ptb_xl:06009`. PTB-XL, CPSC2018 and
  Chapman-Shaoxing-Ningbo are benchmarks of their own: look their test records up by `origin_id` before training here.
* `patient_id`: the sets name no patients here. It is the recording's own name, which keeps its windows together, or
  PTB-XL's patient, such as `ptb_xl:15709`: where `ptb_xl_table` was given, else of the patients with several
  recordings. PTB and INCART have several recordings of some patients too, which are not known to be theirs.
* `age`: empty where unknown, and where `is_over_89`: PTB-XL's part says 300 for that, CPSC2018's parts 92.
* `split`: by a stable hash of the patient id (80:10:10), or PTB-XL's folds 1-8, 9 and 10 where `ptb_xl_table` was
  given; the protocols `dx_published` and `dx_by_record` draw 5-s segments instead.
* `window_start_s`: where a window starts in its recording; 0 for whole recordings. Windows of a recording have the same
  `origin_id`, and names such as `I0001_w003`. They follow one another without gap or overlap.
"""
    signal_suffix = ".mat"

    def __init__(
        self,
        files: FileTree,
        *,
        sets: str | None = None,
        protocol: str = "records",
        max_duration_s: float | None = 150.0,
        unknown_labels: str = "raise",
        ptb_xl_table: str | None = None,
        withdrawn: str = "leave_out",
        split_table: str | None = None,
    ):
        super().__init__(
            files,
            sets=sets,
            protocol=protocol,
            max_duration_s=max_duration_s,
            unknown_labels=unknown_labels,
            ptb_xl_table=ptb_xl_table,
            split_table=split_table,
            # The default is not recorded: without PTB-XL's part, folders and revisions stay what they were.
            **({} if withdrawn == "leave_out" else {"withdrawn": withdrawn}),
        )
        if withdrawn not in WITHDRAWN:
            raise ValueError(f"withdrawn must be one of {', '.join(WITHDRAWN)}, not '{withdrawn}'.")
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, not '{protocol}'.")
        if unknown_labels not in ("raise", "keep"):
            raise ValueError(f"unknown_labels must be 'raise' or 'keep', not '{unknown_labels}'.")
        if max_duration_s is not None and not max_duration_s >= 1.0:
            raise ValueError(f"max_duration_s must be at least 1 s, not {max_duration_s}.")
        if protocol != "records" and sets is not None:
            raise ValueError(f"The protocol '{protocol}' is of the sets {', '.join(DIAGNOSIS_SETS)}; leave `sets` out.")
        self.sets = DIAGNOSIS_SETS if protocol != "records" else _names_of_sets(sets)
        self.protocol = protocol
        self.max_duration_s = max_duration_s
        self.unknown_labels = unknown_labels
        self.ptb_xl_table = ptb_xl_table
        self.withdrawn = withdrawn

    @property
    def features(self) -> Features:
        """See [`~hf_ecgtext.data.sources.base.EcgSource`]."""
        return CINC2021_FEATURES

    def tasks(self) -> tuple[LabelTask, ...]:
        """See [`~hf_ecgtext.data.sources.base.EcgSource`]."""
        return (LabelTask("cinc2021", "labels_cinc2021", class_names(), class_members()),)

    def index(self) -> SourceIndex:
        """See [`~hf_ecgtext.data.sources.base.EcgSource`].

        Headers are read only where lengths are needed: for St Petersburg's recordings, for all where `max_duration_s`
        is less than the 144 s that the other sets reach, and for the diagnosis protocols.
        """
        recordings, left_out = find_recordings(self.files.list_files())
        recordings = [recording for recording in recordings if recording.origin_set in self.sets]
        if self.withdrawn == "leave_out":
            reason = "PTB-XL 1.0.3 withdrew it: it is a copy of a record that is kept (withdrawn=leave_out)."
            left_out += [
                SkippedRecord(recording.record_id, reason) for recording in recordings if _is_withdrawn(recording)
            ]
            recordings = [recording for recording in recordings if not _is_withdrawn(recording)]
        if not recordings:
            raise FileNotFoundError(
                f"{self.files.location} holds no record of {', '.join(self.sets)}. Name the folder with PhysioNet's "
                f"`training`, or with the unpacked tarballs; the data are at {self.homepage}."
            )
        notes = _count_notes(recordings)
        if self.protocol == "records":
            rows = self._index_records(recordings, left_out, notes)
        else:
            rows = self._index_segments(recordings, left_out)
        columns = {name: [row[name] for row in rows] for name in INDEX_SCHEMA.names}
        return with_split_table(SourceIndex(pa.table(columns, schema=INDEX_SCHEMA), left_out, notes), self)

    def _index_records(
        self, recordings: Sequence[Recording], left_out: list[SkippedRecord], notes: list[str]
    ) -> list[dict[str, Any]]:
        ptb_xl = None if self.ptb_xl_table is None else _read_ptb_xl_table(self.ptb_xl_table)
        if ptb_xl is None and any(recording.origin_set == "ptb-xl" for recording in recordings):
            notes.append(
                "PTB-XL's recordings are split by a hash that keeps those of one patient together; give ptb_xl_table "
                "for its own folds."
            )
        limit_s = self.max_duration_s
        measured = [
            recording
            for recording in recordings
            if limit_s is not None and (limit_s < _LONGEST_ELSEWHERE_S or recording.origin_set == _LONG_SET)
        ]
        headers = self._read_headers(measured)
        rows: list[dict[str, Any]] = []
        for recording in recordings:
            patient_id = recording.record_id
            split = None
            if ptb_xl is not None and recording.origin_set == "ptb-xl":
                known = ptb_xl.get(recording.origin_id)
                if known is None:
                    left_out.append(SkippedRecord(recording.record_id, f"its ecg_id is not in {self.ptb_xl_table}"))
                    continue
                patient_id, split = known
            elif recording.origin_set == "ptb-xl":
                patient = patients_of_recordings().get(recording.origin_id.partition(":")[2])
                patient_id = recording.record_id if patient is None else f"ptb_xl:{patient}"
            split = split or split_of(patient_id, SPLIT_FRACTIONS, salt=self.name)
            header = headers.get(recording.record_id)
            windows: list[Window] = []
            if limit_s is not None and isinstance(header, WfdbHeader) and header.num_samples is not None:
                window_samples = int(limit_s * header.sampling_rate_hz)
                if header.num_samples > window_samples:
                    windows = cut(header.num_samples, window_samples, keep_remainder=True)
            problem = header if isinstance(header, str) else None
            rows.extend(index_rows(recording, patient_id, [split] * max(1, len(windows)), windows, "w", problem))
        return rows

    def _index_segments(self, recordings: Sequence[Recording], left_out: list[SkippedRecord]) -> list[dict[str, Any]]:
        headers = self._read_headers(recordings)
        rows: list[dict[str, Any]] = []
        for origin_set in DIAGNOSIS_SETS:
            cuts: dict[Recording, list[Window]] = {}
            for recording in recordings:
                if recording.origin_set != origin_set:
                    continue
                header = headers[recording.record_id]
                if isinstance(header, str):
                    rows.extend(index_rows(recording, recording.record_id, ["train"], [], "s", header))
                elif header.sampling_rate_hz != SEGMENT_RATE_HZ:
                    left_out.append(
                        SkippedRecord(recording.record_id, f"has {header.sampling_rate_hz:g} Hz; the task takes 500 Hz")
                    )
                elif windows := cut(header.num_samples or 0, int(SEGMENT_S * SEGMENT_RATE_HZ), keep_remainder=False):
                    cuts[recording] = windows
                else:
                    left_out.append(SkippedRecord(recording.record_id, f"is shorter than {SEGMENT_S:g} s"))
            splits = draw_segment_splits(cuts, by_record=self.protocol == "dx_by_record")
            for recording, windows in cuts.items():
                rows.extend(index_rows(recording, recording.record_id, splits[recording], windows, "s", None))
        return rows

    def _read_headers(self, recordings: Sequence[Recording]) -> dict[str, WfdbHeader | str]:
        """Header of each recording, or why it has none, by record id."""
        headers: dict[str, WfdbHeader | str] = {}
        for start in range(0, len(recordings), _HEADERS_AT_ONCE):
            group = recordings[start : start + _HEADERS_AT_ONCE]
            paths = {recording.record_id: self._header_path(recording.path) for recording in group}
            contents = self.files.read_many(paths.values())
            for record_id, path in paths.items():
                headers[record_id] = _parse_header(contents[path], record_id)
        return headers

    def _header_path(self, path: str) -> str:
        folder, slash, name = path.rpartition("/")
        misnamed = f"{folder}{slash}{HEADER_NAMES.get(name, name)}.hea"
        is_misnamed = name in HEADER_NAMES and not self.files.exists(f"{path}.hea") and self.files.exists(misnamed)
        return misnamed if is_misnamed else f"{path}.hea"

    def files_of(self, entry: Mapping[str, Any]) -> tuple[str, ...]:
        """See [`~hf_ecgtext.data.sources.base.EcgSource`]."""
        return self._header_path(str(entry["path"])), f"{entry['path']}{self.signal_suffix}"

    def describe(
        self, entry: Mapping[str, Any], header: WfdbHeader
    ) -> tuple[str | None, Sequence[str], dict[str, Any]]:
        """See [`~hf_ecgtext.data.sources.base.WfdbSource`]."""
        spelled, _, said = interpret_comments(header.comments)
        codes = tidy_codes(spelled)
        known = diagnoses()
        if self.unknown_labels == "raise":
            _check_codes(codes, str(entry["record_id"]))
        age = known_age(said.get("age"))
        # CPSC2018's ages over 89 were all set to 92, so that other sets' 92 is an age.
        is_over_89 = age == _PTB_XL_AGE_OVER_89 or (entry["origin_set"] in _CPSC_SETS and age == _CPSC_AGE_OVER_89)
        attributes = {
            "origin_set": entry["origin_set"],
            "origin_id": entry["origin_id"],
            "window_start_s": entry["first_sample"] / header.sampling_rate_hz,
            "labels_short": [known[code].abbreviation for code in codes if code in known],
            "labels_cinc2021": classes_of_codes(codes),
            "age": None if is_over_89 else age,
            "is_over_89": is_over_89,
            "sex": _SEXES.get(str(said.get("sex")).lower()),
        }
        return None, codes, attributes

    def decode(self, entry: Mapping[str, Any], contents: Mapping[str, bytes]) -> dict[str, Any]:
        """See [`~hf_ecgtext.data.sources.base.EcgSource`]."""
        record_id = str(entry["record_id"])
        if entry["header_problem"] is not None:
            raise RecordError(record_id, str(entry["header_problem"]), "Download its .hea file again.")
        row = super().decode(entry, contents)
        length = entry["window_samples"]
        if length is None:
            self._check_length(row)
            return row
        end = entry["first_sample"] + length
        if end > row["num_samples"]:
            raise RecordError(
                record_id, f"it has {row['num_samples']} samples, fewer than when indexed.", "Start anew."
            )
        # A copy, so that a group of windows does not keep whole recordings in memory.
        row["samples"] = row["samples"][:, entry["first_sample"] : end].copy()
        row["num_samples"] = length
        return row

    def _check_length(self, row: Mapping[str, Any]) -> None:
        duration_s = row["num_samples"] / row["sampling_rate_hz"]
        limit_s = self.max_duration_s
        if self.protocol == "records" and limit_s is not None and duration_s > limit_s:
            raise RecordError(
                row["record_id"],
                f"it lasts {duration_s:g} s, longer than max_duration_s and than its set's documentation says.",
                f"Set max_duration_s below {_LONGEST_ELSEWHERE_S:g}: then the length of every recording is looked up.",
            )


SOURCE = Cinc2021


def _is_withdrawn(recording: Recording) -> bool:
    name, _, record_id = recording.origin_id.partition(":")
    return name == "ptb_xl" and record_id in WITHDRAWN_IN_1_0_3


def _names_of_sets(text: str | None) -> tuple[str, ...]:
    if text is None:
        return tuple(ORIGIN_SETS)
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in ORIGIN_SETS]
    if unknown or not names:
        raise ValueError(f"PhysioNet/CinC 2021 has no set '{', '.join(unknown)}'; it has {', '.join(ORIGIN_SETS)}.")
    return names


def _count_notes(recordings: Sequence[Recording]) -> list[str]:
    counts = dict.fromkeys(ORIGIN_SETS, 0)
    for recording in recordings:
        counts[recording.origin_set] += 1
    return [
        f"{name}: {count:,} of {ORIGIN_SETS[name].num_records:,} records" for name, count in counts.items() if count
    ]


def _parse_header(content: bytes | OSError, record_id: str) -> WfdbHeader | str:
    if isinstance(content, FileNotFoundError):
        return "its header (.hea) is missing."
    if isinstance(content, OSError):
        return f"its header (.hea) cannot be read ({content})."
    try:
        header = decode_wfdb_header(content, record_id)
    except RecordError as error:
        return error.problem
    return header if header.num_samples else "its header does not say how long it is."


def _check_codes(codes: Sequence[str], record_id: str) -> None:
    keep = "or open the source with unknown_labels='keep'."
    if not codes:
        raise RecordError(record_id, "its header names no diagnosis (a comment 'Dx: ...').", f"Leave it out, {keep}")
    unknown = [code for code in codes if code not in diagnoses()]
    if unknown:
        raise RecordError(
            record_id,
            f"its Dx codes {', '.join(unknown)} are not in the challenge's tables.",
            f"Correct the .hea file, {keep}",
        )


def _read_ptb_xl_table(path: str) -> dict[str, tuple[str, str]]:
    """Origin id -> patient and split of PTB-XL's records.

    Raises:
        FileNotFoundError: If the table is missing.
        ValueError: If it lacks a column, or is cut off.
    """
    check_rows(Path(path).read_bytes(), path, "Download PTB-XL's table again.")
    with Path(path).open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        absent = {"ecg_id", "patient_id", "strat_fold"} - set(reader.fieldnames or ())
        if absent:
            raise ValueError(f"{path} lacks the columns {sorted(absent)}; it must be PTB-XL's ptbxl_database.csv.")
        return {
            f"ptb_xl:{int(row['ecg_id']):05d}": (
                f"ptb_xl:{int(float(row['patient_id']))}",
                split_of_fold(int(row["strat_fold"])),
            )
            for row in reader
        }
