"""Finding a checkpoint from which training can go on."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

_FOLDER = re.compile(r"checkpoint-(\d+)")


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
