"""What every converter of published weights does: open the file safely, rename, and fill a model completely."""

from __future__ import annotations

import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from hf_ecgtext.encoders.text_checks import check_vocabulary as check_vocabulary
from hf_ecgtext.errors import CheckpointError
from hf_ecgtext.leads import MIMIC_LEADS, STANDARD_LEADS

ModelT = TypeVar("ModelT", bound=PreTrainedModel)

Renames = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Pattern of a published name, and what replaces it. The first pattern that matches wins."""

Content = Literal["model", "encoder"]
"""What a published file holds: an ECG-text model, or its ECG encoder alone."""

LeadOrder = Literal["mimic", "standard"]
"""The order of the leads that published weights read: aVF before aVL as in MIMIC-IV-ECG, or aVL before aVF."""

LEAD_ORDERS: dict[str, tuple[str, ...]] = {"mimic": MIMIC_LEADS, "standard": STANDARD_LEADS}

WRAPPERS = ("model_state_dict", "state_dict", "model")
"""Keys under which training tools put the state dict."""


class Converter(Protocol):
    """What a method's module `convert_<method>_checkpoint` offers to `hf-ecgtext convert`.

    Attributes:
        CAVEATS (`str`): Licence and lead order of the published weights.
        TEXT_MODEL (`str`): Hub name of the text encoder inside the published file, for its config and tokenizer.
    """

    CAVEATS: str
    TEXT_MODEL: str

    def recognises(self, names: Collection[str]) -> Content | None:
        """What a state dict with these names is; `None` if it is not of this method. Incomplete ones count too."""

    def convert(
        self, state_dict: Mapping[str, Any], text_config: PreTrainedConfig | None = None, **config_overrides: Any
    ) -> PreTrainedModel:
        """An ECG-text model, or an ECG encoder; every weight must find its place."""

    def feature_extractor_settings(self, lead_order: LeadOrder = "mimic") -> dict[str, Any]:
        """How the published weights want their recordings; a converter may have another default."""

    def text_settings(self) -> dict[str, Any]:
        """How the published weights want their reports."""


class _LeftOut:
    """Stands for settings of a training tool beside the weights; it keeps nothing and does nothing."""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _empty_dict(*_: Any) -> dict[Any, Any]:
    return {}


# What trainers of published weights (fairseq above all) pickle beside the tensors: their arguments and NumPy scores.
# Reading a file, torch puts these stand-ins in place of the classes, so that no code outside this file runs.
_HARMLESS: list[Any] = [
    *(
        (_LeftOut, name)
        for name in (
            "argparse.Namespace",
            "omegaconf.dictconfig.DictConfig",
            "omegaconf.listconfig.ListConfig",
            "omegaconf.base.ContainerMetadata",
            "omegaconf.base.Metadata",
            *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "String", "Integer", "Float", "Boolean")),
            "typing.Any",
            *(f"builtins.{kind}" for kind in ("dict", "list", "int", "float", "str", "bool")),
            "numpy.core.multiarray.scalar",
            "numpy._core.multiarray.scalar",
            "numpy.dtype",
        )
    ),
    (_empty_dict, "collections.defaultdict"),
]

# What torch's reader raises at a file that is cut, altered, or something else.
_DAMAGE = (
    pickle.UnpicklingError, EOFError, LookupError, RuntimeError, ValueError, TypeError, AttributeError, AssertionError,
    ArithmeticError, MemoryError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


def load_published(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a published file: a pickle of weights, or safetensors.

    `weights_only=True` refuses a pickle that would run code. Arguments of training tools (`argparse`, OmegaConf) and
    NumPy numbers beside the weights are left out without being built.

    Raises:
        CheckpointError: If the file is damaged, packed, or holds anything but tensors and plain containers.
        OSError: If it cannot be opened.
    """
    if Path(path).suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(
                f"'{path}' is no readable safetensors file ({error}). Download it again from its author."
            ) from error
    try:
        _refuse_packed(path)
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except _DAMAGE as error:
        # torch says at length which switch would run the code: keep only the name of what it refused.
        refused = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it would run {refused[1]}" if refused else "it is damaged, or something else"
        raise CheckpointError(
            f"'{path}' is not a plain file of weights ({reason}) and was not opened. Download it again from its "
            "author, or ask for a plain state dict."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"'{path}' holds a {type(content).__name__}, not a state dict.")
    return content


