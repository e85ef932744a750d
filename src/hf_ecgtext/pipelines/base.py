"""What the ECG pipelines share: recordings in, windows in batches through the model, one answer per recording out."""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_ecgtext.errors import CheckpointError, RecordError
from hf_ecgtext.pipelines.inputs import EcgInput, LeadNames, recordings_in, same_rate
from hf_ecgtext.pipelines.saving import SavedPipeline
from hf_ecgtext.pipelines.windows import WINDOWS, Part, WindowBatch, WindowBatches, Windows
from hf_ecgtext.processing.settings import check_choice
from hf_ecgtext.processing.windows import mean_over_windows

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]

_LENGTH_OF_A_BAR = 50
"""Fewer recordings, or windows of one, are done before a progress bar could be read."""


class SkippedRecording(NamedTuple):
    """In the place of an answer, where `on_error="skip"`.

    Args:
        record (`str`): Path or id of the recording.
        error (`Exception`): Why there is no answer.
    """

    record: str
    error: Exception


class EncodedEcg(NamedTuple):
    """What the model gave for a recording.

    Args:
        record_id (`str`): Of the recording.
        rows (`torch.Tensor` of shape `(num_windows, dim)`): float32, one per window.
        times_s (`list[tuple[float, float]]`): Start and end of each window.
    """

    record_id: str
    rows: Tensor
    times_s: list[tuple[float, float]]


