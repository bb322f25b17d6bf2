"""``read_json``: files of one JSON object in each line, by blocks of bytes."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from parml.dataframe.frame import DataFrame
from parml.dataframe.io.csv_rows import Block, row_starts
from parml.dataframe.io.files import END, File, expand_paths, identity, parse_nbytes, read_range, size_of, unpacked
from parml.dataframe.plan import Columns, Source
from parml_core.errors import InputError
from parml_core.hashing import tokenize

SAMPLED_BYTES = 16 << 20


def read_json(
    paths: Any,
    *,
    lines: bool = True,
    orient: str | None = "records",
    dtype: Mapping[Any, Any] | None = None,
    blocksize: int | str = "64MiB",
    compression: str | None = "infer",
    storage_options: Mapping[str, Any] | None = None,
) -> DataFrame:
    """
    A frame of the rows of files with one JSON object in each line.

    Parameters
    ----------
    paths : str, path, or list of them
        Files, directories (their ``*.json``) or patterns; or URLs.
    lines, orient
        Only True and ``"records"``: of other JSON no part can be read.
    dtype : dict of column to dtype, optional
        Default: learned by pandas' rules from the beginning of each file, up to 16 MiB of all. The dtypes are then fixed: a
        value that does not fit, or another column, raises `InputError`.
    blocksize : int or str
        The size of a partition in bytes of text.
    compression : "infer", "gzip", "bz2", "xz", "zip", "zstd" or None
        A compressed file is one partition.
    storage_options : dict, optional
        For fsspec, where `paths` are URLs.

    Returns
    -------
    DataFrame
        Its rows are numbered as by `read_csv`.

    Examples
    --------
    >>> import os, tempfile, parml.dataframe as pdf
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with open(os.path.join(folder, "x.json"), "w") as file:
    ...         _ = file.write('{"x": 1, "k": "a"}\\n{"x": 2, "k": "b"}\\n')
    ...     pdf.read_json(folder).x.sum().compute()
    np.int64(3)
    """
    if not lines or orient not in ("records", None):
        raise InputError(f"expected lines=True and orient='records', found {lines!r} and {orient!r}; use from_map with pandas")
    files = unpacked(expand_paths(paths, ".json", storage_options), compression)
    blocks = [block for file in files for block in _blocks(file, parse_nbytes(blocksize))]
    reader = JsonReader(pd.DataFrame(), pd.DataFrame(), dict(dtype or {}))
    meta = _meta(files, reader)
    reader = replace(reader, schema=meta, meta=meta)
    origin = tokenize("read_json", [identity(file) for file in files], [(block.start, block.stop) for block in blocks])
    return DataFrame(Source(reader, blocks, origin=origin, counted=True))


def _blocks(file: File, blocksize: int) -> list[Block]:
    size = size_of(file)
    count = 1 if size == END else max(1, -(-size // blocksize))
    starts = row_starts(file, [size * i // count for i in range(1, count)], begin=0, quote=b'"', by_quotes=False)
    cuts = [Block(file, start, stop) for start, stop in itertools.pairwise([0, *starts, size]) if start < stop]
    return cuts or [Block(file, 0, 0)]


def _meta(files: Sequence[File], reader: JsonReader) -> pd.DataFrame:
    """The empty frame, from all rows where they are few, else from the first of each file."""
    whole = sum(size_of(file) for file in files) <= SAMPLED_BYTES
    share = max(1 << 14, SAMPLED_BYTES // len(files))
    samples = []
    for file in files:
        stop = size_of(file) if whole else row_starts(file, [share], begin=0, quote=b'"', by_quotes=False)[0]
        samples.append(reader.parse(Block(file, 0, stop)))
    filled = [sample for sample in samples if len(sample)]
    return pd.concat(filled, ignore_index=True).iloc[:0] if filled else samples[0]


@dataclass(frozen=True)
class JsonReader:
    """
    Reads and parses one block.

    Parameters
    ----------
    schema : DataFrame
        All columns of the files.
    meta : DataFrame
        Those that are made.
    dtype : dict
        What the user said.
    """

    schema: pd.DataFrame
    meta: pd.DataFrame
    dtype: dict[Any, Any]
    name: str = field(default="read_json", init=False)

    def parse(self, block: Block) -> pd.DataFrame:
        """What pandas makes of it."""
        text = read_range(block.path, block.start, block.stop)
        if not text.strip():
            return pd.DataFrame()
        try:
            return pd.read_json(io.BytesIO(text), lines=True, dtype=self.dtype or None)
        except ValueError as error:
            raise InputError(
                f"expected one JSON object in each line of {_where(block)}, found: {error}; correct the file"
            ) from error

    def load(self, block: Block) -> pd.DataFrame:
        found = self.parse(block)
        added = [name for name in found.columns if name not in self.schema.columns]
        if added:
            raise InputError(
                f"expected the columns {list(self.schema.columns)} in {_where(block)}, found also {added}; columns are learned "
                "from the beginning of each file: pass dtype= with all of them"
            )
        nothing = pd.Series([None] * len(found), dtype=object)
        columns = {name: _column(found.get(name, nothing), dtype, name, block) for name, dtype in self.meta.dtypes.items()}
        return pd.DataFrame(columns, index=pd.RangeIndex(len(found)))

    def argument(self, part: Block) -> Block:
        return part

    def narrowed(self, wanted: Columns) -> JsonReader:
        columns = [name for name in self.meta.columns if name in wanted] or list(self.meta.columns[:1])
        return replace(self, meta=self.meta[columns])

    def __parml_token__(self) -> str:
        return tokenize(self.schema, self.meta, self.dtype)

    def describe(self) -> str:
        return f"read_json columns {', '.join(map(repr, self.meta.columns))}"


def _where(block: Block) -> str:
    return f"{block.path}, bytes {block.start} to {'the end' if block.stop >= END else block.stop}"


def _column(column: pd.Series, dtype: Any, name: Any, block: Block) -> pd.Series:
    """The column in the dtype that all blocks have; never another value."""
    if column.dtype == dtype:
        return column
    if column.isna().all():
        column = pd.Series([None] * len(column), dtype=object)
    try:
        converted = column.astype(dtype)
        kind = dtype.kind if isinstance(dtype, np.dtype) else "O"
        if kind in "iub" and (column.isna().any() or not bool((converted == column).all())):
            raise ValueError("a value that it cannot hold")
        if kind == "f" and column.dtype.kind in "Mmb":
            raise ValueError(f"values of dtype {column.dtype}")
        if isinstance(dtype, pd.StringDtype) and pd.api.types.infer_dtype(column, skipna=True) not in ("string", "empty"):
            raise ValueError(f"values that are no texts, of dtype {column.dtype}")
    except (TypeError, ValueError) as error:
        raise InputError(
            f"expected {dtype} in column {name!r} of {_where(block)}, found {error}; dtypes are learned from the beginning of "
            f"each file: pass dtype={{{name!r}: ...}} with one that fits every row, such as 'float64' or 'object'"
        ) from error
    return converted
