"""Schedules have their shares of the run, whatever gives its length."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, Subset
from transformers import get_scheduler

from hf_ecgtext.methods import get_recipe, method_names, recipe_names
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments
from hf_ecgtext.training.schedules import create_schedule, steps_of_run

PEAK = 5e-5  # C-MELT's paper
STAGES = [0.1, 0.4, 0.5]  # C-MELT's paper
_NOT_ABOUT_THE_SCHEDULE = {
    "per_device_train_batch_size": 4,
    "negative_sampling": "random",
    "dataloader_num_workers": 0,
    "disable_tqdm": True,
    "use_cpu": True,
}


class Some(Subset):
    """The first records, with what the trainer asks of a dataset."""

    def __init__(self, dataset, count):
        super().__init__(dataset, range(count))

    def unique_reports(self):
        return sorted(set(self.column("report")))

    def column(self, name):
        return self.dataset.column(name)[: len(self)]


def cmelt_trainer(dataset, folder, recipe="paper", **settings) -> EcgTextTrainer:
    """A tiny C-MELT with the training settings of a recipe."""
    model, processor = get_recipe("cmelt", "debug").build()
    options = {**get_recipe("cmelt", recipe).training, **_NOT_ABOUT_THE_SCHEDULE, **settings}
    arguments = EcgTextTrainingArguments(output_dir=str(folder), **options)
    return EcgTextTrainer(model, arguments, processor, dataset, Some(dataset, 8))


def schedule_of(folder, num_training_steps, **settings):
    """A schedule without a trainer, of a single parameter."""
    arguments = EcgTextTrainingArguments(output_dir=str(folder), use_cpu=True, **settings)
    return create_schedule(arguments, one_parameter(arguments.learning_rate), num_training_steps)


def one_parameter(learning_rate):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=learning_rate)


def multipliers_of(scheduler, num_training_steps):
    return [scheduler.lr_lambdas[0](step) for step in range(num_training_steps)]


def logged_rates(trainer):
    return {entry["step"]: entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry}


def tri_stage(num_training_steps, warmup, hold):
    """Closed form, by whole steps of each stage."""
    decay = num_training_steps - warmup - hold
    rising = [0.01 + 0.99 * step / warmup for step in range(warmup)]
    return rising + [1.0] * hold + [math.exp(math.log(0.01) * step / decay) for step in range(decay)]


@pytest.mark.parametrize("recipe", ["paper", "released"])
@pytest.mark.parametrize("num_training_steps", [1_000, 10_000, 300_000])
def test_cmelt_s_stages_have_the_published_shares_of_any_run(recipe, num_training_steps, synthetic_dataset, tmp_path):
    trainer = cmelt_trainer(synthetic_dataset, tmp_path, recipe, max_steps=num_training_steps)
    trainer.create_optimizer()
    scheduler = trainer.create_scheduler(num_training_steps)
    assert scheduler.base_lrs == [PEAK] * len(scheduler.base_lrs)
    multipliers = multipliers_of(scheduler, num_training_steps)
    warmup, hold = num_training_steps // 10, 4 * num_training_steps // 10
    np.testing.assert_allclose(multipliers, tri_stage(num_training_steps, warmup, hold), rtol=1e-9)
    assert multipliers[0] == 0.01
    assert all(value < 1 for value in multipliers[:warmup]), "a tenth of the run warms up"
    assert set(multipliers[warmup : warmup + hold]) == {1.0}, "four tenths stay at the peak"
    assert multipliers[num_training_steps // 2] == 1.0, "the decay begins where the second half does,"
    assert multipliers[3 * num_training_steps // 4] == pytest.approx(0.1), (
        "is half down on a logarithmic scale half-way,"
    )
    assert scheduler.lr_lambdas[0](num_training_steps) == 0.01, "and arrives at its end"
    assert multipliers[-1] == pytest.approx(0.01, rel=5 / (num_training_steps / 2))


def test_the_default_length_of_cmelt_s_recipes_is_the_paper_s():
    for recipe in ("paper", "released"):
        training = get_recipe("cmelt", recipe).training
        assert (training["max_steps"], training["lr_stage_fractions"]) == (300_000, STAGES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("length", "stages"),
    [
        ({"max_steps": -1, "num_train_epochs": 10}, (2, 8, 10)),  # 8 records are 2 steps of 4
        ({"max_steps": -1, "num_train_epochs": 15, "gradient_accumulation_steps": 2}, (2, 6, 7)),  # of 1.5, 6 and 7.5
        ({"max_steps": 10}, (1, 4, 5)),
    ],
)
def test_a_real_training_logs_the_published_shares_by_epochs_and_by_steps(length, stages, synthetic_dataset, tmp_path):
    settings = {"logging_steps": 1, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    trainer = cmelt_trainer(Some(synthetic_dataset, 8), tmp_path, **settings, **length)
    trainer.train()
    rates = logged_rates(trainer)
    assert sorted(rates) == list(range(1, sum(stages) + 1))
    expected = [PEAK * value for value in tri_stage(sum(stages), *stages[:2])]
    assert [rates[step] for step in sorted(rates)] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_a_short_run_of_the_paper_recipe_evaluates_saves_and_loads_the_best_model(synthetic_dataset, tmp_path):
    trainer = cmelt_trainer(synthetic_dataset, tmp_path, max_steps=3, save_total_limit=1)
    trainer.train()
    evaluated = [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert evaluated == [1, 2, 3]
    assert trainer.state.best_model_checkpoint is not None
    assert sorted(logged_rates(trainer)) == [1, 2, 3]


@pytest.mark.parametrize(("max_steps", "every"), [(300_000, 5_000), (10_000, 167), (1_000, 17)])
def test_the_intervals_of_cmelt_s_paper_recipe_are_shares_of_the_run(max_steps, every, synthetic_dataset, tmp_path):
    trainer = cmelt_trainer(synthetic_dataset, tmp_path, max_steps=max_steps)
    trainer.create_optimizer()
    trainer.create_scheduler(max_steps)
    assert (trainer.state.eval_steps, trainer.state.save_steps) == (every, every)
    assert trainer.state.logging_steps == math.ceil(max_steps / 600)


@pytest.mark.parametrize("num_training_steps", range(1, 40))
def test_whole_steps_of_the_stages_fill_every_run_and_always_warm_up(num_training_steps, tmp_path):
    scheduler = schedule_of(tmp_path, num_training_steps, lr_stage_fractions=STAGES)
    keywords = scheduler.lr_lambdas[0].keywords
    warmup, hold_end = keywords["warmup_end"], keywords["hold_end"]
    assert warmup == math.ceil(num_training_steps / 10)
    assert warmup <= hold_end <= num_training_steps
    assert hold_end == warmup or abs(hold_end - num_training_steps / 2) <= 0.5
    assert multipliers_of(scheduler, num_training_steps) == pytest.approx(
        tri_stage(num_training_steps, warmup, hold_end - warmup)
    )


def test_other_stages_and_scales_may_be_chosen(tmp_path):
    scheduler = schedule_of(
        tmp_path, 100, lr_stage_fractions=[0.07, 0.13, 0.8], lr_initial_scale=0.0, lr_final_scale=0.5
    )
    multipliers = multipliers_of(scheduler, 101)
    assert (multipliers[0], multipliers[6], multipliers[7]) == (0.0, pytest.approx(6 / 7), 1.0)
    assert (multipliers[20], multipliers[60], multipliers[100]) == (1.0, pytest.approx(math.sqrt(0.5)), 0.5)


def test_a_share_is_not_lengthened_by_the_rounding_of_floats():
    assert 0.07 * 100 > 7
    assert [steps_of_run(0.07, 100), steps_of_run(0.071, 100), steps_of_run(1e-12, 100), steps_of_run(5000, 3)] == [
        7, 8, 1, 5000,
    ]  # fmt: skip


# Training records, batch size and steps of warm-up of the runs in `results/`, and their recipes.
QUICKSTART, PTB_XL = ("quickstart", 4_000, 50), ("ptb_xl_100hz", 1_491, 25)


@pytest.mark.parametrize("method", method_names())
@pytest.mark.parametrize(("recipe", "num_records", "warmup_steps"), [QUICKSTART, PTB_XL])
def test_the_recorded_runs_keep_their_learning_rates_to_the_bit(method, recipe, num_records, warmup_steps, tmp_path):
    training = get_recipe(method, recipe).training
    arguments = EcgTextTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **training)
    assert arguments.dataloader_drop_last
    steps = num_records // arguments.per_device_train_batch_size * int(arguments.num_train_epochs)
    assert steps == {"quickstart": 744, "ptb_xl_100hz": 345}[recipe]
    ours, absolute = one_parameter(arguments.learning_rate), one_parameter(arguments.learning_rate)
    schedules = (create_schedule(arguments, ours, steps), get_scheduler("cosine", absolute, warmup_steps, steps))
    for step in range(steps):
        assert ours.param_groups[0]["lr"] == absolute.param_groups[0]["lr"], step
        for optimizer, scheduler in zip((ours, absolute), schedules, strict=True):
            optimizer.step()
            scheduler.step()


def test_the_quickstart_s_records_are_those_that_its_warm_up_was_counted_with():
    options = get_recipe("merl", "quickstart").data_options("synthetic")
    held_out = options["num_records"] // 10  # for validation, and as many for the test
    assert options["num_records"] - 2 * held_out == QUICKSTART[1]


@pytest.mark.parametrize(
    ("method", "num_processes", "steps"), [("merl", 8, 9_400), ("cgdmer", 8, 9_400), ("deri", 4, 75_350)]
)
def test_paper_recipes_warm_up_for_a_thousand_steps_of_the_papers_runs(method, num_processes, steps, tmp_path):
    training = get_recipe(method, "paper").training
    global_batch = num_processes * training["per_device_train_batch_size"]
    assert 771_693 // global_batch * training["num_train_epochs"] == steps
    schedule = {name: training[name] for name in ("lr_scheduler_type", "warmup_steps")}
    arguments = EcgTextTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **schedule)
    assert arguments.get_warmup_steps(steps) == 1_000
    assert arguments.get_warmup_steps(steps // 10) == pytest.approx(100, abs=1)


def test_no_recipe_has_an_absolute_warm_up():
    for method in method_names():
        for name in recipe_names(method):
            training = get_recipe(method, name).training
            assert training.get("warmup_steps", 0) < 1, (method, name)
            assert not training.get("lr_scheduler_kwargs"), (method, name)


def test_restarts_may_be_shares_of_the_run_and_the_last_cycle_is_no_stub(tmp_path):
    scheduler = schedule_of(tmp_path, 345, lr_restart_steps=0.25, learning_rate=1.0)
    assert scheduler.T_0 == 87  # four cycles of 86 would leave one step at the peak
    optimizer, rates = scheduler.optimizer, []
    for _ in range(345):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert [step for step, rate in enumerate(rates) if rate == 1.0] == [0, 87, 174, 261]
    assert rates[-1] < 0.01
    assert schedule_of(tmp_path, 20_000, lr_restart_steps=5_000).T_0 == 5_000, "the released restarts are absolute"


@pytest.mark.parametrize(("num_training_steps", "warmup"), [(1_000, 100), (10_000, 1_000), (7, 1)])
def test_lengths_of_transformers_schedules_are_shares_of_the_run(num_training_steps, warmup, tmp_path):
    scheduler = schedule_of(
        tmp_path,
        num_training_steps,
        lr_scheduler_type="warmup_stable_decay",
        warmup_steps=0.1,
        lr_scheduler_kwargs={"num_decay_steps": 0.5, "decay_type": "linear"},
    )
    keywords = scheduler.lr_lambdas[0].keywords
    decay = math.ceil(num_training_steps / 2)
    assert (keywords["num_warmup_steps"], keywords["num_decay_steps"]) == (warmup, decay)
    assert keywords["num_stable_steps"] == num_training_steps - warmup - decay
    scheduler = schedule_of(
        tmp_path, num_training_steps, lr_scheduler_type="inverse_sqrt", lr_scheduler_kwargs={"timescale": 0.1}
    )
    assert scheduler.lr_lambdas[0].keywords["timescale"] == warmup


def test_shares_that_fill_the_run_fit_although_both_are_rounded_up(tmp_path):
    settings = {"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": 0.5, "max_steps": 5}
    scheduler = schedule_of(tmp_path, 5, lr_scheduler_kwargs={"num_decay_steps": 0.5}, **settings)
    keywords = scheduler.lr_lambdas[0].keywords
    assert [keywords[f"num_{stage}_steps"] for stage in ("warmup", "stable", "decay")] == [3, 0, 2]


class Stream(IterableDataset):
    """Records without a number."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __iter__(self):
        return iter(self.dataset)


