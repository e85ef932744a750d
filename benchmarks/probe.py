"""Cost of the 18-cell probe table (six tasks, three fractions): the encoder in every epoch against cached features.

* (a) as published (MERL's `finetune/main_single.py`): in each of 100 epochs the frozen encoder reads the training
  subset in batches of 16 in `train()` mode, with the linear layer's gradient and Adam, and the validation and test
  split in `eval()` mode. Counted in its favour: reading and preparing recordings is left out (it does so in every
  epoch), validation and test in batches of 64, no metrics;
* (b) ours: the encoder reads every record of a task's splits once, in batches of 64 in `eval()` mode; then the strict
  probe: stratified draws (five of 1 %, five of 10 %, one of 100 %), ten penalties each, all classes converged,
  scores and AUROC. Counted against it: the four tasks of PTB-XL share recordings, but each pays for its forward pass;
* (c) the published recipe on cached features, with the AUROC of both splits in every epoch.

Seconds per record are measured in turns with MERL's ResNet18 (12 leads, 10 s at 500 Hz, random weights and signals),
and scaled to the published split sizes by

    (a) = sum over tasks and fractions of 100 * (fraction * train * s_train + (validation + test) * s_eval)
    (b) = sum over tasks of (train + validation + test) * s_eval + seconds of its probes
    (c) = the same with its probes

Probes run at full size on random features of 512 dimensions; with `--small` at a tenth of the records, and their
seconds are multiplied by ten. Everything runs in one process with the same threads, on the CPU: on a GPU the encoder is
faster and the probes are not, so that the ratio is another one.

    python benchmarks/probe.py --small
    OMP_NUM_THREADS=2 python benchmarks/probe.py
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoModel

from hf_ecgtext.data.subsets import published_subset, stratified_subsets
from hf_ecgtext.evaluation.statistics.logistic_regression import L2_PENALTIES, fit_probe
from hf_ecgtext.evaluation.statistics.metrics import auroc, macro
from hf_ecgtext.evaluation.statistics.published_probe import MERL, train_published_probe
from hf_ecgtext.methods import get_recipe

FRACTIONS = (0.01, 0.1, 1.0)
NUM_DRAWS = 5
EVAL_BATCH = 64
LEAST_RATIO = 50.0


class Task(NamedTuple):
    """Published split sizes."""

    name: str
    num_classes: int
    train: int
    validation: int
    test: int

    @property
    def total(self) -> int:
        """Records of all splits."""
        return self.train + self.validation + self.test


TASKS = (
    Task("ptbxl_super", 5, 17084, 2146, 2158),
    Task("ptbxl_sub", 23, 17084, 2146, 2158),
    Task("ptbxl_form", 19, 7197, 901, 880),
    Task("ptbxl_rhythm", 12, 16832, 2100, 2098),
    Task("cpsc2018", 9, 4950, 551, 1376),
    Task("csn", 38, 16546, 1860, 4620),
)


def encoder_seconds(rounds: int) -> tuple[float, float]:
    """Median seconds per record of a published training step and of a forward pass in `eval()` mode, in turns."""
    config = get_recipe("merl", "paper").config.ecg_config
    encoder: Any = AutoModel.from_config(config).requires_grad_(False)
    layer = nn.Linear(config.hidden_size, 23)
    optimizer = torch.optim.Adam(layer.parameters(), lr=MERL.learning_rate, weight_decay=MERL.weight_decay)
    generator = torch.Generator().manual_seed(0)
    signals = torch.randn(EVAL_BATCH, config.num_leads, config.num_samples, generator=generator)
    targets = torch.randint(0, 2, (MERL.batch_size, 23), generator=generator).float()

    def train_step() -> None:
        encoder.train()
        optimizer.zero_grad()
        logits = layer(encoder(signals[: MERL.batch_size]).pooler_output)
        nn.functional.binary_cross_entropy_with_logits(logits, targets).backward()
        optimizer.step()

    def eval_pass() -> None:
        encoder.eval()
        with torch.no_grad():
            encoder(signals)

    seconds: dict[str, list[float]] = {"train": [], "eval": []}
    for number in range(rounds + 1):
        train_s, eval_s = seconds_of(train_step), seconds_of(eval_pass)
        if number > 0:  # the first round warms up
            seconds["train"].append(train_s / MERL.batch_size)
            seconds["eval"].append(eval_s / EVAL_BATCH)
    return statistics.median(seconds["train"]), statistics.median(seconds["eval"])


def seconds_of(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class Sample(NamedTuple):
    """Features, targets and patients of one split."""

    features: NDArray[np.float32]
    targets: NDArray[np.int8]
    patients: list[str]


def sample(task: Task, shrink: int, dim: int = 512) -> dict[str, Sample]:
    """Correlated features, and classes with 40 % to 0.2 % positive records that they partly explain."""
    rng = np.random.default_rng(0)
    mixing = np.geomspace(3, 0.03, dim)[:, None] * np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    answer = rng.normal(size=(dim, task.num_classes))
    prevalence = np.geomspace(0.4, 0.002, task.num_classes)
    splits = {}
    for split in ("train", "validation", "test"):
        size = getattr(task, split) // shrink
        features = rng.normal(size=(size, dim)) @ mixing
        z = features @ answer
        z = z / z.std(axis=0) + rng.logistic(size=z.shape)
        ranks = (-z).argsort(axis=0).argsort(axis=0)
        targets = (ranks < np.maximum(2, prevalence * size)).astype(np.int8)
        patients = [str(patient) for patient in rng.integers(max(1, int(0.87 * size)), size=size)]
        splits[split] = Sample(features.astype(np.float32), targets, patients)
    return splits


def strict_cell(splits: dict[str, Sample], fraction: float) -> None:
    """One cell of the strict table."""
    train, validation, test = splits.values()
    draws = [np.arange(len(train.features))]
    if fraction < 1:
        labels = [str(column) for column in range(train.targets.shape[1])]
        subsets = stratified_subsets(train.targets, train.patients, labels, fraction, draws=NUM_DRAWS)
        draws = [subset.indices for subset in subsets]
    for rows in draws:
        probe = fit_probe(train.features[rows], train.targets[rows], validation.features, validation.targets)
        macro(auroc(probe.scores(test.features), test.targets))


def published_cell(splits: dict[str, Sample], fraction: float) -> None:
    """One cell of the published table, on cached features."""
    train, validation, test = splits.values()
    rows = np.arange(len(train.features)) if fraction == 1 else published_subset(len(train.features), fraction)
    train_published_probe(MERL, train.features[rows], train.targets[rows], validation[:2], test[:2], seed=0)


def main() -> None:
    """Measure, and print quantities, formula and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="probes at a tenth of the records, times ten")
    parser.add_argument("--rounds", type=int, default=3, help="timed passes of the encoder (default: %(default)s)")
    arguments = parser.parse_args()
    shrink = 10 if arguments.small else 1
    print(f"torch {torch.__version__}, numpy {np.__version__}, {torch.get_num_threads()} threads, CPU")
    train_s, eval_s = encoder_seconds(arguments.rounds)
    print(f"s_train = {1000 * train_s:.2f} ms per record (batch {MERL.batch_size}, train mode, step of the layer)")
    print(f"s_eval  = {1000 * eval_s:.2f} ms per record (batch {EVAL_BATCH}, eval mode)")
    size = f"records / {shrink}, seconds x {shrink}" if shrink > 1 else "full size"
    print(f"Probes: {size}; {NUM_DRAWS} draws below 100 %, {len(L2_PENALTIES)} penalties.\n")
    print("| task | (a) as published s | encoder once s | strict probes 1 / 10 / 100 % s | published recipe s |")
    print("|---|--:|--:|--:|--:|")
    totals = np.zeros(4)
    for task in TASKS:
        splits = sample(task, shrink)
        strict = [shrink * seconds_of(partial(strict_cell, splits, fraction)) for fraction in FRACTIONS]
        recipe = [shrink * seconds_of(partial(published_cell, splits, fraction)) for fraction in FRACTIONS]
        published = sum(
            MERL.num_epochs * (fraction * task.train * train_s + (task.validation + task.test) * eval_s)
            for fraction in FRACTIONS
        )
        once = task.total * eval_s
        totals += (published, once, sum(strict), sum(recipe))
        cells = " / ".join(f"{seconds:.1f}" for seconds in strict)
        print(f"| {task.name} | {published:,.0f} | {once:,.0f} | {cells} | {sum(recipe):.1f} |", flush=True)
    published, once, strict_s, recipe_s = totals.tolist()
    ours, cached_recipe = once + strict_s, once + recipe_s
    print(f"\n(a) as published                    {published:12,.0f} s")
    print(
        f"(b) encoder once + strict probes    {once:12,.0f} + {strict_s:,.0f} s, ratio (a) / (b) {published / ours:.0f}"
    )
    print(
        f"(c) encoder once + published recipe {once:12,.0f} + {recipe_s:,.0f} s, "
        f"ratio (a) / (c) {published / cached_recipe:.0f}"
    )
    if published / ours < LEAST_RATIO:
        sys.exit(f"The ratio is below {LEAST_RATIO:.0f}.")


if __name__ == "__main__":
    main()
