"""Finding a checkpoint from which training can go on, and checking that it is of the same run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoProcessor

_FOLDER = re.compile(r"checkpoint-(\d+)")

# What transformers adds to a config when it saves; the token ids come from the Trainer of versions before 5.2x.
_NOTED_AT_SAVING = {
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "pad_token_id",
    "processor_class",
    "transformers_version",
    "use_cache",
}


def last_complete_checkpoint(output_dir: str | os.PathLike[str]) -> Path | None:
    """The newest `checkpoint-N` folder that was written to its end, or `None`.

    A run that was killed while saving leaves a folder without a readable `trainer_state.json`, which the trainer
    writes last; such folders are passed over.
    """
    folder = Path(output_dir)
    if not folder.is_dir():
        return None
    numbered = [(int(match[1]), entry) for entry in folder.iterdir() if (match := _FOLDER.fullmatch(entry.name))]
    for _, checkpoint in sorted(numbered, reverse=True):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            continue
        return checkpoint
    return None


def check_same_model(checkpoint: str, *ours: Any) -> None:
    """Refuse to resume what was trained with other settings: transformers would load whatever weights have a name here.

    Args:
        checkpoint (`str`): Folder of the checkpoint.
        ours: The config of the model and the feature extractor that are about to be trained.

    Raises:
        ValueError: If a setting differs; the message names it.
    """
    theirs = (AutoConfig.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint).feature_extractor)
    differing = sorted(
        {
            name
            for our, their in zip(ours, theirs, strict=True)
            for name, _ in _flat_settings(our.to_dict()) ^ _flat_settings(their.to_dict())
        }
    )
    if differing:
        raise ValueError(
            f"'{checkpoint}' was trained with other settings: {', '.join(differing[:5])}"
            f"{' and more' if len(differing) > 5 else ''}. Give --method, --recipe and --set as in the first run."
        )


def _flat_settings(tree: Mapping[str, Any], prefix: str = "") -> set[tuple[str, str]]:
    """Dotted names and values as JSON, without what transformers notes at saving."""
    settings: set[tuple[str, str]] = set()
    for name, value in tree.items():
        if name in _NOTED_AT_SAVING:
            continue
        if isinstance(value, Mapping):
            settings |= _flat_settings(value, f"{prefix}{name}.")
        else:
            settings.add((f"{prefix}{name}", json.dumps(value, default=str)))
    return settings
