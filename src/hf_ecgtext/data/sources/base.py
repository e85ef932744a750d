"""What a dataset's source says: which records a download holds, and how one of them is read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa
from datasets import Features

from hf_ecgtext.data.bad_records import no_valid_sample
from hf_ecgtext.data.files.tree import FileTree
from hf_ecgtext.data.plausibility import check_sampling_rate, refuse_impossible_samples
from hf_ecgtext.data.records import has_valid_sample
from hf_ecgtext.data.store.schema import samples_to_row
from hf_ecgtext.data.tasks import LabelTask
from hf_ecgtext.data.wfdb.header import WfdbHeader
from hf_ecgtext.data.wfdb.reading import decode_digital
from hf_ecgtext.errors import RecordError


class SkippedRecord(NamedTuple):
    """A record that is not in the prepared data, and why.

    Args:
        record (`str`): Its id, or its path where it has none.
        problem (`str`): What is wrong with it.
        fix (`str`): What to do about it; empty for records that a rule leaves out.
    """

    record: str
    problem: str
    fix: str = ""


@dataclass(frozen=True)
class SourceIndex:
    """The records of a download, before any signal is read.

    Args:
        records (`pa.Table`): One row per record, in a fixed order, with at least the columns `record_id`,
            `patient_id` and `split` (`"train"`, `"validation"` or `"test"`), and whatever the source needs to read
            the record.
        left_out (`list[SkippedRecord]`): Records that a rule of the source leaves out, such as a report that is too
            short; they are no faults.
        notes (`list[str]`): What a user should know about the tables, such as label codes outside the map.
    """

    records: pa.Table
    left_out: list[SkippedRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class EcgSource(ABC):
    """A published dataset as downloaded.

    A source is a class with keyword options of plain values (text, numbers, booleans), which are saved beside what is
    prepared from it. It can be pickled: worker processes read records with copies of it.

    Args:
        files ([`~hf_ecgtext.data.files.tree.FileTree`]): The download.
        split_table (`str`, *optional*): Path of a table of records and splits that takes the place of the source's own,
            for sources that take one; see [`~hf_ecgtext.data.sources.split_table.read_split_table`].
        options: As they are saved; see [`~hf_ecgtext.data.sources.options.current_options`].
    """

    name: ClassVar[str]
    """Name of its module, such as `"ptb_xl"`."""
    title: ClassVar[str]
    version: ClassVar[str]
    license_id: ClassVar[str]
    """As the Hub spells it, such as `"cc-by-4.0"`."""
    homepage: ClassVar[str]
    access: ClassVar[str]
    """One sentence: who may download it, and where."""
    citation: ClassVar[str]
    """BibTeX."""
    description: ClassVar[str]
    """Markdown for the dataset card: what the columns and splits mean."""
    further_tasks: ClassVar[tuple[str, ...]] = ()
    """Names of the tasks that are asked only where they are asked for."""
    unlabelled_take_part: ClassVar[bool] = False
    """Whether records without any class are negatives of all, see [`~hf_ecgtext.data.tasks.EcgData`]."""
    is_cached: ClassVar[bool] = False
    """Whether the download goes through an Arrow cache unless it is asked to be read as it is."""

    def __init__(self, files: FileTree, *, split_table: str | None = None, **options: Any):
        self.files = files
        self.split_table = split_table
        # Without one, folders and revisions stay what they were before there was this option.
        self.options = options if split_table is None else {**options, "split_table": split_table}

    @classmethod
    def revision(cls, version: str, options: Mapping[str, Any], fingerprint: str, counts: Mapping[str, int]) -> str:
        """What result lines call the data: equal for equal records and options, wherever they are read from.

        Args:
            version (`str`): Of the download.
            options (`Mapping[str, Any]`): As they are saved.
            fingerprint (`str`): Of index and options, from [`~hf_ecgtext.data.prepare.plan.fingerprint`].
            counts (`Mapping[str, int]`): Records of each split.
        """
        settings = "".join(f", {name} {value}" for name, value in options.items())
        sizes = " / ".join(f"{split} {count}" for split, count in counts.items())
        return f"{version}{settings}, {fingerprint[:16]}, {sizes} records"

    @classmethod
    def warning_about(cls, options: Mapping[str, Any]) -> str | None:
        """What is wrong with folders that an earlier version of this library prepared, if anything is.

        Args:
            options (`Mapping[str, Any]`): As the folder's `prepared.json` records them.
        """
        return None

    @property
    @abstractmethod
    def features(self) -> Features:
        """The columns of the stored form: those of `ECG_FEATURES`, and the source's own."""

    @abstractmethod
    def index(self) -> SourceIndex:
        """All records that the tables or folders of the download name.

        Raises:
            FileNotFoundError: If a table is missing; the message says where to get it.
            ValueError: If a table is of an unknown version, or names a record twice.
        """

    @abstractmethod
    def tasks(self) -> tuple[LabelTask, ...]:
        """Questions that the labels answer; empty where there are none."""

    @abstractmethod
    def files_of(self, entry: Mapping[str, Any]) -> tuple[str, ...]:
        """Paths of the files that hold one record's signal.

        Args:
            entry (`Mapping[str, Any]`): A row of the index.
        """

    @abstractmethod
    def decode(self, entry: Mapping[str, Any], contents: Mapping[str, bytes]) -> dict[str, Any]:
        """One record as a row of the stored form (see [`~hf_ecgtext.data.store.schema.samples_to_row`]).

        Args:
            entry (`Mapping[str, Any]`): A row of the index.
            contents (`Mapping[str, bytes]`): Of the files of [`files_of`], by path.

        Raises:
            RecordError: If the record cannot be used.
        """

    def read(self, entries: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any] | RecordError]:
        """The records of some rows of the index, in order: a row of the stored form, or why there is none.

        There is none of a record without one valid sample, or with a rate or an amplitude that no ECG has, whatever the
        source. No source overrides this.
        """
        for entry, found in zip(entries, self.read_rows(entries), strict=True):
            yield found if isinstance(found, RecordError) else _usable(str(entry["record_id"]), found)

    def read_rows(self, entries: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any] | RecordError]:
        """As [`read`], but whatever the samples are: by [`files_of`] and [`decode`], or as a source knows better."""
        paths = [self.files_of(entry) for entry in entries]
        contents = self.files.read_many(dict.fromkeys(path for group in paths for path in group))
        for entry, group in zip(entries, paths, strict=True):
            try:
                yield self.decode(entry, {path: _content(entry, path, contents[path]) for path in group})
            except RecordError as error:
                yield error


