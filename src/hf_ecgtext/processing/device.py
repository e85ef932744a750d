"""Preparation in two halves: integers are packed on the CPU, and become float32 `ecg_values` on the model's device.

A batch of int16 is half the size of float32 in the workers' pipes, in pinned memory and on the bus, and the arithmetic
costs the device nothing. Only what the device reproduces to the bit in millivolts is packed: records at the model's
rate, without missing samples, wrong names, doubtful amplitudes or constant leads. Any other record of the batch goes
the whole way on the CPU, where all warnings and refusals are, and travels as float32 beside the integers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_ecgtext.data.plausibility import glance, needs_judgement
from hf_ecgtext.data.records import INVALID_SAMPLE, AnyEcg, StoredEcg, digital_to_millivolts
from hf_ecgtext.leads import LIMB_LEAD_WEIGHTS
from hf_ecgtext.processing.buffers import BufferPool
from hf_ecgtext.processing.lead_checks.check import quick_tests
from hf_ecgtext.processing.lead_mapping import LeadPlan, plan_leads
from hf_ecgtext.processing.resampling import resampling_ratio
from hf_ecgtext.processing.windows import crop_start, recorded_part, window_positions

_SMALLEST_GAIN_PER_MV = 1e-30
"""A smaller gain could give infinite millivolts, which are invalid samples and the CPU's business."""


_BUFFERS = BufferPool()

_RECORDS_AT_ONCE = 32
"""Their samples for the check of the limb leads stay in the processor's cache."""


@dataclass(frozen=True)
class DeviceSettings:
    """What both halves of the preparation follow: settings of [`~hf_ecgtext.processing.EcgFeatureExtractor`]."""

    lead_names: tuple[str, ...]
    sampling_rate_hz: float
    num_samples: int
    crop: str
    pad: str
    return_sample_mask: bool
    missing_leads: str
    derive_limb_leads: bool
    unknown_leads: str
    check_limb_leads: str
    check_amplitude: str
    bandpass_hz: tuple[float | None, float | None] | None
    scaling: str
    eps: float


class PrepareOnCpu(Protocol):
    """The whole preparation on the CPU, for records that cannot be packed."""

    def __call__(self, records: Sequence[AnyEcg], positions: NDArray[np.float64], /) -> Mapping[str, NDArray[Any]]:
        """`ecg_values`, `lead_mask` and, where asked for, `sample_mask`, batch first."""


def pack_records(
    settings: DeviceSettings,
    prepare: PrepareOnCpu,
    records: Sequence[AnyEcg],
    positions: NDArray[np.float64] | None = None,
) -> dict[str, Tensor]:
    """The first half, on the CPU.

    Args:
        settings ([`DeviceSettings`]): Those of the model's processor.
        prepare ([`PrepareOnCpu`]): By the same settings.
        records (`Sequence[AnyEcg]`): The batch; only a [`StoredEcg`] of int16 samples can be packed.
        positions (`np.ndarray` of shape `(batch,)`, *optional*): Where windows start, as in a call of the settings.

    Returns:
        `dict[str, torch.Tensor]`, batch first: `lead_mask` (and `sample_mask`) as the extractor returns them; `ecg_adc`
        int16 of shape `(batch, num_leads, num_samples)`, in which padding is 0 mV and an absent lead is 0; `ecg_gain`
        float32 of shape `(batch, num_leads)`. Where some record has them: `ecg_baseline` like `ecg_gain`, the integer
        of 0 mV; `ecg_recorded` int32 of shape `(batch, 2)`, first sample and end of what is not padding; `ecg_derived`
        bool of shape `(batch, num_leads)`, the limb leads to compute from I and II. Where some records were not packed:
        `ecg_float_rows` float32 of shape `(k, num_leads, num_samples)` and `ecg_float_positions` of shape `(k,)`. If
        these are half of the batch or more, it is just what `prepare` returns.

    Raises:
        RecordError: If a recording cannot be used; the message names it and the fix.
        ValueError: If the positions are not one per record.
    """
    positions = window_positions(settings.crop, len(records), given=positions)
    batch = _Batch(len(records), len(settings.lead_names), settings.num_samples)
    if settings.bandpass_hz is None:
        groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for index, record in enumerate(records):
            if isinstance(record, StoredEcg) and record.samples.dtype == np.int16:
                groups[record.sampling_rate_hz, record.lead_names, record.num_samples].append(index)
        for indices in groups.values():
            _pack_alike(settings, records, indices, positions[indices], batch)

    others = np.flatnonzero(~batch.is_packed).tolist()
    if 2 * len(others) >= len(records):  # then all as float32 is no larger
        return {name: torch.from_numpy(array) for name, array in prepare(records, positions).items()}
    packed: dict[str, NDArray] = {
        "lead_mask": batch.lead_mask,
        "ecg_adc": batch.adc,
        "ecg_gain": batch.gain,
    }
    if batch.baseline.any():
        packed["ecg_baseline"] = batch.baseline
    if (batch.recorded != (0, settings.num_samples)).any():
        packed["ecg_recorded"] = batch.recorded
    if batch.is_derived.any():
        packed["ecg_derived"] = batch.is_derived
    if settings.return_sample_mask:
        time = np.arange(settings.num_samples)
        packed["sample_mask"] = (time >= batch.recorded[:, :1]) & (time < batch.recorded[:, 1:])
    if others:
        batch.adc[others] = 0
        features = prepare([records[index] for index in others], positions[others])
        packed["ecg_float_rows"], packed["ecg_float_positions"] = features["ecg_values"], np.array(others)
        batch.lead_mask[others] = features["lead_mask"]
        if settings.return_sample_mask:
            packed["sample_mask"][others] = features["sample_mask"]
    return {name: torch.from_numpy(array) for name, array in packed.items()}


