"""Cost of one DERI or C-MELT training step at paper size: ours against the step as published, in one run.

Batch 8 of 12 x 5000 samples and short machine reports; text towers with random weights: a BERT of MedCPT's size
(frozen) for DERI, an encoder of Flan-T5-base's size (trained) for C-MELT. Programs, which take turns on each batch:

* (a) as published: every report padded to 256 tokens; eager attention everywhere; fp32; signals through float64; losses
  read with `.item()` in every step. DERI: the frozen tower runs in every step with its dropout, and the decoder reads
  all 256 positions. C-MELT: vocabulary scores of all positions instead of the masked ones;
* (b) as (a), but reports padded to the longest of the batch: what D-BETA's own collator does (C-MELT only);
* (c) ours: trimmed padding, fused attention, scores only where a word was masked, no `.item()`;
* (d) ours with the text cache, which only a frozen tower can have (DERI);
* (e) as (d), with the cache in host memory, from where every batch is copied (`text_cache_location=host`).

The parity tests (`tests/methods/{deri,cmelt}`) prove that the parts of (a) compute what the released code computes.
On a GPU, (a) and (b) run in fp32 (C-MELT) or fp16 (DERI) as published, (c) and (d) in bf16.

    python benchmarks/cross_modal_step.py --method deri
    python benchmarks/cross_modal_step.py --method cmelt --rounds 2
    python benchmarks/cross_modal_step.py --method cmelt --device cuda --batch 128 --rounds 20   # not run: no GPU
    python benchmarks/cross_modal_step.py --method deri --device cuda --batch 128 --rounds 20    # not run: no GPU

Source of what the published steps do: docs/methods/deri.md, docs/methods/cmelt.md and docs/speed.md.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from stepping import Step, measure, our_step, print_table
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import BertConfig, T5Config

from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator
from hf_ecgtext.encoders.conv_transformer import ConvTransformerConfig
from hf_ecgtext.encoders.masking import kept_indices, num_kept
from hf_ecgtext.encoders.text import tiny_bert_tokenizer
from hf_ecgtext.methods.base import EcgTextModel, TextInputs
from hf_ecgtext.methods.cmelt import CmeltConfig, CmeltModel
from hf_ecgtext.methods.deri import DeriConfig, DeriModel
from hf_ecgtext.objectives import token_cross_entropy
from hf_ecgtext.processing import EcgFeatureExtractor, EcgTextProcessor
from hf_ecgtext.training import TextCache

MAX_LENGTH = 256  # tokens
LEARNING_RATE, WEIGHT_DECAY = 5e-5, 0.01

PublishedLoss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, list[Tensor]]]
"""From signals, token ids and their mask to the loss and its terms."""


def flan_t5_base() -> T5Config:
    """The size of google/flan-t5-base."""
    return T5Config(
        d_model=768, d_kv=64, d_ff=2048, num_layers=12, num_heads=12, vocab_size=32128, feed_forward_proj="gated-gelu"
    )


def build_deri(published: bool) -> DeriModel:
    """DERI's ResNet18 around a random BERT-base, as released or as here."""
    settings: dict[str, Any] = {}
    if published:
        settings = {
            "text_dropout": True,
            "mask_padding": False,
            "keep_order": False,
            "loss_reduction": "sum_directions",
            "decode_text_weight": 0.0,
        }
    model = DeriModel(DeriConfig(text_config=BertConfig(), **settings))
    model.text_tower.model.set_attn_implementation("eager" if published else "sdpa")
    return model


def build_cmelt(published: bool) -> CmeltModel:
    """C-MELT around a random encoder of Flan-T5-base's size, as released or as here."""
    settings: dict[str, Any] = {}
    if published:
        settings = {
            "ecg_config": ConvTransformerConfig(leak_free_masking=False),
            "attend_padding": True,
            "mem_masked_leads": "reconstruct_zeros",
        }
    config = CmeltConfig(text_config=flan_t5_base(), **settings)
    config.adopt_tokenizer(tiny_bert_tokenizer())
    return CmeltModel(config)