def _usable(record: str, row: dict[str, Any]) -> dict[str, Any] | RecordError:
    if not has_valid_sample(row["samples"]):
        return no_valid_sample(record)
    try:
        check_sampling_rate(row["sampling_rate_hz"], record, "Correct it in its file, or leave the record out.")
        refuse_impossible_samples(row["samples"], row["gain_per_mv"], row["baseline"], record)
    except RecordError as error:
        return error
    return row


def _content(entry: Mapping[str, Any], path: str, content: bytes | OSError) -> bytes:
    if isinstance(content, OSError):
        reason = "is missing" if isinstance(content, FileNotFoundError) else f"cannot be read ({content})"
        raise RecordError(str(entry["record_id"]), f"its file '{path}' {reason}.", "Download it again.") from content
    return content


class WfdbSource(EcgSource):
    """A source of WFDB records with one signal file each; rows of its index have a `path` without extension."""

    signal_suffix: ClassVar[str]
    """`".dat"` or `".mat"`."""

    @abstractmethod
    def describe(
        self, entry: Mapping[str, Any], header: WfdbHeader
    ) -> tuple[str | None, Sequence[str], dict[str, Any]]:
        """Report, labels and attributes (the source's own columns) of one record.

        Raises:
            RecordError: If the header contradicts the tables.
        """

    def files_of(self, entry: Mapping[str, Any]) -> tuple[str, ...]:
        """See [`EcgSource`]."""
        return f"{entry['path']}.hea", f"{entry['path']}{self.signal_suffix}"

    def decode(self, entry: Mapping[str, Any], contents: Mapping[str, bytes]) -> dict[str, Any]:
        """See [`EcgSource`]."""
        header_path, signal_path = self.files_of(entry)
        header, digital = decode_digital(
            contents[header_path], {signal_path.rpartition("/")[2]: contents[signal_path]}, str(entry["record_id"])
        )
        report, labels, attributes = self.describe(entry, header)
        return samples_to_row(
            digital.adc,
            digital.gain_per_mv,
            digital.baseline,
            record_id=entry["record_id"],
            patient_id=entry["patient_id"],
            sampling_rate_hz=header.sampling_rate_hz,
            lead_names=header.lead_names,
            report=report,
            labels=labels,
            attributes=attributes,
        )
