"""Plain English: phrases that earlier versions used and that no reader should have to decode."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("mgmtn_jax", "landmarks", "experiments", "tests", "docs")
PHRASES = (
    "commoner",
    "so many of",
    "so many on",
    "a yes from",
    "share of yes",
    "looked at on this machine",
    "who is still",
    "what it is worth",
    "held still",
    "hears no answer",
)
FILES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.*")))
    if path.suffix in (".py", ".md", ".html") and path != Path(__file__)
)


def _name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_no_contorted_phrase(path):
    text = re.sub(r"\s+", " ", path.read_text().lower())
    assert not [phrase for phrase in PHRASES if phrase in text]


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix == ".py"], ids=_name)
def test_no_docstring_is_a_riddle(path):
    """A docstring says what a thing is or does; it does not start with a question word."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]
    docstrings = [ast.get_docstring(node) or "" for node in nodes]
    assert not [d for d in docstrings if re.match(r"(Whether|What|How|Which|Where|Who)\b", d)]
