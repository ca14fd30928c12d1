"""What a run tells: a standard logger whose lines the first process prints.

    from tcformer.runtime.logger import logger
    logger.info("Start training")

`init_world` silences the standard output of the other processes. A program that wants the lines
elsewhere changes the handlers of `logging.getLogger("tcformer")`.
"""

from __future__ import annotations

import logging


class _Print(logging.Handler):
    """Prints to what `sys.stdout` is at the moment; an error of writing passes through."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), flush=True)


logger = logging.getLogger("tcformer")
logger.setLevel(logging.INFO)
logger.propagate = False
if not logger.handlers:
    logger.addHandler(_Print())
