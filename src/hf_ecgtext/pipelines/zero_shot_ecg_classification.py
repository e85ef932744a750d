"""`pipeline("zero-shot-ecg-classification", model=...)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_ecgtext.methods.base import TextInputs
from hf_ecgtext.pipelines.base import EcgPipeline
from hf_ecgtext.pipelines.inputs import EcgInput

Scoring = Literal["independent", "exclusive"]


class ZeroShotEcgClassificationPipeline(EcgPipeline):
    """Scores free-text labels for ECGs, without training on them. Not a medical device.

    Call it with a path, a record, an array with `sampling_rate_hz`, or a list of them, and `candidate_labels`.

    * `scoring="independent"` (default, multi-label): each label's score is the cosine of ECG and label text, in
      [-1, 1]. It ranks ECGs for a label; it is no probability.
    * `scoring="exclusive"`: a softmax, over the labels given, of the logits that the model's loss scores pairs by. It
      sums to one.

    `template` wraps each label, such as `"12-lead ECG with {}"`. Labels are encoded once per call.

    Returns:
        `list[dict]` with `label` and `score`, best first; a list of such lists for a list of ECGs.
    """

    _model_methods = ("get_ecg_features", "get_text_features", "pair_logits")

    def __call__(  # type: ignore[override]
        self, ecg: EcgInput, candidate_labels: Sequence[str], template: str = "{}", **options: Any
    ) -> Any:
        """Score `candidate_labels` for one or several ECGs."""
        if isinstance(candidate_labels, str):
            candidate_labels = [label.strip() for label in candidate_labels.split(",")]
        labels = list(candidate_labels)
        if not labels or not all(isinstance(label, str) and label.strip() for label in labels):
            raise ValueError(f"candidate_labels must be one or more texts that are not empty, not {labels}.")
        if "{}" not in template:
            raise ValueError(f"template '{template}' has no {{}} for the label.")
        texts = [template.format(label) for label in labels]
        tokens = self.processor(text=texts, return_tensors="pt").to(self.device)
        with self.device_placement(), torch.no_grad():
            text_embeds = self.model.embed_text(self.model.encode_text(TextInputs(**tokens))[0])  # not normalised
        return super().__call__(ecg, candidate_labels=labels, text_embeds=text_embeds, **options)

    def _sanitize_parameters(  # type: ignore[override]
        self,
        candidate_labels: list[str] | None = None,
        text_embeds: Tensor | None = None,
        scoring: Scoring | None = None,
        top_k: int | None = None,
        **options: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess, forward, postprocess = super()._sanitize_parameters(**options)
        if scoring is not None:
            if scoring not in ("independent", "exclusive"):
                raise ValueError(f"scoring must be 'independent' or 'exclusive', not '{scoring}'.")
            forward["scoring"] = scoring
        if text_embeds is not None:
            forward["text_embeds"] = text_embeds
        if candidate_labels is not None:
            postprocess["candidate_labels"] = candidate_labels
        if top_k is not None:
            postprocess["top_k"] = top_k
        return preprocess, forward, postprocess

    def _forward(self, batch: dict[str, Any], text_embeds: Tensor, scoring: Scoring = "independent") -> dict[str, Any]:
        output = self.model.ecg_encoder(batch["ecg_values"], lead_mask=batch["lead_mask"])
        ecg_embeds = self.model.embed_ecg(output)
        if scoring == "exclusive":
            return {"scores": self.model.pair_logits(ecg_embeds, text_embeds).softmax(dim=-1)}
        cosines = F.normalize(ecg_embeds, dim=-1).float() @ F.normalize(text_embeds, dim=-1).float().T
        return {"scores": cosines}  # (batch, num_labels)

    def postprocess(
        self, output: dict[str, Any], candidate_labels: list[str], top_k: int | None = None
    ) -> list[dict[str, Any]]:
        """Labels and scores of one ECG, best first."""
        scores = output["scores"][0].float().tolist()
        ranked = sorted(zip(candidate_labels, scores, strict=True), key=lambda pair: pair[1], reverse=True)
        return [{"label": label, "score": score} for label, score in ranked[:top_k]]
