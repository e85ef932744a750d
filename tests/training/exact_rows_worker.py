"""One process of `test_exact_rows.py`: a method whose rows hold patient ids, on its half of a batch, under DDP.

The tests share its functions.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from gradient_cache_worker import build, gradients_of
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from hf_ecgtext.methods.distributed import gather_batch
from hf_ecgtext.methods.etp import EtpModel
from hf_ecgtext.training.gradient_cache import backward_in_chunks

# Neighbours that float32 and, from 2**53 on, float64 cannot tell apart; the last is a patient's second record.
PATIENT_IDS = [2**53 + 1, 2**53, -(2**53) - 1, -(2**53), 2**24 + 1, 2**24, 2**63 - 1, 2**53 + 1]
EXACT_ROWS = {
    "ids": torch.tensor(PATIENT_IDS),
    "pairs": torch.tensor(PATIENT_IDS).view(8, 1, 1).expand(8, 2, 3) - torch.arange(6).view(2, 3),
    "flags": torch.tensor([True, True, False, True, True, False, True, True]),
    "codes": torch.tensor([[-128, 127], [0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11], [12, 13]], dtype=torch.int8),
    "numbers": torch.linspace(-1, 1, 24).view(8, 3),
    "halves": torch.linspace(-1, 1, 8).bfloat16(),
}


class EtpOfPatients(EtpModel):
    """ETP in which two records of one patient are no negatives of each other, and minors do not count."""

    def training_rows(self, ecg_values: Tensor, lead_mask: Any, text: Any, **extra: Any) -> dict[str, Tensor]:
        own = {name: extra.pop(name) for name in ("patient_id", "is_adult")}
        return super().training_rows(ecg_values, lead_mask, text, **extra) | own

    def loss_terms(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        assert rows["patient_id"].dtype == torch.int64
        assert rows["is_adult"].dtype == torch.bool
        ecg, text = (F.normalize(rows[name], dim=-1) for name in ("ecg", "text"))
        is_same = rows["patient_id"].unsqueeze(1) == rows["patient_id"]
        is_same &= ~torch.eye(len(is_same), dtype=torch.bool)
        logits = (self.logit_scale * ecg @ text.T).masked_fill(is_same, float("-inf"))
        losses = F.cross_entropy(logits, torch.arange(len(logits)), reduction="none")
        return {"contrastive": losses[rows["is_adult"]].mean()}


def model_of_patients() -> EtpOfPatients:
    """In training, in double precision and without dropout or BatchNorm; its learned scale is beyond the bound."""
    model, _ = build("etp")
    model.__class__ = EtpOfPatients
    with torch.no_grad():
        model.log_logit_scale.fill_(5.0)  # above log(100)
    return model.double()


def gather_counting(rows: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """The joined rows, and how many collective calls they took."""
    calls, original = [], dist.all_gather
    dist.all_gather = lambda *args: (calls.append(1), original(*args))[1]
    joined = gather_batch(*rows.values())
    dist.all_gather = original
    return dict(zip(rows, joined, strict=True)), len(calls)


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    part = slice(rank * 8 // world_size, (rank + 1) * 8 // world_size)
    rows = {name: value[part] for name, value in EXACT_ROWS.items()}
    joined, calls = gather_counting(rows)
    _, calls_for_numbers = gather_counting({name: rows[name] for name in ("numbers", "halves")})
    own, calls_for_ids = gather_counting({"ids": rows["ids"]})
    found = {f"joined:{name}": value.contiguous() for name, value in joined.items()} | {"joined:alone": own["ids"]}
    found["calls"] = torch.tensor([calls, calls_for_numbers, calls_for_ids])

    local = {name: value[part] for name, value in load_file(folder / "batch.safetensors").items()}
    wrapped = DistributedDataParallel(model_of_patients())
    loss = wrapped(**local)["loss"]
    loss.backward()
    found |= {"loss": loss.detach()} | {f"gradient:{name}": g for name, g in gradients_of(wrapped.module).items()}
    in_chunks = DistributedDataParallel(model_of_patients())
    found["loss_in_chunks"], _ = backward_in_chunks(in_chunks, in_chunks.module, local, chunk_size=3)
    found |= {f"gradient_in_chunks:{name}": g for name, g in gradients_of(in_chunks.module).items()}
    save_file(found, folder / f"rank{rank}.safetensors")
    # The process group must go last: DDP holds it, and destroying it first can hang at exit.
    del wrapped, in_chunks, loss
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    assert os.environ["WORLD_SIZE"] == "2"
    main(Path(sys.argv[1]))
