"""Errors of a command: one sentence on stderr and an exit status, without a traceback."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from absl import logging

from mgmtn_jax.data.storage import error_sentence


@contextlib.contextmanager
def errors_as_sentences(
    *others: type[Exception], interrupted: str = "interrupted"
) -> Iterator[None]:
    """Ends the program with one sentence if the body raises an error that the user can fix.

    ValueError and OSError exit with status 1, Ctrl-C with 130. `--verbosity=1` adds the traceback.

    Args:
      *others: Further error types to report as a sentence.
      interrupted: The sentence for Ctrl-C.
    """
    kinds: tuple[type[Exception], ...] = (ValueError, OSError, *others)
    try:
        yield
    except KeyboardInterrupt:
        logging.debug("interrupted here:", exc_info=True)
        print(interrupted, file=sys.stderr)
        sys.exit(130)
    except kinds as error:
        logging.debug("caused by:", exc_info=True)
        sys.exit(f"error: {error_sentence(error)}")
