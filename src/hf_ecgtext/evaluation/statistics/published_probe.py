"""Linear probes as published: a linear layer and a fixed number of gradient steps, here on cached features.

The papers report the highest test AUROC of all epochs, which nobody can know before the test labels are read: an upper
bound. What the same training gives at the epoch that validation chooses, and at its last epoch, is kept beside it.

The layer is one matrix whose last column is the bias, and its gradient has a closed form:
`(sigmoid(logits) - targets)' [features, 1] / (batch * classes)`. So a step is two small matrix products and one pass of
Adam over the matrix. Steps equal those of `torch.nn.BCEWithLogitsLoss` and `torch.optim.Adam` or `AdamW`.

Source: docs/protocols.md, defects 1 and 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hf_ecgtext.evaluation.statistics.metrics import auroc, macro

_BETA_1, _BETA_2, _EPS = 0.9, 0.999, 1e-8  # defaults of torch, which no paper changes


@dataclass(frozen=True, kw_only=True)
class ProbeRecipe:
    """How a published probe is trained. Mixed precision, which the released code uses, is left out.

    Args:
        name (`str`): As in [`~hf_ecgtext.evaluation.protocols.EvaluationProtocol`].
        learning_rate (`float`): Before the schedule.
        weight_decay (`float`): Of weight and bias.
        decoupled (`bool`): AdamW instead of Adam with an L2 penalty.
        batch_size (`int`): Records per step; the last batch of an epoch may be smaller.
        num_epochs (`int`): Each in a new random order.
        drop_at (`int`, *optional*): Calls of the scheduler after which the learning rate is a tenth.
        called_each_epoch (`bool`): The scheduler is called after each epoch too, not only after each step.
        num_warmup_epochs (`int`, *optional*): Linear from 0, step by step, and then a half cosine down to 0.
        source (`str`): Where the numbers come from.
    """

    name: str
    learning_rate: float
    weight_decay: float
    batch_size: int
    num_epochs: int
    source: str
    decoupled: bool = False
    drop_at: int | None = None
    called_each_epoch: bool = False
    num_warmup_epochs: int | None = None

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of a step, counted from 0 over all epochs."""
        if self.num_warmup_epochs is not None:
            warmup, total = self.num_warmup_epochs * steps_per_epoch, self.num_epochs * steps_per_epoch
            if step < warmup:
                return self.learning_rate * (step + 1) / warmup
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
        calls = step + (step // steps_per_epoch if self.called_each_epoch else 0)
        if self.drop_at is not None and calls >= self.drop_at:
            return self.learning_rate * 0.1
        return self.learning_rate


MERL = ProbeRecipe(
    name="merl",
    learning_rate=1e-3,
    weight_decay=1e-4,
    batch_size=16,
    num_epochs=100,
    drop_at=40,
    called_each_epoch=True,
    source="MERL's finetune/main_single.py with the settings of its scripts",
)
DERI = ProbeRecipe(
    name="deri",
    learning_rate=0.01,
    weight_decay=1e-4,
    batch_size=16,
    num_epochs=100,
    drop_at=50,
    source="DERI's finetune/main_single.py",
)
DERI_PAPER = ProbeRecipe(
    name="deri_paper",
    learning_rate=0.01,
    weight_decay=0.01,  # unstated; the default of torch.optim.AdamW
    decoupled=True,
    batch_size=16,
    num_epochs=100,
    num_warmup_epochs=5,  # "5 warm-up" without unit, read as epochs
    source="DERI's supplement",
)
CMELT = ProbeRecipe(
    name="cmelt",
    learning_rate=1e-3,
    weight_decay=0.0,  # unstated; the default of torch.optim.Adam
    batch_size=128,
    num_epochs=200,
    source="C-MELT, table 10",
)

RECIPES = {recipe.name: recipe for recipe in (MERL, DERI, DERI_PAPER, CMELT)}

SELECTIONS = ("best test epoch", "best validation epoch", "last epoch")
UPPER_BOUND = "The epoch was chosen by AUROC on the test split itself: an upper bound, not an estimate."


@dataclass(frozen=True, eq=False)
class ChosenEpoch:
    """The answers of one epoch.

    Args:
        epoch (`int`): From 1.
        validation_scores, test_scores (`np.ndarray` of shape `(num_records, num_classes)`): float32 logits.
        validation_auroc, test_auroc (`float`): Macro.
    """

    epoch: int
    validation_scores: NDArray[np.float32]
    test_scores: NDArray[np.float32]
    validation_auroc: float
    test_auroc: float


class LinearAdam:
    """A linear layer with the mean binary cross-entropy of all classes, and its Adam.

    Args:
        dim, num_classes (`int`): Of the layer.
        recipe ([`ProbeRecipe`]): Decay, and Adam or AdamW.
        rng (`np.random.Generator`): Draws the first weights as `torch.nn.Linear` does: uniformly within
            `1 / sqrt(dim)`.
        dtype: float32, or float64 for tests.
    """

    def __init__(
        self, dim: int, num_classes: int, recipe: ProbeRecipe, rng: np.random.Generator, dtype: DTypeLike = np.float32
    ):
        bound = 1 / math.sqrt(dim)
        self.weights = rng.uniform(-bound, bound, (num_classes, dim + 1)).astype(dtype)  # the bias is the last column
        self.recipe = recipe
        self.num_steps = 0
        self._first = np.zeros_like(self.weights)
        self._second = np.zeros_like(self.weights)
        self._work = np.zeros_like(self.weights)

    def logits(self, features: NDArray[Any]) -> NDArray[Any]:
        """Of shape `(num_records, num_classes)`; features have a last column of ones."""
        logits: NDArray[Any] = features @ self.weights.T
        return logits

    def step(self, features: NDArray[Any], targets: NDArray[Any], learning_rate: float) -> None:
        """One step on a batch; features have a last column of ones."""
        self.num_steps += 1
        # In place, since this runs in every step: sigmoid(z) = 0.5 + 0.5 tanh(z / 2), less the targets.
        errors = np.tanh(self.logits(features) * 0.5)
        errors *= 0.5
        errors += 0.5
        errors -= targets
        errors /= targets.size
        gradient = errors.T @ features
        work, decay = self._work, self.recipe.weight_decay
        if decay and self.recipe.decoupled:
            self.weights *= 1 - learning_rate * decay
        elif decay:
            np.multiply(self.weights, decay, out=work)
            gradient += work
        self._first *= _BETA_1
        np.multiply(gradient, 1 - _BETA_1, out=work)
        self._first += work
        self._second *= _BETA_2
        np.multiply(gradient, gradient, out=work)
        work *= 1 - _BETA_2
        self._second += work
        np.sqrt(self._second, out=work)
        work /= math.sqrt(1 - _BETA_2**self.num_steps)
        work += _EPS
        np.divide(self._first, work, out=work)
        work *= learning_rate / (1 - _BETA_1**self.num_steps)
        self.weights -= work


def train_published_probe(
    recipe: ProbeRecipe,
    features: NDArray[np.float32],
    targets: NDArray[np.int8],
    validation: tuple[NDArray[np.float32], NDArray[np.int8]],
    test: tuple[NDArray[np.float32], NDArray[np.int8]],
    seed: int | tuple[int, ...],
) -> dict[str, ChosenEpoch]:
    """Train on features as they are, and keep three epochs by [`SELECTIONS`].

    Of epochs that are equally good, the earliest is taken.

    Args:
        recipe ([`ProbeRecipe`]): What to do.
        features (`np.ndarray` of shape `(num_records, dim)`): Of the training records.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        validation, test (`tuple` of `np.ndarray`): Features and targets.
        seed (`int` or `tuple[int, ...]`): Of the first weights and the order of the records.

    Raises:
        ValueError: If a feature is not finite, or no class has both a positive and a negative record in the validation
            or test split.
    """
    for split, values in (("training", features), ("validation", validation[0]), ("test", test[0])):
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            raise ValueError(f"Feature {column} of row {row} of the {split} split is {values[row, column]}.")
    rng = np.random.default_rng(seed)
    train, wanted = with_ones(features), targets.astype(np.float32)
    inputs = {"validation": with_ones(validation[0]), "test": with_ones(test[0])}
    answers = {"validation": validation[1], "test": test[1]}
    for split, positive in answers.items():
        if not (positive.any(axis=0) & ~positive.all(axis=0)).any():
            raise ValueError(
                f"No class has both a positive and a negative record in the {split} split, so that no epoch can be "
                "chosen on it. Use a larger split."
            )
    layer = LinearAdam(features.shape[1], targets.shape[1], recipe, rng)
    steps_per_epoch = math.ceil(len(train) / recipe.batch_size)
    chosen: dict[str, ChosenEpoch] = {}
    for epoch in range(1, recipe.num_epochs + 1):
        order = rng.permutation(len(train))
        shuffled, shuffled_targets = train[order], wanted[order]
        for start in range(0, len(train), recipe.batch_size):
            batch = slice(start, start + recipe.batch_size)
            rate = recipe.rate(layer.num_steps, steps_per_epoch)
            layer.step(shuffled[batch], shuffled_targets[batch], rate)
        scores = {split: layer.logits(inputs[split]) for split in inputs}
        aurocs = {split: macro_auroc(scores[split], answers[split]) for split in inputs}
        now = ChosenEpoch(epoch, scores["validation"], scores["test"], aurocs["validation"], aurocs["test"])
        if epoch == 1 or now.test_auroc > chosen["best test epoch"].test_auroc:
            chosen["best test epoch"] = now
        if epoch == 1 or now.validation_auroc > chosen["best validation epoch"].validation_auroc:
            chosen["best validation epoch"] = now
        chosen["last epoch"] = now
    return {selection: chosen[selection] for selection in SELECTIONS}


def with_ones(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features with a last column of ones, which the bias multiplies."""
    return np.concatenate([features, np.ones((len(features), 1), dtype=features.dtype)], axis=1)


def macro_auroc(scores: NDArray[np.float32], targets: NDArray[np.int8]) -> float:
    """`macro(auroc(scores, targets))`, several times faster where scores have no ties.

    Args:
        scores (`np.ndarray` of shape `(num_records, num_classes)`): Finite.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
    """
    columns, positive = np.ascontiguousarray(scores.T), targets.T.astype(bool)
    order = np.argsort(columns, axis=1)
    ascending = np.take_along_axis(columns, order, axis=1)
    has_ties = (ascending[:, 1:] == ascending[:, :-1]).any(axis=1)
    num_positives = positive.sum(axis=1)
    num_pairs = num_positives * (positive.shape[1] - num_positives)
    ranks = np.take_along_axis(positive, order, axis=1) @ np.arange(1.0, positive.shape[1] + 1)
    wins = ranks - num_positives * (num_positives + 1) / 2
    values = np.where(num_pairs > 0, wins / np.maximum(num_pairs, 1), np.nan)
    if has_ties.any():
        values[has_ties] = auroc(scores[:, has_ties], targets[:, has_ties])
    return float(macro(values))
