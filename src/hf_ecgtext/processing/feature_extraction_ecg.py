"""The feature extractor: recordings of any rate, length and lead set in, one array for the model out."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoFeatureExtractor, BatchFeature, FeatureExtractionMixin

from hf_ecgtext.data.plausibility import glance, judge_amplitude, needs_judgement
from hf_ecgtext.data.units import units_per_millivolt
from hf_ecgtext.errors import RecordError
from hf_ecgtext.hub import Shareable, is_own, loader_entry, write_loader
from hf_ecgtext.leads import STANDARD_LEADS
from hf_ecgtext.processing.device import DeviceSettings, pack_records, unpack_records
from hf_ecgtext.processing.inputs import Recording, collect_recordings
from hf_ecgtext.processing.lead_checks.check import check_leads
from hf_ecgtext.processing.lead_mapping import arrange_leads, plan_leads
from hf_ecgtext.processing.repair import repair_invalid_samples
from hf_ecgtext.processing.resampling import bandpass, resample, shortest_filterable_signal
from hf_ecgtext.processing.scaling import SCALINGS, scale_windows
from hf_ecgtext.processing.settings import (
    LARGEST_FILTER_ORDER,
    LARGEST_NUM_SAMPLES,
    check_band,
    check_choice,
    check_flag,
    check_lead_names,
    check_positive,
    check_positive_integer,
    reject_misspelt_settings,
    reject_unknown_settings,
    setting_names,
)
from hf_ecgtext.processing.windows import CROPS, PADS, crop_or_pad, window_positions

if TYPE_CHECKING:
    from torch import Tensor

    from hf_ecgtext.data.records import AnyEcg
    from hf_ecgtext.processing.inputs import EcgInput

logger = logging.getLogger(__name__)

_SAMPLES_AT_ONCE = 1_000_000
"""Records are processed in blocks of about this many samples (4 MB), which stay in the processor's cache."""


