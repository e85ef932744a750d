"""Recipes for ETP. Behind every number: where it comes from (docs/methods/etp.md quotes the sources)."""

from __future__ import annotations

from hf_ecgtext.methods.budgets import DEBUG, PTB_XL_100HZ, QUICKSTART, thin_resnet, tiny_resnet
from hf_ecgtext.methods.etp.configuration_etp import EtpConfig
from hf_ecgtext.methods.recipe import Recipe

BIO_CLINICAL_BERT = "emilyalsentzer/Bio_ClinicalBERT"


def debug() -> Recipe:
    """An ETP small enough for tests: seconds on two CPU cores.

    Command: `python train.py --method etp --recipe debug`. Score: none claimed; its loss falls.
    """
    # The tiny text encoder starts random, so it must learn.
    return Recipe(config=EtpConfig(ecg_config=tiny_resnet(), projection_dim=32, freeze_text=False), **DEBUG)


def quickstart() -> Recipe:
    """A thin ETP on the embedded synthetic data. Needs the extra `minilm`.

    Command: `python train.py --method etp --recipe quickstart --data synthetic`, two CPU cores.
    Score: AUROC 95.6 (95.1 to 96.1), seed 0, about 90 s of training.
    """
    # Mean pooling is how all-MiniLM-L6-v2 was trained.
    return Recipe(config=EtpConfig(ecg_config=thin_resnet(), projection_dim=128, text_pooling="mean"), **QUICKSTART)


def ptb_xl_100hz() -> Recipe:
    """ETP with the full ResNet18 on PTB-XL at 100 Hz and its English 12SL reports. Needs the extra `minilm`.

    PTB-XL then serves for pre-training (folds 1-8), choice of the epoch by validation loss (9) and evaluation (10).
    Command: `python train.py --method etp --recipe ptb_xl_100hz --data ptb_xl --data-dir ...`, two CPU cores.
    Score on 255 test records, `members` prompts, Super: AUROC 79.4 (75.5 to 83.1), seed 0, 6 min of training.
    """
    return Recipe(config=EtpConfig(text_pooling="mean"), **PTB_XL_100HZ)


def paper() -> Recipe:
    """ETP with the paper's optimiser settings, on MIMIC-IV-ECG so that it can be compared with the other methods.

    Command: `python train.py --method etp --recipe paper --data mimic_iv_ecg --data-dir ...`, one GPU. Time and
    score: not yet run.
    """
    return Recipe(
        config=EtpConfig(),
        text_model=BIO_CLINICAL_BERT,  # paper §3.2
        ecg={"sampling_rate_hz": 500, "duration_s": 10.0, "scaling": "minmax_record"},  # unstated; as MERL
        text={"max_length": 256, "report_cleaning": "mimic"},  # unstated; as MERL
        training={
            "optim": "adamw_torch",  # paper: Adam with weight decay
            "learning_rate": 2e-3,  # paper: "2 × e^-3"
            "weight_decay": 1e-5,  # paper: "1 × e^-5"
            "num_train_epochs": 50,  # paper
            "per_device_train_batch_size": 128,  # paper, one GPU
            "lr_scheduler_type": "constant",  # unstated
            "dataloader_num_workers": 8,  # ours
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "load_best_model_at_end": True,  # ours
        },
    )


def paper_ptb_xl() -> Recipe:
    """ETP as the paper trained it: on PTB-XL's own, mostly German reports.

    Command: `python train.py --method etp --recipe paper_ptb_xl --data ptb_xl --data-dir ...`.
    Time and score: not yet run. Not reproduced: the paper keeps single-category records only, of an unpublished split.
    """
    base = paper()
    return Recipe(
        config=base.config,
        text_model=base.text_model,
        ecg=base.ecg,
        text={"max_length": 256, "report_cleaning": "ptbxl"},
        training=base.training,
        data={"ptb_xl": {"sampling_rate_hz": 500, "report": "original"}},
    )
