"""Settings of the learning rate that contradict each other or do not fit the run are refused, with the fix."""

from __future__ import annotations

import pytest
import torch

from hf_ecgtext.cli import main
from hf_ecgtext.methods import get_recipe
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments

STAGES = {"lr_stage_fractions": [0.1, 0.4, 0.5]}
WSD = {"lr_scheduler_type": "warmup_stable_decay"}


def arguments_of(folder, **settings):
    return EcgTextTrainingArguments(output_dir=str(folder), use_cpu=True, **settings)


@pytest.mark.parametrize(
    "fractions",
    [
        *([0.1, 0.4], [0.1, 0.4, 0.4], [0.1, 0.9, 0.0], [-0.1, 0.6, 0.5], [0.1, 0.4, float("nan")]),
        *([True, 0, 0], ["0.1", "0.4", "0.5"], "0.1", 0.1),
    ],
)
def test_stages_that_are_no_three_shares_are_refused(fractions, tmp_path):
    with pytest.raises(ValueError, match="lr_stage_fractions must be three positive shares of the run"):
        arguments_of(tmp_path, lr_stage_fractions=fractions)


def test_shares_whose_sum_is_1_but_for_rounding_are_taken(tmp_path):
    assert 0.7 + 0.2 + 0.1 != 1
    for fractions in ([0.7, 0.2, 0.1], (0.1, 0.4, 0.5), [1 / 3, 1 / 3, 1 / 3]):
        assert arguments_of(tmp_path, lr_stage_fractions=fractions).lr_stage_fractions == fractions


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**STAGES, "warmup_steps": 100}, r"warmup_steps=100 would have no effect beside lr_stage_fractions=\[0\.1, "),
        ({**STAGES, "warmup_steps": 0.1}, "lr_stage_fractions=null, or warmup_steps=0 lr_scheduler_type=linear"),
        ({**STAGES, "lr_scheduler_type": "cosine"}, "lr_scheduler_type='cosine' would have no effect"),
        (
            {**STAGES, "warmup_steps": 3, "lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 2}},
            r"warmup_steps=3 and lr_scheduler_type='polynomial' and lr_scheduler_kwargs=\{'power': 2\} would have no",
        ),
        ({**STAGES, "lr_restart_steps": 5}, "lr_stage_fractions and lr_restart_steps are two schedules"),
        ({**STAGES, "lr_initial_scale": 1.5}, r"lr_initial_scale must lie in \[0, 1\], not 1\.5"),
        ({**STAGES, "lr_final_scale": 0.0}, r"lr_final_scale must be above 0, .* not 0\.0"),
        ({"lr_final_scale": 0.1}, "lr_initial_scale and lr_final_scale belong to lr_stage_fractions, which is not set"),
        ({"lr_restart_steps": 5, "warmup_steps": 2}, "warmup_steps=2 would have no effect beside lr_restart_steps=5"),
        ({"lr_restart_steps": 5, "lr_scheduler_type": "constant"}, "lr_scheduler_type='constant' would have no effect"),
        ({"lr_restart_steps": 0.5, "optim": "galore_adamw_layerwise"}, "does not reach the parameters under optim="),
        ({"lr_restart_steps": 0}, "lr_restart_steps must be positive, a share of the run below 1 or whole steps"),
        ({"lr_restart_steps": -0.5}, "lr_restart_steps must be positive"),
        ({"lr_restart_steps": 2.5}, "lr_restart_steps must be positive"),
        ({"lr_restart_steps": float("nan")}, "lr_restart_steps must be a finite number"),
        ({"lr_restart_steps": "often"}, "lr_restart_steps must be positive"),
        ({"lr_restart_minimum": 1e-8}, "lr_restart_minimum=1e-08 belongs to lr_restart_steps, which is not set"),
        (
            {"lr_scheduler_type": "constant", "warmup_steps": 5},
            "lr_scheduler_type='constant' has no warm-up; 'constant_with_warmup' has: warmup_steps=5 contradicts it",
        ),
        ({**WSD, "lr_scheduler_kwargs": {"num_decay_steps": 150_000}}, "num_decay_steps must be a share of the run"),
        ({**WSD, "lr_scheduler_kwargs": {"num_decay_steps": "half"}}, "num_decay_steps must be a share of the run"),
        (
            {**WSD, "lr_scheduler_kwargs": {"num_decay_steps": 0.5, "num_stable_steps": 10}},
            "num_stable_steps is what warm-up and decay leave of the run; leave it out",
        ),
        (WSD, "lr_scheduler_type='warmup_stable_decay' needs the share of the run that decays"),
        ({"lr_scheduler_type": "inverse_sqrt"}, "'inverse_sqrt' without warm-up has a time scale of 10,000 steps"),
        (
            {"lr_scheduler_type": "inverse_sqrt", "lr_scheduler_kwargs": {"timescale": 500}},
            "timescale must be a share of the run above 0 and below 1, not 500",
        ),
    ],
)
def test_contradictions_are_refused_and_the_settings_named(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        arguments_of(tmp_path, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"lr_restart_steps": 5, "lr_scheduler_type": "cosine", "max_steps": 5},
        {"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 5, "max_steps": 6},
        {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 3}},
        {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"},
        {"eval_strategy": "steps", "eval_steps": 2, "eval_delay": 6, "max_steps": 6},
    ],
)
def test_what_fits_is_taken(settings, tmp_path):
    assert arguments_of(tmp_path, **settings)


