"""Why is the retrieval of C-MELT and CG-DMER low? Controlled trainings on real recordings, judged on validation data.

    python benchmarks/retrieval_study.py --data-dir path/to/ptb-xl --method cmelt --variants 'as it was' 'the recipe'

Each variant is the recipe `ptb_xl_100hz`, as it was before this study, with some settings changed; `--variants` names
those below, or give `NAME=SETTING,SETTING`. Every training is scored on the records of fold 9 alone: the test fold
plays no part. Beside each number stands what the most frequent reports reach where they answer every ECG. One JSON line
per training is added to `--out` (an interrupted study goes on where it was), and a table is printed.

Columns: R@1 and R@10 from ECG to report, among the distinct reports; R@10 from report to ECG, where any recording with
that report is right; the mean reciprocal rank; and the effective rank of the ECG embeddings (participation ratio of
their singular values): 1 means that all recordings lie on a line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import set_seed

from hf_ecgtext.commands.options import parse_settings
from hf_ecgtext.data.opening import open_data
from hf_ecgtext.data.tasks import EcgData
from hf_ecgtext.evaluation.statistics.retrieval_ranks import commonest_values, rank_metric, rank_of_first, rank_of_own
from hf_ecgtext.methods import get_recipe
from hf_ecgtext.methods.base import EcgTextModel
from hf_ecgtext.processing import REPORT_CLEANERS
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments

_RECIPE = "ptb_xl_100hz"
_PAIR_TERM_ALONE = [
    *("config.mlm_weight=0", "config.mem_weight=0", "config.etm_weight=0", "config.ecg_mask_ratio=0"),
    "training.negative_sampling=null",
]
_MEAN = "config.ecg_config.pooling=mean"
_IGNORED = "config.equal_reports=ignored"
_POSITIVE = "config.equal_reports=positive"
_BEFORE = {
    "cmelt": [
        *("config.ecg_config.pooling=class_token", "config.equal_reports=negative"),
        *("config.pairs_on_full_input=false", "training.learning_rate=0.001"),
    ],
    "cgdmer": ["config.equal_reports=negative", "config.siglip_bias=-10.0", "config.siglip_weight=1.0"],
}
VARIANTS: dict[str, dict[str, list[str]]] = {
    "cmelt": {
        "as it was": [],
        "the recipe": [_MEAN, _IGNORED, "config.pairs_on_full_input=true", "training.learning_rate=0.0003"],
        "positive": [_POSITIVE],
        "mean, ignored": [_MEAN, _IGNORED],
        "mean, ignored, whole": [_MEAN, _IGNORED, "config.pairs_on_full_input=true"],
        "pair term alone": _PAIR_TERM_ALONE,
        "pair term alone, mean": [*_PAIR_TERM_ALONE, _MEAN],
        "pair term alone, mean, positive": [*_PAIR_TERM_ALONE, _MEAN, _POSITIVE],
        "pair term alone, mean, ignored": [*_PAIR_TERM_ALONE, _MEAN, _IGNORED],
        "fewer hidden patches": [_MEAN, _IGNORED, "config.ecg_mask_ratio=0.25"],
        "fewer negatives": [_MEAN, _IGNORED, "training.negative_fraction=0.25"],
        "pair term alone, mean, ignored, 3e-4": [*_PAIR_TERM_ALONE, _MEAN, _IGNORED, "training.learning_rate=0.0003"],
        "pair term alone, mean, ignored, bias -4.14": [*_PAIR_TERM_ALONE, _MEAN, _IGNORED, "config.siglip_bias=-4.14"],
        "learning rate 3e-4": ["training.learning_rate=0.0003"],
    },
    "cgdmer": {
        "as it was": [],
        "the recipe": [_IGNORED, "config.siglip_bias=-4.14", "config.siglip_weight=0.1"],
        "ignored": [_IGNORED],
        "ignored, bias -4.14": [_IGNORED, "config.siglip_bias=-4.14"],
        "ignored, whole": [_IGNORED, "config.contrastive_on_full_input=true"],
        "without siglip": ["config.siglip_weight=0"],
        "half of the patches hidden": ["config.ecg_mask_ratio=0.5"],
        "learning rate 3e-4": ["training.learning_rate=0.0003"],
    },
}
_COLUMNS = ("R@1", "R@10", "R@10 to ECG", "MRR", "effective rank", "commonest R@1", "commonest R@10")


def train(method: str, settings: list[str], seed: int, data: EcgData, folder: str) -> tuple[EcgTextModel, Any]:
    """The model of lowest validation loss, and its processor."""
    recipe = get_recipe(method, _RECIPE).override(parse_settings([*_BEFORE[method], *settings]))
    training = {**recipe.training, "disable_tqdm": True, "save_only_model": True}
    model, processor = recipe.build(seed=seed)
    set_seed(seed)
    trainer = EcgTextTrainer(
        model=model,
        args=EcgTextTrainingArguments(output_dir=folder, seed=seed, **training),
        processor=processor,
        train_dataset=data.split("train"),
        eval_dataset=data.split("validation"),
    )
    trainer.train()
    return trainer.model.eval(), processor


@torch.no_grad()
def score(model: EcgTextModel, processor: Any, data: EcgData, batch_size: int = 64) -> dict[str, float]:
    """Retrieval among the validation records."""
    split = data.split("validation")
    records = [row["ecg"] for row in split.__getitems__(range(len(split)))]
    clean = REPORT_CLEANERS[processor.report_cleaning]
    texts = [clean(record.report).strip() for record in records]
    unique = sorted(set(texts))
    own = np.array([unique.index(text) for text in texts])
    raw = {text: record.report for text, record in zip(texts, records, strict=True)}
    ecgs, reports = [], []
    for start in range(0, len(records), batch_size):
        batch = processor.feature_extractor(records[start : start + batch_size], return_tensors="pt")
        ecgs.append(model.get_ecg_features(batch["ecg_values"], batch.get("lead_mask")))
    for start in range(0, len(unique), batch_size):
        batch = processor(text=[raw[text] for text in unique[start : start + batch_size]], return_tensors="pt")
        reports.append(model.get_text_features(batch["input_ids"], batch["attention_mask"]))
    ecg_embeds, text_embeds = torch.cat(ecgs).numpy(), torch.cat(reports).numpy()
    ranks = rank_of_own(ecg_embeds, text_embeds, own)
    constant = commonest_values(own)
    values = np.linalg.svd(ecg_embeds - ecg_embeds.mean(0), compute_uv=False)
    found = [
        _metric("recall_at_1", ranks),
        _metric("recall_at_10", ranks),
        _metric("recall_at_10", rank_of_first(text_embeds, ecg_embeds, own)),
        float((1 / ranks).mean()),
        float((values**2).sum() ** 2 / (values**4).sum()) / 100,
        constant["recall_at_1"],
        constant["recall_at_10"],
    ]
    return {name: round(100 * value, 1) for name, value in zip(_COLUMNS, found, strict=True)}


def _metric(name: str, ranks: NDArray[np.float64]) -> float:
    return float(rank_metric(name, ranks, np.ones((1, len(ranks))))[0])


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="PTB-XL beside PTB-XL+")
    parser.add_argument("--method", default="cmelt", choices=list(VARIANTS))
    parser.add_argument("--variants", nargs="+", default=["as it was", "the recipe"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--bf16", action="store_true", help="half the time where the processor has AMX or AVX512-BF16")
    parser.add_argument("--out", type=Path, default=Path("outputs/retrieval_study.jsonl"))
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.is_file() else []
    options = {**get_recipe(arguments.method, _RECIPE).data_options("ptb_xl"), "missing": "skip"}
    data = open_data("ptb_xl", arguments.data_dir, **options)
    for variant in arguments.variants:
        name, _, given = variant.partition("=")
        settings = given.split(",") if given else VARIANTS[arguments.method][name]
        if arguments.bf16:
            settings = [*settings, "training.precision=bf16", "training.use_cpu=true"]
        for seed in arguments.seeds:
            key = {"method": arguments.method, "variant": name, "settings": settings, "seed": seed}
            if any(key.items() <= line.items() for line in lines):
                continue
            started = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                model, processor = train(arguments.method, settings, seed, data, folder)
            line = {**key, **score(model, processor, data), "seconds": round(time.monotonic() - started)}
            lines.append(line)
            with arguments.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
    print(f"| method | variant | seed | {' | '.join(_COLUMNS)} |")
    print("|---|---|" + "---:|" * (1 + len(_COLUMNS)))
    for line in lines:
        numbers = " | ".join(f"{line[column]:.1f}" for column in _COLUMNS)
        print(f"| {line['method']} | {line['variant']} | {line['seed']} | {numbers} |")


if __name__ == "__main__":
    main()
