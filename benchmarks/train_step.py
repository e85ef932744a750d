"""Cost of one MERL ResNet18 training step: ours against the step as published, in one run, on the same records.

A step goes from 16 records of 12 x 5000 samples and their reports in memory to updated weights. The text tower is a
BERT of MedCPT's size, 12 layers, with random weights; the reports are the short statements that carts print. Programs:

* (a) as published: int16 to float64 to float32; every report padded to 256 tokens; the frozen tower run in every step
  with its dropout and eager attention; attention weights, accuracies and `.item()` in every step;
* (b) as (a), but reports padded to the longest of the batch;
* (c) ours, live tower: our collator, which also checks and scales the signals, and what `EcgTextTrainer` does in a
  step: SDPA attention, gradient clipping, fused AdamW, no `.item()`;
* (d) ours, cached text: as (c), with the tower's outputs looked up in a `TextCache`.

Before anything is timed, (a) and (c) must compute the same loss from the same weights with dropout off. Then the
programs take turns on each batch, in turned order from round to round; a first round is not counted. On a GPU, (a)
and (b) run under fp16 with a gradient scaler as published, (c) and (d) under bf16.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --device cuda --rounds 20

Source of what the published step does: MERL's repository at commit 38799b7 (MIT), as in docs/methods/merl.md and
docs/speed.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from stepping import Step, measure, our_step, print_table
from torch import Tensor
from torch.nn import functional as F
from transformers import BatchEncoding, BertConfig

from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator
from hf_ecgtext.encoders.text import tiny_bert_tokenizer
from hf_ecgtext.methods.merl import MerlConfig, MerlModel, MerlProcessor
from hf_ecgtext.methods.merl.modeling_merl import ResNetHead
from hf_ecgtext.processing import EcgFeatureExtractor
from hf_ecgtext.training import TextCache
from hf_ecgtext.training.collator import EcgTextCollator

BATCH_SIZE = 16
MAX_LENGTH = 256  # tokens; the published tokeniser call
PUBLISHED_SCALE = 1000.0  # the published file holds int16(1000 * minmax)
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-8  # the published config.yaml


def published_rows(records: list[EcgRecord]) -> list[NDArray[np.int16]]:
    """The signals as the published file stores them: scaled to [0, 1] per record, times 1000, as int16."""
    rows = []
    for record in records:
        scaled = (record.signal - record.signal.min()) / np.ptp(record.signal)
        rows.append((PUBLISHED_SCALE * scaled).astype(np.int16))
    return rows


def published_signals(rows: list[NDArray[np.int16]]) -> Tensor:
    """What loader and trainer make of them: float64 per record and in the batch, then float32."""
    return torch.stack([torch.from_numpy(row / PUBLISHED_SCALE) for row in rows]).to(torch.float32)


def published_tokens(processor: MerlProcessor, records: list[EcgRecord], trim_padding: bool) -> BatchEncoding:
    """The published tokeniser call, which pads to 256 tokens, or the same with padding to the longest report."""
    return processor.tokenizer(
        [record.report for record in records],
        padding="longest" if trim_padding else "max_length",
        truncation=True,
        max_length=MAX_LENGTH,
        return_tensors="pt",
    )


def published_loss(model: MerlModel, ecg_values: Tensor, tokens: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The published forward pass, through the modules of our model: they hold the same weights (`test_parity.py`).

    Returns:
        The loss, both directions summed, and the top-1 and top-5 accuracies of its four directions.
    """
    head = model.ecg_head
    assert isinstance(head, ResNetHead)
    features = head.down_projection(model.ecg_encoder(ecg_values).last_hidden_state.transpose(1, 2))
    pool, ecg_tokens = head.attention_pool, features.transpose(1, 2)  # (batch, 313, 256)
    cls_position, positions = pool.position_embedding[:, :1], pool.position_embedding[:, 1:]
    cls = (pool.cls_token + 2 * cls_position).expand(len(ecg_tokens), -1, -1)
    sequence = torch.cat([cls, ecg_tokens + positions], dim=1)
    pooled, _ = pool.attention(cls, sequence, sequence, need_weights=True)
    ecg_embeds = F.normalize(pool.projection(pooled[:, 0]), dim=-1)
    view1, view2 = (F.normalize(project(features.mean(dim=-1)), dim=-1) for project in model.uma_projections)
    text_tower_embeds = model.text_tower(
        tokens["input_ids"], tokens["attention_mask"]
    ).pooler_output  # without gradient
    text_embeds = F.normalize(model.text_projection(text_tower_embeds), dim=-1)

    targets = torch.arange(len(ecg_embeds), device=ecg_embeds.device)
    loss, accuracies = torch.zeros((), device=ecg_embeds.device), []
    for first, second in ((ecg_embeds, text_embeds), (view1, view2)):
        logits = first @ second.T / model.config.temperature
        for direction in (logits, logits.T):
            loss = loss + F.cross_entropy(direction, targets)
            hits = direction.topk(min(5, len(targets)), dim=1).indices == targets[:, None]
            accuracies += [hits[:, 0].float().mean(), hits.any(dim=1).float().mean()]
    return loss, accuracies