class EcgPipeline(SavedPipeline):
    """A pipeline whose input is an ECG, prepared by the checkpoint's feature extractor.

    Every pipeline takes, at its making or in a call:

    * `sampling_rate_hz` (or `sampling_rate`), `lead_names` and `unit` of arrays and data frames. Recordings from files
      bring their own; `lead_names` then renames leads, as in `{"MLII": "II"}`, and `unknown_leads="ignore"` leaves out
      rows that are none of the twelve.
    * `windows`: what becomes of a recording longer than the model reads. `"average"` (default): embeddings of windows
      over the whole recording are averaged, as in evaluation. `"each"`: each window is answered, with its `start_s` and
      `end_s`. `"first"`: only the beginning is read.
    * `on_error`: `"raise"` (default) at a recording that cannot be used, or `"skip"` it: a [`SkippedRecording`] takes
      the place of its answer.
    * `batch_size`: windows per forward pass, over several recordings. Without it each recording is encoded by itself.
    * `num_workers`: 1 prepares recordings in a process beside.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor: bool | None = False
    _load_tokenizer = False
    feature_extractor: Any
    _model_methods: ClassVar[tuple[str, ...]] = ("get_ecg_features",)  # what the pipeline asks of its model

    def __init__(self, *args: Any, **kwargs: Any):
        self._said_padded = False
        super().__init__(*args, **kwargs)
        if self.feature_extractor is None and self.processor is not None:
            self.feature_extractor = self.processor.feature_extractor
        if self.processor is not None and hasattr(self.model, "check_tokenizer"):
            self.model.check_tokenizer(self.processor.tokenizer)
        self.model.eval()  # one made by hand may still train: its BatchNorm would learn from what it is asked
        for method in self._model_methods:
            if not hasattr(self.model, method):
                raise CheckpointError(
                    f"'{self.model.name_or_path}' holds a {type(self.model).__name__} without {method}: it cannot "
                    f"serve {type(self).__name__}. Name a model of hf_ecgtext.methods, trained on ECGs and texts."
                )

    def _sanitize_parameters(
        self,
        sampling_rate_hz: float | None = None,
        sampling_rate: float | None = None,
        lead_names: LeadNames | None = None,
        unit: str | None = None,
        unknown_leads: str | None = None,
        windows: Windows | None = None,
        on_error: OnError | None = None,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown:
            raise TypeError(f"{type(self).__name__} takes no argument {', '.join(sorted(unknown))}.")
        preprocess = {
            "sampling_rate_hz": same_rate(sampling_rate_hz, sampling_rate),
            "lead_names": lead_names,
            "unit": unit,
            "unknown_leads": unknown_leads,
            "windows": None if windows is None else check_choice("windows", windows, WINDOWS),
        }
        postprocess: dict[str, Any] = {} if windows is None else {"windows": windows}
        if on_error is not None:
            postprocess["on_error"] = check_choice("on_error", on_error, ("raise", "skip"))
        return {name: value for name, value in preprocess.items() if value is not None}, {}, postprocess

    def __call__(
        self, ecg: EcgInput, *, batch_size: int | None = None, num_workers: int | None = None, **options: Any
    ) -> Any:
        """The answer for one ECG, a list of them for several, or an iterator for a dataset or an iterator."""
        own = (self._preprocess_params, self._forward_params, self._postprocess_params)
        given = self._sanitize_parameters(**options)
        preprocess, forward, postprocess = ({**mine, **other} for mine, other in zip(own, given, strict=True))
        items, kind = recordings_in(ecg)
        size = self._batch_size if batch_size is None else batch_size
        batches: Any = WindowBatches(
            items, self.feature_extractor, None if size is None else positive_integer("batch_size", size), **preprocess
        )
        if self._num_workers if num_workers is None else num_workers:
            batches = DataLoader(batches, batch_size=None, num_workers=1)  # more would read everything several times
        total = len(items) if kind == "list" else None  # type: ignore[arg-type]
        answers = self._answers(batches, forward, show_progress=kind != "stream", total=total, **postprocess)
        if kind == "stream":
            return answers
        if kind == "list":
            return list(answers)
        (answer,) = answers
        return answer

    def preprocess(self, ecg: EcgInput, **options: Any) -> dict[str, Tensor]:
        """All windows of one ECG as model input."""
        batches = list(WindowBatches([ecg], self.feature_extractor, **options))
        for batch in batches:
            for part in batch.parts:
                if part.error is not None:
                    raise part.error
        return {name: torch.cat([batch.inputs[name] for batch in batches]) for name in batches[0].inputs}

    def _answers(
        self,
        batches: Iterable[WindowBatch],
        forward: dict[str, Any],
        *,
        show_progress: bool,
        total: int | None,
        on_error: OnError = "raise",
        **postprocess: Any,
    ) -> Iterator[Any]:
        """One answer, or what is in its place, for each recording, as soon as all its windows are encoded."""
        bar = None
        rows: list[Tensor] = []
        times_s: list[tuple[float, float]] = []
        for batch in batches:
            encoded = self.forward(batch.inputs, **forward)["rows"] if batch.inputs else torch.empty(0)
            start = 0
            for part in batch.parts:
                if bar is None:
                    bar = _bar(part, total) if show_progress else nullcontext()
                rows.append(encoded[start : start + len(part.times_s)])
                times_s += part.times_s
                start += len(part.times_s)
                if isinstance(bar, tqdm):
                    bar.update(part.is_last if total else len(part.times_s))
                if not part.is_last:
                    continue
                answer = self._answer(part, rows, times_s, postprocess)
                rows, times_s = [], []
                if isinstance(answer, SkippedRecording) and on_error == "raise":
                    raise answer.error
                yield answer
        if isinstance(bar, tqdm):
            bar.close()

    def _answer(
        self, part: Part, rows: list[Tensor], times_s: list[tuple[float, float]], postprocess: dict[str, Any]
    ) -> Any:
        if part.error is not None:
            return SkippedRecording(part.record_id, part.error)
        if part.is_padded and not self._said_padded:
            self._said_padded = True
            logger.warning(
                "Record '%s' lasts %g s, but the model reads %g s: it is padded, as are other short recordings.",
                part.record_id,
                times_s[0][1],
                self.feature_extractor.duration_s,
            )
        try:
            encoded = EncodedEcg(part.record_id, torch.cat([some for some in rows if len(some)]), times_s)
            self._check_finite(encoded.rows, part.record_id)
            return self.postprocess(encoded, **postprocess)
        except RecordError as error:
            return SkippedRecording(part.record_id, error)

    def _check_finite(self, values: Tensor, record_id: str) -> None:
        """NaN is no answer, and compares as neither better nor worse than any other score."""
        if not torch.isfinite(values).all():
            raise RecordError(
                record_id,
                f"the model '{self.model.name_or_path}' gives NaN or infinite values for it.",
                "Check the weights of the model; one in float16 may overflow: load it with dtype=torch.float32.",
            )


def average(rows: Tensor) -> Tensor:
    """The mean over windows, `(1, dim)`, as evaluation takes it; one window stays as it is.

    Args:
        rows (`torch.Tensor` of shape `(num_windows, dim)`): One per window.
    """
    return mean_over_windows(rows, torch.zeros(len(rows), dtype=torch.int64, device=rows.device), 1)


def positive_integer(name: str, value: Any) -> int:
    """An argument that counts something.

    Raises:
        ValueError: If it is no integer, or not positive.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ValueError(f"{name} must be a positive integer, not {value!r}.")
    return number


def _bar(part: Part, total: int | None) -> Any:
    """A bar in a terminal where there is much to do: of recordings, or of the windows of one recording."""
    length = total or part.num_windows
    return tqdm(
        total=length,
        desc="Recordings" if total else "Windows",
        unit="recording" if total else "window",
        dynamic_ncols=True,
        leave=False,
        disable=None if length >= _LENGTH_OF_A_BAR else True,  # None: unless it is a terminal
    )
