"""What every method's `debug`, `quickstart` and `ptb_xl_100hz` recipe shares, so that methods get equal budgets.

Each budget is a set of keyword arguments of [`~hf_ecgtext.methods.recipe.Recipe`]; the method adds its `config`. The
numbers are ours: found on validation losses of MERL, never on labels of a test split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_ecgtext.encoders.resnet1d import ResNet1dConfig

_SMALL_RUN: dict[str, Any] = {
    "weight_decay": 1e-4,
    "per_device_train_batch_size": 64,
    "lr_scheduler_type": "cosine",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "load_best_model_at_end": True,  # by validation loss
}

DEBUG: Mapping[str, Any] = {
    "text_model": "tiny-bert",
    "ecg": {"sampling_rate_hz": 100, "scaling": "minmax_record"},
    "training": {"learning_rate": 3e-3, "per_device_train_batch_size": 16, "max_steps": 30, "logging_steps": 5},
    "data": {"synthetic": {"num_records": 400, "sampling_rate_hz": 100.0}},
}
"""Seconds on two CPU cores; also the tiny configuration of the tests."""

QUICKSTART: Mapping[str, Any] = {
    "text_model": "minilm",
    "ecg": {"sampling_rate_hz": 100, "scaling": "none"},  # mV: the synthetic voltage criteria are absolute
    "training": {
        **_SMALL_RUN,
        "learning_rate": 2e-3,
        "num_train_epochs": 12,
        "warmup_steps": 0.067,  # of the run: 50 of 744 steps, which are 12 times 4,000 records // 64
        "logging_steps": 25,
    },
    "data": {"synthetic": {"num_records": 5000, "sampling_rate_hz": 100.0}},
}
"""A minute or two on two CPU cores, on the embedded synthetic data."""

PTB_XL_100HZ: Mapping[str, Any] = {
    "text_model": "minilm",
    "ecg": {"sampling_rate_hz": 100, "scaling": "none"},  # mV: lower validation loss than MERL's min-max
    "text": {"report_cleaning": "12sl"},
    "training": {
        **_SMALL_RUN,
        "learning_rate": 1e-3,  # MERL's released code
        "num_train_epochs": 15,
        "warmup_steps": 0.072,  # of the run: 25 of 345 steps, which are 15 times 1,491 records // 64
        "logging_steps": 12,
    },
    "data": {"ptb_xl": {"sampling_rate_hz": 100, "report": "12sl"}},
}
"""About six minutes on two CPU cores for the 1,491 training records of ecg_id 1-1999."""


def tiny_resnet() -> ResNet1dConfig:
    """The ECG encoder of debug recipes."""
    return ResNet1dConfig(depths=[1, 1, 1, 1], widths=[8, 16, 32, 64])


def thin_resnet() -> ResNet1dConfig:
    """A ResNet18 with a quarter of the standard widths, for the quickstart."""
    return ResNet1dConfig(widths=[16, 32, 64, 128])
