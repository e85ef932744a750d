"""Preparation in two halves: integers are packed on the CPU, and become float32 `ecg_values` on the model's device.

A batch of int16 is half the size of float32 in the workers' pipes, in pinned memory and on the bus, and the arithmetic
costs the device nothing. Only what the device reproduces to the bit in millivolts is packed: records at the model's
rate, without missing samples, wrong names or constant leads. Any other record of the batch goes the whole way on the
CPU, where all warnings and refusals are, and travels as float32 beside the integers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_ecgtext.data.limb_lead_order import AUGMENTED_LEADS, augmented_lead_permutations, samples_read
from hf_ecgtext.data.records import INVALID_SAMPLE, digital_to_millivolts
from hf_ecgtext.data.stored import AnyEcg, StoredEcg
from hf_ecgtext.leads import LIMB_LEAD_WEIGHTS
from hf_ecgtext.processing.lead_mapping import LeadPlan, plan_leads
from hf_ecgtext.processing.resampling import resampling_ratio
from hf_ecgtext.processing.windows import crop_positions, crop_start, recorded_part

if TYPE_CHECKING:
    from hf_ecgtext.processing.feature_extraction_ecg import EcgFeatureExtractor

_SMALLEST_GAIN_PER_MV = 1e-30
"""A smaller gain could give infinite millivolts, which are invalid samples and the CPU's business."""


_RECORDS_AT_ONCE = 32
"""Their samples for the check of the limb leads stay in the processor's cache."""


def pack_records(extractor: EcgFeatureExtractor, records: Sequence[AnyEcg]) -> dict[str, Tensor]:
    """The first half, on the CPU.

    Args:
        extractor ([`~hf_ecgtext.processing.EcgFeatureExtractor`]): Its settings.
        records (`Sequence[AnyEcg]`): The batch; only a [`StoredEcg`] of int16 samples can be packed.

    Returns:
        `dict[str, torch.Tensor]`, batch first: `lead_mask` (and `sample_mask`) as the extractor returns them; `ecg_adc`
        int16 of shape `(batch, num_leads, num_samples)`, in which padding is 0 mV and an absent lead is 0; `ecg_gain`
        float32 of shape `(batch, num_leads)`. Where some record has them: `ecg_baseline` like `ecg_gain`, the integer
        of 0 mV; `ecg_recorded` int32 of shape `(batch, 2)`, first sample and end of what is not padding; `ecg_derived`
        bool of shape `(batch, num_leads)`, the limb leads to compute from I and II. Where some records were not packed:
        `ecg_float_rows` float32 of shape `(k, num_leads, num_samples)` and `ecg_float_positions` of shape `(k,)`. If
        these are half of the batch or more, it is just what the extractor returns.

    Raises:
        RecordError: If a recording cannot be used; the message names it and the fix.
    """
    positions = crop_positions(extractor.crop, None, len(records))
    batch = _Batch(len(records), len(extractor.lead_names), extractor.num_samples)
    if extractor.bandpass_hz is None:
        groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for index, record in enumerate(records):
            if isinstance(record, StoredEcg) and record.samples.dtype == np.int16:
                groups[record.sampling_rate_hz, record.lead_names, record.num_samples].append(index)
        for indices in groups.values():
            _pack_alike(extractor, records, indices, positions[indices[0]], batch)

    others = np.flatnonzero(~batch.is_packed).tolist()
    if 2 * len(others) >= len(records):  # then all as float32 is no larger
        return dict(extractor(list(records), return_tensors="pt"))
    packed: dict[str, NDArray] = {
        "lead_mask": batch.lead_mask,
        "ecg_adc": batch.adc,
        "ecg_gain": batch.gain,
    }
    if batch.baseline.any():
        packed["ecg_baseline"] = batch.baseline
    if (batch.recorded != (0, extractor.num_samples)).any():
        packed["ecg_recorded"] = batch.recorded
    if batch.is_derived.any():
        packed["ecg_derived"] = batch.is_derived
    time = np.arange(extractor.num_samples)
    sample_mask = (time >= batch.recorded[:, :1]) & (time < batch.recorded[:, 1:])
    if len(others):
        features = extractor([records[index] for index in others])
        packed["ecg_float_rows"], packed["ecg_float_positions"] = features["ecg_values"], np.array(others)
        batch.lead_mask[others] = features["lead_mask"]
        if extractor.return_sample_mask:
            sample_mask[others] = features["sample_mask"]
    if extractor.return_sample_mask:
        packed["sample_mask"] = sample_mask
    return {name: torch.from_numpy(array) for name, array in packed.items()}


