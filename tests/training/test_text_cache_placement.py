"""Where a text cache goes: the device, else the host, else half precision if that was asked for, else an error."""

from __future__ import annotations

import pytest
import torch

from hf_ecgtext.training.free_memory import FreeMemory
from hf_ecgtext.training.text_cache_placement import ROUNDING, choose_placement

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
GB = 10**9
MIMIC = 22 * GB // 4  # numbers in DERI's cache of MIMIC-IV-ECG
FLOAT, HALF = torch.float32, torch.bfloat16


def chosen(*arguments, **settings):
    placement = choose_placement(*arguments, **settings)
    return placement.location, placement.dtype, placement.is_second_choice


@pytest.mark.parametrize(
    ("device_gb", "host_gb", "dtype", "expected"),
    [
        (80, 500, FLOAT, ("device", FLOAT, False)),
        (44, 500, FLOAT, ("device", FLOAT, False)),  # just half
        (43, 500, FLOAT, ("host", FLOAT, True)),
        (24, 64, FLOAT, ("host", FLOAT, True)),  # the card of the issue
        (24, 64, "auto", ("host", FLOAT, True)),  # exact before rounded
        (24, 40, "auto", ("device", HALF, True)),
        (20, 40, "auto", ("host", HALF, True)),
        (24, 40, HALF, ("device", HALF, False)),  # asked for
        (20, 40, HALF, ("host", HALF, True)),
        (None, 40, FLOAT, ("device", FLOAT, False)),  # nobody knows; it was always so
    ],
)
def test_the_first_place_that_fits_is_taken(device_gb, host_gb, dtype, expected):
    free = FreeMemory(None if device_gb is None else device_gb * GB, host_gb * GB)
    assert chosen(MIMIC, GPU, free, dtype=dtype) == expected


@pytest.mark.parametrize(
    ("location", "device_gb", "host_gb", "expected"),
    [
        ("device", 23, 500, ("device", FLOAT, False)),  # the user takes the risk
        ("host", 80, 23, ("host", FLOAT, False)),
    ],
)
def test_a_place_that_is_named_may_be_filled(location, device_gb, host_gb, expected):
    assert chosen(MIMIC, GPU, FreeMemory(device_gb * GB, host_gb * GB), location=location) == expected


@pytest.mark.parametrize("location", ["device", "host"])
def test_a_place_that_is_named_is_never_replaced_but_precision_may_be_where_that_was_asked_for(location):
    free = FreeMemory(12 * GB, 12 * GB)
    assert chosen(MIMIC, GPU, free, location=location, dtype="auto") == (location, HALF, True)
    with pytest.raises(ValueError, match="more than all of"):
        choose_placement(MIMIC, GPU, free, location=location)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {},
            r"would take 22\.0 GB \(float32\), more than half of the memory of cuda:0 \(24\.0 GB free\) and of host "
            r"memory \(30\.0 GB free for each process\)\. Set text_cache_dtype='bfloat16' .*text_cache_location='host' "
            r"or 'device' .*or text_cache=False",
        ),
        ({"location": "host", "free": 8}, r"all of host memory \(8\.0 GB.*Set text_cache_dtype='bfloat16' .*or"),
        ({"dtype": "auto", "free": 20}, r"take 11\.0 GB \(bfloat16\).*Set text_cache_location='host' or 'device'"),
        ({"dtype": HALF, "location": "host", "free": 8}, r"Set text_cache=False"),
        ({"location": "device", "free": 8}, r"Set text_cache_dtype='bfloat16' .*text_cache_location='auto' .*or "),
    ],
)  # fmt: skip
def test_a_cache_that_fits_nowhere_is_an_error_that_names_what_helps(settings, message):
    host = settings.pop("free", 30)
    with pytest.raises(ValueError, match=message):
        choose_placement(MIMIC, GPU, FreeMemory(min(host, 24) * GB, host * GB), **settings)


def test_on_the_cpu_device_and_host_are_one():
    assert chosen(MIMIC, CPU, FreeMemory(50 * GB, 50 * GB)) == ("device", FLOAT, False)
    assert chosen(MIMIC, CPU, FreeMemory(50 * GB, 50 * GB), location="host") == ("host", FLOAT, False)
    assert chosen(MIMIC, CPU, FreeMemory(30 * GB, 30 * GB), dtype="auto") == ("device", HALF, True)
    with pytest.raises(ValueError, match=r"more than half of host memory \(30\.0 GB free for each process\)\."):
        choose_placement(MIMIC, CPU, FreeMemory(30 * GB, 30 * GB))


def test_the_log_says_how_much_where_and_why():
    def description(**settings):
        return choose_placement(MIMIC, GPU, FreeMemory(24 * GB, 64 * GB), **settings).description

    assert description() == (
        "22.0 GB (float32) in host memory (64.0 GB free for each process), since 22.0 GB (float32) would take too much "
        "of the memory of cuda:0 (24.0 GB free); every batch is copied from there"
    )
    assert description(location="device") == "22.0 GB (float32) in the memory of cuda:0 (24.0 GB free)"
    assert description(dtype=torch.float16).endswith("; each value is rounded by up to 0.05 %")
    small = choose_placement(MIMIC, GPU, FreeMemory(24 * GB, 40 * GB), dtype="auto").description
    assert small == (
        "11.0 GB (bfloat16) in the memory of cuda:0 (24.0 GB free), since 22.0 GB (float32) would take too much of the "
        "memory of cuda:0 (24.0 GB free) and of host memory (40.0 GB free for each process); each value is rounded by "
        "up to 0.4 %"
    )
    unknown = choose_placement(MIMIC, torch.device("mps"), FreeMemory(None, 64 * GB)).description
    assert unknown == "22.0 GB (float32) in the memory of mps (how much is free cannot be told)"


@pytest.mark.parametrize("dtype", ROUNDING)
def test_rounding_is_as_small_as_stated_and_no_smaller(dtype):
    values = torch.rand(100_000, generator=torch.Generator().manual_seed(0)) * 8 - 4
    worst = ((values.to(dtype).float() - values).abs() / values.abs())[values.abs() > 0.01].max().item()
    stated = float(ROUNDING[dtype].removesuffix(" %")) / 100
    assert 0.9 * stated < worst <= stated
