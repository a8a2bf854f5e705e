"""Attribute names, groups, and the indices between them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgmtn_jax.attributes import CELEBA, CELEBA_GROUPS, REGIONS, AttributeSet

OFFICIAL_HEADER = """
5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair
Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair
Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face
Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair Wavy_Hair
Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young
"""


def test_celeba_is_the_official_header_in_eight_groups():
    assert CELEBA.names == tuple(OFFICIAL_HEADER.split())
    assert CELEBA.group_names == REGIONS
    assert CELEBA.region_indices == tuple(range(8))
    assert {group: set(names) for group, names in CELEBA.groups.items()} == {
        group: set(names) for group, names in CELEBA_GROUPS.items()
    }


def assert_consistent(attribute_set: AttributeSet) -> None:
    """The maps between attributes and groups are each other's inverses."""
    index = attribute_set.attribute_groups
    assert index.shape == (len(attribute_set.names),)
    members = [i for group in attribute_set.group_indices for i in group]
    assert sorted(members) == list(range(len(attribute_set.names)))
    for group, (name, indices) in enumerate(
        zip(attribute_set.group_names, attribute_set.group_indices, strict=True)
    ):
        assert indices
        np.testing.assert_array_equal(np.flatnonzero(index == group), sorted(indices))
        assert tuple(attribute_set.names[i] for i in indices) == attribute_set.groups[name]
        assert all(attribute_set.group_of(attribute_set.names[i]) == name for i in indices)
    assert len(attribute_set.region_indices) == len(attribute_set.groups)
    assert all(0 <= region < len(REGIONS) for region in attribute_set.region_indices)


def restored(attribute_set: AttributeSet) -> AttributeSet:
    return AttributeSet.from_dict(json.loads(attribute_set.to_json()))


def test_celeba_maps_both_ways_and_survives_json():
    assert_consistent(CELEBA)
    assert restored(CELEBA) == CELEBA


@settings(deadline=None)
@given(st.data())
def test_any_set_maps_both_ways_and_survives_json(data):
    word = st.text(min_size=1, max_size=8)
    names = data.draw(st.lists(word, min_size=1, max_size=12, unique=True))
    groups: dict[str, list[str]] = {}
    for name in data.draw(st.lists(st.sampled_from(names), unique=True)):
        groups.setdefault(data.draw(st.sampled_from(REGIONS) | word), []).append(name)
    looks_at = {group: data.draw(st.sampled_from(REGIONS)) for group in groups}
    attribute_set = AttributeSet.create(names, groups, looks_at)
    assert attribute_set.names == tuple(names)
    assert_consistent(attribute_set)
    assert restored(attribute_set) == attribute_set
    assert hash(restored(attribute_set)) == hash(attribute_set)
    for group, region in zip(attribute_set.group_names, attribute_set.region_indices, strict=True):
        assert REGIONS[region] == looks_at.get(group, group)


def test_celeba_names_get_their_usual_groups():
    attribute_set = AttributeSet.create(["Tattoo", "Smiling", "Big_Nose", "Bald"])
    assert attribute_set.groups == {
        "nose": ("Big_Nose",),
        "hair": ("Bald",),
        "object": ("Smiling", "Tattoo"),
    }
    assert attribute_set.group_names == ("nose", "hair", "object")
    np.testing.assert_array_equal(attribute_set.attribute_groups, [2, 2, 0, 1])


def test_given_groups_replace_the_usual_ones():
    assert AttributeSet.create(["Bald", "Big_Nose"], {}).groups == {"object": ("Bald", "Big_Nose")}
    attribute_set = AttributeSet.create(["Bald", "Big_Nose"], {"object": ["Big_Nose"], "skin": []})
    assert attribute_set.groups == {"object": ("Big_Nose", "Bald")}


def test_custom_groups_follow_the_regions_and_use_their_assigned_region():
    attribute_set = AttributeSet.create(
        ["Scarf", "Ring", "Tall", "Hat"],
        {"neck": ["Scarf"], "piercing": ["Ring"], "hair": ["Hat"]},
        {"neck": "lower_face"},
    )
    assert attribute_set.group_names == ("hair", "object", "neck", "piercing")
    looked_at = [REGIONS[index] for index in attribute_set.region_indices]
    assert looked_at == ["hair", "object", "lower_face", "object"]


def test_the_region_of_an_empty_group_is_dropped():
    attribute_set = AttributeSet.create(["Hat"], {"neck": [], "hair": ["Hat"]}, {"neck": "ear"})
    assert attribute_set.regions == {}


@pytest.mark.parametrize(
    ("names", "groups", "looks_at", "message"),
    [
        ([], None, None, "at least one attribute"),
        (["Hat", "Bald", "Hat"], None, None, "names repeat: Hat"),
        (["Hat"], {"hair": ["Hut"]}, None, "'hair' names the attribute 'Hut', which is not"),
        (["Hat"], {"hair": ["Hat"], "ear": ["Hat"]}, None, "'Hat' is in group 'ear' and in 'hair'"),
        (["Hat"], {"hair": ["Hat", "Hat"]}, None, "'Hat' is in group 'hair' and in 'hair'"),
        (["Hat"], {"top": ["Hat"]}, {"top": "tail"}, "region 'tail' to group 'top'.*mouth, ear"),
        (["Hat"], {"top": ["Hat"]}, {"tpo": "hair"}, "region 'hair' to group 'tpo'.*are top"),
    ],
)
def test_an_invalid_set_raises_one_sentence(names, groups, looks_at, message):
    with pytest.raises(ValueError, match=message) as error:
        AttributeSet.create(names, groups, looks_at)
    assert "\n" not in str(error.value)


def test_an_attribute_without_a_group_or_an_empty_group_is_an_error():
    with pytest.raises(ValueError, match="in no group: Bald"):
        AttributeSet(("Hat", "Bald"), {"hair": ("Hat",)})
    with pytest.raises(ValueError, match="'ear' has no attribute"):
        AttributeSet(("Hat",), {"hair": ("Hat",), "ear": ()})


def test_equality_includes_the_order_of_groups():
    names = ["Hat", "Ring"]
    hat_first = AttributeSet.create(names, {"top": ["Hat"], "piercing": ["Ring"]})
    ring_first = AttributeSet.create(names, {"piercing": ["Ring"], "top": ["Hat"]})
    assert hat_first.group_names != ring_first.group_names
    assert hat_first != ring_first
    assert len({hat_first, ring_first, restored(hat_first), restored(ring_first)}) == 2
    assert hat_first != hat_first.to_dict()


def test_equality_ignores_the_order_of_regions():
    groups = {"top": ["Hat"], "piercing": ["Ring"]}
    sets = [
        AttributeSet.create(["Hat", "Ring"], groups, dict(items))
        for items in (
            [("top", "hair"), ("piercing", "ear")],
            [("piercing", "ear"), ("top", "hair")],
        )
    ]
    assert sets[0] == sets[1]
    assert hash(sets[0]) == hash(sets[1])
