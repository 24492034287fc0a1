"""Several threads for work that releases Python's lock, such as writing files and measuring structures."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Optional

import SimpleITK as sitk


class Threads(ThreadPoolExecutor):
    """A pool that drops what has not begun when its block is left by an exception, so that stopping is quick.

    It has as many threads as SimpleITK may use at that moment.
    """

    def __init__(self) -> None:
        super().__init__(sitk.ProcessObject.GetGlobalDefaultNumberOfThreads())

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.shutdown(wait=True, cancel_futures=kind is not None)
