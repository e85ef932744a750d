"""`pipeline("zero-shot-ecg-classification", model=...)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from hf_ecgtext.encoders.base import unit_length
from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.methods.base import TextInputs
from hf_ecgtext.pipelines.base import EcgPipeline, EncodedEcg, average, positive_integer
from hf_ecgtext.pipelines.inputs import EcgInput
from hf_ecgtext.pipelines.windows import Windows

Scoring = Literal["independent", "exclusive"]
Answers = list[dict[str, Any]]


class ZeroShotEcgClassificationPipeline(EcgPipeline):
    """Scores free-text labels for ECGs, without training on them. Not a medical device.

    Call it with a path, a record, an array with `sampling_rate_hz`, or a list of them, and `candidate_labels`.
    [`EcgPipeline`] has the options that all ECG pipelines take.

    * `scoring="independent"` (default, multi-label): each label's score is the cosine of ECG and label text, in
      [-1, 1]. It ranks ECGs for a label; it is no probability.
    * `scoring="exclusive"`: a softmax, over the labels given, of the logits that the model's loss scores pairs by. It
      sums to one.

    `template` (or `hypothesis_template`) wraps each label, such as `"12-lead ECG with {}"`. Labels are encoded once per
    call. `top_k` keeps the best labels only.

    Returns:
        `list[dict]` with `label` and `score`, best first; a list of such lists for a list of ECGs. With
        `windows="each"`, in place of each list one of `{"start_s": float, "end_s": float, "answers": list[dict]}`.
    """

    _model_methods = ("get_ecg_features", "get_text_features", "pair_logits")

    def __call__(  # type: ignore[override]
        self,
        ecg: EcgInput,
        candidate_labels: Sequence[str],
        template: str | None = None,
        *,
        hypothesis_template: str | None = None,
        **options: Any,
    ) -> Any:
        """Score `candidate_labels` for one or several ECGs."""
        if isinstance(candidate_labels, str):
            candidate_labels = [label.strip() for label in candidate_labels.split(",")]
        labels = list(candidate_labels)
        if not labels or not all(isinstance(label, str) and label.strip() for label in labels):
            raise ValueError(f"candidate_labels must be one or more texts that are not empty, not {labels}.")
        if template is not None and hypothesis_template is not None:
            raise ValueError("template and hypothesis_template are two names of one argument: pass one of them.")
        wrapped = template or hypothesis_template or "{}"
        if "{}" not in wrapped:
            raise ValueError(f"template '{wrapped}' has no {{}} for the label.")
        tokens = self.processor(text=[wrapped.format(label) for label in labels], return_tensors="pt").to(self.device)
        with self.device_placement(), torch.no_grad():
            text_embeds = self.model.embed_text(self.model.encode_text(TextInputs(**tokens))[0])  # not normalised
        if not torch.isfinite(text_embeds).all():
            raise CheckpointError(
                f"The model '{self.model.name_or_path}' gives NaN or infinite values for the labels. Check its "
                "weights; in float16 they may overflow: load it with dtype=torch.float32."
            )
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
            postprocess["scoring"] = scoring
        if text_embeds is not None:
            postprocess["text_embeds"] = text_embeds
        if candidate_labels is not None:
            postprocess["candidate_labels"] = candidate_labels
        if top_k is not None:
            postprocess["top_k"] = positive_integer("top_k", top_k)
        return preprocess, forward, postprocess

    def _forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        output = self.model.ecg_encoder(batch["ecg_values"], lead_mask=batch["lead_mask"])
        return {"rows": self.model.embed_ecg(output).float()}  # not normalised

    def postprocess(
        self,
        encoded: EncodedEcg,
        candidate_labels: list[str],
        text_embeds: Tensor,
        scoring: Scoring = "independent",
        top_k: int | None = None,
        windows: Windows = "average",
    ) -> Answers | list[dict[str, Any]]:
        """Labels and scores of one ECG, best first, or of each of its windows."""
        embeds = encoded.rows if windows == "each" else _joined(encoded.rows)
        scores = self._scores(embeds, text_embeds, scoring)
        self._check_finite(scores, encoded.record_id)
        answers = [
            [
                {"label": label, "score": score}
                for label, score in sorted(zip(candidate_labels, row, strict=True), key=lambda pair: -pair[1])[:top_k]
            ]
            for row in scores.tolist()
        ]
        if windows != "each":
            return answers[0]
        return [
            {"start_s": start, "end_s": end, "answers": own}
            for own, (start, end) in zip(answers, encoded.times_s, strict=True)
        ]

    @torch.no_grad()
    def _scores(self, ecg_embeds: Tensor, text_embeds: Tensor, scoring: Scoring) -> Tensor:
        """float32 scores of shape `(num_ecgs, num_labels)`."""
        if scoring == "exclusive":
            return self.model.pair_logits(ecg_embeds.to(self.device), text_embeds).softmax(dim=-1).float().cpu()
        return unit_length(ecg_embeds) @ unit_length(text_embeds).to(ecg_embeds.device).T


def _joined(rows: Tensor) -> Tensor:
    """One embedding for the windows of a recording, `(1, dim)`.

    Its direction is that of evaluation: the mean of the windows' directions. Its length is the windows' mean length,
    which only the logits of methods that do not normalise depend on.
    """
    if len(rows) == 1:
        return rows
    return unit_length(average(unit_length(rows))) * rows.norm(dim=-1).mean()
