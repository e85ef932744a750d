"""What the ECG pipelines share."""

from __future__ import annotations

from typing import Any

from transformers import Pipeline

from hf_ecgtext.pipelines.inputs import EcgInput, prepare_ecg


class EcgPipeline(Pipeline):
    """A pipeline whose input is an ECG, prepared by the checkpoint's processor."""

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def _sanitize_parameters(
        self, sampling_rate_hz: float | None = None, lead_names: Any = None, unit: str | None = None, **unknown: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown:
            raise TypeError(f"{type(self).__name__} takes no argument {', '.join(sorted(unknown))}.")
        options = {"sampling_rate_hz": sampling_rate_hz, "lead_names": lead_names, "unit": unit}
        return {name: value for name, value in options.items() if value is not None}, {}, {}

    def preprocess(self, ecg: EcgInput, **options: Any) -> dict[str, Any]:
        """One ECG to model input."""
        return prepare_ecg(self.processor, ecg, **options)
