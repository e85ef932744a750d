"""A griffe extension for the site: Hugging Face's references in docstrings become plain code.

transformers' own pages resolve [`~package.module.Name`] to a link with the last part as its text; mkdocstrings knows
another notation, and would print the brackets.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_REFERENCE = re.compile(r"\[`(~?)([\w.]+)`\](?![\[(])")


class HuggingFaceReferences(griffe.Extension):
    """Rewrites the docstring of every object as it is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = _REFERENCE.sub(
                lambda found: f"`{found[2].rpartition('.')[2] if found[1] else found[2]}`", obj.docstring.value
            )
