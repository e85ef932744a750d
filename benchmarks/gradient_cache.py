"""Memory and time of one contrastive batch in chunks (gradient caching) against the same batch at once, in one run.

A step is forward and backward pass of ETP with MERL's ViT-tiny on ECGs of 12 x 1000 samples, with the text tower's
outputs taken from a cache. Each program runs in a process of its own, with the same weights and records:

* (a) at once: `model(**batch).loss.backward()`;
* (b) in chunks: `backward_in_chunks`, which `grad_cache_chunk_size` switches on in `EcgTextTrainer`.

Memory is the peak that a step adds to what is there before it: weights, their gradients and the batch itself (resident
memory on the CPU, allocated memory on a GPU). Time is that of further steps. Before anything is printed, both must give
the same loss and gradients; the run fails where (b) takes more than a quarter of the memory of (a).

    python benchmarks/gradient_cache.py
    python benchmarks/gradient_cache.py --device cuda --batch 4096 --chunk 256
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
import transformers
from torch import Tensor

from hf_ecgtext.encoders.text import tiny_bert_config
from hf_ecgtext.encoders.vit1d import Vit1dConfig
from hf_ecgtext.methods.etp import EtpConfig, EtpModel
from hf_ecgtext.training.gradient_cache import backward_in_chunks

NUM_LEADS, NUM_SAMPLES = 12, 1000
MOST_MEMORY = 0.25  # of (b), relative to (a)
PROGRAMS = {"at-once": "(a) at once", "in-chunks": "(b) in chunks of {chunk}"}


def step(model: EtpModel, batch: dict[str, Tensor], chunk: int | None) -> Tensor:
    """Loss of a batch, with its gradients in the parameters."""
    model.zero_grad(set_to_none=False)
    if chunk is not None:
        return backward_in_chunks(model, model, batch, chunk)[0]
    loss = model(**batch).loss
    loss.backward()
    return loss.detach()


def peak_memory(device: str) -> int:
    """Bytes at the highest so far."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else 1024 * peak  # Linux counts in KiB


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One program in this process: bytes, seconds, loss and the norm of the gradient."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = arguments.device
    config = EtpConfig(
        ecg_config=Vit1dConfig.from_size("tiny", num_leads=NUM_LEADS, num_samples=NUM_SAMPLES),
        text_config=tiny_bert_config(vocab_size=100),  # its outputs are cached: it never runs
        learnable_temperature=True,
    )
    model = EtpModel(config).to(device).train()
    batch = {
        "ecg_values": torch.randn(arguments.batch, NUM_LEADS, NUM_SAMPLES, device=device),
        "text_tower_embeds": torch.randn(arguments.batch, config.text_config.hidden_size, device=device),
    }
    chunk = arguments.chunk if arguments.program == "in-chunks" else None
    step(model, {name: value[:4] for name, value in batch.items()}, None if chunk is None else 2)  # makes the gradients
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = peak_memory(device)
    seconds = []
    loss = torch.zeros(())
    for _ in range(arguments.rounds + 1):  # the first is for the memory
        start = time.perf_counter()
        loss = step(model, batch, chunk)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return {
        "bytes": peak_memory(device) - before,
        "seconds": statistics.median(seconds[1:]),
        "loss": loss.item(),
        "gradient": torch.nn.utils.get_total_norm(gradients).item(),
    }


def run(program: str) -> dict[str, Any]:
    """One program in a process of its own, with the options of this one."""
    command = [sys.executable, __file__, *sys.argv[1:], "--program", program]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        sys.exit(f"{PROGRAMS[program]} failed:\n{finished.stderr}")
    return json.loads(finished.stdout.splitlines()[-1])


def main() -> None:
    """Measure both programs, check that they agree, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512, help="records (default: %(default)s)")
    parser.add_argument("--chunk", type=int, default=32, help="records at a time in (b) (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="timed steps per program (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads on the CPU (default: %(default)s)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: %(default)s")
    parser.add_argument("--program", choices=list(PROGRAMS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if min(arguments.chunk, arguments.rounds, arguments.threads) < 1 or arguments.batch <= arguments.chunk:
        parser.error("--chunk, --rounds and --threads must be positive, and --batch larger than --chunk")
    if arguments.program is not None:
        print(json.dumps(measure(arguments)))
        return

    found = {program: run(program) for program in PROGRAMS}
    baseline, chunked = found["at-once"], found["in-chunks"]
    for what in ("loss", "gradient"):
        if not math.isclose(chunked[what], baseline[what], rel_tol=1e-4):
            sys.exit(f"The two programs differ: {what} {baseline[what]} at once, {chunked[what]} in chunks.")
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{os.cpu_count()} cores"
    print(
        f"{where} ({platform.machine()}), {arguments.threads} threads, load average {os.getloadavg()[0]:.1f}; "
        f"torch {torch.__version__}, transformers {transformers.__version__}; {arguments.rounds} rounds"
    )
    print(f"ETP, ViT-tiny, batch {arguments.batch} x {NUM_LEADS} x {NUM_SAMPLES}, cached text, float32\n")
    print("| step | memory of the step, MiB | / (a) | median s | / (a) |")
    print("|---|--:|--:|--:|--:|")
    for program, title in PROGRAMS.items():
        result = found[program]
        print(
            f"| {title.format(chunk=arguments.chunk)} | {result['bytes'] / 2**20:.0f} "
            f"| {result['bytes'] / baseline['bytes']:.3f} | {result['seconds']:.2f} "
            f"| {result['seconds'] / baseline['seconds']:.2f} |"
        )
    if chunked["bytes"] > MOST_MEMORY * baseline["bytes"]:
        sys.exit(f"(b) takes more than {MOST_MEMORY:.0%} of the memory of (a).")


if __name__ == "__main__":
    main()
