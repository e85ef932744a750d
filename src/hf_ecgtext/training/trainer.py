"""One trainer for every method: it knows named loss terms and a text tower that may be cached, and nothing else."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

from hf_ecgtext.data.ledger import TrainingLedger, continued_ledger
from hf_ecgtext.data.tasks import EcgRows
from hf_ecgtext.hub import Shareable, keep_training_data
from hf_ecgtext.io import written_whole
from hf_ecgtext.methods.base import EcgTextModel
from hf_ecgtext.methods.distributed import synchronise_batch_norm
from hf_ecgtext.processing import EcgFeatureExtractor, EcgTextProcessor
from hf_ecgtext.training.arguments import EcgTextTrainingArguments
from hf_ecgtext.training.collator import EcgTextCollator
from hf_ecgtext.training.crops import CropEpochs, without_random_crops
from hf_ecgtext.training.degenerate_batches import DegenerateBatchWatch, check_pairs, check_reports
from hf_ecgtext.training.free_memory import least_free_memory
from hf_ecgtext.training.gradient_cache import backward_in_chunks, check_no_batch_norm
from hf_ecgtext.training.negatives import build_negative_sampler
from hf_ecgtext.training.recorded_recipe import RECIPE_FILE
from hf_ecgtext.training.resumable_trainer import ResumableTrainer
from hf_ecgtext.training.schedule_checks import check_run_length
from hf_ecgtext.training.schedules import create_schedule, follow_after_resuming
from hf_ecgtext.training.streaming import block_loader, block_order
from hf_ecgtext.training.text_cache import TextCache

logger = logging.getLogger(__name__)


class EcgTextTrainer(ResumableTrainer):
    """[`~transformers.Trainer`] for cross-modal models.

    It logs every loss term beside the loss, caches the outputs of a frozen text tower, gives parameter groups learning
    rates of their own, and makes BatchNorm see the joined batch of all processes. Where `negative_sampling` asks for
    it, some records of every batch, in evaluation too, get the report of another record of the training data. Where
    `grad_cache_chunk_size` is set, batches are computed in chunks, so that they may be larger than memory.

    Args:
        model ([`EcgTextModel`]): The model to train.
        args ([`EcgTextTrainingArguments`]): Training arguments.
        processor ([`~hf_ecgtext.processing.EcgTextProcessor`]): Saved with every checkpoint. A subclass whose models
            read no texts may give a feature extractor.
        train_dataset, eval_dataset (`torch.utils.data.Dataset`): Rows `{"ecg": StoredEcg}` or `EcgRecord`s with
            reports, such as [`~hf_ecgtext.data.store.schema.EcgDataset`]; `eval_dataset` may be a `dict` of several by
            name. A training dataset with `block_sizes` is read block by block, in the order of
            [`~hf_ecgtext.data.store.block_order.BlockOrder`].
        ledger ([`~hf_ecgtext.data.ledger.TrainingLedger`], *optional*): What the datasets hold, saved with every
            checkpoint together with what the model was trained on before; without one, it says that nobody knows.
        recorded_recipe (`str`, *optional*): Text of [`~hf_ecgtext.training.recorded_recipe`], saved with every
            checkpoint.
        kwargs: As in [`~transformers.Trainer`].

    Raises:
        ValueError: If a split is smaller than one batch, a batch would be a single pair where pairs are compared, one
            process would share its batches among several GPUs, or gradient caching would change the gradients or
            cannot run.
    """

    model: EcgTextModel
    args: EcgTextTrainingArguments
    processing_class: EcgTextProcessor
    data_collator: Any  # whatever the caller gives; some things only an EcgTextCollator does
    optimizer: Any
    lr_scheduler: Any

    def __init__(
        self,
        model: EcgTextModel,
        args: EcgTextTrainingArguments,
        processor: EcgTextProcessor | EcgFeatureExtractor,
        train_dataset: Dataset | EcgRows | None = None,
        eval_dataset: Dataset | EcgRows | dict[str, Any] | None = None,
        ledger: TrainingLedger | None = None,
        recorded_recipe: str | None = None,
        **kwargs: Any,
    ):
        if args.n_gpu > 1:
            raise ValueError(
                f"One process sees {args.n_gpu} GPUs: transformers would cut each batch into {args.n_gpu} parts "
                "(DataParallel) that are no negatives of each other. Start one process per GPU with "
                "`accelerate launch`, or set CUDA_VISIBLE_DEVICES=0."
            )
        if args.dataloader_drop_last:
            _check_size("training", train_dataset, args.per_device_train_batch_size * args.world_size)
            if args.do_eval:
                for dataset in _as_list(eval_dataset):
                    _check_size("validation", dataset, (args.per_device_eval_batch_size or 1) * args.world_size)
        check_pairs(model, args, train_dataset, args.per_device_train_batch_size)
        for dataset in _as_list(eval_dataset) if args.do_eval else []:
            check_pairs(model, args, dataset, args.per_device_eval_batch_size or 1, "validation")
        if args.grad_cache_chunk_size is not None and not args.grad_cache_batch_norm_per_chunk:
            check_no_batch_norm(model)
        collator = kwargs.pop("data_collator", None) or EcgTextCollator(processor, pack=True)
        if isinstance(collator, EcgTextCollator):
            collator = replace(collator, report_keys=model.uses_report_keys)
        if args.world_size > 1 and args.sync_batch_norm:
            model = synchronise_batch_norm(model, args.device)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processor,
            data_collator=collator,
            **kwargs,
        )
        if args.grad_cache_chunk_size is not None and (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            raise ValueError("grad_cache_chunk_size works in one process and under DDP, not with DeepSpeed or FSDP.")
        self.model_accepts_loss_kwargs = False  # the loss is a mean over the batch, whatever is accumulated
        self.can_return_loss = True
        self.ledger = continued_ledger(ledger, model.name_or_path)
        self.recorded_recipe = recorded_recipe
        self.batch_watch = DegenerateBatchWatch(model)
        self.add_callback(CropEpochs())
        self.text_cache: TextCache | None = None
        self._term_sums: dict[bool, dict[str, Tensor]] = {True: {}, False: {}}  # by whether the model trains
        self._term_counts = {True: 0, False: 0}

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As usual; behind it, say so if the batches had nothing to learn from."""
        self._note_training_data()
        output = super().train(*args, **kwargs)
        if self.is_world_process_zero():
            self.batch_watch.tell_of_batches(is_over=True)
        return output

    def before_training(self) -> None:
        """Fill the text cache and find the negatives."""
        check_reports(self.model, self.train_dataset, self.processing_class)
        if self.args.text_cache and self.model.can_cache_text:
            self._fill_text_cache()
        if self.args.negative_sampling is not None:
            self._prepare_negatives()
        self._term_sums[True], self._term_counts[True] = {}, 0  # of steps after the last log of an earlier call
        self.batch_watch.restart()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load the weights, and go on with their ledger: a resumed run may have other data than its first part."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.ledger = continued_ledger(self.ledger, resume_from_checkpoint)
        self._note_training_data()

    def _note_training_data(self) -> None:
        """From now on, wherever the model is saved, this ledger goes with it."""
        keep_training_data(self.model, self.ledger.files())

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The card that saving writes, under the repository's name; called before a push."""
        repository = self.args.hub_model_id or Path(self.args.output_dir).resolve().name
        if self.is_world_process_zero() and isinstance(self.model, Shareable):
            self.model.write_card(self.args.output_dir, repository)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save the ledger and the recipe beside model and processor."""
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(self.args.output_dir if output_dir is None else output_dir)
            self.ledger.save(folder)
            if self.recorded_recipe is not None:
                with written_whole(folder / RECIPE_FILE) as file:
                    file.write_text(self.recorded_recipe, encoding="utf-8")

    def get_train_dataloader(self) -> DataLoader:
        """As usual, or block by block where the dataset has `block_sizes`."""
        check_pairs(self.model, self.args, self.train_dataset, self._train_batch_size)  # which may have been halved
        if not hasattr(self.train_dataset, "block_sizes"):
            return super().get_train_dataloader()
        order = block_order(self.train_dataset, self.args, self._train_batch_size)
        self.data_order.follow(order.settings, len(order), self.args.gradient_accumulation_steps)
        return block_loader(self.train_dataset, order, self.data_collator, self.args, self.accelerator.device)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """As usual; of a longer recording it reads the same part every time.

        A batch of a single pair is refused where pairs are compared.
        """
        with without_random_crops(self):
            loader = super().get_eval_dataloader(eval_dataset)
        check_pairs(self.model, self.args, loader.dataset, self.args.eval_batch_size, "validation")
        return loader

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """As `get_eval_dataloader`."""
        with without_random_crops(self):
            return super().get_test_dataloader(*args, **kwargs)

    def _fill_text_cache(self) -> None:
        reports: set[str] = set()
        for dataset in [*_as_list(self.train_dataset), *_as_list(self.eval_dataset)]:
            if not hasattr(dataset, "unique_reports"):
                logger.info("%s cannot list its reports beforehand; the text tower runs live.", type(dataset).__name__)
                return
            reports.update(dataset.unique_reports())
        self.text_cache = None  # an earlier one would take room twice
        dtype = self.args.text_cache_dtype
        self.text_cache = TextCache.build(
            self.model,
            self.processing_class,
            reports,
            batch_size=self.args.text_cache_batch_size,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            location=self.args.text_cache_location,
            device=self.args.device,
            measure=least_free_memory,
            show_progress=not self.args.disable_tqdm and self.is_world_process_zero(),
        )
        if isinstance(self.data_collator, EcgTextCollator):
            self.data_collator = replace(
                self.data_collator,
                report_ids=self.text_cache.report_ids,
                token_spans=self.text_cache.token_spans,
                ids_on_host=self.text_cache.on_host,
            )

    def _prepare_negatives(self) -> None:
        if not isinstance(self.data_collator, EcgTextCollator):
            raise ValueError(
                f"negative_sampling='{self.args.negative_sampling}' is done by EcgTextCollator; "
                f"{type(self.data_collator).__name__} would ignore it."
            )
        negatives = build_negative_sampler(
            self.model,
            self.args,
            self.processing_class,
            self.train_dataset,
            _as_list(self.eval_dataset),
            show_progress=not self.args.disable_tqdm and self.is_world_process_zero(),
        )
        self.data_collator = replace(self.data_collator, negatives=negatives)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As usual; negatives are the same before, during and after the training."""
        if self.args.negative_sampling is not None and getattr(self.data_collator, "negatives", None) is None:
            self._prepare_negatives()
        return super().evaluate(*args, **kwargs)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """As usual, or in chunks where `grad_cache_chunk_size` says so; `compute_loss` is then not called."""
        if self.args.grad_cache_chunk_size is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        if callable(getattr(self.optimizer, "train", None)):  # schedule-free optimisers
            self.optimizer.train()
        loss, terms = backward_in_chunks(
            model,
            self.model,
            self._prepare_inputs(inputs),
            self.args.grad_cache_chunk_size,
            prepare=self._look_up_text,
            backward=self.accelerator.backward,
            loss_scale=1.0 / self.current_gradient_accumulation_steps,
            batch_norm_per_chunk=self.args.grad_cache_batch_norm_per_chunk,
        )
        self._add_terms(terms, training=True)
        return loss

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """As usual; integers that travelled packed become `ecg_values` here, on the device."""
        inputs = self.processing_class.feature_extractor.unpack(super()._prepare_inputs(inputs))
        if self.model.training:
            self.batch_watch.see(inputs)
        return inputs

    def _look_up_text(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs if self.text_cache is None else self.text_cache.lookup(inputs)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The model's own loss; its terms are summed on the device until the next log."""
        outputs = model(**{**self._look_up_text(inputs), "return_loss": True})
        self._add_terms(outputs["loss_terms"] or {}, model.training)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def _add_terms(self, terms: dict[str, Tensor], training: bool) -> None:
        sums = self._term_sums[training]
        for name, value in terms.items():
            sums[name] = sums[name] + value if name in sums else value
        self._term_counts[training] += 1

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, None, None]:
        """Evaluation needs the loss and its terms only; embeddings are the evaluation package's business."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As usual, with the mean of every loss term among the metrics."""
        self._pop_terms(training=False)
        output = super().evaluation_loop(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        output.metrics.update({f"{prefix}_{name}": value for name, value in self._pop_terms(training=False).items()})
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As usual, with the mean of every loss term since the last log beside the loss."""
        if "loss" in logs:
            loss, terms = logs.pop("loss"), self._pop_terms(training=True)
            logs = {"loss": loss, **terms, **logs}
            if self.is_world_process_zero():
                self.batch_watch.tell_of_batches()
                self.batch_watch.look_at(terms, self._train_batch_size * self.args.world_size, self.state.global_step)
        super().log(logs, start_time)

    def _pop_terms(self, training: bool) -> dict[str, float]:
        """Mean of every loss term over steps and processes since the last call."""
        sums, count = self._term_sums[training], self._term_counts[training]
        self._term_sums[training], self._term_counts[training] = {}, 0
        if not sums:
            return {}
        means = self.accelerator.reduce(torch.stack(list(sums.values())).float() / count, reduction="mean")
        return dict(zip(sums, means.tolist(), strict=True))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimiser, with one parameter group per learning rate and weight decay."""
        multipliers = self.args.learning_rate_multipliers
        if self.optimizer is None and isinstance(multipliers, dict):
            target = self.model if model is None else model
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, target)
            self.optimizer = optimizer_class(self._parameter_groups(target, multipliers), **options)
        return super().create_optimizer(model)

    def _parameter_groups(self, model: nn.Module, multipliers: dict[str, float]) -> list[dict[str, Any]]:
        decayed = set(self.get_decay_parameter_names(model))
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        unmatched = set(multipliers)
        for name, parameter in model.named_parameters():
            matches = [prefix for prefix in multipliers if name.startswith(prefix)]
            unmatched -= set(matches)
            if parameter.requires_grad:
                factor = multipliers[max(matches, key=len)] if matches else 1.0
                decay = self.args.weight_decay if name in decayed else 0.0
                groups.setdefault((factor * self.args.learning_rate, decay), []).append(parameter)
        if unmatched:
            raise ValueError(f"learning_rate_multipliers names no parameter: {sorted(unmatched)}.")
        return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """The schedule that the arguments ask for, see [`~hf_ecgtext.training.schedules`]."""
        if self.lr_scheduler is None:
            if self.state.global_step < num_training_steps:  # a run that is resumed at its end trains no more
                check_run_length(self.args, num_training_steps, self.state.num_train_epochs or None)
            self.state.compute_steps(self.args, num_training_steps)  # a checkpoint brings those of its own run
            self.lr_scheduler = create_schedule(self.args, optimizer or self.optimizer, num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As usual; the schedule is then that of this run, whatever the length of the checkpoint's."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.state.global_step < self.state.max_steps:
            follow_after_resuming(self.lr_scheduler, self.state.max_steps)


def _as_list(datasets: Any) -> list[Any]:
    """The one dataset, or those of a `dict`."""
    if datasets is None:
        return []
    return list(datasets.values()) if isinstance(datasets, dict) else [datasets]


def _check_size(title: str, dataset: Any, batch_size: int) -> None:
    """Refuse a split from which no complete batch can be drawn; streams have no length to check."""
    if hasattr(dataset, "__len__") and len(dataset) < batch_size:
        raise ValueError(
            f"The {title} split has {len(dataset)} records, fewer than one batch of {batch_size}, and incomplete "
            "batches are dropped. Use more records or a smaller batch."
        )
