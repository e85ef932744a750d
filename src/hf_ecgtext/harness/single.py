"""One model, zero-shot, beside its random twins: what a training prints at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_ecgtext.data.ledger import TrainingLedger
from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.protocols import STRICT
from hf_ecgtext.evaluation.results import EvaluationResult
from hf_ecgtext.harness.entrants import Entrant, RandomEntrant, TrainedEntrant
from hf_ecgtext.harness.matrix import run_matrix
from hf_ecgtext.harness.plan import MatrixPlan


def evaluate_zero_shot(
    model: Any,
    processor: Any,
    data: EcgData,
    *,
    checkpoint: str,
    seed: int,
    folder: str | Path,
    ledger: TrainingLedger | None = None,
    allow_seen: bool = False,
    prompt_sets: Sequence[str] = ("plain",),
    num_random_encoders: int = 5,
    num_resamples: int = 1000,
    show_progress: bool = True,
) -> list[EvaluationResult]:
    """Answer every task of some data zero-shot by the strict protocol, and say how sure the answer is.

    Records without any label of a task stay out of it, as in the published splits.

    Args:
        model ([`~hf_ecgtext.methods.base.EcgTextModel`]): The trained model.
        processor ([`~hf_ecgtext.processing.EcgTextProcessor`]): Its processor.
        data ([`~hf_ecgtext.data.tasks.EcgData`]): Splits and tasks; the training split calibrates the random encoders.
        checkpoint (`str`): Name or path, for the result lines.
        seed (`int`): Seed of the training, for the result lines, and of the bootstrap.
        folder (`str` or `Path`): Where features and answers are kept; a second call does nothing twice.
        ledger ([`~hf_ecgtext.data.ledger.TrainingLedger`], *optional*): What the model was trained on, as
            [`~hf_ecgtext.data.ledger.load_ledger`] finds it; without one, the result lines say that it is unknown.
        allow_seen (`bool`): Evaluate on records that were trained on too, and note it in the result lines.
        prompt_sets (`Sequence[str]`): As for [`~hf_ecgtext.evaluation.prompts.sets.load_prompt_set`].
        num_random_encoders (`int`): Random twins, whose pooled results stand beside the model's.
        num_resamples (`int`): Bootstrap resamples.
        show_progress (`bool`): Show progress bars.

    Raises:
        ContaminationError: If records of the test split, or of their patients, were trained on.
        ValueError: If a task cannot be answered; the message says which and why.
    """
    if not data.tasks:
        raise ValueError(f"{data.name} has no labels that a task asks for. Evaluate on other data.")
    if num_random_encoders and data.train is None:
        raise ValueError(
            f"{data.name} has no train split here, on which random encoders are calibrated. Set num_random_encoders to "
            "0 (--random-encoders 0)."
        )
    was_training = model.training
    trained = TrainedEntrant(checkpoint, model, processor, ledger, seed=seed)
    entrants: list[Entrant] = [trained]
    if num_random_encoders:
        entrants.append(RandomEntrant(trained, range(num_random_encoders)))
    plan = MatrixPlan(
        entrants=entrants,
        data=[data],
        protocols=[STRICT],
        prompt_sets=prompt_sets,
        seed=seed,
        num_resamples=num_resamples,
        allow_seen=allow_seen,
    )
    cache = FeatureCache(Path(folder) / "features", show_progress=show_progress)
    outcome = run_matrix(plan, folder, cache, show_progress=show_progress)
    model.train(was_training)
    if outcome.failed:
        raise ValueError("; ".join(f"{title}: {problem}" for title, problem in outcome.failed.items()))
    return outcome.results
