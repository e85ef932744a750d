"""`pipeline("ecg-feature-extraction", model=...)`."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from hf_ecgtext.pipelines.base import EcgPipeline


class EcgFeatureExtractionPipeline(EcgPipeline):
    """Embeds ECGs.

    Call it with a path, a record, an array with `sampling_rate_hz`, or a list of them. `features="aligned"` gives the
    L2-normalised embedding in the space shared with texts, `"probe"` what the method's linear probe reads.

    Returns:
        `np.ndarray` of shape `(dim,)`, or a list of them for a list.
    """

    def _sanitize_parameters(  # type: ignore[override]
        self, features: Literal["aligned", "probe"] | None = None, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess, forward, postprocess = super()._sanitize_parameters(**options)
        if features is not None:
            if features not in ("aligned", "probe"):
                raise ValueError(f"features must be 'aligned' or 'probe', not '{features}'.")
            forward["features"] = features
        return preprocess, forward, postprocess

    def _forward(self, batch: dict[str, Any], features: str = "aligned") -> dict[str, Any]:
        embed = self.model.get_ecg_features if features == "aligned" else self.model.get_probe_features
        return {"features": embed(batch["ecg_values"], lead_mask=batch["lead_mask"])}

    def postprocess(self, output: dict[str, Any]) -> np.ndarray:
        """The features of one ECG."""
        return output["features"][0].float().numpy()
