"""What frames write, and how they are cut, as functions: Dask's form of the methods of the same names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from parml.dataframe.base import Frame
from parml.dataframe.memory import from_pandas
from parml_core.errors import InputError


def to_csv(df: Any, path: Any, **kwargs: Any) -> Any:
    """Write a frame or series as CSV: see `DataFrame.to_csv`."""
    return _frame(df, "to_csv").to_csv(path, **kwargs)


def to_json(df: Any, path: Any, **kwargs: Any) -> Any:
    """Write a frame or series as JSON, a row in each line: see `DataFrame.to_json`."""
    return _frame(df, "to_json").to_json(path, **kwargs)


def to_parquet(df: Any, path: Any, **kwargs: Any) -> Any:
    """Write a frame as a directory of Parquet files: see `DataFrame.to_parquet`."""
    return _frame(df, "to_parquet").to_parquet(path, **kwargs)


def to_orc(df: Any, path: Any, **kwargs: Any) -> Any:
    """Write a frame as ORC: see `DataFrame.to_orc`."""
    return _frame(df, "to_orc").to_orc(path, **kwargs)


def to_hdf(df: Any, path: Any, key: str, **kwargs: Any) -> Any:
    """Write a frame or series as HDF5: see `DataFrame.to_hdf`."""
    return _frame(df, "to_hdf").to_hdf(path, key, **kwargs)


def to_sql(df: Any, name: str, con: Any, **kwargs: Any) -> Any:
    """Write a frame or series to a table of a database: see `DataFrame.to_sql`."""
    return _frame(df, "to_sql").to_sql(name, con, **kwargs)


def to_records(df: Any, **kwargs: Any) -> Any:
    """
    All rows as numpy records; computes them.

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> pdf.to_records(pdf.from_pandas(pd.DataFrame({"x": [1, 2]}), npartitions=2), index=False).x.tolist()
    [1, 2]
    """
    return _frame(df, "to_records").to_records(**kwargs)


def repartition(df: Any, divisions: Sequence[Any] | None = None, *, npartitions: int | None = None) -> Any:
    """
    The same rows, in the same order, in another number of partitions, or cut at given labels.

    Parameters
    ----------
    df : DataFrame or Series, of parml or of pandas
    divisions : sequence, optional
        The label at which each partition begins, and that with which the last one ends; of labels in order.
    npartitions : int, optional

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> [len(part) for part in pdf.repartition(pd.DataFrame({"x": range(6)}), [0, 2, 5]).partitions]
    [2, 4]
    """
    if (divisions is None) == (npartitions is None):
        raise InputError(f"expected divisions or npartitions, found {'neither' if divisions is None else 'both'}")
    frame = from_pandas(df) if isinstance(df, pd.DataFrame | pd.Series) else _frame(df, "repartition")
    return frame.repartition(npartitions, divisions=divisions)


def _frame(df: Any, name: str) -> Any:
    if not isinstance(df, Frame) or not isinstance(df._meta, pd.DataFrame | pd.Series):
        raise InputError(f"expected a parml frame or series in {name}, found {type(df).__name__}; see from_pandas")
    return df
