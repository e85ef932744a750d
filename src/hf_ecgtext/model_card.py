"""The card that a saved model gets: what it is, how it is loaded, and what its ledger says it was trained on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.hub import CARD_FILE, LEDGER_FILES, REPOSITORY_URL
from hf_ecgtext.io import written_whole

_OWN = "<!-- Written by hf_ecgtext. Delete this line to keep the card as you edit it. -->"

_CARD = """\
---
library_name: hf_ecgtext
tags:
- ecg
- electrocardiogram
{tag}---

{own}

# {title}

{what} It was saved by [hf_ecgtext]({url}), which it needs for loading.

Research software; not a medical device. Not for diagnosis, monitoring or triage of patients.

## How to use

Install hf_ecgtext from [its repository]({url}), then:

```python
{code}
```

Without the import, pass `trust_remote_code=True`: the folder's `load_with_hf_ecgtext.py` then does the import.

## Training data

{training_data}

## Evaluation

None is recorded here. `hf-ecgtext evaluate --model ...` measures it, and refuses records that it was trained on.
"""

_ASKING = """\
from transformers import pipeline

import hf_ecgtext  # registers models, processors and pipelines

ask = pipeline("zero-shot-ecg-classification", model="{name}")
ask("path/of/a/wfdb_record", candidate_labels=["sinus rhythm", "atrial fibrillation"])"""

_EMBEDDING = """\
from transformers import pipeline

import hf_ecgtext  # registers models, processors and pipelines

embed = pipeline("ecg-feature-extraction", model="{name}")
embed("path/of/a/wfdb_record")"""

_LOADING = """\
from transformers import AutoModel

import hf_ecgtext  # registers models, processors and pipelines

model = AutoModel.from_pretrained("{name}")"""


def write_card(
    folder: str | os.PathLike[str], class_name: str, task: str | None, ledger: Mapping[str, bytes], name: str
) -> None:
    """Write `README.md`, unless the folder has one that somebody else wrote.

    Args:
        folder (`str` or `os.PathLike`): Of the saved model.
        class_name (`str`): Of the model.
        task (`str`, *optional*): The pipeline that serves it.
        ledger (`Mapping[str, bytes]`): Files of the ledger, if there are any.
        name (`str`): What the code of the card loads.

    Raises:
        CheckpointError: If the ledger cannot be read.
    """
    path = Path(folder) / CARD_FILE
    if path.exists() and _OWN not in path.read_text(encoding="utf-8", errors="replace"):
        return
    code = {"zero-shot-ecg-classification": _ASKING, "ecg-feature-extraction": _EMBEDDING}.get(task or "", _LOADING)
    text = _CARD.format(
        own=_OWN,
        tag=f"- {task}\n" if task else "",
        title=Path(name).name or class_name,
        what=f"A `{class_name}`: a model of 12-lead ECGs.",
        url=REPOSITORY_URL,
        code=code.format(name=name),
        training_data=_training_data(ledger),
    )
    with written_whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def _training_data(ledger: Mapping[str, bytes]) -> str:
    if LEDGER_FILES[0] not in ledger:
        return f"Not known: the model was saved without a training ledger (`{LEDGER_FILES[0]}`)."
    try:
        content = json.loads(ledger[LEDGER_FILES[0]])
        rows = [
            f"| {_cell(entry['dataset'])} | {_cell(entry['revision'])} | {_cell(entry['split'])} "
            f"| {int(entry['records']):,} | {use} |"
            for group, use in (("trained_on", "trained on"), ("validated_on", "chose among checkpoints"))
            for entry in content[group]
        ]
        unknown = [f"* {_cell(words)}" for words in content["unknown"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{LEDGER_FILES[0]}, which tells what the model was trained on, is damaged ({error!r}). Copy it and "
            f"{LEDGER_FILES[1]} from the original checkpoint, or delete both and load the model again."
        ) from error
    table = ["| data | revision | split | records | use |", "|---|---|---|---|---|", *rows] if rows else []
    parts = ["\n".join(table)] if rows else []
    if unknown:
        parts.append("Also, without anyone knowing the records:\n\n" + "\n".join(unknown))
    parts.append(f"`{LEDGER_FILES[0]}` says so, and `{LEDGER_FILES[1]}` holds a hash of every record.")
    return "\n\n".join(parts)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
