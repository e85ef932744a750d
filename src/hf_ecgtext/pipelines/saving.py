"""Saving a pipeline: model and processor in one folder, from which `pipeline(model=folder)` makes it again."""

from __future__ import annotations

import copy
import logging
import os
from typing import Any

from transformers import AutoProcessor, Pipeline, PreTrainedModel

from hf_ecgtext.encoders.base import EcgConfig, OwnPipelines
from hf_ecgtext.hub import Shareable

logger = logging.getLogger(__name__)


class SavedPipeline(Shareable, Pipeline):
    """A pipeline whose folder holds everything that it was made of, and says which task it is for."""

    model: PreTrainedModel

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save model, ledger and card, and the processor, or the feature extractor of an ECG encoder alone.

        Args:
            save_directory (`str` or `os.PathLike`): Folder, which is made if absent.
            kwargs: As in [`~transformers.PreTrainedModel.save_pretrained`].
        """
        if isinstance(self.model.config, EcgConfig):
            self.model.config.custom_pipelines = OwnPipelines({self.task: {}})
        (self._whole_processor() or self.feature_extractor).save_pretrained(save_directory)
        self.model.save_pretrained(save_directory, **kwargs)

    def write_card(self, folder: str | os.PathLike[str], name: str) -> None:
        """The model's."""
        if isinstance(self.model, Shareable):
            self.model.write_card(folder, name)

    def _whole_processor(self) -> Any:
        """The processor with this pipeline's feature extractor; one that only embeds ECGs has not loaded it yet."""
        processor = self.processor
        if processor is None and hasattr(self.model, "get_text_features"):
            try:
                processor = AutoProcessor.from_pretrained(self.model.name_or_path)
            except (OSError, ValueError) as error:
                logger.warning(
                    "The folder gets no tokenizer, so it cannot read texts: the processor of '%s' cannot be loaded: %s",
                    self.model.name_or_path,
                    error,
                )
        if processor is None or processor.feature_extractor is self.feature_extractor:
            return processor
        processor = copy.copy(processor)
        processor.feature_extractor = self.feature_extractor
        return processor