def unpack_records(settings: DeviceSettings, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The second half, on the device of the tensors, which it never waits for.

    Args:
        settings ([`DeviceSettings`]): The same as in `pack_records`.
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
        lead_i, lead_ii = (values[:, settings.lead_names.index(lead)] for lead in ("I", "II"))
        for position, lead in enumerate(settings.lead_names):
            if lead in LIMB_LEAD_WEIGHTS and lead not in ("I", "II"):
                a, b = LIMB_LEAD_WEIGHTS[lead]
                computed = a * lead_i + b * lead_ii
                values[:, position] = torch.where(is_derived[:, position, None], computed, values[:, position])
    scale_on_device(values, unpacked["lead_mask"], unpacked.pop("ecg_recorded", None), settings.scaling, settings.eps)
    rows, positions = unpacked.pop("ecg_float_rows", None), unpacked.pop("ecg_float_positions", None)
    if rows is not None:
        values.index_copy_(0, positions, rows)
    return {"ecg_values": values, **unpacked}


def _as_float(adc: Tensor) -> Tensor:
    if adc.device.type != "cpu":
        return adc.float()
    return torch.from_numpy(_BUFFERS.empty(tuple(adc.shape), np.float32)).copy_(adc)


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
        self.adc = _BUFFERS.empty((size, num_leads, num_samples), np.int16)
        self.gain = np.ones((size, num_leads), dtype=np.float32)
        self.baseline = np.zeros((size, num_leads), dtype=np.float32)
        self.lead_mask = np.zeros((size, num_leads), dtype=bool)
        self.is_derived = np.zeros((size, num_leads), dtype=bool)
        self.recorded = np.tile(np.array([0, num_samples], dtype=np.int32), (size, 1))
        self.is_packed = np.zeros(size, dtype=bool)


def _pack_alike(
    settings: DeviceSettings,
    records: Sequence[Any],
    indices: list[int],
    positions: NDArray[np.float64],
    batch: _Batch,
) -> None:
    """Packs those of the records that can be; they have one rate, length and set of lead names."""
    first = records[indices[0]]
    num_recorded, num_samples = first.num_samples, settings.num_samples
    # A signal with more leads than samples looks transposed, which the CPU refuses, as it does an empty one.
    if num_recorded < max(1, len(first.lead_names)) or not _has_rate(first, settings.sampling_rate_hz):
        return
    plan = plan_leads(first.lead_names, settings.lead_names, settings.unknown_leads, first.record_id)
    row_of = {target: row for target, lead in enumerate(plan.target) if (row := plan.row_of(lead)) is not None}
    derived = _derived_leads(plan) if settings.derive_limb_leads else []
    is_complete = len(row_of) + len(derived) == len(plan.target)
    if not row_of or (settings.missing_leads == "raise" and not is_complete):
        return
    # Whether a derived lead is constant shows only in millivolts.
    if derived and (settings.scaling == "zscore_lead" or not {"I", "II"} <= set(plan.target)):
        return

    recorded = recorded_part(num_recorded, num_samples, settings.pad)
    length = recorded.stop - recorded.start
    starts = (crop_start(position, max(0, num_recorded - num_samples)) for position in positions)
    crops = [slice(start, start + length) for start in starts]
    targets, rows = list(row_of), list(row_of.values())
    moves_nothing = plan.source == plan.target
    gain = np.stack([records[index].gain_per_mv for index in indices])  # (records, leads of the source)
    baseline = np.stack([records[index].baseline for index in indices])
    exact = _are_exact(gain, baseline)
    leads = _LeadCheck(plan, first, len(indices)) if settings.check_limb_leads != "off" else None
    heard = [row for row, lead in enumerate(plan.source) if lead is not None]
    looks = np.empty((len(indices), len(heard), glance(first.samples).shape[-1]), dtype=np.int16)
    stride = max(1, length // 8)
    glances = np.empty((len(indices), len(first.lead_names), len(range(0, length, stride))), dtype=np.int16)
    absent = [target for target in range(len(plan.target)) if target not in row_of]
    packed: list[int] = []  # positions in `indices`
    for number in exact.nonzero()[0].tolist():
        # Each record is read once from memory; afterwards it is in the processor's cache.
        samples = records[indices[number]].samples
        if samples.min() == INVALID_SAMPLE:
            continue
        crop = crops[number]
        glances[number] = samples[:, crop.start : crop.stop : stride]
        looks[number] = glance(samples)[heard]
        if leads is not None:
            leads.read(number, samples)
        window = batch.adc[indices[number]]
        if absent:
            window[absent] = 0
        if num_recorded < num_samples:
            window[targets] = baseline[number, rows, None]  # 0 mV
        if moves_nothing:
            window[:, recorded] = samples[:, crop]
        else:
            for target, row in row_of.items():
                window[target, recorded] = samples[row, crop]
        packed.append(number)
    if not packed:
        return
    # What is not packed after all stays in the batch as it is: float rows take its place on the device.
    accepted = ~_are_constant(glances[packed][:, rows], packed, indices, records, rows, crops, settings.scaling)
    if settings.check_amplitude != "off":
        with np.errstate(over="ignore"):
            steps = looks.max(axis=-1).astype(np.int32) - looks.min(axis=-1)  # (records, leads)
            accepted &= ~needs_judgement(steps[packed] / np.abs(gain[packed][:, heard]))
    if leads is not None:
        accepted &= leads.are_right(packed, gain, baseline)
    chosen = np.array(packed)[accepted]
    members = np.array(indices)[chosen]
    batch.gain[members[:, None], targets] = gain[chosen[:, None], rows]
    batch.baseline[members[:, None], targets] = baseline[chosen[:, None], rows]
    batch.lead_mask[members[:, None], [*targets, *derived]] = True
    batch.is_derived[members[:, None], derived] = True
    batch.recorded[members] = recorded.start, recorded.stop
    batch.is_packed[members] = True


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


def _are_exact(gain: NDArray[np.float64], baseline: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Of each record, whether its millivolts are one float32 division away."""
    exact = (gain.astype(np.float32) == gain) & np.isfinite(gain) & (np.abs(gain) > _SMALLEST_GAIN_PER_MV)
    exact &= np.abs(baseline) <= np.iinfo(np.int16).max
    return exact.all(axis=-1)


class _LeadCheck:
    """Whether the extractor would have nothing to say about the leads, found out on few of the integers."""

    def __init__(self, plan: LeadPlan, first: StoredEcg, capacity: int):
        self._tests = quick_tests(plan.source, first.num_samples, first.sampling_rate_hz)
        sizes = [(len(test.rows), len(range(first.num_samples)[test.samples])) for test in self._tests]
        self._read = [np.empty((capacity, *size), dtype=np.int16) for size in sizes]

    def read(self, number: int, samples: NDArray[np.int16]) -> None:
        """Keeps what the tests need of one record, of shape `(num_rows, num_samples)`."""
        for test, kept in zip(self._tests, self._read, strict=True):
            kept[number] = samples[test.rows, test.samples]

    def are_right(
        self, numbers: list[int], gain: NDArray[np.float64], baseline: NDArray[np.int32]
    ) -> NDArray[np.bool_]:
        """Of some of the records, whether nothing speaks against their leads."""
        right = np.ones(len(numbers), dtype=bool)
        for first in range(0, len(numbers), _RECORDS_AT_ONCE):
            block = np.array(numbers[first : first + _RECORDS_AT_ONCE])
            for test, kept in zip(self._tests, self._read, strict=True):
                scale = gain[block[:, None], test.rows], baseline[block[:, None], test.rows]
                right[first : first + len(block)] &= test.passes(digital_to_millivolts(kept[block], *scale))
        return right


def _are_constant(
    glances: NDArray[np.int16],
    numbers: list[int],
    indices: list[int],
    records: Sequence[Any],
    rows: list[int],
    crops: list[slice],
    scaling: str,
) -> NDArray[np.bool_]:
    """Of each record, whether it is constant in all leads, or under `"zscore_lead"` in any: there the CPU speaks up.

    A glance at a few samples clears nearly every lead; only the others are read as a whole.
    """
    suspicious = (glances == glances[..., :1]).all(axis=-1)  # (records, leads)
    for position, lead in np.argwhere(suspicious):
        number = numbers[position]
        samples = records[indices[number]].samples[rows[lead], crops[number]]
        suspicious[position, lead] = (samples == samples[0]).all()
    return suspicious.any(axis=-1) if scaling == "zscore_lead" else suspicious.all(axis=-1)
