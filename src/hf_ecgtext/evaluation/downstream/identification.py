"""Patient identification: whose recording is this, among one recording of each of many people?

A probe is compared with every recording of the gallery by the cosine of their features. The accuracy is the share of
probes to which their own person is the most similar, the top-k accuracy of those to which it is among the k most
similar. Where others are exactly as similar as the own person, the order
among them is by chance, and the accuracy is the expected one: features that are all the same give chance level, k over
the number of people, whatever the order of the files.

The intervals are from a bootstrap over people as probes; the gallery stays whole, since the accuracy depends on its
size.

Source: Oh et al. 2022 and C-MELT (PhysioNet 2021, "Id"), who report the accuracy without intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.data.sources.cinc2021.segments import gallery_and_probe
from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.errors import RecordError
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.encoders.frozen import EncoderRuns, FrozenEncoder
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.evaluation.scores import NOT_CHECKED
from hf_ecgtext.evaluation.statistics.intervals import PATIENT_BOOTSTRAP, percentile_interval, prediction_interval

RANKS = (1, 5)

_TIED = 1e-6  # cosines of float32 features that differ by less are the same
_PROBES_AT_ONCE = 512


def evaluate_identification(
    runs: EncoderRuns,
    data: EcgData,
    cache: FeatureCache,
    *,
    split: str = "test",
    feature: str = "probe",
    seed: int = 0,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    contamination: str = NOT_CHECKED,
    settings: Mapping[str, Any] | None = None,
    details: Mapping[str, Any] | None = None,
) -> list[EvaluationResult]:
    """Accuracy and top-5 accuracy of frozen features.

    Args:
        runs ([`EncoderRuns`]): One encoder, or several whose mean is the value.
        data ([`~hf_ecgtext.data.tasks.EcgData`]): From
            [`~hf_ecgtext.data.sources.cinc2021.segments.identification_data`].
        cache ([`FeatureCache`]): Computes features, or has them.
        split (`str`): `"test"` or `"validation"`.
        feature (`str`): `"probe"`, or `"ecg_embeds"` of encoders with a text tower.
        seed (`int`): Of the resamples.
        num_resamples (`int`): The same ones for all encoders; at least 1.
        confidence (`float`): Between 0 and 1.
        contamination (`str`): For the result lines.
        settings, details (`Mapping[str, Any]`, *optional*): More of them for the result lines.

    Raises:
        ValueError: If the data have no such pairs, the encoder no such features, or a setting is out of range.
        RecordError: If the features of a record are all 0, which have no direction.
    """
    if num_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"num_resamples {num_resamples} must be at least 1, and confidence {confidence} in (0, 1).")
    credits = np.stack([credit_of(member, data, cache, split, feature) for member in runs.members])
    num_persons = credits.shape[2]  # (members, ranks, persons)
    drawn = np.random.default_rng(seed).integers(num_persons, size=(num_resamples, num_persons))
    values = credits.mean(axis=2)  # (members, ranks)
    results = []
    for place, rank in enumerate(RANKS):
        resamples = credits[:, place][:, drawn].mean(axis=(0, 2))
        interval = percentile_interval(float(values[:, place].mean()), resamples, confidence)
        prediction = prediction_interval(values[:, place], resamples, confidence)
        results.append(
            EvaluationResult(
                task=data.name,
                protocol="strict",
                metric="accuracy" if rank == 1 else f"top_{rank}_accuracy",
                value=interval.value,
                confidence_interval=(interval.low, interval.high),
                interval_method=PATIENT_BOOTSTRAP,
                prediction_interval=None if prediction is None else (max(prediction[0], 0.0), min(prediction[1], 1.0)),
                run_values=tuple(values[:, place].tolist()) if len(runs.members) > 1 else (),
                num_records=2 * num_persons,
                num_positives={},
                per_class={},
                per_class_intervals={},
                seed=runs.seed,
                checkpoint=runs.name,
                data={"name": data.name, "revision": data.revision, "split": split},
                prompts=None,
                encoder=runs.kind,
                confidence=confidence,
                num_resamples=len(resamples),
                contamination=contamination,
                evaluation="identification",
                settings={"feature": feature, **(settings or {})},
                details={"num_persons": num_persons, "chance": min(1.0, rank / num_persons), **(details or {})},
                spread=float(values[:, place].std(ddof=1)) if len(runs.members) > 1 else None,
            )
        )
    return results


def credit_of(
    encoder: FrozenEncoder, data: EcgData, cache: FeatureCache, split: str, feature: str = "probe"
) -> NDArray[np.float64]:
    """Of one encoder: what each person counts for each of `RANKS`, of shape `(num_ranks, num_persons)`.

    Raises:
        ValueError, RecordError: As [`evaluate_identification`].
    """
    found = cache.features(encoder, data, split)
    if feature not in found.arrays:
        raise ValueError(f"{type(encoder).__name__} has no features '{feature}'; it has {', '.join(found.arrays)}.")
    gallery, probe = gallery_and_probe(data, split, found.record_ids)
    directions = _directions(np.asarray(found.arrays[feature], dtype=np.float64), found.record_ids)
    return rank_credit(directions[gallery], directions[probe], RANKS)


def rank_credit(gallery: NDArray[np.float64], probe: NDArray[np.float64], ranks: Sequence[int]) -> NDArray[np.float64]:
    """For each probe, the probability that its own person is among the most similar ones.

    Args:
        gallery, probe (`np.ndarray` of shape `(num_persons, dim)`): L2-normalised; row i of both is person i.
        ranks (`Sequence[int]`): How many of the most similar.

    Returns:
        `np.ndarray` of shape `(num_ranks, num_persons)`: 0 or 1, and between them where a tie goes across the rank.
    """
    credit = np.empty((len(ranks), len(probe)))
    for start in range(0, len(probe), _PROBES_AT_ONCE):
        rows = slice(start, start + _PROBES_AT_ONCE)
        cosines = probe[rows] @ gallery.T
        own = np.take_along_axis(cosines, np.arange(start, start + len(cosines))[:, None], axis=1)
        better = (cosines > own + _TIED).sum(axis=1)
        tied = (np.abs(cosines - own) <= _TIED).sum(axis=1)  # with the own person
        for place, rank in enumerate(ranks):
            credit[place, rows] = np.clip((rank - better) / tied, 0, 1)
    return credit


def _directions(features: NDArray[np.float64], record_ids: Sequence[str]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    if not lengths.all():
        raise RecordError(
            record_ids[int(np.argmin(lengths))],
            "its features are all 0, so that it is similar to nobody.",
            "Look at the recording, and at the weights.",
        )
    return features / lengths