class EcgFeatureExtractor(Shareable, FeatureExtractionMixin):
    """Turns recordings into `ecg_values` and `lead_mask`; all settings are saved with the checkpoint.

    Steps, in this order: unit, checks of amplitude and limb leads, repair of NaN, leads by name, resampling,
    band-pass, crop or pad, scaling.

    Args:
        lead_names (`Sequence[str]`): Leads in the order of the model's input, any usual spelling. MERL's and DERI's
            published weights need `hf_ecgtext.leads.MIMIC_LEADS`.
        sampling_rate_hz (`float`): Rate of the model's input.
        duration_s (`float`): Length of the model's input.
        crop (`str`): Which part of a longer record is used: `"start"`, `"center"` or `"random"`, which is another part
            in every epoch of a training, and otherwise, as in evaluation, the centre.
        pad (`str`): Where a shorter record is filled with 0 mV: at its `"end"`, or on both sides with the record in the
            `"center"`.
        return_sample_mask (`bool`): Whether to return `sample_mask`, `False` at padding.
        nan_policy (`str`): What becomes of NaN and infinite samples: `"interpolate"` draws straight lines over gaps,
            lead by lead, `"zero"` puts 0 mV, `"raise"` refuses the record. A lead without any valid sample counts as
            absent.
        missing_leads (`str`): `"mask"` sets absent leads to 0 and `lead_mask` to `False`; `"raise"` refuses the record.
            A record with none of the leads is always refused.
        derive_limb_leads (`bool`): Whether absent III, aVR, aVL and aVF are computed from I and II.
        unknown_leads (`str`): `"raise"` at, or `"ignore"`, rows that are none of the twelve leads (such as Frank's vx).
        check_limb_leads (`str`): What becomes of limb leads that contradict each other by Einthoven's and Goldberger's
            identities: `"off"`, `"warn"`, `"raise"`, or `"fix"`, which repairs what is certain (an exchange, an
            inversion or an order of rows, where nothing else explains the signals) and warns of the rest. Electrodes
            that seem to be exchanged on the body are a warning only. See `docs/data/lead-checks.md`.
        check_amplitude (`str`): What becomes of a record whose amplitude no ECG in mV has, as in microvolts read as
            millivolts: `"raise"` refuses it and warns of doubtful ones, `"warn"` warns of both, `"off"` takes any. The
            thresholds are in `hf_ecgtext.data.plausibility`.
        bandpass_hz (`tuple` of two `float` or `None`, *optional*): Edges of a zero-phase Butterworth filter; `None`
            leaves a side open.
        bandpass_order (`int`): Order of one of the filter's two passes.
        scaling (`str`): `"none"` (mV), `"minmax_record"` (one minimum and maximum per record, padding included, as
            MERL), `"zscore_lead"` or `"zscore_record"` (mean and standard deviation of the recorded samples).
        eps (`float`): Added to the divisor of the scaling, mV.
        constant_policy (`str`): What becomes of a constant record, or of a constant lead under `"zscore_lead"`:
            `"zero"` puts 0 (scaling `"none"` keeps the value) and logs a warning, `"raise"` refuses the record.

    Raises:
        TypeError: If a setting is unknown or of the wrong type, also in a file.
        ValueError: If a setting's value is impossible.
    """

    def __init__(
        self,
        lead_names: Sequence[str] = STANDARD_LEADS,
        sampling_rate_hz: float = 500.0,
        duration_s: float = 10.0,
        crop: str = "start",
        pad: str = "end",
        return_sample_mask: bool = False,
        nan_policy: str = "interpolate",
        missing_leads: str = "mask",
        derive_limb_leads: bool = True,
        unknown_leads: str = "raise",
        check_limb_leads: str = "warn",
        check_amplitude: str = "raise",
        bandpass_hz: tuple[float | None, float | None] | None = None,
        bandpass_order: int = 4,
        scaling: str = "none",
        eps: float = 1e-8,  # MERL's downstream code
        constant_policy: str = "zero",
        **kwargs: Any,
    ):
        reject_unknown_settings(kwargs, setting_names(type(self)), type(self).__name__)
        super().__init__()
        self.lead_names = check_lead_names(lead_names)
        self.sampling_rate_hz = check_positive("sampling_rate_hz", sampling_rate_hz)
        self.duration_s = check_positive("duration_s", duration_s)
        if self.sampling_rate_hz * self.duration_s > LARGEST_NUM_SAMPLES:
            raise ValueError(
                f"duration_s={duration_s} at sampling_rate_hz={sampling_rate_hz} is more than {LARGEST_NUM_SAMPLES} "
                "samples in one window."
            )
        if self.num_samples < 1:
            raise ValueError(f"duration_s={duration_s} at sampling_rate_hz={sampling_rate_hz} holds no sample.")
        self.crop = check_choice("crop", crop, CROPS)
        self.pad = check_choice("pad", pad, PADS)
        self.return_sample_mask = check_flag("return_sample_mask", return_sample_mask)
        self.nan_policy = check_choice("nan_policy", nan_policy, ("interpolate", "zero", "raise"))
        self.missing_leads = check_choice("missing_leads", missing_leads, ("mask", "raise"))
        self.derive_limb_leads = check_flag("derive_limb_leads", derive_limb_leads)
        self.unknown_leads = check_choice("unknown_leads", unknown_leads, ("raise", "ignore"))
        self.check_limb_leads = check_choice("check_limb_leads", check_limb_leads, ("off", "warn", "raise", "fix"))
        self.check_amplitude = check_choice("check_amplitude", check_amplitude, ("off", "warn", "raise"))
        self.bandpass_hz = check_band(bandpass_hz, self.sampling_rate_hz)
        self.bandpass_order = check_positive_integer("bandpass_order", bandpass_order, LARGEST_FILTER_ORDER)
        self.scaling = check_choice("scaling", scaling, SCALINGS)
        self.eps = check_positive("eps", eps)
        self.constant_policy = check_choice("constant_policy", constant_policy, ("zero", "raise"))

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write the settings, and what transformers needs to find the class."""
        written = json.loads(self.to_json_string()) | self.auto_map()
        Path(json_file_path).write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def auto_map(self) -> dict[str, Any]:
        """The entry that names the class, for the file; empty for a class of another library."""
        return {"auto_map": {"AutoFeatureExtractor": loader_entry(type(self).__name__)}} if is_own(type(self)) else {}

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """As usual, with the module that `auto_map` names."""
        if is_own(type(self)):
            write_loader(save_directory)
        return super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Builds the extractor from saved settings; keyword arguments override them.

        Raises:
            TypeError: If a saved key is unknown, or a keyword argument is a misspelt setting.
        """
        known = setting_names(cls)
        reject_misspelt_settings(kwargs, known, cls.__name__)
        overrides = {name: kwargs.pop(name) for name in known if name in kwargs}
        return super().from_dict({**feature_extractor_dict, **overrides}, **kwargs)

    @property
    def num_samples(self) -> int:
        """Samples per lead of the model's input."""
        return round(self.sampling_rate_hz * self.duration_s)

    @property
    def model_input_names(self) -> list[str]:
        """Keys of the returned `BatchFeature`."""
        return ["ecg_values", "lead_mask", *(["sample_mask"] if self.return_sample_mask else [])]

    def __call__(
        self,
        ecg: EcgInput,
        *,
        sampling_rate_hz: float | None = None,
        lead_names: Sequence[str] | None = None,
        unit: str = "mV",
        record_ids: Sequence[str] | None = None,
        crop: str | None = None,
        generator: np.random.Generator | int | None = None,
        positions: NDArray[np.float64] | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Prepares one recording or a batch.

        Args:
            ecg: An `EcgRecord`, a list of them (rates, leads and lengths may differ), or floating-point arrays or torch
                tensors: `(num_leads, num_samples)`, `(batch, num_leads, num_samples)`, a list of the former, or
                `(num_samples,)` for a single lead.
            sampling_rate_hz (`float`, *optional*): Rate of the arrays; required for arrays, refused for `EcgRecord`s.
            lead_names (`Sequence[str]`, *optional*): One name per row of the arrays. May be left out for twelve rows,
                which are then read in the order of `STANDARD_LEADS`, whatever order the model wants.
            unit (`str`): Unit of the arrays: `"mV"`, `"uV"`, `"nV"` or `"V"`, in any usual spelling.
            record_ids (`Sequence[str]`, *optional*): Names of the arrays in messages.
            crop (`str`, *optional*): In place of the setting.
            generator (`np.random.Generator` or `int`, *optional*): Source or seed of `crop="random"`, which needs one.
                Each record draws one number, in the order of the batch. Where `"random"` is the setting, there is a
                random crop with a generator, and the centre without.
            positions (`np.ndarray` of shape `(batch,)`, *optional*): Where each record's window starts, in [0, 1) of
                the possible starts; in place of `crop` and `generator`.
            return_tensors (`str`, *optional*): `"pt"` for torch tensors; NumPy arrays otherwise.

        Returns:
            `BatchFeature`: `ecg_values` float32 of shape `(batch, num_leads, num_samples)`, `lead_mask` bool of shape
            `(batch, num_leads)` and, where asked for, `sample_mask` bool of shape `(batch, num_samples)`.

        Raises:
            RecordError: If a recording cannot be used; the message names it and the fix.
            TypeError: If `ecg` is none of the accepted types.
            ValueError: If an argument is missing, impossible, or contradicts another.
        """
        recordings = collect_recordings(ecg, sampling_rate_hz, lead_names, unit, record_ids)
        crop = None if crop is None else check_choice("crop", crop, CROPS)
        positions = window_positions(self.crop, len(recordings), crop, generator, positions)

        ecg_values = np.empty((len(recordings), len(self.lead_names), self.num_samples), dtype=np.float32)
        lead_mask = np.empty(ecg_values.shape[:2], dtype=bool)
        sample_mask = np.zeros((len(recordings), self.num_samples), dtype=bool)
        notices: dict[str, list[str]] = defaultdict(list)

        groups: dict[tuple[float, tuple[str, ...], int], list[int]] = defaultdict(list)
        for index, recording in enumerate(recordings):
            groups[recording.sampling_rate_hz, recording.lead_names, recording.signal.shape[1]].append(index)
        for indices in groups.values():
            block_size = max(1, _SAMPLES_AT_ONCE // recordings[indices[0]].signal.size)
            for first in range(0, len(indices), block_size):
                block = indices[first : first + block_size]
                members = [recordings[index] for index in block]
                windows, mask, recorded = self._process_alike(members, unit, positions[block], notices)
                ecg_values[block] = windows
                lead_mask[block] = mask
                sample_mask[block, recorded] = True

        for message, record_names in notices.items():
            logger.warning("%s %s", _listed(record_names), message)
        data = {"ecg_values": ecg_values, "lead_mask": lead_mask}
        if self.return_sample_mask:
            data["sample_mask"] = sample_mask
        return BatchFeature(data, tensor_type=return_tensors)

    def pack(self, records: Sequence[AnyEcg], positions: NDArray[np.float64] | None = None) -> dict[str, Tensor]:
        """Records for `unpack`: stored integers stay integers; see `hf_ecgtext.processing.device.pack_records`."""

        def prepare(others: Sequence[AnyEcg], starts: NDArray[np.float64]) -> BatchFeature:
            return self(list(others), positions=starts)

        return pack_records(self._device_settings, prepare, records, positions)

    def unpack(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """`ecg_values` and `lead_mask` from `pack`, on the device of its tensors, equal to those of a call.

        Millivolts and `"minmax_record"` are equal to the bit, the z-scores but for float32 rounding.
        """
        return unpack_records(self._device_settings, batch)

    @property
    def _device_settings(self) -> DeviceSettings:
        return DeviceSettings(**{field.name: getattr(self, field.name) for field in dataclasses.fields(DeviceSettings)})

    def _process_alike(
        self, recordings: list[Recording], unit: str, positions: NDArray[np.float64], notices: dict[str, list[str]]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], slice]:
        """Windows, lead mask and recorded samples of recordings with one rate, length and set of lead names."""
        rate, names = recordings[0].sampling_rate_hz, recordings[0].lead_names
        ids = [recording.record_id for recording in recordings]
        with np.errstate(over="ignore"):  # a value beyond float32 becomes infinite, and is then an invalid sample
            signals = np.stack([recording.signal for recording in recordings], dtype=np.float32, casting="same_kind")
            if (per_millivolt := units_per_millivolt(unit)) != 1:
                signals *= np.float32(1 / per_millivolt)

        plan = plan_leads(names, self.lead_names, self.unknown_leads, ids[0])
        if self.check_amplitude != "off":  # first: the other checks have thresholds in mV
            self._check_amplitude(signals, plan.source, ids, unit, notices)
        if self.check_limb_leads != "off":
            # Before the repair of samples: what fills a gap obeys no identity.
            check_leads(signals, plan.source, rate, ids, self.check_limb_leads, notices)
        has_signal = repair_invalid_samples(signals, self.nan_policy, ids, names)
        for record, row in np.argwhere(~has_signal):
            notices[f"have no valid sample in lead {names[row]}, which counts as absent."].append(ids[record])
        windows, lead_mask = arrange_leads(signals, has_signal, plan, self.derive_limb_leads)
        self._check_presence(lead_mask, has_signal, ids)

        windows = resample(windows, rate, self.sampling_rate_hz)
        if self.bandpass_hz is not None:
            windows = self._bandpass(windows, self.bandpass_hz, ids[0])
        windows, recorded = crop_or_pad(windows, self.num_samples, positions, self.pad)
        constant = scale_windows(windows, lead_mask, recorded, self.scaling, self.eps)
        if constant.any():
            self._report_constant(constant, ids, notices)
        return windows, lead_mask, recorded

    def _check_amplitude(
        self,
        signals: NDArray[np.float32],
        source: tuple[str | None, ...],
        ids: list[str],
        unit: str,
        notices: dict[str, list[str]],
    ) -> None:
        rows = [row for row, lead in enumerate(source) if lead is not None]
        if not rows:  # which is refused later
            return
        with np.errstate(invalid="ignore"):  # samples may be infinite
            ranges = np.ptp(glance(signals)[:, rows], axis=-1)
        for record in np.flatnonzero(needs_judgement(ranges)):
            doubt = judge_amplitude(signals[record, rows])
            if doubt is None:
                continue
            problem = doubt.problem if units_per_millivolt(unit) == 1 else f"read as {unit}, {doubt.problem}"
            if doubt.is_impossible and self.check_amplitude == "raise":
                raise RecordError(
                    ids[record],
                    f"{problem}.",
                    "Pass the right unit (an EcgRecord is in mV), or set check_amplitude='warn' if it is right.",
                )
            notices[f"may be in another unit: {problem}. Check the unit."].append(ids[record])

    def _check_presence(self, lead_mask: NDArray[np.bool_], has_signal: NDArray[np.bool_], ids: list[str]) -> None:
        if lead_mask.all():
            return
        for record in np.flatnonzero(~has_signal.any(axis=-1)):
            raise RecordError(ids[record], "all samples of all leads are NaN or infinite.", "Drop the record.")
        complete = lead_mask.all(axis=-1) if self.missing_leads == "raise" else lead_mask.any(axis=-1)
        for record in np.flatnonzero(~complete):
            missing = [lead for lead, present in zip(self.lead_names, lead_mask[record], strict=True) if not present]
            fix = "Drop the record" if len(missing) == len(self.lead_names) else 'Set missing_leads="mask"'
            raise RecordError(ids[record], f"missing leads {', '.join(missing)}.", f"{fix}, or correct its lead names.")

    def _bandpass(
        self, signals: NDArray[np.float32], band_hz: tuple[float | None, float | None], record_id: str
    ) -> NDArray[np.float32]:
        shortest = shortest_filterable_signal(band_hz, self.bandpass_order, self.sampling_rate_hz)
        if signals.shape[-1] < shortest:
            raise RecordError(
                record_id,
                f"{signals.shape[-1]} samples at {self.sampling_rate_hz:g} Hz are too few for the band-pass filter.",
                f"Drop records with fewer than {shortest} samples, or set bandpass_hz=None.",
            )
        return bandpass(signals, band_hz, self.bandpass_order, self.sampling_rate_hz)

    def _report_constant(self, constant: NDArray[np.bool_], ids: list[str], notices: dict[str, list[str]]) -> None:
        for record in np.flatnonzero(constant.any(axis=-1)):
            leads = [lead for lead, flat in zip(self.lead_names, constant[record], strict=True) if flat]
            what = f"lead {', '.join(leads)}" if self.scaling == "zscore_lead" else "the whole record"
            if self.constant_policy == "raise":
                raise RecordError(
                    ids[record],
                    f"{what} is constant: there is no signal in it to scale by {self.scaling}.",
                    'Drop the record, or set constant_policy="zero".',
                )
            outcome = "has no signal in it" if self.scaling == "none" else f"{self.scaling} sets to 0"
            notices[f"are constant in {what}, which {outcome}."].append(ids[record])


def _listed(record_names: list[str]) -> str:
    """`Records 'a', 'b', 'c' and 7 more`; windows of one recording are named once."""
    record_names = list(dict.fromkeys(record_names))
    shown = ", ".join(f"'{name}'" for name in record_names[:3])
    more = f" and {len(record_names) - 3} more" if len(record_names) > 3 else ""
    return f"Records {shown}{more}"


# EcgTextProcessor and AutoFeatureExtractor find the class by the name in the saved file, which takes one registration
# under any key; methods register it under their configs too, for checkpoints without that file.
AutoFeatureExtractor.register("hf_ecgtext", EcgFeatureExtractor, exist_ok=True)
