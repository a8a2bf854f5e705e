"""One answer for each attribute, from a network with one for each data set.

A network trained with `data.separate` has a logit for `FOLDER/NAME` of every data set, because data
sets disagree on the meaning of a name. Heads are linear, so the mean of two logits is the logit of
the mean of their weights: the joined network is as small and as fast as one that was trained on a
single data set.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.models.functional import Variables


def join_heads(
    params: Variables, attribute_set: AttributeSet, folders: Sequence[str]
) -> tuple[Variables, AttributeSet]:
    """Averages the logits of `FOLDER/NAME` over some data sets, under the name NAME.

    Attributes that only one data set has are kept as they are.

    Args:
      params: Parameters of an MGMTN or a global network.
      attribute_set: Names and groups of its outputs.
      folders: Folder names of the data sets to average over; one keeps the answers of that one.

    Returns:
      The parameters with smaller heads, and the attribute set of their outputs.

    Raises:
      ValueError: No attribute is named after a folder of `folders`, or one has none of them.
    """
    members: dict[str, list[str]] = {}  # Joined name -> names to average.
    for name in attribute_set.names:
        folder, slash, plain = name.partition("/")
        chosen = members.setdefault(plain if slash else name, [])
        if not slash or folder in folders:
            chosen.append(name)
    missing = [name for name, chosen in members.items() if not chosen]
    known = sorted({name.partition("/")[0] for name in attribute_set.names if "/" in name})
    if missing or not set(folders) <= set(known):
        raise ValueError(
            f"cannot join the answers of {', '.join(folders) or 'no data set'}: the network has "
            f"separate answers for {', '.join(known) or 'no data set'}"
            + (f", and {missing[0]} would be left without one" if missing else "")
        )
    joined = AttributeSet(
        names=tuple(members),
        groups={
            group: tuple(name for name, chosen in members.items() if set(chosen) & set(names))
            for group, names in attribute_set.groups.items()
        },
        regions=attribute_set.regions,
    )
    if "heads" in params:  # MGMTN: a head for each group, with the group's attributes in order.
        heads = {
            str(number): _mean_columns(
                params["heads"][str(number)],
                [[names.index(name) for name in members[new]] for new in joined.groups[group]],
            )
            for number, (group, names) in enumerate(attribute_set.groups.items())
        }
        return params | {"heads": heads}, joined
    columns = [[attribute_set.names.index(name) for name in members[new]] for new in joined.names]
    return params | {"head": _mean_columns(params["head"], columns)}, joined


def _mean_columns(head: Variables, columns: Sequence[Sequence[int]]) -> Variables:
    """A linear layer whose outputs are means of outputs of another."""
    return {
        name: np.stack([np.asarray(leaf)[..., chosen].mean(-1) for chosen in columns], axis=-1)
        for name, leaf in head.items()
    }
