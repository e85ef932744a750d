"""Each distinct report is encoded once: exact where the text tower is frozen and without dropout.

MIMIC-IV-ECG has about 180,000 distinct reports in 780,000 records; without a cache the frozen tower takes most of a
training step (docs/speed.md).

The cache lies where its look-ups are used, or, where that would take too much memory, on the host. There the ids of a
batch never go to the device: rows are gathered by the CPU and copied over, so that nothing waits for the device.
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist
from tqdm.auto import tqdm

from hf_ecgtext.methods.base import EcgTextModel
from hf_ecgtext.processing import REPORT_CLEANERS
from hf_ecgtext.training.free_memory import FreeMemory, free_device_bytes, free_memory
from hf_ecgtext.training.text_cache_placement import choose_placement

logger = logging.getLogger(__name__)


class TextCache:
    """Text-tower outputs by report.

    Args:
        report_ids (`dict[str, int]`): Row of each report; reports that read alike after cleaning share a row.
        embeds (`torch.Tensor` of shape `(num_distinct_reports, text_hidden_size)`): The tower's pooled outputs.
        tokens (`torch.Tensor` of shape `(num_tokens, text_hidden_size)`, *optional*): The tower's last layer at
            the real tokens of all reports, one report after the other, for methods that read it. In float32 and with
            a BERT-base, 180,000 reports of 40 tokens take 22 GB, in bfloat16 half of it.
        token_counts (`torch.Tensor` of shape `(num_distinct_reports,)`, *optional*): Real tokens of each report.
        copied_to (`torch.device`, *optional*): The tensors stay on the host, and what is looked up is copied to this
            device; without it, they lie, or are moved, where the ids of the first batch are.

    Attributes:
        on_host (`bool`): Whether look-ups take ids on the host
            ([`~hf_ecgtext.training.collator.EcgTextCollator`]'s `ids_on_host`).
    """

    def __init__(
        self,
        report_ids: dict[str, int],
        embeds: Tensor,
        tokens: Tensor | None = None,
        token_counts: Tensor | None = None,
        copied_to: torch.device | None = None,
    ):
        self.copied_to = copied_to
        self.on_host = copied_to is not None
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
        dtype: torch.dtype | Literal["auto"] = torch.float32,
        location: Literal["auto", "device", "host"] = "auto",
        device: torch.device | None = None,
        measure: Callable[[torch.device], FreeMemory] = free_memory,
    ) -> TextCache:
        """Encode all distinct reports, shortest first so that little is padded.

        Args:
            model ([`EcgTextModel`]): Its text tower must be frozen, without dropout, and read reports as they are.
            processor ([`~hf_ecgtext.processing.EcgTextProcessor`]): Cleans and tokenises.
            reports (`Iterable[str]`): Raw reports; repeats are welcome.
            batch_size (`int`): Reports per forward pass.
            show_progress (`bool`): Show a progress bar.
            dtype (`torch.dtype` or `"auto"`): How outputs are kept; below float32, rounding is the price of memory.
            location (`"auto"`, `"device"` or `"host"`): Where, and with `dtype="auto"` how, is decided by
                [`~hf_ecgtext.training.text_cache_placement.choose_placement`] before the first report is encoded.
            device (`torch.device`, *optional*): Where batches will be computed; the model's device by default.
            measure (`Callable`): Tells how much memory is free.

        Raises:
            RecordError: If a report is empty after cleaning and the processor refuses it.
            ValueError: If the model's `can_cache_text` says that a cache would change the result, there are no
                reports, there is no room for the cache, or float16 cannot hold the tower's outputs.
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
        counts = None
        if model.text_cache_content == "tokens":
            counts = torch.cat([batch["attention_mask"].sum(dim=1) for batch in batches])
        num_kept = 0 if counts is None else int(counts.sum())  # tokens
        device = model.device if device is None else device
        placement = choose_placement((len(to_encode) + num_kept) * width, device, measure(device), location, dtype)
        if not dist.is_initialized() or dist.get_rank() == 0:
            level = logging.WARNING if placement.is_second_choice else logging.INFO
            logger.log(level, "Text cache of %d distinct reports: %s.", len(to_encode), placement.description)
        on_host = placement.location == "host"
        kept_on = torch.device("cpu") if on_host else device
        embeds = torch.empty(len(to_encode), width, dtype=placement.dtype, device=kept_on)
        tokens = None if counts is None else embeds.new_empty(num_kept, width)

        tower = model.text_tower
        was_training = tower.training
        tower.eval()
        num_reports = num_tokens = 0
        for batch in tqdm(
            batches, desc="Encoding distinct reports", unit="batch", disable=None if show_progress else True
        ):
            inputs = batch.to(model.device)
            output = tower(inputs["input_ids"], inputs["attention_mask"])
            pooled = output.pooler_output
            _check_range(pooled if tokens is None else output.last_hidden_state, placement.dtype)
            embeds[num_reports : num_reports + len(pooled)] = pooled
            num_reports += len(pooled)
            if tokens is not None:
                real = output.last_hidden_state[inputs["attention_mask"].bool()]  # (num_real_tokens, text_hidden_size)
                tokens[num_tokens : num_tokens + len(real)] = real
                num_tokens += len(real)
        tower.train(was_training)
        return cls(report_ids, embeds, tokens, counts, copied_to=device if on_host else None)

    def __len__(self) -> int:
        """Number of distinct reports after cleaning."""
        return len(self.embeds)

    def lookup(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch with the tower's outputs in the place of the rows that the collator attached.

        Args:
            batch (`dict[str, Any]`): From [`~hf_ecgtext.training.collator.EcgTextCollator`]; one that holds tokens
                instead of `report_ids` comes back as it is.

        Raises:
            ValueError: If the ids are on the host and the cache is not, or the reverse, or if the cache has to follow
                them to a device that has no room for it.
        """
        if "report_ids" not in batch:
            return batch
        batch = dict(batch)
        report_ids = batch.pop("report_ids")
        if isinstance(report_ids, np.ndarray) is not self.on_host:
            raise ValueError(f"This cache needs a collator with ids_on_host={self.on_host}: pass it cache.on_host.")
        if not self.on_host and self.embeds.device != report_ids.device:
            self._follow(report_ids.device)
        batch["text_tower_embeds"] = self._rows(self.embeds, report_ids)
        if self.tokens is not None:
            batch["text_tower_tokens"] = self._rows(self.tokens, batch.pop("token_rows"))
        return batch

    def _rows(self, table: Tensor, ids: Any) -> Tensor:
        """Rows of a table in float32, of shape `(*ids.shape, text_hidden_size)`, where the batch is computed."""
        if self.copied_to is None:
            return table[ids].float()
        rows = staging_buffer(ids.size, table, self.copied_to)
        torch.index_select(table, 0, torch.from_numpy(ids).flatten(), out=rows)
        return rows.view(*ids.shape, table.shape[1]).to(self.copied_to, non_blocking=True).float()

    def _follow(self, device: torch.device) -> None:
        needed = sum(table.nbytes for table in (self.embeds, self.tokens) if table is not None)
        free = free_device_bytes(device)
        if free is not None and needed > free:
            raise ValueError(
                f"The text cache takes {needed / 1e9:.1f} GB, more than the {free / 1e9:.1f} GB free on {device}. "
                f"Build it with device={device}, so that it stays in host memory."
            )
        self.embeds = self.embeds.to(device)
        self.tokens = None if self.tokens is None else self.tokens.to(device)


def staging_buffer(num_rows: int, table: Tensor, device: torch.device) -> Tensor:
    """Room on the host for rows of a table on their way to a device.

    It is pinned for a GPU: from ordinary memory, a copy would make the host wait. Torch hands it out again only when
    the copy is done. The table itself is not pinned: the GPU never reads it, and torch rounds what it pins up to a
    power of two (32 GiB for 22 GB).

    Args:
        num_rows (`int`): Of the buffer.
        table (`torch.Tensor` of shape `(any, width)`): Gives width and type.
        device (`torch.device`): Where the rows will go.
    """
    return torch.empty(num_rows, table.shape[1], dtype=table.dtype, pin_memory=device.type == "cuda")


def _check_range(outputs: Tensor, dtype: torch.dtype) -> None:
    """Refuse to keep what would become infinite."""
    if dtype == torch.float16 and outputs.abs().max() > torch.finfo(dtype).max:
        raise ValueError(
            f"The text tower gives values up to {outputs.abs().max().item():.3g}, and float16 ends at 65504. Set "
            "text_cache_dtype='bfloat16'."
        )
