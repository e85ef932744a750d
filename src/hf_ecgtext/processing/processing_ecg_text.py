"""The processor: an ECG feature extractor and a tokenizer, saved together."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from hf_ecgtext.data.records import AnyEcg
from hf_ecgtext.data.report_cleaning import REPORT_CLEANERS
from hf_ecgtext.errors import CheckpointError, RecordError
from hf_ecgtext.hub import Shareable, is_own, loader_entry, write_loader
from hf_ecgtext.processing.feature_extraction_ecg import EcgFeatureExtractor
from hf_ecgtext.processing.settings import (
    LARGEST_MAX_LENGTH,
    check_choice,
    check_positive_integer,
    reject_misspelt_settings,
    reject_unknown_settings,
    setting_names,
)
from hf_ecgtext.processing.tokenizing import prepare_tokenizer, tokenize

if TYPE_CHECKING:
    from hf_ecgtext.processing.inputs import EcgInput

logger = logging.getLogger(__name__)

UNLIMITED_LENGTH = 10**12
"""Tokenizers that know no limit report a `model_max_length` far above this."""


class EcgTextProcessor(Shareable, ProcessorMixin):
    """Prepares recordings and reports for an ECG-text model; methods subclass it under their own name.

    Args:
        feature_extractor (`EcgFeatureExtractor`): Prepares recordings.
        tokenizer (`PreTrainedTokenizerBase`): Of the text tower. One that pads or cuts on the left, or cannot pad, is
            replaced by a copy that pads and cuts on the right
            ([`~hf_ecgtext.processing.tokenizing.prepare_tokenizer`]).
        max_length (`int`, *optional*): Tokens that the text tower reads, special tokens included; the tokenizer's
            `model_max_length` if left out.
        report_cleaning (`str`): Key of `hf_ecgtext.processing.REPORT_CLEANERS`.
        empty_report (`str`): `"raise"` at a text that is empty after cleaning, or `"keep"` it.
        long_text (`str`): `"truncate"` a text longer than `max_length` (logged once, counted in `num_truncated_texts`)
            or `"raise"`.

    Raises:
        TypeError: If a setting is of the wrong type.
        ValueError: If a setting's value is impossible, neither `max_length` nor the tokenizer knows a limit, or the
            tokenizer has nothing to pad with.
    """

    def __init__(
        self,
        feature_extractor: EcgFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None = None,
        report_cleaning: str = "none",
        empty_report: str = "raise",
        long_text: str = "truncate",
    ):
        tokenizer = prepare_tokenizer(tokenizer)
        super().__init__(feature_extractor, tokenizer)
        if max_length is not None:
            check_positive_integer("max_length", max_length, LARGEST_MAX_LENGTH)
        self.max_length = max_length
        self.report_cleaning = check_choice("report_cleaning", report_cleaning, tuple(REPORT_CLEANERS))
        self.empty_report = check_choice("empty_report", empty_report, ("raise", "keep"))
        self.long_text = check_choice("long_text", long_text, ("truncate", "raise"))
        self.num_truncated_texts = 0
        limit = tokenizer.model_max_length
        if max_length is None and limit > UNLIMITED_LENGTH:
            raise ValueError("The tokenizer has no model_max_length: pass max_length, the tokens the text tower reads.")
        if max_length is not None and max_length > limit:
            raise ValueError(f"max_length={max_length} is more than the tokenizer's model_max_length={limit}.")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """Loads the processor from a folder or the Hub.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): Folder or repository.
            args: As in `ProcessorMixin.from_pretrained`.
            kwargs: Settings of the processor or of the feature extractor, in place of the saved ones, and arguments of
                `ProcessorMixin.from_pretrained`, such as `revision`.

        Raises:
            CheckpointError: If there is no processor, or a file of it is missing.
            TypeError: If a saved key is unknown, or a keyword argument is a misspelt setting.
        """
        own_names = [name for name in setting_names(cls) if name not in cls.get_attributes()]
        reject_misspelt_settings(kwargs, [*own_names, *setting_names(EcgFeatureExtractor)], cls.__name__)
        # transformers would pass every keyword argument to the tokenizer too, which would store it.
        own = {name: kwargs.pop(name) for name in own_names if name in kwargs}
        of_extractor = {name: kwargs.pop(name) for name in setting_names(EcgFeatureExtractor) if name in kwargs}
        try:
            processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except OSError as error:
            raise CheckpointError(
                f"The processor of '{pretrained_model_name_or_path}' is missing or cannot be loaded. Save it beside "
                f"the model, with processor.save_pretrained or processor.push_to_hub. The cause: {error}"
            ) from error
        if not own and not of_extractor:
            return processor
        extractor = type(processor.feature_extractor).from_dict(processor.feature_extractor.to_dict(), **of_extractor)
        saved = {name: getattr(processor, name) for name in own_names}
        return cls(feature_extractor=extractor, tokenizer=processor.tokenizer, **{**saved, **own})

    @classmethod
    def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Builds the processor from its parts and saved settings.

        Raises:
            TypeError: If a saved key is unknown.
        """
        reject_unknown_settings(processor_dict, setting_names(cls), cls.__name__)
        return super().from_args_and_dict(args, processor_dict, **kwargs)

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write the settings, and what transformers needs to find the classes."""
        written = json.loads(self.to_json_string())
        if is_own(type(self)):
            written["auto_map"] = {"AutoProcessor": loader_entry(type(self).__name__)}
        written["feature_extractor"] |= self.feature_extractor.auto_map()
        Path(json_file_path).write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """As usual, with the module that `auto_map` names."""
        write_loader(save_directory)
        return super().save_pretrained(save_directory, *args, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        """Keys of the returned `BatchFeature` for a recording with a text."""
        return [*self.feature_extractor.model_input_names, "input_ids", "attention_mask"]

    def __call__(
        self,
        ecg: EcgInput | None = None,
        text: str | Sequence[str] | None = None,
        *,
        sampling_rate_hz: float | None = None,
        lead_names: Sequence[str] | None = None,
        unit: str = "mV",
        record_ids: Sequence[str] | None = None,
        crop: str | None = None,
        generator: np.random.Generator | int | None = None,
        padding: bool | str = True,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Prepares recordings, texts, or both.

        Args:
            ecg: One recording or a batch, in any form that `EcgFeatureExtractor` takes.
            text (`str` or `Sequence[str]`, *optional*): Reports or prompts, not necessarily as many as recordings.
            sampling_rate_hz (`float`, *optional*): Rate of arrays.
            lead_names (`Sequence[str]`, *optional*): One name per row of arrays.
            unit (`str`): Unit of arrays: `"mV"`, `"uV"` or `"V"`.
            record_ids (`Sequence[str]`, *optional*): Names of the records in messages.
            crop (`str`, *optional*): In place of the feature extractor's setting.
            generator (`np.random.Generator` or `int`, *optional*): Source or seed of `crop="random"`.
            padding (`bool` or `str`): `True` pads to the longest text of the batch, `"max_length"` to `max_length`.
            return_tensors (`str`, *optional*): `"pt"` for torch tensors, `"np"` for NumPy arrays.

        Returns:
            `BatchFeature`: `ecg_values` and `lead_mask` if `ecg` is given (see `EcgFeatureExtractor`), `input_ids` and
            `attention_mask`, both int64 of shape `(num_texts, sequence_length)`, if `text` is.

        Raises:
            RecordError: If a recording cannot be used, a report is empty or too long and the settings refuse it, or a
                text has no token at all.
            TypeError: If `ecg` or `text` has an unusable type.
            ValueError: If neither `ecg` nor `text` is given, or an argument is impossible.
        """
        if ecg is None and text is None:
            raise ValueError("Pass ecg, text or both.")
        data: dict[str, Any] = {}
        if ecg is not None:
            data |= self.feature_extractor(
                ecg,
                sampling_rate_hz=sampling_rate_hz,
                lead_names=lead_names,
                unit=unit,
                record_ids=record_ids,
                crop=crop,
                generator=generator,
            )
        if text is not None:
            texts = _as_texts(text)
            data |= self._tokenize(texts, _text_names(texts, ecg, record_ids), padding)
        return BatchFeature(data, tensor_type=return_tensors)

    def _tokenize(self, texts: list[str], names: list[str], padding: bool | str) -> dict[str, list[list[int]]]:
        clean = REPORT_CLEANERS[self.report_cleaning]
        cleaned = [clean(text) for text in texts]
        if self.empty_report == "raise":
            for name, text in zip(names, cleaned, strict=True):
                if not text.strip():
                    raise RecordError(
                        name,
                        f"the report is empty after cleaning by {self.report_cleaning!r}.",
                        'Drop the record, or set empty_report="keep".',
                    )
        max_length = self.tokenizer.model_max_length if self.max_length is None else self.max_length
        encoded = tokenize(self.tokenizer, cleaned, max_length, padding)
        for name, text, attention in zip(names, cleaned, encoded["attention_mask"], strict=True):
            if not any(attention):  # an empty text, and a tokenizer that adds nothing of its own
                raise RecordError(name, "the text has no token, so that nothing can be encoded.", "Drop the record.")
            if sum(attention) >= max_length:  # only these can have been cut
                self._handle_long_text(name, text, max_length)
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

    def _handle_long_text(self, name: str, text: str, max_length: int) -> None:
        num_tokens = len(self.tokenizer(text, verbose=False)["input_ids"])
        if num_tokens <= max_length:
            return
        problem = f"the text has {num_tokens} tokens but the text tower reads {max_length}."
        if self.long_text == "raise":
            raise RecordError(name, problem, 'Shorten it, raise max_length, or set long_text="truncate".')
        self.num_truncated_texts += 1
        if self.num_truncated_texts == 1:
            logger.warning("Record '%s': %s Truncated; further ones are only counted.", name, problem)


def _as_texts(text: Any) -> list[str]:
    texts = [text] if isinstance(text, str) else list(text)
    for index, item in enumerate(texts):
        if not isinstance(item, str):
            raise TypeError(f"text must be a string or a list of strings; item {index} is {type(item).__name__}.")
    if not texts:
        raise ValueError("text is empty: pass at least one string.")
    return texts


def _text_names(texts: list[str], ecg: Any, record_ids: Sequence[str] | None) -> list[str]:
    """What to call each text in messages: its record, where texts and recordings pair up."""
    names = None if record_ids is None else [str(record_id) for record_id in record_ids]
    records = [ecg] if isinstance(ecg, AnyEcg) else ecg
    if isinstance(records, list | tuple) and all(isinstance(record, AnyEcg) for record in records):
        names = [record.record_id for record in records]
    if names is None or len(names) != len(texts):
        return [f"text {index}" for index in range(len(texts))]
    return names
