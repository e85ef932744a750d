"""From a list of rows to a batch of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.errors import RecordError


class EcgTextCollator:
    """Prepares a batch of rows for a cross-modal model: signals scaled, reports tokenised and padded to the longest.

    Args:
        processor ([`~hf_ecgtext.processing.EcgTextProcessor`]): Prepares signals and texts.
        report_ids (`Mapping[str, int]`, *optional*): Rows of a text cache by report. A batch whose reports all have
            one carries `report_ids` of shape `(batch,)` instead of tokens.
    """

    def __init__(self, processor: Any, report_ids: Mapping[str, int] | None = None):
        self.processor = processor
        self.report_ids = report_ids

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate rows `{"ecg": EcgRecord, ...}` into `ecg_values`, `lead_mask` and tokens or report ids.

        Raises:
            RecordError: If a record has no report.
        """
        records: list[EcgRecord] = [row["ecg"] for row in rows]
        for record in records:
            if record.report is None:
                raise RecordError(record.record_id, "it has no report to train on.", "Filter such records out.")
        reports = [record.report or "" for record in records]
        if self.report_ids is not None and all(report in self.report_ids for report in reports):
            batch = dict(self.processor.feature_extractor(records, return_tensors="pt"))
            batch["report_ids"] = torch.tensor([self.report_ids[report] for report in reports])
            return batch
        return dict(self.processor(ecg=records, text=reports, return_tensors="pt"))
