"""What the ECG pipelines share."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.pipelines.inputs import EcgInput, prepare_ecg
from hf_ecgtext.pipelines.saving import SavedPipeline


class EcgPipeline(SavedPipeline):
    """A pipeline whose input is an ECG, prepared by the checkpoint's feature extractor."""

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor: bool | None = False
    _load_tokenizer = False
    feature_extractor: Any
    _model_methods: ClassVar[tuple[str, ...]] = ("get_ecg_features",)  # what the pipeline asks of its model

    def __init__(self, *args: Any, **kwargs: Any):
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
        self, sampling_rate_hz: float | None = None, lead_names: Any = None, unit: str | None = None, **unknown: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown:
            raise TypeError(f"{type(self).__name__} takes no argument {', '.join(sorted(unknown))}.")
        options = {"sampling_rate_hz": sampling_rate_hz, "lead_names": lead_names, "unit": unit}
        return {name: value for name, value in options.items() if value is not None}, {}, {}

    def __call__(self, ecg: EcgInput, **options: Any) -> Any:
        """Answers for one ECG or a list of them."""
        if isinstance(ecg, list | tuple) and not ecg:
            raise ValueError("ecg is an empty list: pass at least one recording.")
        return super().__call__(ecg, **options)

    def preprocess(self, ecg: EcgInput, **options: Any) -> dict[str, Any]:
        """One ECG to model input."""
        return prepare_ecg(self.feature_extractor, ecg, **options)
