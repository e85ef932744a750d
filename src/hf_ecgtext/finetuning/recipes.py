"""How long and how fast to fine-tune. Behind every number: where it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_SELECTED_BY_THE_LIBRARY = {
    *("output_dir", "seed", "eval_strategy", "save_strategy", "load_best_model_at_end", "metric_for_best_model"),
    *("greater_is_better", "text_cache", "max_steps"),
}


@dataclass(frozen=True, kw_only=True)
class FinetuningRecipe:
    """Settings of a fine-tuning; the epoch with the best validation score is kept.

    Args:
        name (`str`): Stands in every result line.
        training (`Mapping[str, Any]`): Fields of [`~hf_ecgtext.training.EcgTextTrainingArguments`].
        patience (`int`): Stop after so many epochs without a better validation score.
        classifier_dropout (`float`): See [`~hf_ecgtext.finetuning.classifier.EcgClassifierConfig`].
    """

    name: str
    training: Mapping[str, Any] = field(default_factory=dict)
    patience: int = 5
    classifier_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1 epoch, not {self.patience}.")

    def override(self, settings: Mapping[str, Any]) -> FinetuningRecipe:
        """A copy with some settings changed; its name says which.

        Args:
            settings (`Mapping[str, Any]`): `patience`, `classifier_dropout`, or `training.X`.

        Raises:
            ValueError: If there is no such setting, or fine-tuning decides it itself.
        """
        recipe, training, changed = self, dict(self.training), []
        for name, value in settings.items():
            group, _, rest = name.partition(".")
            if group == "training" and rest and rest not in _SELECTED_BY_THE_LIBRARY:
                training[rest] = value
                changed.append(f"{rest}={value}")
            elif name in ("patience", "classifier_dropout"):
                recipe = dataclasses.replace(recipe, **{name: value})
                changed.append(f"{name}={value}")
            else:
                raise ValueError(
                    f"Cannot set '{name}': write patience, classifier_dropout, or training. and a setting other than "
                    f"{', '.join(sorted(_SELECTED_BY_THE_LIBRARY))}."
                )
        return dataclasses.replace(recipe, name=" ".join([self.name, *sorted(changed)]), training=training)


_COMMON: dict[str, Any] = {"lr_scheduler_type": "cosine", "warmup_steps": 0.1}  # ours: a tenth of all steps

_RECIPES = (
    FinetuningRecipe(
        name="default",  # ours
        training={
            **_COMMON,
            "num_train_epochs": 30,
            "per_device_train_batch_size": 64,
            "learning_rate": 2e-4,
            "weight_decay": 1e-2,
        },
        patience=5,
    ),
    FinetuningRecipe(
        name="cmelt_dx",
        training={
            **_COMMON,
            "num_train_epochs": 100,  # paper
            "per_device_train_batch_size": 256,  # paper
            "learning_rate": 5e-5,  # paper
        },
        patience=100,  # the paper names no early stopping; the best epoch by validation is ours
    ),
    FinetuningRecipe(
        name="from_scratch",  # ours, for the supervised baseline
        training={
            **_COMMON,
            "num_train_epochs": 10,
            "per_device_train_batch_size": 32,
            "learning_rate": 2e-3,
            "weight_decay": 1e-2,
        },
        patience=4,
    ),
)


def finetuning_recipe_names() -> tuple[str, ...]:
    """The recipes that the library defines."""
    return tuple(recipe.name for recipe in _RECIPES)


def get_finetuning_recipe(name: str) -> FinetuningRecipe:
    """A recipe by name.

    Raises:
        ValueError: If there is no such recipe.
    """
    for recipe in _RECIPES:
        if recipe.name == name:
            return recipe
    raise ValueError(f"There is no fine-tuning recipe '{name}'; choose from {', '.join(finetuning_recipe_names())}.")
