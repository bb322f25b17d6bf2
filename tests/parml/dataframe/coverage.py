"""
The table of dask.dataframe's public names and parml.dataframe's: ``python -m tests.parml.dataframe.coverage`` writes it.

Where dask is installed the names are listed anew; the list is kept beside this file.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pandas as pd

import parml.dataframe as pdf

NAMES = Path(__file__).with_name("dask_names.json")
TABLE = Path(__file__).parents[3] / "docs" / "dataframe-coverage.md"

INNER = "Dask's expressions and graphs; a plan of parml is shown by `explain` and computed by `compute`"
REASONS = {
    **dict.fromkeys(
        [
            "analyze",
            "dask",
            "enforce_runtime_divisions",
            "expr",
            "from_graph",
            "get_collection_type",
            "lower_once",
            "simplify",
        ],
        INNER,
    ),
    "to_backend": "pandas is the only library that partitions are made of",
    "to_bag": "there is no bag in parml; `to_delayed` gives the partitions",
    "as_unknown": "categories are the dtype, which is known before the rows are",
    "columns": "a series has none in pandas, where `columns` tells a frame from a series",
    "freq": "depends on all rows",
}
NOT_YET = "not yet"


def names_of_dask() -> dict[str, list[str]]:
    """The public names of dask.dataframe's classes and module."""
    import dask.dataframe as dd
    from dask.dataframe.dask_expr import _categorical, _datetime, _rolling, _str_accessor

    def public(thing: object) -> list[str]:
        return sorted(name for name in dir(thing) if not name.startswith("_"))

    functions = [name for name in public(dd) if callable(getattr(dd, name))]
    return {
        "DataFrame": public(dd.DataFrame),
        "Series": public(dd.Series),
        # Dask's Index inherits a series' methods; those that labels have in pandas count.
        "Index": [name for name in public(dd.Index) if hasattr(pd.Index, name)],
        "str": public(_str_accessor.StringAccessor),
        "dt": public(_datetime.DatetimeAccessor),
        "cat": public(_categorical.CategoricalAccessor),
        "Rolling": [name for name in public(_rolling.Rolling) if name != "kwargs"],
        "module": functions,
    }


def missing() -> dict[str, dict[str, str]]:
    """What parml has not, with the reason."""
    names = json.loads(NAMES.read_text())
    text, times = pd.Series(["a"], dtype="str"), pd.Series(pd.to_datetime(["2020-01-01"]))
    spans, periods = times - times[0], times.dt.to_period("M")

    def accessor(*series: tuple[pd.Series, str]) -> list[object]:
        return [getattr(pdf.from_pandas(each, npartitions=1), name) for each, name in series]

    ours: dict[str, list[object]] = {
        "DataFrame": [pdf.DataFrame],
        "Series": [pdf.Series],
        "Index": [pdf.Index],
        "str": accessor((text, "str")),
        "dt": accessor((times, "dt"), (spans, "dt"), (periods, "dt")),
        "cat": accessor((text.astype("category"), "cat")),
        "Rolling": [pdf.from_pandas(pd.Series([1]), npartitions=1).rolling(1)],
        "module": [pdf],
    }

    def has(thing: object, name: str) -> bool:
        try:
            return hasattr(thing, name)
        except NotImplementedError:
            return False

    return {
        group: {name: REASONS.get(name, NOT_YET) for name in listed if not any(has(thing, name) for thing in ours[group])}
        for group, listed in names.items()
    }


def table() -> str:
    """The page."""
    names, gaps = json.loads(NAMES.read_text()), missing()
    total, there = sum(map(len, names.values())), sum(map(len, names.values())) - sum(map(len, gaps.values()))
    lines = [
        "# dask.dataframe's public names in parml.dataframe",
        "",
        f"Made by `python -m tests.parml.dataframe.coverage`. {there} of {total} names: {there / total:.1%}.",
        "",
        "| Of | names | there | missing |",
        "|---|---|---|---|",
        *(
            f"| {group} | {len(listed)} | {len(listed) - len(gaps[group])} | {len(gaps[group])} |"
            for group, listed in names.items()
        ),
        "",
        "| Missing | why |",
        "|---|---|",
        *(f"| {group}.{name} | {why} |" for group, reasons in gaps.items() for name, why in reasons.items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if importlib.util.find_spec("dask"):
        NAMES.write_text(json.dumps(names_of_dask(), indent=1) + "\n")
    TABLE.write_text(table())