def _refuse_packed(path: str | os.PathLike[str]) -> None:
    """Torch never compresses, so what would unfold to more than the file's size was made to fill the memory."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    size = os.path.getsize(path)
    if unpacked > size:
        raise CheckpointError(
            f"'{path}' has {size} bytes but would unpack to {unpacked}: PyTorch does not write such files. It was not "
            "opened; download it again from its author."
        )


def plain_state_dict(content: Mapping[str, Any], method: str, wrappers: Sequence[str] = WRAPPERS) -> dict[str, Tensor]:
    """The weights in a published file by name, without what training tools put around them.

    Args:
        content (`Mapping[str, Any]`): What [`load_published`] returned.
        method (`str`): Name of the method, for messages.
        wrappers (`Sequence[str]`): Keys under which the file may hold its state dict.

    Returns:
        `dict[str, torch.Tensor]`: Names no longer begin with `module.`.

    Raises:
        CheckpointError: If it holds no tensor, or anything but ordinary tensors.
    """
    weights = next((content[key] for key in wrappers if isinstance(content.get(key), Mapping)), content)
    strangers = [str(name) for name, value in weights.items() if not isinstance(value, Tensor)]
    if strangers or not weights:
        problem = f"{strangers[:5]} are not tensors" if strangers else "it is empty"
        raise CheckpointError(f"This is no {method} state dict: {problem}.")
    # A view that repeats its few values costs nothing in the file, but everything in a model of its size.
    odd = [str(name) for name, value in weights.items() if not _is_ordinary(value)]
    if odd:
        raise CheckpointError(f"This is no {method} state dict: {odd[:5]} are no ordinary, dense tensors.")
    return {str(name).removeprefix("module."): value for name, value in weights.items()}


def _is_ordinary(tensor: Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def shape_of(weights: Mapping[str, Tensor], name: str, num_axes: int) -> tuple[int, ...]:
    """The shape of the weight that a converter reads a model's size from.

    Raises:
        CheckpointError: If the weight is missing, or has another number of axes.
    """
    if name not in weights:
        raise CheckpointError(f"The checkpoint is incomplete: it lacks '{name}', which says how large the model is.")
    shape = tuple(weights[name].shape)
    if len(shape) != num_axes or not all(shape):
        raise CheckpointError(f"The checkpoint's '{name}' has shape {shape}; expected {num_axes} axes, none empty.")
    return shape


def lead_names(lead_order: LeadOrder) -> list[str]:
    """The leads in the order that published weights read.

    Raises:
        ValueError: If there is no such order.
    """
    if lead_order not in LEAD_ORDERS:
        raise ValueError(f"lead_order must be one of {', '.join(LEAD_ORDERS)}, not '{lead_order}'.")
    return list(LEAD_ORDERS[lead_order])


def input_settings(lead_order: LeadOrder, scaling: str) -> dict[str, Any]:
    """Settings of the feature extractor for weights that read 10 s at 500 Hz, as all published ones here do.

    Args:
        lead_order (`"mimic"` or `"standard"`): The order in which the weights read leads.
        scaling (`str`): As in [`~hf_ecgtext.processing.EcgFeatureExtractor`].

    Raises:
        ValueError: If there is no such order.
    """
    return {
        "lead_names": lead_names(lead_order),
        "sampling_rate_hz": 500,
        "duration_s": 10.0,
        "scaling": scaling,
    }


def resnet_settings(published: Mapping[str, Tensor]) -> dict[str, Any]:
    """The size of MERL's ResNet, which DERI has too, from the shapes of its weights under their published names."""
    found = [
        {match[1] for name in published if (match := re.match(rf"ecg_encoder\.layer{stage}\.(\d+)\.", name))}
        for stage in range(1, 5)
    ]
    bottleneck = any(re.match(r"ecg_encoder\.layer\d\.\d+\.conv3\.", name) for name in published)
    return {
        "num_leads": shape_of(published, "ecg_encoder.conv1.weight", 3)[1],
        "block": "bottleneck" if bottleneck else "basic",
        "depths": [max(1, len(blocks)) for blocks in found],  # of a stage without blocks, the first will be missed
    }


def rename(weights: Mapping[str, Tensor], renames: Renames, unused: re.Pattern[str] | None = None) -> dict[str, Tensor]:
    """The same weights under our names, without those that nothing here uses.

    Raises:
        CheckpointError: If two published names mean the same weight.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if unused is None or not unused.match(name):
            new = _new_name(name, renames)
            if new in renamed:
                raise CheckpointError(f"The checkpoint holds '{new}' twice; '{name}' is one of its names.")
            renamed[new] = tensor
    return renamed


def _new_name(name: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        new, count = re.subn(pattern, replacement, name)
        if count:
            return new
    return name


def fill_model(model: ModelT, weights: Mapping[str, Tensor], title: str) -> ModelT:
    """Load weights into a model; every weight must find its place.

    Args:
        model ([`~transformers.PreTrainedModel`]): A new model.
        weights (`Mapping[str, torch.Tensor]`): Under our names.
        title (`str`): What the weights should make, for messages, such as `"MERL model"`.

    Returns:
        The model in `eval()` mode.

    Raises:
        CheckpointError: If weights are missing, left over, of another shape, or not finite; each is named.
    """
    expected = model.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    left_over = sorted(weights.keys() - expected.keys())
    shapes = [
        f"{name}: {tuple(weights[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & weights.keys())
        if weights[name].shape != expected[name].shape
    ]
    problems = [
        f"{heading} {names[:8]}{f' and {len(names) - 8} more' if len(names) > 8 else ''}"
        for heading, names in (
            ("missing:", missing),
            ("left over:", left_over),
            ("of another shape:", shapes),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"These weights do not make a complete {title}; {'; '.join(problems)}.")
    not_finite = [name for name, value in weights.items() if not _is_finite(value)]
    if not_finite:
        raise CheckpointError(f"These weights of the {title} hold NaN or infinity: {not_finite[:8]}.")
    model.load_state_dict(dict(weights))
    return model.eval()


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
