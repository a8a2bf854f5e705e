"""Plain English: phrases that earlier versions used and that no reader should have to decode."""

import ast
import re
from pathlib import Path

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


def test_no_contorted_phrase():
    found = {}
    for path in FILES:
        text = re.sub(r"\s+", " ", path.read_text().lower())
        if phrases := [phrase for phrase in PHRASES if phrase in text]:
            found[str(path.relative_to(ROOT))] = phrases
    assert not found


def test_no_docstring_is_a_riddle():
    """A docstring says what a thing is or does; it does not start with a question word."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = []
    for path in FILES:
        nodes = ast.walk(ast.parse(path.read_text())) if path.suffix == ".py" else ()
        for node in nodes:
            docstring = isinstance(node, kinds) and ast.get_docstring(node)
            if docstring and re.match(r"(Whether|What|How|Which|Where|Who)\b", docstring):
                found.append(f"{path.relative_to(ROOT)}: {docstring.splitlines()[0]}")
    assert not found
