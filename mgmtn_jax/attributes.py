"""Attribute names, the groups that share a head, and the face region of each group.

A *group* is a set of attributes that one head predicts from one face region. The eight region names
are the group names reported for MGMTN. The assignment of CelebA's attributes to them is ours, taken
from public code that uses the same eight names.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

REGIONS: tuple[str, ...] = (
    "mouth",
    "ear",
    "lower_face",
    "cheeks",
    "nose",
    "eyes",
    "hair",
    "object",
)
"""The eight regions with a mask, in mask-channel order. `object` is the whole face."""

DEFAULT_GROUP = "object"
"""The group of attributes that belong to no other group."""

CELEBA_ATTRIBUTES: tuple[str, ...] = (
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
)
"""CelebA's 40 attributes in the order of `list_attr_celeba.txt`."""

CELEBA_GROUPS: dict[str, tuple[str, ...]] = {
    "mouth": (
        "5_o_Clock_Shadow",
        "Big_Lips",
        "Mouth_Slightly_Open",
        "Mustache",
        "No_Beard",
        "Wearing_Lipstick",
    ),
    "ear": ("Wearing_Earrings",),
    "lower_face": ("Double_Chin", "Goatee", "Wearing_Necklace", "Wearing_Necktie"),
    "cheeks": ("High_Cheekbones", "Rosy_Cheeks", "Sideburns"),
    "nose": ("Big_Nose", "Pointy_Nose"),
    "eyes": (
        "Arched_Eyebrows",
        "Bags_Under_Eyes",
        "Bushy_Eyebrows",
        "Eyeglasses",
        "Narrow_Eyes",
    ),
    "hair": (
        "Bald",
        "Bangs",
        "Black_Hair",
        "Blond_Hair",
        "Brown_Hair",
        "Gray_Hair",
        "Receding_Hairline",
        "Straight_Hair",
        "Wavy_Hair",
        "Wearing_Hat",
    ),
    "object": (
        "Attractive",
        "Blurry",
        "Chubby",
        "Heavy_Makeup",
        "Male",
        "Oval_Face",
        "Pale_Skin",
        "Smiling",
        "Young",
    ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class AttributeSet:
    """Attributes in label order and their partition into groups. `create` builds one.

    Equality includes the order of groups, because it is the order of a network's heads.

    Attributes:
      names: The A attribute names, in the order of the label vector.
      groups: Group name -> attribute names, in head order. Every attribute is in exactly one group,
        and no group is empty.
      regions: Group name -> one of `REGIONS`, for groups that are not named after their region.
    """

    names: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    regions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("an attribute set needs at least one attribute")
        if len(set(self.names)) != len(self.names):
            repeated = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"attribute names repeat: {', '.join(repeated)}")
        owner: dict[str, str] = {}
        for group, members in self.groups.items():
            if not members:
                raise ValueError(f"group {group!r} has no attribute")
            for name in members:
                if name not in self.names:
                    raise ValueError(
                        f"group {group!r} names the attribute {name!r}, which is not in the set"
                    )
                if name in owner:
                    raise ValueError(
                        f"attribute {name!r} is in group {owner[name]!r} and in {group!r}"
                    )
                owner[name] = group
        ungrouped = [name for name in self.names if name not in owner]
        if ungrouped:
            raise ValueError(f"attributes are in no group: {', '.join(ungrouped)}")
        for group, region in self.regions.items():
            if group not in self.groups or region not in REGIONS:
                raise ValueError(
                    f"cannot assign region {region!r} to group {group!r}: "
                    f"groups are {', '.join(self.groups)}, regions are {', '.join(REGIONS)}"
                )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AttributeSet) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[Any, ...]:
        return self.names, tuple(self.groups.items()), frozenset(self.regions.items())

    @classmethod
    def create(
        cls,
        names: Sequence[str],
        groups: Mapping[str, Sequence[str]] | None = None,
        regions: Mapping[str, str] | None = None,
    ) -> AttributeSet:
        """Builds a set from a partial grouping.

        Attributes without a group go to `object`, and groups without an attribute are dropped.
        Groups named after a region come first, in the order of `REGIONS`; the others follow in the
        order given.

        Args:
          names: The attribute names, in label order.
          groups: Group name -> attribute names. None puts CelebA's attributes into `CELEBA_GROUPS`.
          regions: Group name -> one of `REGIONS`, for groups that are not named after one. Their
            default is `object`.

        Raises:
          ValueError: Names repeat, an attribute is in two groups, a group lists an attribute that
            is not in `names`, or `regions` contains an unknown group or region.

        Examples:
            >>> mine = AttributeSet.create(
            ...     ["Squinting", "Calm", "Headphones"],
            ...     groups={"eyes": ["Squinting"], "gear": ["Headphones"]},
            ...     regions={"gear": "ear"},
            ... )
            >>> mine.groups
            {'eyes': ('Squinting',), 'object': ('Calm',), 'gear': ('Headphones',)}
            >>> [REGIONS[region] for region in mine.region_indices]
            ['eyes', 'object', 'ear']
        """
        if groups is None:
            groups = {
                group: tuple(name for name in members if name in names)
                for group, members in CELEBA_GROUPS.items()
            }
        claimed = {name for members in groups.values() for name in members}
        complete = {group: tuple(members) for group, members in groups.items()}
        complete[DEFAULT_GROUP] = complete.get(DEFAULT_GROUP, ()) + tuple(
            name for name in names if name not in claimed
        )
        order = [group for group in REGIONS if complete.get(group)]
        order += [group for group in complete if group not in REGIONS and complete[group]]
        return cls(
            names=tuple(names),
            groups={group: complete[group] for group in order},
            # Regions of dropped groups are dropped too. Regions of unknown groups are errors.
            regions={
                group: region
                for group, region in (regions or {}).items()
                if group in order or group not in complete
            },
        )

    @property
    def group_names(self) -> tuple[str, ...]:
        """The names of the G groups, in head order."""
        return tuple(self.groups)

    @property
    def group_indices(self) -> tuple[tuple[int, ...], ...]:
        """The label indices of each group's attributes."""
        return tuple(
            tuple(self.names.index(name) for name in members) for members in self.groups.values()
        )

    @property
    def attribute_groups(self) -> np.ndarray:
        """(A,) The index into `group_names` of each attribute."""
        index = np.empty(len(self.names), np.int32)
        for group, members in enumerate(self.group_indices):
            index[list(members)] = group
        return index

    @property
    def region_indices(self) -> tuple[int, ...]:
        """The mask channel of each group: that of its `regions` entry, else of the region with its
        name, else of the whole face."""
        return tuple(
            REGIONS.index(self.regions.get(group, group if group in REGIONS else DEFAULT_GROUP))
            for group in self.groups
        )

    def group_of(self, name: str) -> str:
        """The name of an attribute's group."""
        return self.group_names[int(self.attribute_groups[self.names.index(name)])]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, as stored in `attributes.json` and in a checkpoint's metadata."""
        return {
            "attributes": list(self.names),
            "groups": {group: list(members) for group, members in self.groups.items()},
            "regions": dict(self.regions),
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> AttributeSet:
        """Inverse of `to_dict`."""
        return cls.create(tree["attributes"], tree["groups"], tree.get("regions"))

    def to_json(self) -> str:
        """The JSON text of `to_dict`."""
        return json.dumps(self.to_dict(), indent=1)


THRESHOLD = 0.5
"""Probabilities at or above this are predicted positive."""

CELEBA = AttributeSet.create(CELEBA_ATTRIBUTES)
"""CelebA's and LFWA's 40 attributes in their eight groups."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: `: did you mean NAME?`, or nothing if none is
    similar."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean {close[0]}?" if close else ""
