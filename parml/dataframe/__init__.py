"""
pandas over partitions: tables larger than memory, on all cores and machines.

Examples
--------
>>> import pandas as pd, parml.dataframe as pdf
>>> frame = pdf.from_pandas(pd.DataFrame({"x": [1, 2, 3, 4], "k": list("abab")}), npartitions=2)
>>> frame[frame.k == "a"].x.mean().compute()
np.float64(2.0)
"""

from __future__ import annotations

from parml.collections import compute, persist
from parml.dataframe.aggregation import Aggregation
from parml.dataframe.asof import merge_asof
from parml.dataframe.base import Frame
from parml.dataframe.frame import DataFrame, MissingColumn
from parml.dataframe.functions import get_dummies, isna, map_overlap, map_partitions, to_datetime, to_numeric
from parml.dataframe.index import Index
from parml.dataframe.intervals import cut, to_timedelta
from parml.dataframe.io import write  # noqa: F401  gives DataFrame its to_csv, to_parquet and others
from parml.dataframe.io.arrays import from_dask_array
from parml.dataframe.io.convert import from_array, from_arrow, from_dask, from_delayed, from_dict, from_map, from_polars
from parml.dataframe.io.csv import read_csv, read_table
from parml.dataframe.io.feather import read_feather
from parml.dataframe.io.functions import repartition, to_csv, to_hdf, to_json, to_orc, to_parquet, to_records, to_sql
from parml.dataframe.io.fwf import read_fwf
from parml.dataframe.io.hdf import read_hdf
from parml.dataframe.io.json import read_json
from parml.dataframe.io.orc import read_orc
from parml.dataframe.io.parquet import read_parquet
from parml.dataframe.io.sql import read_sql, read_sql_query, read_sql_table
from parml.dataframe.memory import from_pandas
from parml.dataframe.merge import concat, merge
from parml.dataframe.reshape import melt, pivot_table
from parml.dataframe.series import Scalar, Series
from parml.dataframe.testing import assert_eq

__all__ = [
    "Aggregation",
    "DataFrame",
    "Frame",
    "Index",
    "MissingColumn",
    "Scalar",
    "Series",
    "assert_eq",
    "compute",
    "concat",
    "cut",
    "from_array",
    "from_arrow",
    "from_dask",
    "from_dask_array",
    "from_delayed",
    "from_dict",
    "from_map",
    "from_pandas",
    "from_polars",
    "get_dummies",
    "isna",
    "map_overlap",
    "map_partitions",
    "melt",
    "merge",
    "merge_asof",
    "persist",
    "pivot_table",
    "read_csv",
    "read_feather",
    "read_fwf",
    "read_hdf",
    "read_json",
    "read_orc",
    "read_parquet",
    "read_sql",
    "read_sql_query",
    "read_sql_table",
    "read_table",
    "repartition",
    "to_csv",
    "to_datetime",
    "to_hdf",
    "to_json",
    "to_numeric",
    "to_orc",
    "to_parquet",
    "to_records",
    "to_sql",
    "to_timedelta",
]
