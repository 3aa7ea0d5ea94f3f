from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st

from penstock.toolchain.interchange.yaml_text import to_yaml

KEYS = st.text("abcdefgh_", min_size=1, max_size=8).filter(lambda key: yaml.safe_load(key) == key)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=30))
VALUES = st.recursive(
    LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3))
)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_every_mapping_is_read_as_it_was_written(values: dict[str, object]) -> None:
    assert (yaml.safe_load(to_yaml(values)) or {}) == values