def deri_loss(model: DeriModel) -> PublishedLoss:
    """The released model pads and reads all 256 positions by itself."""

    def loss(ecg_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        output = model(ecg_values=ecg_values, input_ids=input_ids, attention_mask=attention_mask)
        return output.loss, list((output.loss_terms or {}).values())

    return loss


def cmelt_loss(model: CmeltModel) -> PublishedLoss:
    """As D-BETA's forward: vocabulary scores of every position."""
    config = model.config

    def loss(ecg_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        noise = model.draw_noise(len(ecg_values), input_ids.shape[1])
        masked = model.mask_words(TextInputs(input_ids, attention_mask), noise["text_noise"])
        labels = torch.full_like(input_ids, -100).scatter(1, masked.positions, masked.labels)
        output = model.text_tower(masked.input_ids, attention_mask)
        pooled, tokens = output.pooler_output, output.last_hidden_state
        lead_mask = noise["lead_noise"] >= config.lead_mask_probability
        visible = kept_indices(noise["patch_noise"], num_kept(config.ecg_config.num_tokens, config.ecg_mask_ratio))
        encoded = model.ecg_encoder(ecg_values, lead_mask=lead_mask, visible=visible)
        fused_text, ecg_states = model.fuse(encoded.last_hidden_state, tokens, attention_mask)
        error, count = token_cross_entropy(model.mlm_head(fused_text), labels)
        predicted = model.mem_head(ecg_states[config.mem_layer], visible)
        rows = {
            "ecg": model.embed_ecg(encoded),
            "text": model.embed_text(pooled),
            "is_aligned": torch.ones(len(ecg_values), device=ecg_values.device),
            "mlm_sum": error,
            "mlm_count": count,
            **model.mem_rows(predicted, ecg_values, lead_mask, visible),
            "etm_logits": model.etm_head(model.fused_features(fused_text, ecg_states[-1])),
        }
        terms = list(model.loss_terms(rows).values())
        return torch.stack(terms).sum(), terms

    return loss


def published_step(
    model: EcgTextModel,
    loss_of: PublishedLoss,
    processor: EcgTextProcessor,
    batches: list[list[EcgRecord]],
    trim_padding: bool,
    device: str,
    use_fp16: bool,
) -> Step:
    """Programs (a) and (b)."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    scaler = torch.amp.GradScaler(device, enabled=use_fp16 and device == "cuda")

    def step(number: int) -> list[float]:
        model.train()
        records = batches[number]
        signals = np.stack([record.signal.astype(np.float64) for record in records])  # float64 into the batch
        ecg_values = torch.from_numpy(signals).to(torch.float32).to(device)
        tokens = processor.tokenizer(
            [record.report for record in records],
            padding="longest" if trim_padding else "max_length",
            truncation=True,
            max_length=MAX_LENGTH,
            return_tensors="pt",
        ).to(device)
        with (
            sdpa_kernel(SDPBackend.MATH),
            torch.autocast(device, dtype=torch.float16, enabled=scaler.is_enabled()),
        ):
            loss, terms = loss_of(ecg_values, tokens["input_ids"], tokens["attention_mask"])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return [loss.item(), *(term.item() for term in terms)]

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=["deri", "cmelt"], required=True)
    parser.add_argument("--batch", type=int, default=8, help="records per step (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="timed steps per program (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads on the CPU (default: %(default)s)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: %(default)s")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.threads, arguments.batch) < 1:
        parser.error("--rounds, --threads and --batch must be positive")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = arguments.device

    records = list(SyntheticEcgGenerator(seed=0).records(arguments.batch * (arguments.rounds + 1)))
    batches = [records[start : start + arguments.batch] for start in range(0, len(records), arguments.batch)]
    tokenizer = tiny_bert_tokenizer()
    tokenizer.model_max_length = BertConfig().max_position_embeddings
    processor = EcgTextProcessor(EcgFeatureExtractor(scaling="none"), tokenizer, max_length=MAX_LENGTH)
    programs: dict[str, Step] = {}
    if arguments.method == "deri":
        published_deri, deri = build_deri(published=True).to(device), build_deri(published=False).to(device)
        reports = [record.report for record in records if record.report]
        cache = TextCache.build(deri, processor, reports, show_progress=False, location="device")
        on_host = TextCache.build(deri, processor, reports, show_progress=False, location="host")
        options = (deri_loss(published_deri), processor, batches)
        programs["(a) as published"] = published_step(published_deri, *options, False, device, use_fp16=True)
        for name, held in (
            ("(c) ours, live text tower", None),
            ("(d) ours, cached text", cache),
            ("(e) ours, cached text in host memory", on_host),
        ):
            programs[name] = our_step(deri, processor, batches, held, device, LEARNING_RATE, WEIGHT_DECAY)
    else:
        published_cmelt, cmelt = build_cmelt(published=True).to(device), build_cmelt(published=False).to(device)
        loss_of = cmelt_loss(published_cmelt)
        for name, trim in (("(a) as published, padded to 256", False), ("(b) as published, padding trimmed", True)):
            programs[name] = published_step(published_cmelt, loss_of, processor, batches, trim, device, use_fp16=False)
        programs["(c) ours"] = our_step(cmelt, processor, batches, None, device, LEARNING_RATE, WEIGHT_DECAY)
    seconds = measure(programs, arguments.rounds, device)

    where = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} cores ({platform.machine()})"
    lengths = [len(ids) for ids in tokenizer([record.report for record in records])["input_ids"]]
    print(
        f"{where}, {arguments.threads} threads, load average {os.getloadavg()[0]:.1f}; torch {torch.__version__}, "
        f"transformers {transformers.__version__}; {arguments.rounds} rounds in turn\n"
        f"{arguments.method}, batch {arguments.batch} x 12 x 5000; reports of {sum(lengths) / len(lengths):.0f} tokens "
        f"on average, {max(lengths)} at most\n"
    )
    print_table(seconds, arguments.batch)


if __name__ == "__main__":
    main()
