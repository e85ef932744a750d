"""`hf-ecgtext convert`: published weights to a folder that `from_pretrained` loads."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import re
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from transformers import PROCESSOR_MAPPING, AutoConfig, AutoTokenizer

from hf_ecgtext import methods
from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.io import full_disk_named
from hf_ecgtext.methods.conversion import (
    Content,
    Converter,
    check_vocabulary,
    load_published,
    plain_state_dict,
)
from hf_ecgtext.processing import EcgFeatureExtractor

# Published ECG models that no converter reads, by names that occur in their files alone.
_NOT_SUPPORTED = {
    "ST-MEM": r"(encoder\.)?lead_embeddings\.",
    "ECG-FM, or another wav2vec of fairseq-signals": r"feature_extractor\.conv_layers\.\d+\.0\.|conv_pos\.pos_conv\.",
}


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


def get_converter(method: str) -> Converter:
    """The converter module of a method."""
    return cast(Converter, importlib.import_module(f"{methods.__name__}.{method}.convert_{method}_checkpoint"))


def recognise(names: Collection[str], method: str = "auto") -> tuple[str, Content]:
    """Find the method that a state dict is of.

    Args:
        names (`Collection[str]`): Of the weights.
        method (`str`): The method that the user named, or `"auto"`.

    Returns:
        The method, and whether the state dict is its model or its ECG encoder alone.

    Raises:
        CheckpointError: If it is of another method than the named one, of none, or of several.
    """
    found = {
        candidate: content
        for candidate in convertible_methods()
        if (content := get_converter(candidate).recognises(names)) is not None
    }
    if method in found:
        return method, found[method]
    if method == "auto" and len(found) == 1:
        return next(iter(found.items()))
    if method == "auto" and found:
        raise CheckpointError(f"This can be a checkpoint of {' or '.join(found)}: say which with --method.")
    if found:
        raise CheckpointError(f"This is no {method} checkpoint but one of {' or '.join(found)}. Change --method.")
    for title, pattern in _NOT_SUPPORTED.items():
        if any(re.match(pattern, name) for name in names):
            raise CheckpointError(
                f"This looks like a checkpoint of {title}, which cannot be converted yet; "
                f"{', '.join(convertible_methods())} can."
            )
    wanted = "checkpoint of a method that can be converted" if method == "auto" else f"{method} checkpoint"
    raise CheckpointError(
        f"This is no {wanted} ({', '.join(convertible_methods())} can). It holds {len(names)} tensors; the first: "
        f"{list(names)[:5]}."
    )


def run(arguments: argparse.Namespace) -> None:
    """Convert, and save model and processor together or not at all."""
    _check_new(arguments.output_dir)
    weights = plain_state_dict(load_published(arguments.checkpoint), "ECG-text")
    method, content = recognise(weights, arguments.method)
    converter = get_converter(method)
    order = {} if arguments.lead_order is None else {"lead_order": arguments.lead_order}
    feature_extractor = EcgFeatureExtractor(**converter.feature_extractor_settings(**order))
    processor: Any = feature_extractor
    if content == "encoder":
        if arguments.text_model is not None:
            print(f"This file holds the ECG encoder alone: --text-model {arguments.text_model} is not needed.")
        model = converter.convert(weights)
    else:
        name = arguments.text_model or converter.TEXT_MODEL
        text_config, tokenizer = _load_text_parts(name)
        model = converter.convert(weights, text_config=text_config)
        check_vocabulary(name, model, tokenizer)
        model.config.adopt_tokenizer(tokenizer)
        processor = PROCESSOR_MAPPING[type(model.config)](
            feature_extractor=feature_extractor, tokenizer=tokenizer, **converter.text_settings()
        )
    _check_input_shape(model, feature_extractor)
    out = arguments.output_dir
    with full_disk_named(out, "Make room, or choose another folder"), _complete_or_absent(out) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        # Until it is complete, the folder has another name.
        model.write_card(folder, arguments.output_dir.resolve().name)
    _report(model, processor, arguments, method, converter.CAVEATS)


def _check_new(folder: Path) -> None:
    if folder.is_dir():
        inside = sorted(entry.name for entry in folder.iterdir())
        if inside:
            what = "already holds a model" if "config.json" in inside else "is not empty"
            raise FileExistsError(
                f"The folder '{folder}' {what} ({', '.join(inside[:3])}). Choose another --output-dir, or delete it."
            )
    elif folder.exists():
        raise FileExistsError(f"'{folder}' is a file. Choose another --output-dir.")


def _load_text_parts(name_or_path: str) -> tuple[Any, Any]:
    try:
        return AutoConfig.from_pretrained(name_or_path), AutoTokenizer.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"Config and tokenizer of the text encoder '{name_or_path}' cannot be loaded: {error} Name a copy of it "
            "with --text-model: a folder with its config.json and tokenizer files."
        ) from error


def _check_input_shape(model: Any, feature_extractor: EcgFeatureExtractor) -> None:
    config = getattr(model.config, "ecg_config", model.config)
    reads = (config.num_leads, config.num_samples)
    gives = (len(feature_extractor.lead_names), feature_extractor.num_samples)
    if reads != gives:
        raise CheckpointError(
            f"These weights read {reads[0]} leads of {reads[1]} samples; the published ones read {gives[0]} of "
            f"{gives[1]}. What rate and length they were trained with is not in the file: use the method's convert() "
            "and save an EcgFeatureExtractor with these settings beside the model."
        )


@contextmanager
def _complete_or_absent(folder: Path) -> Iterator[Path]:
    """A new folder beside the wanted one, which takes its place if everything goes well and vanishes otherwise."""
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.replace(folder)  # also in place of an empty folder
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _report(model: Any, processor: Any, arguments: argparse.Namespace, method: str, caveats: str) -> None:
    folder = arguments.output_dir
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    auto_class = "AutoFeatureExtractor" if isinstance(processor, EcgFeatureExtractor) else "AutoProcessor"
    extractor = getattr(processor, "feature_extractor", processor)
    print(f"Converted '{arguments.checkpoint}' ({method}) to a {type(model).__name__}: {parameters:.2f} M parameters.")
    print(f"Saved to '{folder}': {', '.join(sorted(entry.name for entry in folder.iterdir()))}.")
    print(f"Its leads: {', '.join(extractor.lead_names)}. {caveats}")
    print(
        f"Load it after `import hf_ecgtext` with AutoModel.from_pretrained('{folder}') and "
        f"{auto_class}.from_pretrained('{folder}')."
    )
