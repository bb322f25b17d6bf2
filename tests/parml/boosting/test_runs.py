"""Query groups are found whatever the partitions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parml.boosting.runs import group_starts, qid_of, runs_of, sizes_of
from parml_core.errors import InputError


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.data())
def test_group_starts_are_the_same_however_rows_are_cut(sizes, data) -> None:
    """Where groups begin follows from their sizes, and not from where partitions begin."""
    qid = qid_of(sizes, None)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(qid)), max_size=5)))
    parts = [qid[a:b] for a, b in pairwise([0, *cuts, len(qid)])]
    assert group_starts([runs_of(part) for part in parts], [len(part) for part in parts]) == [0, *np.cumsum(sizes)[:-1]]
    assert sizes_of(qid).tolist() == sizes


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(0, 12))
def test_group_starts_scattered_groups_are_found(ids, cut) -> None:
    """An id that comes back after another is an error, wherever the rows are cut; an id that does not is none."""
    parts = [np.array(ids[:cut], int), np.array(ids[cut:], int)]
    runs = 1 + sum(a != b for a, b in pairwise(ids))
    if runs == len(set(ids)):
        assert len(group_starts([runs_of(part) for part in parts], [len(part) for part in parts])) == runs
    else:
        with pytest.raises(InputError, match="one after the other"):
            group_starts([runs_of(part) for part in parts], [len(part) for part in parts])
