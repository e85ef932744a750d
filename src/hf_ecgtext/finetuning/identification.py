"""Fine-tuning of an ECG encoder to tell people apart.

The encoder learns with one direction per training person (ArcFace), which is thrown away afterwards: people of the test
are strangers, told apart by the features alone, as in `evaluation/downstream/identification.py`. What is left is a
checkpoint of the method like any other, whose text side no longer fits its ECG side.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset as TorchDataset
from transformers import TrainingArguments

from hf_ecgtext.data.ledger import TRAINING_SPLIT, TrainingLedger, continued_ledger
from hf_ecgtext.data.random_crops import RandomCrops
from hf_ecgtext.data.records import AnyEcg
from hf_ecgtext.data.sources.cinc2021.segments import SegmentRows
from hf_ecgtext.data.tasks import EcgData, EcgRows
from hf_ecgtext.evaluation.downstream.identification import credit_of
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.encoders.frozen import EncoderRuns, Features, FrozenEncoder, ModelEncoder
from hf_ecgtext.evaluation.encoders.random import random_encoders
from hf_ecgtext.finetuning.arcface import arc_face
from hf_ecgtext.finetuning.lead_subsets import lead_subset, restrict_extractor, restrict_leads
from hf_ecgtext.finetuning.trainer import SCORE, StopWithoutProgress, validation_scores
from hf_ecgtext.hub import keep_training_data
from hf_ecgtext.io import full_disk_named
from hf_ecgtext.methods.base import EcgTextModel
from hf_ecgtext.processing import EcgTextProcessor
from hf_ecgtext.training.checkpoints import last_complete_checkpoint, last_intact_checkpoint
from hf_ecgtext.training.crops import CropEpochs
from hf_ecgtext.training.launch import check_launch
from hf_ecgtext.training.output_lock import found_by_main_process, locked_output
from hf_ecgtext.training.progress import TrainingProgress
from hf_ecgtext.training.resumable_trainer import ResumableTrainer
from hf_ecgtext.training.schedule_checks import check_run_length, check_schedule_of_transformers
from hf_ecgtext.training.schedules import schedule_of_transformers

logger = logging.getLogger(__name__)

_DECIDED_HERE = {"output_dir", "seed", "eval_strategy", "save_strategy", "metric_for_best_model", "greater_is_better"}


@dataclass(frozen=True, kw_only=True)
class IdentificationRecipe:
    """Settings of the fine-tuning. Behind every number: where it comes from.

    Args:
        name (`str`): Stands in every result line.
        scale, margin (`float`): See [`~hf_ecgtext.finetuning.arcface.arc_face`].
        patience (`int`): Stop after so many epochs without a better accuracy on validation.
        training (`Mapping[str, Any]`): Fields of [`~transformers.TrainingArguments`].
    """

    name: str = "cmelt"
    scale: float = 192.0  # fairseq-signals, examples/*/identification.yaml; C-MELT's paper names none
    margin: float = 1.0  # the same
    patience: int = 100  # none published; the best epoch by validation is ours
    training: Mapping[str, Any] = field(
        default_factory=lambda: {
            "num_train_epochs": 100,  # C-MELT
            "per_device_train_batch_size": 256,  # C-MELT
            "learning_rate": 1e-4,  # C-MELT
            "lr_scheduler_type": "cosine",  # ours; fairseq-signals: a tenth of warm-up, a plateau, an exponential fall
            "warmup_steps": 0.1,
        }
    )

    def override(self, settings: Mapping[str, Any]) -> IdentificationRecipe:
        """A copy with some settings changed; its name says which.

        Args:
            settings (`Mapping[str, Any]`): `scale`, `margin`, `patience`, or `training.X`.

        Raises:
            ValueError: If there is no such setting, or fine-tuning decides it itself.
            TypeError: Later, if there is no such training setting.
        """
        own: dict[str, Any] = {}
        training: dict[str, Any] = {}
        for name, value in settings.items():
            group, _, rest = name.partition(".")
            if name in ("scale", "margin", "patience"):
                own[name] = value
            elif group == "training" and rest and rest not in _DECIDED_HERE:
                training[rest] = value
            else:
                raise ValueError(
                    f"Cannot set '{name}': write scale, margin, patience, or training. and a setting other than "
                    f"{', '.join(sorted(_DECIDED_HERE))}."
                )
        changes = [f"{name}={value}" for name, value in sorted({**own, **training}.items())]
        return dataclasses.replace(
            self, **own, training={**self.training, **training}, name=" ".join([self.name, *changes])
        )


CMELT = IdentificationRecipe()


@dataclass(frozen=True, eq=False)
class IdentifyingEncoder:
    """What the fine-tuning gave.

    Args:
        encoder ([`~hf_ecgtext.evaluation.encoders.frozen.FrozenEncoder`]): Of the best epoch, with the leads it learnt.
        ledger ([`~hf_ecgtext.data.ledger.TrainingLedger`]): What it was trained on, before and now.
        details (`dict[str, Any]`): Epochs, the best one, its validation accuracy, and people trained on.
    """

    encoder: FrozenEncoder
    ledger: TrainingLedger
    details: dict[str, Any]


class FewerLeads(FrozenEncoder):
    """An encoder that sees some leads only.

    Args:
        model ([`EcgTextModel`]): The model.
        processor ([`~hf_ecgtext.processing.EcgTextProcessor`]): Its processor.
        leads (`Sequence[str]`): Standard names.

    Raises:
        ValueError: If the processor refuses records with absent leads.
    """

    def __init__(self, model: EcgTextModel, processor: EcgTextProcessor, leads: Sequence[str]):
        self.leads = tuple(leads)
        self.processor = copy.copy(processor)
        self.processor.feature_extractor = restrict_extractor(processor.feature_extractor, leads)
        self.inner = ModelEncoder(model, self.processor)

    def identity(self) -> dict[str, Any]:
        """That of the model, and the leads."""
        return {**self.inner.identity(), "leads": list(self.leads)}

    def encode(self, ecgs: Sequence[AnyEcg]) -> Features:
        """As the model, of the leads."""
        return self.inner.encode([restrict_leads(ecg, self.leads) for ecg in ecgs])


def identification_baseline(
    model: EcgTextModel, processor: EcgTextProcessor, data: EcgData, leads: int, name: str, seeds: Sequence[int]
) -> EncoderRuns:
    """Random initialisations of a model with some of the leads, their BatchNorm statistics from the training segments.

    Args:
        model ([`EcgTextModel`]): Its architecture and text tower are used.
        processor ([`~hf_ecgtext.processing.EcgTextProcessor`]): Its processor.
        data ([`EcgData`]): From
            [`~hf_ecgtext.data.sources.cinc2021.segments.identification_data`], with training segments.
        leads (`int`): 12, 6, 3, 2 or 1.
        name (`str`): Checkpoint of the model.
        seeds (`Sequence[int]`): One encoder each.
    """
    encoder = FewerLeads(model, processor, lead_subset(leads))
    calibration: Any = _SomeLeads(data.split("train"), encoder.leads)
    untrained = random_encoders(model, encoder.processor, calibration, seeds)
    members = tuple(FewerLeads(model, processor, encoder.leads) for model in untrained)
    return EncoderRuns(name=name, kind="random", members=members, seed=tuple(seeds))


class _SomeLeads(TorchDataset):
    """Rows without the other leads."""

    def __init__(self, rows: EcgRows, leads: Sequence[str]):
        self.rows = rows
        self.leads = leads

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"ecg": restrict_leads(self.rows[index]["ecg"], self.leads)}


class _PersonClassifier(nn.Module):
    """An encoder with one direction per training person."""

    def __init__(self, model: EcgTextModel, num_persons: int, recipe: IdentificationRecipe, seed: int):
        super().__init__()
        self.model = model
        self.recipe = recipe
        with torch.no_grad():
            dim = _probe_features_of_nothing(model).shape[1]
        directions = torch.randn(num_persons, dim, generator=torch.Generator().manual_seed(seed))
        self.directions = nn.Parameter(directions.to(model.device))

    def forward(self, ecg_values: Tensor, lead_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        features = self.model.get_probe_features(ecg_values, lead_mask=lead_mask)
        with torch.autocast(ecg_values.device.type, enabled=False):  # the margin is lost in bf16 cosines
            cosines = F.normalize(features.float(), dim=-1) @ F.normalize(self.directions, dim=-1).T
            return {"loss": arc_face(cosines, labels, self.recipe.scale, self.recipe.margin)}


class _IdentificationTrainer(ResumableTrainer):
    """The Trainer, with the accuracy of frozen features on validation pairs as evaluation."""

    control: Any
    optimizer: Any
    lr_scheduler: Any

    def __init__(self, *args: Any, encoder: FewerLeads, data: EcgData, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.encoder = encoder
        self.data = data
        if self.args.disable_tqdm:
            self.remove_callback(TrainingProgress)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        if self.state.global_step < num_training_steps:  # a run that is resumed at its end trains no more
            check_run_length(self.args, num_training_steps, self.state.num_train_epochs or None)
        if self.lr_scheduler is None:
            self.lr_scheduler = schedule_of_transformers(self.args, optimizer or self.optimizer, num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        was_training = self.model.training
        with TemporaryDirectory() as folder:  # the weights change with every epoch: nothing to keep
            cache = FeatureCache(folder, batch_size=self.args.per_device_eval_batch_size, show_progress=False)
            encoder = FewerLeads(self.encoder.inner.model, self.encoder.processor, self.encoder.leads)
            accuracy = float(credit_of(encoder, self.data, cache, "validation")[0].mean())
        self.model.train(was_training)
        metrics = {f"{metric_key_prefix}_{SCORE}": accuracy}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def finetune_identification(
    model: EcgTextModel,
    processor: EcgTextProcessor,
    data: EcgData,
    output_dir: str | Path,
    *,
    leads: int = 12,
    recipe: IdentificationRecipe = CMELT,
    seed: int = 0,
    resume: bool = False,
) -> IdentifyingEncoder:
    """Fine-tune a copy of a model on the training people, choose the epoch on validation, and save it.

    Args:
        model ([`EcgTextModel`]): Stays as it is.
        processor ([`~hf_ecgtext.processing.EcgTextProcessor`]): Its processor.
        data ([`EcgData`]): From
            [`~hf_ecgtext.data.sources.cinc2021.segments.identification_data`], with training and validation.
        output_dir (`str` or `Path`): Checkpoints, then model, processor and ledger.
        leads (`int`): 12, 6, 3, 2 or 1; the others count as absent in training and evaluation.
        recipe ([`IdentificationRecipe`]): How long and how fast.
        seed (`int`): Of directions and order.
        resume (`bool`): Go on from the last complete checkpoint in the folder, if there is one.

    Raises:
        ValueError: If a split is missing, or there is no such subset of leads.
        FileExistsError: If the folder holds checkpoints and none was asked for.
    """
    names = lead_subset(leads)
    train, validation = data.split("train"), data.split("validation")
    if not isinstance(train, SegmentRows) or not isinstance(validation, SegmentRows):
        raise ValueError(f"{data.name} holds no segments of people; see `identification_data`.")
    if last_complete_checkpoint(output_dir) is not None and not resume:
        raise FileExistsError(f"'{output_dir}' holds checkpoints already; resume, or choose another folder.")
    tuned = copy.deepcopy(model)
    encoder = FewerLeads(tuned, processor, names)
    num_persons = 1 + max(train.column("person"))
    arguments = _arguments(output_dir, recipe, seed)  # first: it makes several processes know of each other
    classifier = _PersonClassifier(tuned, num_persons, recipe, seed)
    with locked_output(output_dir), _without_what_is_not_trained(tuned):
        checkpoint = found_by_main_process(lambda: last_intact_checkpoint(output_dir))
        trainer = _IdentificationTrainer(
            model=classifier,
            args=arguments,
            train_dataset=train,
            eval_dataset=validation,
            data_collator=_Collator(encoder),
            callbacks=[StopWithoutProgress(recipe.patience), CropEpochs()],
            encoder=encoder,
            data=data,
        )
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    scores = validation_scores(trainer.state)
    ledger = continued_ledger(
        TrainingLedger.of_splits(data.name, data.revision, {TRAINING_SPLIT: train, "validation": validation}),
        model.name_or_path,
    )
    keep_training_data(tuned, ledger.files())
    with full_disk_named(output_dir, "Make room, then run the same command again with --resume"):
        tuned.eval().save_pretrained(output_dir)
        encoder.processor.save_pretrained(output_dir)
    ledger.save(output_dir)
    details = {
        "epochs": len(scores),
        "best_epoch": 1 + max(range(len(scores)), key=scores.__getitem__),
        "validation_accuracy": max(scores),
        "num_training_persons": num_persons,
    }
    return IdentifyingEncoder(FewerLeads(tuned, processor, names), ledger, details)


class _Collator:
    """Batches of segments with the numbers of their people."""

    def __init__(self, encoder: FewerLeads):
        self.encoder = encoder
        self.crops = RandomCrops()

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        ecgs = [restrict_leads(row["ecg"], self.encoder.leads) for row in rows]
        extractor = self.encoder.processor.feature_extractor
        positions = self.crops.draw(extractor.crop, [ecg.record_id for ecg in ecgs])
        batch = dict(extractor(ecgs, positions=positions, return_tensors="pt"))
        return {**batch, "labels": torch.tensor([row["person"] for row in rows])}


def _arguments(output_dir: str | Path, recipe: IdentificationRecipe, seed: int) -> TrainingArguments:
    arguments = TrainingArguments(
        **{
            "per_device_eval_batch_size": 64,
            "logging_strategy": "epoch",
            "report_to": [],
            "dataloader_pin_memory": torch.accelerator.is_available(),  # without one, PyTorch warns
            "save_total_limit": 1,
            **recipe.training,
        },
        output_dir=str(output_dir),
        seed=seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model=SCORE,
        greater_is_better=True,
        remove_unused_columns=False,
        label_names=["labels"],
    )
    check_launch(arguments.world_size)
    check_schedule_of_transformers(arguments)
    if arguments.n_gpu > 1:
        raise ValueError(
            f"One process sees {arguments.n_gpu} GPUs, among which transformers would share each batch. Start one "
            "process per GPU with `accelerate launch`, or set CUDA_VISIBLE_DEVICES=0."
        )
    return arguments


@contextmanager
def _without_what_is_not_trained(model: EcgTextModel) -> Iterator[None]:
    """Take the text tower out of the checkpoints, and hold still what has no part in the features."""
    was_training, tower = model.training, model.text_tower
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    _probe_features_of_nothing(model).sum().backward()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    setattr(model, "text_tower", nn.Identity())  # noqa: B010, of another type than declared
    try:
        yield
    finally:
        model.text_tower = tower
        model.train(was_training)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(wanted[name])


def _probe_features_of_nothing(model: EcgTextModel) -> Tensor:
    """Features of a flat line, without a trace in BatchNorm."""
    was_training = model.training
    config = model.config.ecg_config
    flat = torch.zeros(1, config.num_leads, config.num_samples, device=model.device, dtype=model.dtype)
    features = model.eval().get_probe_features(flat)
    model.train(was_training)
    return features