def unpack_records(extractor: EcgFeatureExtractor, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The second half, on the device of the tensors, which it never waits for.

    Args:
        extractor ([`~hf_ecgtext.processing.EcgFeatureExtractor`]): Its settings; the same as in `pack_records`.
        batch (`Mapping[str, Any]`): With the tensors of `pack_records`, and others, which are returned as they are.

    Returns:
        `dict[str, Any]`: With `ecg_values` in place of `ecg_*`; the batch itself, if it is not packed.
    """
    if "ecg_adc" not in batch:
        return dict(batch)
    unpacked = dict(batch)
    values = _as_float(unpacked.pop("ecg_adc"))  # (batch, num_leads, num_samples); each step rounds as NumPy does
    baseline = unpacked.pop("ecg_baseline", None)
    if baseline is not None:
        values.sub_(baseline[..., None])
    values.div_(unpacked.pop("ecg_gain")[..., None])
    is_derived = unpacked.pop("ecg_derived", None)
    if is_derived is not None:
        lead_i, lead_ii = (values[:, extractor.lead_names.index(lead)] for lead in ("I", "II"))
        for position, lead in enumerate(extractor.lead_names):
            if lead in LIMB_LEAD_WEIGHTS and lead not in ("I", "II"):
                a, b = LIMB_LEAD_WEIGHTS[lead]
                computed = a * lead_i + b * lead_ii
                values[:, position] = torch.where(is_derived[:, position, None], computed, values[:, position])
    scale_on_device(values, unpacked["lead_mask"], unpacked.pop("ecg_recorded", None), extractor.scaling, extractor.eps)
    rows, positions = unpacked.pop("ecg_float_rows", None), unpacked.pop("ecg_float_positions", None)
    if rows is not None:
        values.index_copy_(0, positions, rows)
    return {"ecg_values": values, **unpacked}


def _as_float(adc: Tensor) -> Tensor:
    if adc.device.type != "cpu":
        return adc.float()
    # NumPy asks the system for huge pages, torch does not: clearing 61 MB of small ones costs five times the rest.
    return torch.from_numpy(np.empty(adc.shape, dtype=np.float32)).copy_(adc)


def scale_on_device(values: Tensor, lead_mask: Tensor, recorded: Tensor | None, scaling: str, eps: float) -> None:
    """`hf_ecgtext.processing.scaling.scale_windows` in torch, for windows with something to scale by, in place.

    Args:
        values (`torch.Tensor` of shape `(batch, num_leads, num_samples)`): mV, 0 in padding and absent leads.
        lead_mask (`torch.Tensor` of shape `(batch, num_leads)`): bool.
        recorded (`torch.Tensor` of shape `(batch, 2)`, *optional*): First sample and end of what is not padding.
        scaling, eps: As there.
    """
    if scaling == "none":
        return
    if scaling == "minmax_record":
        lowest = values.amin(dim=-1).masked_fill(~lead_mask, torch.inf).amin(dim=-1)  # (batch,)
        highest = values.amax(dim=-1).masked_fill(~lead_mask, -torch.inf).amax(dim=-1)
        values.sub_(lowest[:, None, None]).div_((highest - lowest + eps)[:, None, None])
        values.masked_fill_(~lead_mask[..., None], 0)
        return
    padding, count = None, torch.full_like(lead_mask[:, :1], values.shape[-1], dtype=values.dtype)  # (batch, 1)
    if recorded is not None:
        time = torch.arange(values.shape[-1], device=values.device)
        padding = ((time < recorded[:, :1]) | (time >= recorded[:, 1:]))[:, None]  # (batch, 1, num_samples)
        count = (recorded[:, 1:] - recorded[:, :1]).to(values.dtype)
    mean = values.sum(dim=-1) / count  # (batch, num_leads); padding is 0
    if scaling == "zscore_record":
        mean = _mean_of_present(mean, lead_mask)
    values.sub_(mean[..., None])
    if padding is not None:
        values.masked_fill_(padding, 0)
    variance = values.square().sum(dim=-1) / count
    if scaling == "zscore_record":
        variance = _mean_of_present(variance, lead_mask)
    else:
        variance -= (values.sum(dim=-1) / count).square()  # what rounding left of the mean
    values.div_((variance.sqrt() + eps)[..., None])
    values.masked_fill_(~lead_mask[..., None], 0)


def _mean_of_present(per_lead: Tensor, lead_mask: Tensor) -> Tensor:
    return (per_lead.masked_fill(~lead_mask, 0).sum(dim=-1) / lead_mask.sum(dim=-1))[:, None]  # (batch, 1)


class _Batch:
    """The arrays of a batch while it is filled."""

    def __init__(self, size: int, num_leads: int, num_samples: int):
        self.adc = np.zeros((size, num_leads, num_samples), dtype=np.int16)
        self.gain = np.ones((size, num_leads), dtype=np.float32)
        self.baseline = np.zeros((size, num_leads), dtype=np.float32)
        self.lead_mask = np.zeros((size, num_leads), dtype=bool)
        self.is_derived = np.zeros((size, num_leads), dtype=bool)
        self.recorded = np.tile(np.array([0, num_samples], dtype=np.int32), (size, 1))
        self.is_packed = np.zeros(size, dtype=bool)


def _pack_alike(
    extractor: EcgFeatureExtractor, records: Sequence[Any], indices: list[int], position: float, batch: _Batch
) -> None:
    """Packs those of the records that can be; they have one rate, length and set of lead names."""
    first = records[indices[0]]
    num_recorded, num_samples = first.num_samples, extractor.num_samples
    # A signal with more leads than samples looks transposed, which the CPU refuses, as it does an empty one.
    if num_recorded < max(1, len(first.lead_names)) or not _has_rate(first, extractor.sampling_rate_hz):
        return
    plan = plan_leads(first.lead_names, extractor.lead_names, extractor.unknown_leads, first.record_id)
    row_of = {target: row for target, lead in enumerate(plan.target) if (row := plan.row_of(lead)) is not None}
    derived = _derived_leads(plan) if extractor.derive_limb_leads else []
    is_complete = len(row_of) + len(derived) == len(plan.target)
    if not row_of or (extractor.missing_leads == "raise" and not is_complete):
        return
    # Whether a derived lead is constant shows only in millivolts.
    if derived and (extractor.scaling == "zscore_lead" or not {"I", "II"} <= set(plan.target)):
        return

    recorded = recorded_part(num_recorded, num_samples, extractor.pad)
    start = crop_start(position, max(0, num_recorded - num_samples))
    crop = slice(start, start + recorded.stop - recorded.start)
    targets, rows = list(row_of), list(row_of.values())
    moves_nothing = plan.source == plan.target
    names = _NameCheck(plan, num_recorded, len(indices)) if extractor.check_limb_leads != "off" else None
    packed: list[int] = []
    for index in _with_exact_gains(indices, records):  # each record is read once from memory, and then in the cache
        record = records[index]
        window = record.samples[:, crop]
        constant = _constant_rows(window)[rows]
        if constant.all() or (extractor.scaling == "zscore_lead" and constant.any()):
            continue
        if record.samples.min() == INVALID_SAMPLE:
            continue
        if names is not None:
            names.note(len(packed), record)
        if num_recorded < num_samples:
            batch.adc[index, targets] = record.baseline[rows, None]  # 0 mV
        if moves_nothing:
            batch.adc[index, :, recorded] = window
        else:
            for target, row in row_of.items():
                batch.adc[index, target, recorded] = window[row]
        packed.append(index)
    if names is not None:
        packed = [index for index, is_right in zip(packed, names.are_right(len(packed)), strict=True) if is_right]
    if packed:
        places = np.ix_(packed, targets)
        batch.gain[places] = np.stack([records[index].gain_per_mv for index in packed])[:, rows]
        batch.baseline[places] = np.stack([records[index].baseline for index in packed])[:, rows]
        batch.lead_mask[np.ix_(packed, [*targets, *derived])] = True
        batch.is_derived[np.ix_(packed, derived)] = True
        batch.recorded[packed] = recorded.start, recorded.stop
        batch.is_packed[packed] = True


def _has_rate(record: AnyEcg, rate_hz: float) -> bool:
    own = record.sampling_rate_hz
    if own == rate_hz:
        return True
    is_usable = isinstance(own, int | float) and 0 < own < float("inf")  # otherwise the CPU refuses it
    return is_usable and resampling_ratio(own, rate_hz) == 1


def _derived_leads(plan: LeadPlan) -> list[int]:
    if plan.row_of("I") is None or plan.row_of("II") is None:
        return []
    return [
        target for target, lead in enumerate(plan.target) if lead in LIMB_LEAD_WEIGHTS and plan.row_of(lead) is None
    ]


def _with_exact_gains(indices: list[int], records: Sequence[Any]) -> list[int]:
    """The records whose millivolts are one float32 division away."""
    gain = np.stack([records[index].gain_per_mv for index in indices])
    baseline = np.stack([records[index].baseline for index in indices])
    is_exact = (gain.astype(np.float32) == gain) & np.isfinite(gain) & (np.abs(gain) > _SMALLEST_GAIN_PER_MV)
    is_exact &= np.abs(baseline) <= np.iinfo(np.int16).max
    return [index for index, exact in zip(indices, is_exact.all(axis=-1).tolist(), strict=True) if exact]


class _NameCheck:
    """Whether augmented leads are where their names say, as the extractor finds out, on few of the integers."""

    def __init__(self, plan: LeadPlan, num_recorded: int, capacity: int):
        rows = (plan.row_of(lead) for lead in ("I", "II", *AUGMENTED_LEADS))
        self.rows = sorted(row for row in rows if row is not None)  # of two orders that fit, the claimed one counts
        self.leads = [plan.source[row] for row in self.rows]
        self.subset = samples_read(num_recorded)
        self.samples = np.empty((capacity, len(self.rows), len(range(num_recorded)[self.subset])), dtype=np.int16)
        self.gain = np.empty(self.samples.shape[:2])
        self.baseline = np.empty(self.samples.shape[:2], dtype=np.int32)

    def note(self, number: int, record: Any) -> None:
        self.samples[number] = record.samples[self.rows, self.subset]
        self.gain[number] = record.gain_per_mv[self.rows]
        self.baseline[number] = record.baseline[self.rows]

    def are_right(self, count: int) -> list[bool]:
        """Of the first `count` records, whether nothing speaks against the names."""
        right: list[bool] = []
        for first in range(0, count, _RECORDS_AT_ONCE):
            block = slice(first, min(first + _RECORDS_AT_ONCE, count))
            signals = digital_to_millivolts(self.samples[block], self.gain[block], self.baseline[block])
            rows, orders, decided = augmented_lead_permutations(signals, self.leads)
            right.extend((~decided | (orders == np.arange(len(rows))).all(axis=-1)).tolist())
        return right


def _constant_rows(samples: NDArray[np.int16]) -> NDArray[np.bool_]:
    # A glance at a few samples clears nearly every row; only the others are read as a whole.
    constant = (samples[:, :: max(1, samples.shape[-1] // 8)] == samples[:, :1]).all(axis=-1)
    for row in constant.nonzero()[0]:
        constant[row] = (samples[row] == samples[row, 0]).all()
    return constant
