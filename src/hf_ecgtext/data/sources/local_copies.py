"""Files that a library opens by their name, such as HDF5: where they are not on this machine, they are copied once."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

from hf_ecgtext.data.sources.base import EcgSource


class SourceWithLocalCopies(EcgSource):
    """A source with files on this machine, in a scratch folder of the process where the download is elsewhere."""

    _scratch: Path | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_scratch": None}  # every process copies for itself where it must

    def local_file(self, path: str) -> Path:
        """The file itself, or a copy that goes with this source.

        Args:
            path (`str`): In the download.
        """
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix=f"hf_ecgtext_{self.name}_"))
            weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        return self.files.local_file(path, self._scratch)
