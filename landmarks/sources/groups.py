"""`groups.json`, the groups of one's own attributes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from etils import epath

from landmarks.sources.label_files import LabelError, text_of
from mgmtn_jax.attributes import CELEBA_GROUPS, DEFAULT_GROUP, REGIONS, did_you_mean

GROUPS = "groups.json"


def read_groups(path: epath.Path, names: Sequence[str]) -> dict[str, list[str]] | None:
    """Group -> attributes, from the file or else from CelebA's groups; None without a file."""
    if not path.exists():
        return None
    try:
        # Objects as tuples of pairs, which keep a repeated name.
        tree = json.loads(text_of(path), object_pairs_hook=tuple)
    except json.JSONDecodeError as error:
        raise LabelError(path, f"not JSON: {error.msg}", line=error.lineno) from error
    except (ValueError, RecursionError) as error:  # 5,000 digits, or as many brackets.
        raise LabelError(path, f"not JSON: {error}") from error
    if not isinstance(tree, tuple):
        raise LabelError(path, 'expected {"ATTRIBUTE": "GROUP", ...}')
    group_of = {name: group for group, members in CELEBA_GROUPS.items() for name in members}
    claimed = set()
    for name, group in tree:
        if name not in names:
            problem = f"the table has no attribute {name!r}"
            raise LabelError(path, problem + did_you_mean(name, names))
        if name in claimed:
            raise LabelError(path, f"{name!r} is listed twice")
        if group not in REGIONS:
            problem = f"{group!r} is not one of the groups {', '.join(REGIONS)}"
            raise LabelError(
                path, problem + did_you_mean(str(group), REGIONS), attribute=repr(name)
            )
        claimed.add(name)
        group_of[name] = group
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(group_of.get(name, DEFAULT_GROUP), []).append(name)
    return groups
