"""A fingerprint of what a short training of every method and recipe gives, to compare two versions of the library.

    python benchmarks/weights_digest.py > before.txt        # in one checkout
    python benchmarks/weights_digest.py > after.txt         # in another, in the same environment
    diff before.txt after.txt

Each line is a method, a recipe and the SHA-256 of all weights after three steps of one process. Recipes whose text
encoder lives on the Hub get the tiny random one. Every recipe gets a small batch and, where it has them, a warm-up
of one step and restarts that fit; all else is its own. Equal lines mean that training gives the same weights to
the bit. Digests differ between machines and library versions.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import sys
import tempfile
from pathlib import Path

import torch

from hf_ecgtext.cli import main as hf_ecgtext
from hf_ecgtext.methods import get_recipe, method_names
from hf_ecgtext.methods.recipe import Recipe

_RECIPES = (
    "debug",
    "quickstart",
    "ptb_xl_100hz",
    "paper",
    "paper_ptb_xl",
    "released",
    "reference",
    "reference_vit_tiny",
)
_OFFLINE_TEXT_MODELS = ("tiny-bert", "minilm")


def digest(method: str, name: str, steps: int) -> str | None:
    """SHA-256 of the weights after a few steps; `None` where the method has no such recipe."""
    try:
        recipe: Recipe = get_recipe(method, name)
    except ValueError:
        return None
    settings = [f"training.max_steps={steps}", "training.per_device_train_batch_size=8", "training.save_strategy=no"]
    settings += ["training.eval_strategy=no", "training.load_best_model_at_end=false", "training.disable_tqdm=true"]
    settings += ["training.precision=fp32", "training.dataloader_num_workers=0"]
    if recipe.text_model not in _OFFLINE_TEXT_MODELS:
        settings += ["text_model=tiny-bert", "config.text_pooling=mean"]
        if "max_text_tokens" in recipe.config.to_dict():
            settings.append("config.max_text_tokens=128")  # what the tiny text encoder reads
    # Shares of the run and absolute lengths are other steps in so short a run.
    if recipe.training.get("lr_restart_steps"):
        settings.append(f"training.lr_restart_steps={steps - 1}")
    if recipe.training.get("warmup_steps"):
        settings.append("training.warmup_steps=1")
    if recipe.training.get("negative_sampling"):
        settings.append("training.negative_sampling=random")
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["train", "--method", method, "--recipe", name, "--data", "synthetic", "--no-zero-shot"]
        arguments += ["--data-set", "num_records=60", "sampling_rate_hz=100.0", "--output-dir", f"{folder}/run"]
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            status = hf_ecgtext([*arguments, "--set", *settings])
        if status:
            return f"failed: {output.getvalue().strip().splitlines()[-1]}"
        return hashlib.sha256(Path(folder, "run", "model.safetensors").read_bytes()).hexdigest()


def main() -> None:
    """Print a line per method and recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=method_names())
    parser.add_argument("--recipes", nargs="+", default=list(_RECIPES))
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the order of sums depends on it
    for method in arguments.methods:
        for name in arguments.recipes:
            found = digest(method, name, arguments.steps)
            if found is not None:
                print(f"{method:8} {name:20} {found}")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
