"""A trained model and its processor by name, or an error that says what is wrong with the name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig, AutoModel, AutoProcessor

from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.methods.base import EcgTextConfig
from hf_ecgtext.processing import EcgTextProcessor

_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
_JSON_FILES = (
    "config.json",
    *_PROCESSOR_FILES,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "model.safetensors.index.json",
)
# What transformers raises, without a name, at a JSON file that holds something else than it expects.
_NOT_AS_EXPECTED = (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
_SAVE_PROCESSOR = "Save it beside the model: processor.save_pretrained(folder)."


def load_checkpoint(name_or_path: str) -> tuple[Any, EcgTextProcessor]:
    """Load an ECG-text model and its processor.

    Args:
        name_or_path (`str`): Folder that `hf-ecgtext train` or `convert` wrote, or a Hub repository.

    Returns:
        The model in `eval()` mode, and its processor.

    Raises:
        CheckpointError: If there is no such checkpoint, a file of it is damaged, or it holds no complete ECG-text model
            with its processor.
    """
    _check_name(name_or_path)
    try:
        config = AutoConfig.from_pretrained(name_or_path)
        is_ours = isinstance(config, EcgTextConfig)
        model = AutoModel.from_pretrained(name_or_path) if is_ours else None
    except CheckpointError:
        raise
    except _NOT_AS_EXPECTED as error:
        raise CheckpointError(f"The model '{name_or_path}' cannot be loaded: {_in_words(error)}") from error
    if model is None:
        raise CheckpointError(
            f"'{name_or_path}' holds a model of type '{config.model_type}', no ECG-text model. "
            "Name a folder that `hf-ecgtext train` or `hf-ecgtext convert` wrote."
        )
    try:
        processor = AutoProcessor.from_pretrained(name_or_path)
    except CheckpointError:
        raise
    except Exception as error:
        if not isinstance(error, _NOT_AS_EXPECTED) and type(error) is not Exception:  # as the tokenizers in Rust raise
            raise
        raise CheckpointError(
            f"The processor of '{name_or_path}' is missing or cannot be loaded: {_in_words(error)} {_SAVE_PROCESSOR}"
        ) from error
    if not isinstance(processor, EcgTextProcessor):
        raise CheckpointError(
            f"'{name_or_path}' holds a {type(processor).__name__} but no processor for ECGs. {_SAVE_PROCESSOR}"
        )
    model.check_tokenizer(processor.tokenizer)
    return model.eval(), processor


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"


def _check_name(name_or_path: str) -> None:
    """Refuse what can be neither a checkpoint's folder nor a repository, before anyone asks the Hub."""
    folder = Path(name_or_path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            within = sorted(entry.parent.name for entry in folder.glob("*/config.json"))
            hint = f"; the folders in it that do: {', '.join(within)}" if within else ""
            raise CheckpointError(
                f"The folder '{name_or_path}' holds no model (no config.json){hint}. "
                "Name a folder that `hf-ecgtext train` or `hf-ecgtext convert` wrote."
            )
        if not any((folder / name).is_file() for name in _PROCESSOR_FILES):
            raise CheckpointError(
                f"The folder '{name_or_path}' holds a model but no processor (no {_PROCESSOR_FILES[0]}). "
                f"{_SAVE_PROCESSOR}"
            )
        for name in _JSON_FILES:
            _check_json(folder / name)
        return
    if folder.exists():
        raise CheckpointError(f"'{name_or_path}' is a file. Name the folder that holds the model.")
    try:
        validate_repo_id(name_or_path)
        is_repository = not name_or_path.startswith((".", os.sep))
    except HFValidationError:
        is_repository = False
    if not is_repository:
        raise CheckpointError(
            f"There is no folder '{name_or_path}', and no Hub repository can have this name. Check the path."
        )


def _check_json(file: Path) -> None:
    """Name a file that is no JSON object, which transformers does not."""
    try:
        content = json.loads(file.read_bytes()) if file.exists() else {}
        problem = "" if isinstance(content, dict) else f"it holds a {type(content).__name__}, no JSON object"
    except (OSError, ValueError) as error:
        problem = str(error)
    except RecursionError:
        problem = "it is nested too deeply"
    if problem:
        raise CheckpointError(
            f"'{file}' cannot be read: {problem}. Copy it from where the model was saved, or save the model again."
        )
