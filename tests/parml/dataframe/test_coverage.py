"""The table of names is that of the code."""

from __future__ import annotations

import json

from tests.parml.dataframe.coverage import NAMES, TABLE, missing, table


def test_table_of_names_is_up_to_date() -> None:
    """Who adds or removes a method runs the script again."""
    assert TABLE.read_text() == table()


def test_most_names_of_dask_are_there() -> None:
    """Group-by, merge, sorting and writing come by and by; what is there stays."""
    names = json.loads(NAMES.read_text())
    total = sum(map(len, names.values()))
    assert sum(map(len, missing().values())) / total < 0.25
