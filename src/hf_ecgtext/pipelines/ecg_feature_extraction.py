"""`pipeline("ecg-feature-extraction", model=...)`."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from hf_ecgtext.encoders.base import unit_length
from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.pipelines.base import EcgPipeline, EncodedEcg, average
from hf_ecgtext.pipelines.windows import Windows

Features = Literal["aligned", "probe"]


class EcgFeatureExtractionPipeline(EcgPipeline):
    """Embeds ECGs, by an ECG-text model or by an ECG encoder alone.

    Call it with a path, a record, an array with `sampling_rate_hz`, or a list of them. `features="aligned"` gives the
    L2-normalised embedding in the space shared with texts (of an encoder alone, its L2-normalised pooled output),
    `"probe"` what the method's linear probe reads. [`EcgPipeline`] has the options that all ECG pipelines take.

    Returns:
        `np.ndarray` of shape `(dim,)`, or a list of them for a list. With `windows="each"`, in place of each array a
        list of `{"start_s": float, "end_s": float, "features": np.ndarray}`.
    """

    _load_processor = False  # an encoder has none
    _load_feature_extractor = None  # None, unlike True, lets it come with a processor that is passed

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.feature_extractor is None:
            raise CheckpointError(
                f"'{self.model.name_or_path}' comes without a feature extractor that can be loaded; "
                "AutoFeatureExtractor.from_pretrained says why. Save one beside the model, or pass feature_extractor=."
            )

    def _sanitize_parameters(  # type: ignore[override]
        self, features: Features | None = None, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess, forward, postprocess = super()._sanitize_parameters(**options)
        if features is not None:
            if features not in ("aligned", "probe"):
                raise ValueError(f"features must be 'aligned' or 'probe', not '{features}'.")
            forward["features"] = postprocess["features"] = features
        return preprocess, forward, postprocess

    def _forward(self, batch: dict[str, Any], features: Features = "aligned") -> dict[str, Any]:
        embed = self.model.get_ecg_features if features == "aligned" else self.model.get_probe_features
        return {"rows": embed(batch["ecg_values"], lead_mask=batch["lead_mask"]).float()}

    def postprocess(
        self, encoded: EncodedEcg, features: Features = "aligned", windows: Windows = "average"
    ) -> np.ndarray | list[dict[str, Any]]:
        """The features of one ECG, or of each of its windows."""
        if windows == "each":
            return [
                {"start_s": start, "end_s": end, "features": row}
                for row, (start, end) in zip(encoded.rows.numpy(), encoded.times_s, strict=True)
            ]
        mean = average(encoded.rows)
        return (unit_length(mean) if features == "aligned" and len(encoded.rows) > 1 else mean)[0].numpy()
