"""From recordings to batches of windows, a few at a time, whatever the length of the recordings."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from hf_ecgtext.data.records import EcgRecord, StoredEcg, has_valid_sample
from hf_ecgtext.errors import EcgTextError, RecordError
from hf_ecgtext.leads import canonical_lead_name
from hf_ecgtext.pipelines.inputs import OpenEcg, UnknownLeadError, open_ecg
from hf_ecgtext.processing import EcgFeatureExtractor
from hf_ecgtext.processing.feature_extraction_ecg import logger as extractor_logger
from hf_ecgtext.processing.settings import check_choice
from hf_ecgtext.processing.windows import covering_windows

logger = logging.getLogger(__name__)

Windows = Literal["average", "each", "first"]

WINDOWS = ("average", "each", "first")

_WINDOWS_AT_ONCE = 32
"""Windows of one recording that are encoded together where no batch size is given."""

_OF_THE_RECORDING = (EcgTextError, ValueError, TypeError, OSError)
"""What opening and preparing a recording may raise because of that recording."""


@dataclass(frozen=True)
class Part:
    """The windows of one recording in a batch.

    Args:
        record_id (`str`): Of the recording.
        num_windows (`int`): Of the whole recording, the ones without a valid sample included.
        times_s (`list[tuple[float, float]]`): Start and end of each window in this batch.
        is_last (`bool`): Whether the recording ends here.
        is_padded (`bool`): Whether the recording is shorter than what the model reads.
        error (`Exception`, *optional*): Why it has no answer.
    """

    record_id: str
    num_windows: int = 0
    times_s: list[tuple[float, float]] = field(default_factory=list)
    is_last: bool = True
    is_padded: bool = False
    error: Exception | None = None


@dataclass(frozen=True)
class WindowBatch:
    """Windows that are encoded together.

    Args:
        inputs (`dict[str, torch.Tensor]`): `ecg_values` `(num_windows, num_leads, num_samples)` and `lead_mask`; empty
            where there is no window.
        parts (`list[Part]`): Whose they are, in order.
    """

    inputs: dict[str, Tensor]
    parts: list[Part]


class _Pile:
    """Windows that wait until a batch is full."""

    def __init__(self, size: int):
        self._size = size
        self._empty()

    def _empty(self) -> None:
        self._inputs: list[Mapping[str, Tensor]] = []
        self.parts: list[Part] = []
        self.room = self._size

    def add(self, inputs: Mapping[str, Tensor], part: Part) -> None:
        if inputs:
            self._inputs.append(inputs)
        self.parts.append(part)
        self.room -= len(part.times_s)

    def taken(self) -> WindowBatch:
        names = ("ecg_values", "lead_mask") if self._inputs else ()
        batch = WindowBatch({name: torch.cat([some[name] for some in self._inputs]) for name in names}, self.parts)
        self._empty()
        return batch


class WindowBatches(IterableDataset):
    """Opens recordings one after the other, and prepares their windows in batches.

    A recording that cannot be used becomes a part with its error, in its place.

    Args:
        items (`Iterable[Any]`): Recordings; see `EcgInput`.
        feature_extractor ([`~hf_ecgtext.processing.EcgFeatureExtractor`]): The checkpoint's.
        batch_size (`int`, *optional*): Windows of a batch, of several recordings if these are short. By default each
            recording is encoded by itself, a long one in several batches.
        windows (`str`): `"average"` or `"each"`: all windows of a recording, by the rule of evaluation. `"first"`: one.
        unknown_leads (`str`, *optional*): In place of the feature extractor's setting.
        facts (`Any`): `sampling_rate_hz`, `lead_names` and `unit` of `open_ecg`.
    """

    def __init__(
        self,
        items: Iterable[Any],
        feature_extractor: EcgFeatureExtractor,
        batch_size: int | None = None,
        *,
        windows: Windows = "average",
        unknown_leads: str | None = None,
        **facts: Any,
    ):
        self.items = items
        self.batch_size = batch_size
        self.windows = check_choice("windows", windows, WINDOWS)
        self.facts = facts
        self.feature_extractor = copy.copy(feature_extractor)
        if unknown_leads is not None:
            self.feature_extractor.unknown_leads = check_choice("unknown_leads", unknown_leads, ("raise", "ignore"))

    def __iter__(self) -> Iterator[WindowBatch]:
        """Batch after batch."""
        with _each_notice_once():
            yield from self._batches()

    def _batches(self) -> Iterator[WindowBatch]:
        pile = _Pile(self.batch_size or _WINDOWS_AT_ONCE)
        for index, item in enumerate(self.items):
            name = os.fspath(item) if isinstance(item, str | os.PathLike) else f"recording {index}"
            for prepared, part in self._prepared(item, name, pile):
                pile.add(prepared, part)
                if pile.room == 0 or part.error is not None or (part.is_last and self.batch_size is None):
                    yield pile.taken()
        if pile.parts:
            yield pile.taken()

    def _prepared(self, item: Any, name: str, pile: _Pile) -> Iterator[tuple[Mapping[str, Tensor], Part]]:
        """The windows of one recording, at most as many at a time as there is room for."""
        try:
            ecg = self._opened(item, name)
            if not isinstance(item, str | os.PathLike):
                name = ecg.record_id
            length = max(1, round(self.feature_extractor.duration_s * ecg.sampling_rate_hz))
            bounds = covering_windows(ecg.num_samples, length)
            if self.windows == "first":
                bounds = [(0, min(length, ecg.num_samples))]
            position = num_blank = 0
            while position < len(bounds):
                block = bounds[position : position + pile.room]
                position += len(block)
                inputs, used = self._inputs(ecg, block, is_whole=len(bounds) == 1)
                num_blank += len(block) - len(used)
                if position == len(bounds) and num_blank:
                    self._report_blank(name, num_blank, len(bounds))
                yield (
                    inputs,
                    Part(
                        name,
                        len(bounds),
                        [(start / ecg.sampling_rate_hz, stop / ecg.sampling_rate_hz) for start, stop in used],
                        is_last=position == len(bounds),
                        is_padded=ecg.num_samples < length,
                    ),
                )
        except _OF_THE_RECORDING as error:
            yield {}, Part(name, error=error)

    def _opened(self, item: Any, name: str) -> OpenEcg:
        ecg = open_ecg(item, name, **self.facts)
        unknown = [lead for lead in ecg.lead_names if canonical_lead_name(str(lead)) is None]
        if unknown and self.feature_extractor.unknown_leads == "raise":
            raise UnknownLeadError(ecg.record_id, unknown)
        return ecg

    def _inputs(
        self, ecg: OpenEcg, bounds: list[tuple[int, int]], is_whole: bool
    ) -> tuple[Mapping[str, Tensor], list[tuple[int, int]]]:
        """Model input of some windows, and which of them have it; a long recording may have gaps of whole windows."""
        windows = [ecg.read(start, stop) for start, stop in bounds]
        if not is_whole:
            used = [place for place, window in enumerate(windows) if _has_signal(window)]
            windows, bounds = [windows[place] for place in used], [bounds[place] for place in used]
        if not windows:
            return {}, []
        options = dict(ecg.options)
        if "record_ids" in options:
            options["record_ids"] = options["record_ids"] * len(windows)
        return dict(self.feature_extractor(windows, return_tensors="pt", **options)), bounds

    def _report_blank(self, name: str, num_blank: int, num_windows: int) -> None:
        if num_blank == num_windows:
            raise RecordError(name, "all samples of all leads are NaN or infinite.", "Drop the record.")
        logger.warning(
            "Record '%s': %d of %d windows hold no valid sample and are left out.", name, num_blank, num_windows
        )


def _has_signal(window: Any) -> bool:
    if isinstance(window, EcgRecord):
        return has_valid_sample(window.signal)
    return has_valid_sample(window.samples) if isinstance(window, StoredEcg) else bool(np.isfinite(window).any())


@contextmanager
def _each_notice_once() -> Iterator[None]:
    """What the feature extractor says about a recording is said once, and not for each batch of its windows."""
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new = message not in said
        said.add(message)
        return is_new

    extractor_logger.addFilter(is_new)
    try:
        yield
    finally:
        extractor_logger.removeFilter(is_new)
