"""What a saved folder carries beside weights and settings, so that others can load and judge it.

* `load_with_hf_ecgtext.py`, a module of a few lines that the `auto_map` entries of the JSON files name. With
  `trust_remote_code=True` transformers runs it, and it imports this library; so a folder loads where the library is
  installed but nobody has imported it. The classes themselves are never copied into a folder.
* The training ledger, `training_data.json` and `training_data.safetensors`, as it was in the folder that a model came
  from, or as its trainer wrote it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, ModelCard
from torch import nn
from transformers import FeatureExtractionMixin, Pipeline, PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import cached_file

from hf_ecgtext.io import written_whole

logger = logging.getLogger(__name__)

REPOSITORY_URL = "https://github.com/hf-ecgtext/hf-ecgtext"
LOADER = "load_with_hf_ecgtext"
CARD_FILE = "README.md"
LEDGER_FILES = ("training_data.json", "training_data.safetensors")
PIPELINES = {
    "zero-shot-ecg-classification": "ZeroShotEcgClassificationPipeline",
    "ecg-feature-extraction": "EcgFeatureExtractionPipeline",
}
"""Tasks of `pipeline(...)`, and the classes that do them."""

# The import stands in a `try`, since transformers would otherwise notice that it fails, and tell people to install
# whatever has the name hf_ecgtext on PyPI.
_LOADER_TEXT = f'''"""Loads this folder by the library hf_ecgtext: AutoModel.from_pretrained(x, trust_remote_code=True).

It holds no model code. `import hf_ecgtext` before loading does the same, without trust_remote_code.
"""

try:
    from hf_ecgtext.hub import find_class
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "hf_ecgtext":  # something that the library needs is missing
        raise
    raise ImportError(
        "This model needs the library hf_ecgtext, which is not installed, or too old. Install it from its repository: "
        "pip install git+{REPOSITORY_URL} (there is no release on PyPI yet: do not install what has its name there)."
    ) from error


def __getattr__(name):  # transformers asks for a class by its name
    return find_class(name)
'''


class Shareable:
    """Mixed into what has `save_pretrained`: a push uploads what saving writes, and no class is copied.

    `push_to_hub` of transformers would put an empty card in the place of the one that was saved.
    """

    save_pretrained: Callable[..., Any]

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Nothing for classes of this library; transformers calls it after loading by `trust_remote_code`.

        It would have the source file of the class copied into every folder that is saved later, which cannot work: the
        file imports others.
        """
        if not is_own(cls):
            super().register_for_auto_class(*([] if auto_class is None else [auto_class]))  # type: ignore[misc]

    def write_card(self, folder: str | os.PathLike[str], name: str) -> None:
        """Write `README.md` for a folder or repository of this name; only models have one."""

    def push_to_hub(
        self, repo_id: str, *, max_shard_size: int | str | None = None, tags: list[str] | None = None, **options: Any
    ) -> Any:
        """Save into a temporary folder and upload that.

        Args:
            repo_id (`str`): Repository, which is made if absent. A card that it has already stays.
            max_shard_size (`int` or `str`, *optional*): Of a model's weights, as in `save_pretrained`.
            tags (`list[str]`, *optional*): Added to those of the card.
            options: As of [`upload`].

        Returns:
            What [`~huggingface_hub.HfApi.upload_folder`] does.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, **({} if max_shard_size is None else {"max_shard_size": max_shard_size}))
            self.write_card(folder, repo_id)
            return upload(folder, repo_id, tags=[*(getattr(self, "model_tags", None) or []), *(tags or [])], **options)


def upload(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    tags: list[str] | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> Any:
    """Upload a saved folder as one commit.

    Args:
        folder (`str` or `os.PathLike`): Of `save_pretrained`.
        repo_id, tags: As in [`Shareable.push_to_hub`].
        commit_message, commit_description, private, token, revision, create_pr: As in
            [`~transformers.utils.PushToHubMixin.push_to_hub`].

    Returns:
        What [`~huggingface_hub.HfApi.upload_folder`] does.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not create_pr:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    has_card = api.file_exists(repo_id, CARD_FILE, revision=revision)
    if tags and (has_card or (Path(folder) / CARD_FILE).is_file()):
        card = ModelCard.load(
            repo_id if has_card else Path(folder) / CARD_FILE, token=token if isinstance(token, str) else None
        )
        card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *tags]))
        card.save(Path(folder) / CARD_FILE)
        has_card = False
    return api.upload_folder(
        repo_id=repo_id,
        folder_path=Path(folder),
        ignore_patterns=[CARD_FILE] if has_card else None,
        commit_message=commit_message or "Upload by hf_ecgtext",
        commit_description=commit_description,
        revision=revision,
        create_pr=create_pr,
    )