TOO_LONG = [
    ({"warmup_steps": 12}, r"warmup_steps=12 does not fit a run of 12 steps, .* such as warmup_steps=0\.1"),
    ({"warmup_steps": 500, "lr_scheduler_type": "cosine"}, "warmup_steps=500 does not fit a run of 12 steps"),
    ({"lr_restart_steps": 13}, "lr_restart_steps=13 does not fit a run of 12 steps, which ends before its first"),
    (
        {**WSD, "warmup_steps": 8, "lr_scheduler_kwargs": {"num_decay_steps": 0.5}},
        "warmup_steps=8 and num_decay_steps=0.5 do not fit a run of 12 steps: they are 8 and 6 steps",
    ),
    (
        {**WSD, "warmup_steps": 0.6, "lr_scheduler_kwargs": {"num_decay_steps": 0.6}},
        "Choose shares of the run whose sum is at most 1",
    ),
    (
        {"eval_strategy": "steps", "eval_steps": 2, "eval_delay": 13},
        "eval_delay=13 does not fit a run of 12 steps, which would end before its first evaluation",
    ),
]


@pytest.mark.parametrize(("settings", "message"), TOO_LONG)
def test_what_does_not_fit_into_max_steps_is_refused_before_the_data_are_opened(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        arguments_of(tmp_path, max_steps=12, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [*TOO_LONG, ({"eval_strategy": "epoch", "eval_delay": 2}, "eval_delay=2 does not fit a run of 1 epochs")],
)
def test_what_does_not_fit_into_the_epochs_is_refused_before_the_first_step(
    settings, message, synthetic_dataset, tmp_path
):
    model, processor = get_recipe("merl", "debug").build()
    before = {name: value.clone() for name, value in model.named_parameters()}
    arguments = arguments_of(
        tmp_path, num_train_epochs=1, per_device_train_batch_size=8, save_strategy="no", disable_tqdm=True, **settings
    )
    trainer = EcgTextTrainer(model, arguments, processor, synthetic_dataset, synthetic_dataset)  # 12 steps an epoch
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_a_run_that_is_cut_where_its_checkpoint_lies_may_end_within_its_warm_up(synthetic_dataset, tmp_path):
    """Fine-tuning cuts a run that had lost its patience when it was killed; nothing is left to train then."""

    def trainer_of(**settings):
        model, processor = get_recipe("merl", "debug").build()
        arguments = arguments_of(
            tmp_path, per_device_train_batch_size=48, warmup_steps=3, save_steps=2, disable_tqdm=True, **settings
        )
        return EcgTextTrainer(model, arguments, processor, synthetic_dataset)  # 2 steps an epoch

    trainer_of(max_steps=4).train()
    cut = trainer_of(max_steps=4)
    cut.args.max_steps = 2
    assert cut.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2")).global_step == 2


@pytest.mark.parametrize(
    ("method", "recipe", "settings", "message"),
    [
        ("merl", "debug", ["warmup_steps=50"], "warmup_steps=50 does not fit a run of 30 steps"),
        ("merl", "reference", ["max_steps=4000"], "lr_restart_steps=5000 does not fit a run of 4,000 steps"),
        ("deri", "released", ["max_steps=4000"], "lr_restart_steps=5000 does not fit a run of 4,000 steps"),
        ("cmelt", "paper", ["warmup_steps=500"], "warmup_steps=500 would have no effect beside lr_stage_fractions"),
        ("cmelt", "paper", ["lr_stage_fractions=[0.1,0.4]"], "lr_stage_fractions must be three positive shares"),
    ],
)
def test_the_command_line_explains_a_refusal_in_one_line(method, recipe, settings, message, tmp_path, capsys):
    options = ["--method", method, "--recipe", recipe, "--output-dir", str(tmp_path / "out")]
    assert main(["train", *options, "--set", *(f"training.{setting}" for setting in settings)]) == 1
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("method", "recipe", "settings"),
    [
        (
            "merl",
            "reference",
            {"max_steps": 40, "lr_restart_steps": None, "lr_restart_minimum": 0.0, "lr_scheduler_type": "cosine"},
        ),
        ("deri", "released", {"max_steps": 40, "lr_restart_steps": 0.25}),
        ("cmelt", "paper", {"lr_stage_fractions": None, "warmup_steps": 500, "lr_scheduler_type": "cosine"}),
        ("merl", "paper", {"warmup_steps": 0, "lr_restart_steps": 5_000, "lr_restart_minimum": 1e-8}),
    ],
)
def test_what_the_messages_and_papers_md_advise_is_taken(method, recipe, settings, tmp_path):
    training = {**get_recipe(method, recipe).training, "precision": "fp32", **settings}
    assert arguments_of(tmp_path, **training)
