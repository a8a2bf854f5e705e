"""What every command shares: readable logs, errors as one sentence, and compiled programs that are
kept for the next time."""

from __future__ import annotations

import logging as standard_logging
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags, logging

from landmarks.command import errors_as_sentences

_COMPILATION_CACHE = flags.DEFINE_string(
    "compilation_cache",
    "~/.cache/mgmtn_jax",
    "Where compiled programs are kept, unless JAX_COMPILATION_CACHE_DIR says so; empty keeps none.",
)

_CHATTY = tuple(f"{os.sep}{package}{os.sep}" for package in ("orbax", "jax", "jaxlib"))


def run(command: Callable[..., None], *, arguments: bool = False) -> None:
    """Parses the flags and runs the command, with what is left of the line if it takes `arguments`.

    What a person can mend (a wrong flag, folder or file, a damaged checkpoint, a loss that left the
    numbers) ends with one sentence and exit code 1; `--verbosity=1` adds the traceback.
    """

    def main(argv: list[str]) -> None:
        if len(argv) > 1 and not arguments:
            raise app.UsageError(f"unexpected argument {argv[1]!r}")
        logging.get_absl_handler().addFilter(_is_ours)
        known: Any = jax.config  # Its fields are made when it is imported.
        if _COMPILATION_CACHE.value and known.jax_compilation_cache_dir is None:
            folder = os.path.expanduser(_COMPILATION_CACHE.value)
            jax.config.update("jax_compilation_cache_dir", folder)
        with errors_as_sentences(FloatingPointError):
            command(*argv[1:])

    logging.set_verbosity(logging.INFO)
    app.run(main, flags_parser=_parse_flags)


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError, TypeError) as error:  # of ml_collections: --config.no.such
        message = " ".join(str(argument) for argument in error.args).replace("\n", ". ")
        sys.exit(f"error: a --config flag names no field or has the wrong type: {message}")


def _is_ours(record: standard_logging.LogRecord) -> bool:
    """Whether a person should read it.

    Orbax reports every stage of a save at the level of our own messages, and each of its threads
    prints the traceback of an error that is then raised here. Warnings pass.
    """
    if not any(package in record.pathname for package in _CHATTY):
        return True
    if record.exc_info:
        return logging.level_debug()
    return record.levelno > standard_logging.INFO