@pytest.mark.slow
def test_a_stream_without_a_length_has_its_shares_of_max_steps_and_is_refused_without(synthetic_dataset, tmp_path):
    def trainer_of(**settings):
        model, processor = get_recipe("merl", "debug").build()
        arguments = EcgTextTrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=8, lr_stage_fractions=STAGES, learning_rate=1.0e-3,
            logging_steps=1, save_strategy="no", disable_tqdm=True, use_cpu=True, **settings,
        )  # fmt: skip
        return EcgTextTrainer(model, arguments, processor, Stream(synthetic_dataset))

    trainer = trainer_of(max_steps=20)  # more than the 12 steps of one pass
    trainer.train()
    expected = [1e-3 * value for value in tri_stage(20, 2, 8)]
    assert list(logged_rates(trainer).values()) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="max_steps has to be specified"):
        trainer_of()


RESUMABLE = {
    "max_steps": 20,
    "lr_stage_fractions": [0.2, 0.4, 0.4],  # 4, 8 and 8 steps
    "logging_steps": 1,
    "save_steps": 3,
    "eval_strategy": "no",
    "load_best_model_at_end": False,
    "learning_rate": 1e-3,
}


@pytest.fixture(scope="module")
def whole_run(synthetic_dataset, tmp_path_factory):
    """A training of 20 steps with a checkpoint in the middle of each stage."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = cmelt_trainer(synthetic_dataset, folder, **RESUMABLE)
    trainer.train()
    return folder, trainer


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 6, 15], ids=["warm-up", "constant", "decay"])
def test_a_run_resumed_in_any_stage_equals_the_uninterrupted_one(step, whole_run, synthetic_dataset, tmp_path, caplog):
    folder, whole = whole_run
    resumed = cmelt_trainer(synthetic_dataset, tmp_path, **{**RESUMABLE, "save_strategy": "no"})
    with caplog.at_level(logging.WARNING, logger="hf_ecgtext"):
        resumed.train(resume_from_checkpoint=str(folder / f"checkpoint-{step}"))
    assert "another schedule" not in caplog.text
    assert logged_rates(resumed) == logged_rates(whole)
    for (name, ours), theirs in zip(resumed.model.named_parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.slow
def test_a_run_resumed_with_another_length_follows_that_and_says_so(whole_run, synthetic_dataset, tmp_path, caplog):
    folder, _ = whole_run
    settings = {**RESUMABLE, "max_steps": 40, "save_strategy": "no", "logging_steps": 0.05}
    resumed = cmelt_trainer(synthetic_dataset, tmp_path, **settings)
    with caplog.at_level(logging.WARNING, logger="hf_ecgtext"):
        resumed.train(resume_from_checkpoint=str(folder / "checkpoint-15"))
    assert "learning rate at step 15 is 0.0001778" in caplog.text
    assert "that of this run of 40 steps is 0.001." in caplog.text
    expected = [1e-3 * value for value in tri_stage(40, 8, 16)]
    rates = {step: rate for step, rate in logged_rates(resumed).items() if step > 15}
    assert sorted(rates) == list(range(16, 41, 2)), "a twentieth of the run is logged at once, not of the first run"
    assert list(rates.values()) == pytest.approx([expected[step - 1] for step in rates], rel=1e-6)


@pytest.mark.slow
def test_every_parameter_group_follows_after_resuming_with_another_length(synthetic_dataset, tmp_path):
    settings = {**RESUMABLE, "learning_rate_multipliers": {"text_tower": 0.1}}
    cmelt_trainer(synthetic_dataset, tmp_path, **{**settings, "max_steps": 5}).train()  # 1, 2 and 2 steps
    resumed = cmelt_trainer(synthetic_dataset, tmp_path, **{**settings, "max_steps": 10, "save_strategy": "no"})
    rates = []
    original = resumed._load_optimizer_and_scheduler

    def load(checkpoint):
        original(checkpoint)
        rates.extend(sorted({group["lr"] for group in resumed.optimizer.param_groups}))

    resumed._load_optimizer_and_scheduler = load
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert rates == pytest.approx([1e-4 * value for value in (1.0, 10.0)])  # step 3 of 2 + 4 + 4


@pytest.mark.slow
def test_resuming_with_other_restarts_is_refused(synthetic_dataset, tmp_path):
    def trainer_of(**settings):
        model, processor = get_recipe("merl", "debug").build()
        options = {"per_device_train_batch_size": 4, "save_steps": 2, "disable_tqdm": True, "use_cpu": True, **settings}
        return EcgTextTrainer(model, EcgTextTrainingArguments(str(tmp_path), **options), processor, synthetic_dataset)

    trainer_of(max_steps=4, lr_restart_steps=0.5).train()
    checkpoint = str(tmp_path / "checkpoint-2")
    with pytest.raises(ValueError, match=r"restarts every 2 steps down to 0; .* ask for every 4 steps down to 0\."):
        trainer_of(max_steps=8, lr_restart_steps=0.5).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match=r"every 2 steps down to 1e-08\. Resume"):
        trainer_of(max_steps=4, lr_restart_steps=2, lr_restart_minimum=1e-8).train(resume_from_checkpoint=checkpoint)
    assert trainer_of(max_steps=6, lr_restart_steps=2).train(resume_from_checkpoint=checkpoint).global_step == 6
