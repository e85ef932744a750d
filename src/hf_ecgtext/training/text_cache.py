"""Each distinct report is encoded once: exact where the text tower is frozen and without dropout.

MIMIC-IV-ECG has about 180,000 distinct reports in 780,000 records; without a cache the frozen tower takes most of a
training step (PAPERS.md, "Speed of the references").
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from hf_ecgtext.methods.base import EcgTextModel
from hf_ecgtext.processing import REPORT_CLEANERS


class TextCache:
    """Text-tower outputs by report.

    Args:
        report_ids (`dict[str, int]`): Row of each report; reports that read alike after cleaning share a row.
        embeds (`torch.Tensor` of shape `(num_distinct_reports, text_hidden_size)`): The tower's pooled outputs.
        tokens (`torch.Tensor` of shape `(num_tokens, text_hidden_size)`, *optional*): The tower's last layer at
            the real tokens of all reports, one report after the other, for methods that read it. In float32 and with
            a BERT-base, 180,000 reports of 40 tokens take 22 GB of the device's memory, in bfloat16 half of it.
        token_counts (`torch.Tensor` of shape `(num_distinct_reports,)`, *optional*): Real tokens of each report.
    """

    def __init__(
        self,
        report_ids: dict[str, int],
        embeds: Tensor,
        tokens: Tensor | None = None,
        token_counts: Tensor | None = None,
    ):
        self.report_ids = report_ids
        self.embeds = embeds
        self.tokens = tokens
        self.token_spans: NDArray[np.int64] | None = None
        if token_counts is not None:
            ends = token_counts.numpy().cumsum()
            self.token_spans = np.stack([ends - token_counts.numpy(), ends], axis=1)  # (num_distinct_reports, 2)

    @classmethod
    @torch.no_grad()
    def build(
        cls,
        model: EcgTextModel,
        processor: Any,
        reports: Iterable[str],
        batch_size: int = 64,
        show_progress: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> TextCache:
        """Encode all distinct reports, shortest first so that little is padded.

        Args:
            model ([`EcgTextModel`]): Its text tower must be frozen, without dropout, and read reports as they are.
            processor ([`~hf_ecgtext.processing.EcgTextProcessor`]): Cleans and tokenises.
            reports (`Iterable[str]`): Raw reports; repeats are welcome.
            batch_size (`int`): Reports per forward pass.
            show_progress (`bool`): Show a progress bar.
            dtype (`torch.dtype`): How outputs are kept; below float32, rounding is the price of memory.

        Raises:
            RecordError: If a report is empty after cleaning and the processor refuses it.
            ValueError: If the model's `can_cache_text` says that a cache would change the result, or if there are no
                reports.
        """
        if not model.can_cache_text:
            raise ValueError(
                "The text tower trains or uses dropout, or the method changes what it reads (as masking does), so "
                "its outputs cannot be cached. Set text_cache=False."
            )
        distinct = sorted({report for report in reports if report is not None}, key=lambda text: (len(text), text))
        clean = REPORT_CLEANERS[processor.report_cleaning]
        rows: dict[str, int] = {}
        to_encode: list[str] = []  # the first report of each row, as it stands in the data: the processor cleans it
        for report in distinct:
            if rows.setdefault(clean(report), len(rows)) == len(to_encode):
                to_encode.append(report)
        if not to_encode:
            raise ValueError("There is no report to encode: no record of the training data has one.")
        batches = []
        for start in range(0, len(to_encode), batch_size):
            texts = to_encode[start : start + batch_size]
            names = [textwrap.shorten(text, 60) for text in texts]
            batches.append(processor(text=texts, record_ids=names, return_tensors="pt"))
        report_ids = {report: rows[clean(report)] for report in distinct}
        width = model.config.text_config.hidden_size
        embeds = torch.empty(len(to_encode), width, dtype=dtype, device=model.device)
        tokens = counts = None
        if model.text_cache_content == "tokens":
            counts = torch.cat([batch["attention_mask"].sum(dim=1) for batch in batches])
            tokens = embeds.new_empty(int(counts.sum()), width)

        tower = model.text_tower
        was_training = tower.training
        tower.eval()
        num_reports = num_tokens = 0
        for batch in tqdm(batches, desc="Encoding distinct reports", unit="batch", disable=not show_progress):
            inputs = batch.to(model.device)
            output = tower(inputs["input_ids"], inputs["attention_mask"])
            pooled = output.pooler_output
            embeds[num_reports : num_reports + len(pooled)] = pooled
            num_reports += len(pooled)
            if tokens is not None:
                real = output.last_hidden_state[inputs["attention_mask"].bool()]  # (num_real_tokens, text_hidden_size)
                tokens[num_tokens : num_tokens + len(real)] = real
                num_tokens += len(real)
        tower.train(was_training)
        return cls(report_ids, embeds, tokens, counts)

    def __len__(self) -> int:
        """Number of distinct reports after cleaning."""
        return len(self.embeds)

    def lookup(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch with the tower's outputs in the place of the rows that the collator attached.

        Args:
            batch (`dict[str, Any]`): From [`~hf_ecgtext.data.collators.EcgTextCollator`]; one that holds tokens instead
                of `report_ids` comes back as it is.
        """
        if "report_ids" not in batch:
            return batch
        batch = dict(batch)
        report_ids = batch.pop("report_ids")
        if self.embeds.device != report_ids.device:
            self.embeds = self.embeds.to(report_ids.device)
            self.tokens = None if self.tokens is None else self.tokens.to(report_ids.device)
        batch["text_tower_embeds"] = self.embeds[report_ids].float()
        if self.tokens is not None:
            batch["text_tower_tokens"] = self.tokens[batch.pop("token_rows")].float()
        return batch
