"""What a training says while it runs: one bar for its steps, and one line for each log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_NOT_TERMS = {"epoch", "step", "grad_norm", "learning_rate", "total_flos"}


class TrainingProgress(TrainerCallback):
    """In place of the callbacks of transformers, which print dictionaries.

    Where the output is no terminal, there is no bar, and the lines alone tell how far the training is.

    Args:
        show_bar (`bool`): Show a bar in a terminal.
    """

    def __init__(self, show_bar: bool = True):
        self._show_bar = show_bar
        self._bar: tqdm | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin the bar where the training begins, or goes on."""
        if state.is_world_process_zero:
            self._bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc="Training",
                unit="step",
                dynamic_ncols=True,
                disable=None if self._show_bar else True,  # None: unless it is a terminal
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A step further."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print a line above the bar."""
        if state.is_world_process_zero and logs:
            tqdm.write(log_line(logs, state.global_step, state.max_steps))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def log_line(logs: Mapping[str, Any], step: int, num_steps: int) -> str:
    """A log of the Trainer in one line.

    >>> log_line({"loss": 3.278, "cma": 2.1, "uma": 1.178, "learning_rate": 0.002, "epoch": 0.25}, 5, 30)
    'step  5/30  epoch 0.25  loss 3.278 (cma 2.1, uma 1.178)  learning rate 0.002'
    """
    if "train_runtime" in logs:
        return (
            f"{logs['train_runtime']:.1f} s, {logs['train_samples_per_second']:.4g} records and "
            f"{logs['train_steps_per_second']:.4g} steps a second; mean loss {logs['train_loss']:.4g}"
        )
    parts = [f"step {step:>{len(str(num_steps))}}/{num_steps}" if num_steps else f"step {step}"]
    if "epoch" in logs:
        parts.append(f"epoch {logs['epoch']:.2f}")
    validation = {name.removeprefix("eval_"): value for name, value in logs.items() if name.startswith("eval_")}
    for title, values in (("", {name: value for name, value in logs.items() if name[:5] != "eval_"}),
                          ("validation ", validation)):  # fmt: skip
        terms = loss_terms(values)
        loss = terms.pop("loss", None)
        written = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
        if loss is not None:
            parts.append(f"{title}loss {loss:.4g}" + (f" ({written})" if written else ""))
        elif written:
            parts.append(f"{title}{written}")
    if "learning_rate" in logs:
        parts.append(f"learning rate {logs['learning_rate']:.3g}")
    if "grad_norm" in logs:
        parts.append(f"gradient norm {logs['grad_norm']:.3g}")
    return "  ".join(parts)


def loss_terms(logs: Mapping[str, Any]) -> dict[str, float]:
    """The loss and its named terms in a log of the Trainer, or what else is measured there."""
    return {
        name: value
        for name, value in logs.items()
        if name not in _NOT_TERMS and not name.endswith(("runtime", "per_second")) and isinstance(value, int | float)
    }
