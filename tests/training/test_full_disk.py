"""A disk that is full while a training saves is named, in whatever words the libraries wrap it."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError
from transformers import Trainer

from hf_ecgtext.methods import get_recipe
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments

FULL = {
    "the operating system": OSError(errno.ENOSPC, "No space left on device"),
    "safetensors": SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    "torch, while it writes": RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
    "torch, as it closes": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 700288 vs 700176"),
}


@pytest.fixture(scope="module")
def trainer(synthetic_dataset, tmp_path_factory):
    model, processor = get_recipe("etp", "debug").build(seed=0)
    arguments = EcgTextTrainingArguments(output_dir=str(tmp_path_factory.mktemp("run")), max_steps=1)
    return EcgTextTrainer(model, arguments, processor, synthetic_dataset)


@pytest.mark.parametrize("error", FULL.values(), ids=FULL)
@pytest.mark.parametrize("what", ["_save_checkpoint", "_save"])
def test_a_full_disk_is_named_with_the_way_on(trainer, monkeypatch, error, what):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(Trainer, what, fail)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=0, f_frsize=4096))
    with pytest.raises(OSError, match=r"no room to save .* go on by --resume") as raised:
        trainer._save_checkpoint(trainer.model, None) if what == "_save_checkpoint" else trainer.save_model()
    assert raised.value.errno == errno.ENOSPC
    assert str(trainer.args.output_dir) in str(raised.value)


def test_other_failures_of_writing_keep_their_own_words(trainer, monkeypatch):
    def fail(*arguments, **options):
        raise FULL["torch, while it writes"]

    monkeypatch.setattr(Trainer, "_save", fail)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=1 << 20, f_frsize=4096))
    with pytest.raises(RuntimeError, match="PytorchStreamWriter failed"):
        trainer.save_model()
