"""Finding an intact checkpoint from which training can go on, and checking that it is of the same run."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoProcessor

from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.hub import LEDGER_FILES

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"
CHECKSUMS_FILE = "weights.sha256.json"
"""Beside the weights in each `checkpoint-N`: safetensors files carry no checksum of their own."""
DAMAGED_PREFIX = "damaged-"

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


def saved_steps(output_dir: str | os.PathLike[str]) -> int | None:
    """Optimiser steps of the run that was saved in a folder as a whole, after its training; `None` if there is none.

    A damaged one is reported, and counts as none.
    """
    folder = Path(output_dir)
    if not (folder / STATE_FILE).is_file():  # the last file of a run
        return None
    if problem := damage(folder):
        logger.warning("The model in '%s' is damaged: %s.", folder, problem)
        return None
    return global_step(folder)


def global_step(folder: str | os.PathLike[str]) -> int:
    """Optimiser steps that a checkpoint has behind it."""
    return int(json.loads((Path(folder) / STATE_FILE).read_text(encoding="utf-8"))["global_step"])


def last_complete_checkpoint(output_dir: str | os.PathLike[str]) -> Path | None:
    """The newest `checkpoint-N` folder that was written to its end, or `None`.

    A run that was killed while saving leaves a folder without `trainer_state.json`, which the trainer writes last; such
    folders are passed over. Whether files were damaged later is another question: [`damage`].
    """
    return next(iter(_complete_checkpoints(Path(output_dir))), None)


def last_intact_checkpoint(output_dir: str | os.PathLike[str]) -> Path | None:
    """The newest complete checkpoint without damage, or `None` where there is no complete one.

    A damaged newer one is reported with the name of the file, and renamed to `damaged-checkpoint-N`: nothing is
    deleted, and the Trainer, which sorts folders by date, cannot take it for the oldest of its own.

    Raises:
        CheckpointError: If there are complete checkpoints and all of them are damaged; then none is renamed.
    """
    damaged: dict[Path, str] = {}
    for checkpoint in _complete_checkpoints(Path(output_dir)):
        problem = damage(checkpoint) or _damage_of_best(checkpoint)
        if problem is None:
            _put_aside(damaged, checkpoint)
            return checkpoint
        damaged[checkpoint] = problem
    if damaged:
        reasons = "; ".join(f"{checkpoint.name}: {problem}" for checkpoint, problem in damaged.items())
        raise CheckpointError(
            f"Every checkpoint in '{output_dir}' is damaged ({reasons}). Copy one from a backup, or start anew in "
            "another --output-dir."
        )
    return None


def damage(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint, or `None`.

    Weights are compared with the checksums that were written with them, where there are any; files of PyTorch are zip
    archives, whose entries have checksums; JSON files must be readable.

    Returns:
        `str`: The file and its problem.
    """
    checksums = _checksums(folder)
    if isinstance(checksums, str):
        return checksums
    files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    names = {file.name for file in files}
    missing = [name for name in checksums if name not in names]
    if missing or not any(name.endswith(".safetensors") for name in names - set(LEDGER_FILES)):
        return f"{(missing or ['model.safetensors'])[0]} is missing"
    for file in files:
        if file.suffix == ".safetensors":
            problem = _damage_of_weights(file, checksums.get(file.name))
        elif file.suffix in (".pt", ".pth"):
            problem = _damage_of_archive(file)
        elif file.suffix == ".json":
            problem = _damage_of_json(file)
        else:
            problem = None
        if problem:
            return f"{file.name} {problem}"
    return None


def write_checksums(folder: str | os.PathLike[str]) -> None:
    """Note the SHA-256 of every file of a checkpoint's weights, in [`CHECKSUMS_FILE`] beside them."""
    weights = [file for file in sorted(Path(folder).glob("*.safetensors")) if file.name not in LEDGER_FILES]
    checksums = {file.name: _sha256(file) for file in weights}
    (Path(folder) / CHECKSUMS_FILE).write_text(json.dumps(checksums, indent=1) + "\n", encoding="utf-8")


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


def best_checkpoint(state: Mapping[str, Any], output_dir: Path) -> Path | None:
    """The checkpoint of lowest validation loss that a `trainer_state.json` names, as it lies beside the others.

    The path inside the file is that of the run as it was started; the folder may have moved since.
    """
    step = state.get("best_global_step")
    return output_dir / f"checkpoint-{step}" if step and state.get("best_model_checkpoint") else None


def _complete_checkpoints(folder: Path) -> list[Path]:
    """Those with a readable state, newest first."""
    if not folder.is_dir():
        return []
    numbered = [(int(match[1]), entry) for entry in folder.iterdir() if (match := _FOLDER.fullmatch(entry.name))]
    complete = []
    for _, checkpoint in sorted(numbered, reverse=True):
        try:
            json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            continue
        complete.append(checkpoint)
    return complete


def _put_aside(damaged: Mapping[Path, str], going_on_from: Path) -> None:
    for checkpoint, problem in damaged.items():
        aside = checkpoint.with_name(DAMAGED_PREFIX + checkpoint.name)
        for number in range(2, 1000):
            if not aside.exists():
                break
            aside = checkpoint.with_name(f"{DAMAGED_PREFIX}{checkpoint.name}-{number}")
        checkpoint.rename(aside)
        logger.warning(
            "'%s' is damaged: %s. It is now '%s'; training goes on from '%s'.",
            checkpoint,
            problem,
            aside.name,
            going_on_from.name,
        )


def _damage_of_best(checkpoint: Path) -> str | None:
    """The run may end with the weights of an earlier checkpoint: they must be intact too."""
    best = best_checkpoint(json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8")), checkpoint.parent)
    if best is None or best == checkpoint:
        return None
    if not best.is_dir():
        return f"{best.name}, the best one so far, is missing"
    problem = damage(best)
    return problem and f"{best.name}, the best one so far, is damaged: {problem}"


def _checksums(folder: Path) -> dict[str, str] | str:
    """Of the weights, by file; nothing where none were written; or what is wrong with the list."""
    file = folder / CHECKSUMS_FILE
    if not file.is_file():
        return {}
    try:
        checksums = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"{CHECKSUMS_FILE} cannot be read ({error})"
    return dict(checksums) if isinstance(checksums, dict) else f"{CHECKSUMS_FILE} is no list of checksums"


def _damage_of_weights(file: Path, checksum: str | None) -> str | None:
    try:
        with safe_open(file, framework="pt"):  # reads the header, and compares the size of the file with it
            pass
    except (SafetensorError, OSError) as error:
        return f"cannot be read ({error})"
    return "does not have the checksum that was written with it" if checksum not in (None, _sha256(file)) else None


def _damage_of_archive(file: Path) -> str | None:
    try:
        with zipfile.ZipFile(file) as archive:
            return "has an entry with a wrong checksum" if archive.testzip() else None
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        return f"cannot be read ({error})"


def _damage_of_json(file: Path) -> str | None:
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"cannot be read ({error})"
    return None


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


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
