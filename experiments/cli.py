"""Shared by all commands: readable logs, errors as one sentence, a cache of compiled programs."""

from __future__ import annotations

import logging as standard_logging
import os
import sys
from collections.abc import Callable

from absl import app, flags, logging

from landmarks.command import errors_as_sentences

_COMPILATION_CACHE = flags.DEFINE_string(
    "compilation_cache",
    "~/.cache/mgmtn_jax",
    "Folder for compiled programs; JAX_COMPILATION_CACHE_DIR takes precedence; empty for no cache.",
)

_CHATTY = tuple(f"{os.sep}{package}{os.sep}" for package in ("orbax", "jax", "jaxlib", "fsspec"))


def run(command: Callable[..., None], *, arguments: bool = False) -> None:
    """Parses the flags and runs the command.

    An error that the user can correct (a wrong flag, folder or file, a damaged checkpoint, a loss
    that is not finite) ends with one sentence and exit code 1; `--verbosity=1` adds the traceback.

    Args:
      command: The command's function.
      arguments: Pass it the positional arguments; otherwise there may be none.
    """

    def main(argv: list[str]) -> None:
        if len(argv) > 1 and not arguments:
            raise app.UsageError(f"unexpected argument {argv[1]!r}")
        logging.get_absl_handler().addFilter(_is_relevant)
        if _COMPILATION_CACHE.value:
            folder = os.path.expanduser(_COMPILATION_CACHE.value)
            folder = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder)
            if jax := sys.modules.get("jax"):  # Otherwise JAX reads the variable when imported.
                jax.config.update("jax_compilation_cache_dir", folder)
        with errors_as_sentences(FloatingPointError):
            command(*argv[1:])

    logging.set_verbosity(logging.INFO)
    app.run(main, flags_parser=_parse_flags)


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError, TypeError) as error:  # from ml_collections: --config.no.such
        message = " ".join(str(argument) for argument in error.args).replace("\n", ". ")
        sys.exit(f"error: a --config flag names no field or has the wrong type: {message}")


def _is_relevant(record: standard_logging.LogRecord) -> bool:
    """Returns True for log records that the user should read.

    Orbax reports every stage of a save, and fsspec every remote file it opens, at INFO, the level
    of our own messages. Orbax's threads also log the traceback of an error that is raised here
    anyway. Warnings pass.
    """
    if not any(package in record.pathname for package in _CHATTY):
        return True
    if record.exc_info:
        return logging.level_debug()
    return record.levelno > standard_logging.INFO
