"""The trainer of classifiers: labels instead of reports, and validation on whole recordings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from hf_ecgtext.data.ledger import TrainingLedger
from hf_ecgtext.finetuning.labelled_records import LabelCollator, LabelledSplit, Preparation
from hf_ecgtext.finetuning.prediction import predict_logits
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments
from hf_ecgtext.training.progress import TrainingProgress

SCORE = "score"
"""Name of the validation score in the Trainer's logs, behind `eval_`."""

Score = Callable[[NDArray[np.float32]], float]
"""From the logits of the validation records to the number that chooses the epoch; more is better."""


class FinetuningTrainer(EcgTextTrainer):
    """[`~hf_ecgtext.training.EcgTextTrainer`] for classifiers.

    Args:
        model ([`EcgForClassification`]): Also with adapters.
        args ([`EcgTextTrainingArguments`]): Training arguments.
        preparation ([`Preparation`]): From recordings to input. Its extractor is saved with every checkpoint.
        train, validation ([`LabelledSplit`]): What to learn, and what chooses the epoch.
        score (`Callable`): See [`Score`].
        patience (`int`): Stop after so many evaluations without a better score.
        ledger ([`~hf_ecgtext.data.ledger.TrainingLedger`]): What the splits hold.
    """

    control: TrainerControl

    def __init__(
        self,
        model: Any,
        args: EcgTextTrainingArguments,
        preparation: Preparation,
        train: LabelledSplit,
        validation: LabelledSplit,
        score: Score,
        patience: int,
        ledger: TrainingLedger,
    ):
        super().__init__(
            model=model,
            args=args,
            processor=preparation.extractor,
            train_dataset=train.rows,
            eval_dataset=validation.rows,
            ledger=ledger,
            data_collator=LabelCollator(preparation, train),
            callbacks=[StopWithoutProgress(patience)],
        )
        self.preparation = preparation
        self.validation = validation
        self.score = score
        if args.disable_tqdm:
            self.remove_callback(TrainingProgress)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The classifier's own loss."""
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """As usual; integers that travelled packed become `ecg_values` here, on the device."""
        return self.data_collator.unpack(Trainer._prepare_inputs(self, inputs))

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The score of the validation split; every process computes all of it."""
        logits = predict_logits(
            self.model,
            self.preparation,
            self.validation.rows,
            batch_size=self.args.per_device_eval_batch_size or 1,
            num_workers=self.args.dataloader_num_workers,
        )
        metrics = {f"{metric_key_prefix}_{SCORE}": self.score(logits)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class StopWithoutProgress(TrainerCallback):
    """Early stopping that counts in the logs, which checkpoints keep, so that a resumed run stops where it should.

    That of transformers counts anew after a resume, unless the states of all callbacks are restored.

    Args:
        patience (`int`): Evaluations without a better score.
    """

    def __init__(self, patience: int):
        self.patience = patience

    def is_exhausted(self, state: TrainerState) -> bool:
        """Whether the best score is so many evaluations old."""
        scores = validation_scores(state)
        return bool(scores) and len(scores) - 1 - int(np.argmax(scores)) >= self.patience

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop when it is time."""
        if self.is_exhausted(state):
            control.should_training_stop = True


def validation_scores(state: TrainerState) -> list[float]:
    """Of every epoch so far."""
    return [entry[f"eval_{SCORE}"] for entry in state.log_history if f"eval_{SCORE}" in entry]
