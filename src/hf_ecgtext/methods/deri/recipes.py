"""Recipes for DERI. Behind every number: where it comes from (docs/methods/deri.md quotes the sources)."""

from __future__ import annotations

from typing import Any

from hf_ecgtext.leads import MIMIC_LEADS
from hf_ecgtext.methods.budgets import DEBUG, PTB_XL_100HZ, QUICKSTART, thin_resnet, tiny_resnet
from hf_ecgtext.methods.deri.configuration_deri import RELEASED, DeriConfig
from hf_ecgtext.methods.recipe import Recipe

MEDCPT = "ncbi/MedCPT-Query-Encoder"
MAX_TEXT_TOKENS = 256  # released code


def debug() -> Recipe:
    """A DERI small enough for tests: seconds on two CPU cores.

    Command: `python train.py --method deri --recipe debug`. Score: none claimed; its loss falls.
    """
    config = DeriConfig(
        ecg_config=tiny_resnet(),
        projection_dim=32,
        num_decoder_heads=2,
        decoder_head_dim=16,
        max_text_tokens=128,  # what the tiny text encoder reads
        freeze_text=False,  # it starts random, so it must learn
    )
    return Recipe(config=config, **DEBUG)


def quickstart() -> Recipe:
    """A thin DERI on the embedded synthetic data. Needs the extra `minilm`.

    Command: `python train.py --method deri --recipe quickstart --data synthetic`, two CPU cores.
    Score: AUROC 95.0 (94.3 to 95.6), seed 0, 205 s of training.
    """
    # Mean pooling is how all-MiniLM-L6-v2 was trained.
    config = DeriConfig(ecg_config=thin_resnet(), projection_dim=128, text_pooling="mean")
    return Recipe(config=config, **_with_text_limit(QUICKSTART))


def ptb_xl_100hz() -> Recipe:
    """DERI with the full ResNet18 on PTB-XL at 100 Hz and its English 12SL reports. Needs the extra `minilm`.

    PTB-XL then serves for pre-training (folds 1-8), choice of the epoch by validation loss (9) and evaluation (10).
    Command: `python train.py --method deri --recipe ptb_xl_100hz --data ptb_xl --data-dir ...`, two CPU cores.
    Score on 255 test records, `members` prompts, Super: AUROC 81.0 (77.2 to 84.6), seed 0.
    """
    return Recipe(config=DeriConfig(text_pooling="mean"), **_with_text_limit(PTB_XL_100HZ))


def paper() -> Recipe:
    """DERI on MIMIC-IV-ECG with the paper's optimiser settings, and our reading of its losses.

    Command: `accelerate launch train.py --method deri --recipe paper --data mimic_iv_ecg --data-dir ...`, 4 GPUs.
    Time and score: not yet run.
    """
    return Recipe(
        config=DeriConfig(),
        text_model=MEDCPT,  # paper
        ecg={"sampling_rate_hz": 500, "duration_s": 10.0, "scaling": "minmax_record"},  # paper; lead order is ours
        text={"max_length": MAX_TEXT_TOKENS, "report_cleaning": "mimic"},  # released code
        training={
            "learning_rate": 1e-3,  # paper and config.yaml
            "weight_decay": 1e-8,  # paper and config.yaml
            "num_train_epochs": 50,  # paper and config.yaml
            "per_device_train_batch_size": 128,  # paper: 512 on 4 GPUs, read as the total
            "lr_scheduler_type": "cosine",  # paper
            # Ours: neither paper nor code warms up. 1,000 of 75,350 steps, which are 50 times 771,693 // 512.
            "warmup_steps": 0.01327,
            "dataloader_num_workers": 8,  # config.yaml
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "load_best_model_at_end": True,  # ours: by validation loss, not by downstream labels
        },
    )


def released() -> Recipe:
    """DERI as its released configuration and code run it, quirks included.

    Sums of directions, no `decode_text` term, views with shuffled tokens, padding read as text, tokens that are not
    normalised at inference, the frozen text encoder's dropout active.
    Command: `accelerate launch train.py --method deri --recipe released --data mimic_iv_ecg --data-dir ...`, 2
    GPUs. Time and score: not yet run. Not reproduced: selection of the checkpoint by labelled downstream sets, and
    the identical shuffle of every epoch.
    """
    return Recipe(
        config=DeriConfig(**RELEASED, text_dropout=True),  # model.train() reaches the frozen text encoder
        text_model=MEDCPT,
        ecg={
            "lead_names": list(MIMIC_LEADS),  # files are read in their own order
            "sampling_rate_hz": 500,
            "duration_s": 10.0,
            "scaling": "minmax_record",
        },
        text={"max_length": MAX_TEXT_TOKENS, "report_cleaning": "mimic"},
        training={
            "learning_rate": 1e-3,  # config.yaml
            "weight_decay": 1e-8,  # config.yaml
            "num_train_epochs": 50,  # config.yaml
            "per_device_train_batch_size": 512,  # config.yaml, for each of the 2 processes of launch.sh
            "lr_restart_steps": 5000,  # as MERL's trainer, of which DERI's is a fork
            "lr_restart_minimum": 1e-8,  # as MERL's trainer
            "max_grad_norm": 0.0,  # as MERL's trainer, which clips nothing
            "sync_batch_norm": False,  # as MERL's trainer: plain DDP
            "precision": "fp16",
            "dataloader_num_workers": 8,  # config.yaml
        },
    )


def _with_text_limit(budget: Any) -> dict[str, Any]:
    """A shared budget, with reports cut to what the text-reading decoder has positions for."""
    return {**budget, "text": {**budget.get("text", {}), "max_length": MAX_TEXT_TOKENS}}
