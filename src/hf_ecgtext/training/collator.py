"""From a list of rows to a batch of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_ecgtext.data.random_crops import RandomCrops
from hf_ecgtext.data.records import AnyEcg
from hf_ecgtext.data.report_cleaning import REPORT_CLEANERS
from hf_ecgtext.errors import RecordError
from hf_ecgtext.processing import EcgTextProcessor
from hf_ecgtext.training.negative_sampler import NegativeSampler


@dataclass(eq=False)
class EcgTextCollator:
    """Prepares a batch of rows for a cross-modal model: signals scaled, reports tokenised and padded to the longest.

    A collator is never changed: whoever learns more, such as the rows of a text cache, makes another one by
    `dataclasses.replace`.

    Args:
        processor ([`~hf_ecgtext.processing.EcgTextProcessor`]): Prepares signals and texts.
        report_ids (`Mapping[str, int]`, *optional*): Rows of a text cache by report. A batch whose reports all have
            one carries `report_ids` of shape `(batch,)` instead of tokens.
        token_spans (`np.ndarray` of shape `(num_cached_reports, 2)`, *optional*): First token and end of each cached
            report, of a cache that keeps tokens. Such a batch carries `token_rows` and `attention_mask` too, each of
            shape `(batch, num_tokens)`; padding has row 0.
        ids_on_host (`bool`): `report_ids` and `token_rows` are NumPy arrays, which never go to the device, for a text
            cache in host memory.
        negatives ([`~hf_ecgtext.training.negative_sampler.NegativeSampler`], *optional*): Gives some of the records
            another report. The batch then carries `is_aligned`, bool of shape `(batch,)`: `False` for these.
        report_keys (`bool`): The batch carries `report_keys`, int64 of shape `(batch, 2)`, of the record's own report
            and of the one beside it: equal numbers for reports that are equal after the processor's cleaning.
        pack (`bool`): Leave stored integers as they are, at half the size of `ecg_values`; the feature extractor's
            `unpack` must then turn them into `ecg_values` on the model's device, as
            [`~hf_ecgtext.training.EcgTextTrainer`] does. No model takes a packed batch.
        crops ([`~hf_ecgtext.data.random_crops.RandomCrops`]): Which part of a longer recording a training step reads,
            where the processor's `crop` is `"random"`. The trainer tells it when an epoch begins.
    """

    processor: EcgTextProcessor
    report_ids: Mapping[str, int] | None = None
    token_spans: NDArray[np.int64] | None = None
    negatives: NegativeSampler | None = None
    pack: bool = False
    report_keys: bool = False
    ids_on_host: bool = False
    crops: RandomCrops = field(default_factory=RandomCrops)
    _keys: dict[str, int] = field(default_factory=dict, repr=False)  # of each wording, which is cleaned once

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate rows `{"ecg": EcgRecord, ...}` or `StoredEcg`s into signals, `lead_mask` and tokens or cache rows.

        Raises:
            RecordError: If a record has no report, or one that the sampler of negatives does not know.
        """
        records: list[AnyEcg] = [row["ecg"] for row in rows]
        for record in records:
            if record.report is None:
                raise RecordError(record.record_id, "it has no report to train on.", "Filter such records out.")
        reports = [record.report or "" for record in records]
        alignment: dict[str, torch.Tensor] = {}
        own_reports = reports
        if self.negatives is not None:  # before the reports become tokens or rows of the cache
            reports, is_aligned = self.negatives.draw(reports, [record.record_id for record in records])
            alignment["is_aligned"] = torch.from_numpy(is_aligned)
        if self.report_keys:
            keys = [[self._key(own), self._key(paired)] for own, paired in zip(own_reports, reports, strict=True)]
            alignment["report_keys"] = torch.tensor(keys)
        names = [record.record_id for record in records]
        extractor = self.processor.feature_extractor
        positions = self.crops.draw(extractor.crop, names)
        if self.pack:  # tensors of the whole batch come first: `find_batch_size` reads the first
            batch = extractor.pack(records, positions)
        else:
            batch = dict(extractor(records, positions=positions, return_tensors="pt"))
        if self.report_ids is not None and all(report in self.report_ids for report in reports):
            return batch | self._cached([self.report_ids[report] for report in reports]) | alignment
        return batch | dict(self.processor(text=reports, record_ids=names, return_tensors="pt")) | alignment

    def _key(self, report: str) -> int:
        """64 bits of a hash of the cleaned report."""
        if report not in self._keys:
            cleaned = REPORT_CLEANERS[self.processor.report_cleaning](report)
            self._keys[report] = int.from_bytes(blake2b(cleaned.encode(), digest_size=8).digest(), "big", signed=True)
        return self._keys[report]

    def _cached(self, report_ids: list[int]) -> dict[str, Any]:
        rows: dict[str, Any] = {"report_ids": np.array(report_ids)}
        if self.token_spans is not None:
            starts, ends = self.token_spans[report_ids].T[:, :, None]  # each (batch, 1)
            token_rows = starts + np.arange((ends - starts).max())
            is_real = token_rows < ends
            rows["token_rows"] = np.where(is_real, token_rows, 0)
            rows["attention_mask"] = torch.from_numpy(is_real.astype(np.int64))
        return rows if self.ids_on_host else {name: torch.as_tensor(value) for name, value in rows.items()}