def published_step(
    model: MerlModel, processor: MerlProcessor, batches: list[list[EcgRecord]], trim_padding: bool, device: str
) -> Step:
    """Programs (a) and (b)."""
    stored = [published_rows(batch) for batch in batches]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    scaler = torch.amp.GradScaler(device, enabled=device == "cuda")

    def step(number: int) -> list[float]:
        model.train()
        ecg_values = published_signals(stored[number]).to(device)
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.float16, enabled=device == "cuda"):
            tokens = published_tokens(processor, batches[number], trim_padding).to(device)
            loss, accuracies = published_loss(model, ecg_values, tokens)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return [loss.item(), *(accuracy.item() for accuracy in accuracies[:2])]  # logged in every step

    return step


def build_model(text_layers: int, vocab_size: int, published: bool) -> MerlModel:
    """MERL ResNet18 around a random BERT-base; `published` has the tower's dropout on and its attention eager."""
    text_config = BertConfig(num_hidden_layers=text_layers, vocab_size=max(vocab_size, BertConfig().vocab_size))
    model = MerlModel(MerlConfig(text_config=text_config, text_dropout=published, loss_reduction="sum_directions"))
    model.text_tower.model.set_attn_implementation("eager" if published else "sdpa")
    return model


@torch.no_grad()
def check_equal_losses(
    published: MerlModel, ours: MerlModel, processor: MerlProcessor, records: list[EcgRecord], device: str
) -> None:
    """Stop unless both programs compute the same loss, with dropout off and reports padded differently."""
    inputs = EcgTextCollator(processor)([{"ecg": record} for record in records])
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    stored = published_signals(published_rows(records)).to(device)
    if (stored - inputs["ecg_values"]).abs().max() > 1.001 / PUBLISHED_SCALE:  # the file keeps three decimals
        sys.exit("The two programs prepare different signals.")
    tokens = published_tokens(processor, records, trim_padding=False).to(device)
    expected, _ = published_loss(published.eval(), inputs["ecg_values"], tokens)
    loss = ours.eval()(**inputs).loss
    if not torch.allclose(loss, expected, rtol=1e-3):
        sys.exit(f"The two programs compute different losses: {expected.item()} as published, {loss.item()} ours.")


def main() -> None:
    """Check, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed steps per program (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads on the CPU (default: %(default)s)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: %(default)s")
    parser.add_argument("--text-layers", type=int, default=12, help="of the text tower (default: %(default)s)")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.threads, arguments.text_layers) < 1:
        parser.error("--rounds, --threads and --text-layers must be positive")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = arguments.device

    records = list(SyntheticEcgGenerator(seed=0).records(BATCH_SIZE * (arguments.rounds + 1)))
    batches = [records[start : start + BATCH_SIZE] for start in range(0, len(records), BATCH_SIZE)]
    tokenizer = tiny_bert_tokenizer()
    tokenizer.model_max_length = BertConfig().max_position_embeddings
    processor = MerlProcessor(EcgFeatureExtractor(scaling="minmax_record"), tokenizer, max_length=MAX_LENGTH)
    published = build_model(arguments.text_layers, len(tokenizer), published=True).to(device)
    ours = build_model(arguments.text_layers, len(tokenizer), published=False).to(device)
    ours.load_state_dict(published.state_dict())
    check_equal_losses(published, ours, processor, records[:4], device)

    start = time.perf_counter()
    cache = TextCache.build(
        ours, processor, [record.report for record in records if record.report], show_progress=False
    )
    cache_seconds = time.perf_counter() - start
    seconds = measure(
        {
            "(a) as published": published_step(published, processor, batches, False, device),
            "(b) as published, padding trimmed": published_step(published, processor, batches, True, device),
            "(c) ours, live text tower": our_step(ours, processor, batches, None, device, LEARNING_RATE, WEIGHT_DECAY),
            "(d) ours, cached text": our_step(ours, processor, batches, cache, device, LEARNING_RATE, WEIGHT_DECAY),
        },
        arguments.rounds,
        device,
    )

    where = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} cores ({platform.machine()})"
    print(
        f"{where}, {arguments.threads} threads, load average {os.getloadavg()[0]:.1f}; torch {torch.__version__}, "
        f"transformers {transformers.__version__}; {arguments.rounds} rounds in turn"
    )
    lengths = [len(ids) for ids in tokenizer([record.report for record in records])["input_ids"]]
    print(
        f"MERL ResNet18, batch {BATCH_SIZE} x 12 x 5000, text tower of {arguments.text_layers} layers; reports of "
        f"{statistics.mean(lengths):.0f} tokens on average, {max(lengths)} at most\n"
    )
    print_table(seconds, BATCH_SIZE)
    print(
        "\n(a) to (c) is engineering: the same computation, arranged better, but for the frozen tower's dropout, which "
        "ours leaves off.\n(d) is the text cache: exact with the tower in eval mode, as in (c). It is paid once: "
        f"{cache_seconds:.1f} s for {len(cache)} distinct reports here."
    )


if __name__ == "__main__":
    main()
