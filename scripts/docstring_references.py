"""A griffe extension for the site: Hugging Face's references in docstrings become plain code.

transformers' own pages resolve [`~package.module.Name`] to a link with the last part as its text, and set types in
backticks; mkdocstrings knows another notation, and would print brackets and backticks.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_REFERENCE = re.compile(r"\[`(~?)([\w.]+)`\](?![\[(])")
_TYPE = re.compile(r"^(\s+[\w, *]+ )\(([^\n]*?)\):", re.MULTILINE)  # "    ecg (`torch.Tensor`, *optional*):"


class HuggingFaceReferences(griffe.Extension):
    """Rewrites the docstring of every object as it is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            value = _REFERENCE.sub(
                lambda found: f"`{found[2].rpartition('.')[2] if found[1] else found[2]}`", obj.docstring.value
            )
            # mkdocstrings prints types as code by itself, and would show the marks.
            obj.docstring.value = _TYPE.sub(lambda found: f"{found[1]}({re.sub('[`*]', '', found[2])}):", value)
