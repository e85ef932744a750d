"""`hf-ecgtext convert`: published weights to a folder that `from_pretrained` loads."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from pathlib import Path

from transformers import PROCESSOR_MAPPING, AutoConfig, AutoTokenizer

from hf_ecgtext import methods
from hf_ecgtext.methods.conversion import load_published
from hf_ecgtext.processing import EcgFeatureExtractor


def convertible_methods() -> list[str]:
    """Methods with a `convert_<method>_checkpoint.py`."""
    return [
        name
        for name in methods.method_names()
        if any(
            module.name == f"convert_{name}_checkpoint"
            for module in pkgutil.iter_modules(importlib.import_module(f"{methods.__name__}.{name}").__path__)
        )
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("checkpoint", type=Path, help="the published file")
    parser.add_argument("--method", required=True, choices=convertible_methods())
    parser.add_argument(
        "--text-model", required=True, help="name or folder of the text encoder inside, for its config and tokenizer"
    )
    parser.add_argument("--output-dir", type=Path, required=True)


def run(arguments: argparse.Namespace) -> None:
    """Convert and save model and processor."""
    converter = importlib.import_module(f"{methods.__name__}.{arguments.method}.convert_{arguments.method}_checkpoint")
    text_config = AutoConfig.from_pretrained(arguments.text_model)
    model = converter.convert(load_published(arguments.checkpoint), text_config=text_config)
    processor = PROCESSOR_MAPPING[type(model.config)](
        feature_extractor=EcgFeatureExtractor(**converter.feature_extractor_settings()),
        tokenizer=AutoTokenizer.from_pretrained(arguments.text_model),
        **converter.text_settings(),
    )
    model.save_pretrained(arguments.output_dir)
    processor.save_pretrained(arguments.output_dir)
    print(f"Saved to {arguments.output_dir}. {converter.CAVEATS}")
