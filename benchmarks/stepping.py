"""What the training-step benchmarks share: our step, programs that take turns, and a table of ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.methods.base import EcgTextModel
from hf_ecgtext.training import TextCache
from hf_ecgtext.training.collator import EcgTextCollator

MAX_GRAD_NORM = 1.0  # default of transformers.TrainingArguments, hence of EcgTextTrainer

Step = Callable[[int], object]
"""One training step on the batch of that number."""


def our_step(
    model: EcgTextModel,
    processor: Any,
    batches: list[list[EcgRecord]],
    cache: TextCache | None,
    device: str,
    learning_rate: float,
    weight_decay: float,
) -> Step:
    """What `EcgTextTrainer` does in a step, with a live text tower or with cached outputs."""
    collator = EcgTextCollator(processor)
    if cache is not None:
        collator = EcgTextCollator(processor, cache.report_ids, cache.token_spans, ids_on_host=cache.on_host)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=weight_decay, fused=True)

    def step(number: int) -> Tensor:
        model.train()
        inputs = collator([{"ecg": record} for record in batches[number]])
        inputs = {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
        }
        if cache is not None:
            inputs = cache.lookup(inputs)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def measure(steps: Mapping[str, Step], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of every step; round 0 warms up and is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for number in range(rounds + 1):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            steps[name](number)
            if device == "cuda":
                torch.cuda.synchronize()
            if number > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def print_table(seconds: Mapping[str, list[float]], batch_size: int) -> None:
    """A Markdown table; ratios are against the first row."""
    baseline = next(iter(seconds.values()))
    print("| step | median s | best s | samples/s (best) | (a) / step, best | (a) / step, median |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, times in seconds.items():
        median, best = statistics.median(times), min(times)
        best_ratio, median_ratio = min(baseline) / best, statistics.median(baseline) / median
        rate = batch_size / best
        print(f"| {name} | {median:.3f} | {best:.3f} | {rate:.1f} | {best_ratio:.1f} | {median_ratio:.1f} |")