def is_own(cls: type) -> bool:
    """Whether a class is defined in this library, not in a program that builds on it."""
    return cls.__module__.startswith("hf_ecgtext.")


def find_class(name: str) -> type:
    """The config, model, processor, feature extractor or pipeline of this library that has a name.

    Saved folders call this function: it must stay where it is.

    Raises:
        AttributeError: If there is none.
    """
    for base in (PreTrainedConfig, PreTrainedModel, ProcessorMixin, FeatureExtractionMixin, Pipeline):
        for cls in _subclasses(base):
            if cls.__name__ == name and is_own(cls):
                return cls
    raise AttributeError(f"The installed version of hf_ecgtext has no class {name}: the folder needs another version.")


def write_loader(folder: str | os.PathLike[str]) -> None:
    """Write the module that the `auto_map` entries name."""
    with written_whole(Path(folder) / f"{LOADER}.py") as unfinished:
        unfinished.write_text(_LOADER_TEXT, encoding="utf-8")


def loader_entry(class_name: str) -> str:
    """A class as `auto_map` and `custom_pipelines` name it."""
    return f"{LOADER}.{class_name}"


TrainingData = dict[str, bytes] | Callable[[], dict[str, bytes]]
"""The files of a ledger by name, or what fetches them."""


def training_data_of(name_or_path: Any, options: Mapping[str, Any]) -> TrainingData:
    """The ledger of a folder, read now, or of a Hub repository, fetched once it is needed.

    Args:
        name_or_path (`str` or `os.PathLike`): What `from_pretrained` was given.
        options (`Mapping[str, Any]`): Its further arguments.
    """
    folder = Path(name_or_path, options.get("subfolder", ""))
    if folder.is_dir():
        return {name: (folder / name).read_bytes() for name in LEDGER_FILES if (folder / name).is_file()}
    where = {
        key: options[key]
        for key in ("revision", "token", "local_files_only", "cache_dir", "subfolder")
        if options.get(key) is not None
    }

    def fetch() -> dict[str, bytes]:
        try:
            paths = {
                name: cached_file(str(name_or_path), name, _raise_exceptions_for_missing_entries=False, **where)
                for name in LEDGER_FILES
            }
        except OSError as error:
            logger.warning(
                "The training ledger of '%s' cannot be fetched, so what is saved now has none, and counts as trained "
                "on unknown data: %s",
                name_or_path,
                error,
            )
            return {}
        return {name: Path(path).read_bytes() for name, path in paths.items() if path is not None}

    return fetch


def keep_training_data(model: nn.Module, files: TrainingData) -> None:
    """Have a model and the models inside it, such as its ECG encoder, write this ledger when they are saved."""
    for module in model.modules():
        if isinstance(module, Shareable):
            vars(module)["training_data"] = files


def kept_training_data(model: Any) -> dict[str, bytes]:
    """The ledger that a model would write, by file; empty where it has none."""
    files: TrainingData = vars(model).get("training_data", {})
    return files() if callable(files) else files


def _subclasses(cls: type) -> Iterator[type]:
    subclasses: list[type] = cls.__subclasses__()
    for subclass in subclasses:
        yield subclass
        yield from _subclasses(subclass)
