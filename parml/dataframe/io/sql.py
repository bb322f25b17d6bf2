"""``read_sql`` by ranges of a key, and ``to_sql``; both by SQLAlchemy, where it is installed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd

from parml.dataframe.base import Frame
from parml.dataframe.frame import DataFrame, MissingColumn
from parml.dataframe.io.files import parse_nbytes
from parml.dataframe.plan import Columns, Source
from parml.dataframe.plan_across import labelled
from parml.dataframe.series import Series
from parml.delayed import delayed
from parml_core.errors import InputError, NotSupported
from parml_core.hashing import tokenize

_SAMPLED_ROWS = 100


def read_sql(
    sql: str,
    con: Any,
    index_col: str,
    *,
    columns: Sequence[str] | None = None,
    divisions: Sequence[Any] | None = None,
    npartitions: int | None = None,
    blocksize: int | str = "64MiB",
    schema: str | None = None,
) -> DataFrame:
    """
    A frame of a table or query of a database, each partition a range of a key.

    Parameters
    ----------
    sql : str
        The name of a table, or a query that begins with SELECT or WITH.
    con : str or SQLAlchemy Engine
        A URL such as ``postgresql://user@host/name``: workers connect by it. Of an engine its URL is taken.
    index_col : str
        The column to cut by, best one with an index; the frame's labels. Rows without a key come first.
    columns : list of str, optional
        Default: all. Columns that nobody uses are not asked for anyway.
    divisions : list, optional
        Where partitions begin and the last one ends. Default: even ranges from the least to the greatest key, which has to be
        a number or a time.
    npartitions : int, optional
        Default: as many as `blocksize` says.
    blocksize : int or str
        The size of a partition in memory, about.
    schema : str, optional
        Of the table.

    Returns
    -------
    DataFrame
        Rows of a partition are in the order of the database.

    Raises
    ------
    NotSupported
        SQLAlchemy is not installed.

    Examples
    --------
    >>> import os, tempfile, pandas as pd, parml.dataframe as pdf
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     url = "sqlite:///" + os.path.join(folder, "x.db")
    ...     frame = pd.DataFrame({"x": range(6)}, index=pd.Index(range(6), name="id"))
    ...     _ = pdf.from_pandas(frame, npartitions=2).to_sql("t", url)
    ...     pdf.read_sql("t", url, "id", npartitions=3).x.sum().compute()
    np.int64(15)
    """
    database = Database(_url(con))
    query = Query(sql, schema)
    names = database.names(query)
    for name in [index_col, *(columns or [])]:
        if name not in names:
            raise MissingColumn(f"expected a column of {sql!r}, found {name!r}; its columns are {', '.join(map(repr, names))}")
    chosen = [name for name in (columns or names) if name != index_col]
    meta, low, high, rows, nbytes = database.described(query, index_col, chosen)
    if divisions is None:
        count = npartitions or max(1, -(-rows * nbytes // parse_nbytes(blocksize)))
        divisions = _even(low, high, int(count), index_col)
    bounds = list(itertools.pairwise(divisions)) or [(None, None)]
    last = len(bounds) - 1
    parts = [KeyRange(a if i else None, b if i < last else None, i == 0) for i, (a, b) in enumerate(bounds)]
    reader = SqlReader(database, query, index_col, meta)
    return DataFrame(Source(reader, parts, origin=tokenize("read_sql", database, query, parts), counted=False))


def read_sql_table(table_name: str, con: Any, index_col: str, **kwargs: Any) -> DataFrame:
    """
    A frame of a table of a database, each partition a range of a key.

    Parameters
    ----------
    table_name : str
    con, index_col, **kwargs
        As in `read_sql`.
    """
    if not isinstance(table_name, str) or _is_select(table_name):
        raise InputError(f"expected the name of a table, found {table_name!r}; use read_sql_query for a query")
    return read_sql(table_name, con, index_col, **kwargs)


def read_sql_query(sql: Any, con: Any, index_col: str, **kwargs: Any) -> DataFrame:
    """
    A frame of what a query selects from a database, each partition a range of a key.

    Parameters
    ----------
    sql : str or SQLAlchemy Select
        Begins with SELECT or WITH.
    con, index_col, **kwargs
        As in `read_sql`.
    """
    if hasattr(sql, "compile"):
        dialect = Database(_url(con)).engine.dialect
        sql = str(sql.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    if not isinstance(sql, str) or not _is_select(sql):
        raise InputError(f"expected a query that begins with SELECT or WITH, found {sql!r}; use read_sql_table for a table")
    return read_sql(sql, con, index_col, **kwargs)


def to_sql(
    self: Frame,
    name: str,
    con: Any,
    *,
    schema: str | None = None,
    if_exists: str = "fail",
    index: bool = True,
    index_label: Any = None,
    dtype: Any = None,
    engine: Any = None,
) -> int:
    """
    Write the rows to a table, one partition after the other, each in a transaction.

    If the write is killed, the same call adds the partitions that are missing: beside the table there is one named
    ``parml_<token>`` of those that are written, until all are.

    Parameters
    ----------
    name : str
    con : str or SQLAlchemy Engine
        As in `read_sql`.
    schema, if_exists, index, index_label, dtype
        As in :meth:`pandas.DataFrame.to_sql`.
    engine : Engine, optional
        Where to compute.

    Returns
    -------
    int
        The number of rows.
    """
    database = Database(_url(con))
    node = labelled(self._node) if index else self._node
    table = SqlTable(database, name, schema, index, index_label, dtype, f"parml_{tokenize(node.token, name, schema)[:12]}")
    table.create(node.meta, if_exists)
    written: Any = 0
    for number, part in enumerate(Frame._of(node).to_delayed()):
        written = delayed(table.insert)(part, number, written)
    rows: int = written.compute(engine=engine)
    table.forget()
    return rows


def _is_select(sql: str) -> bool:
    return sql.lstrip().lower().startswith(("select ", "select\n", "with "))


def _sqlalchemy() -> Any:
    try:
        import sqlalchemy
    except ImportError as error:
        raise NotSupported("expected SQLAlchemy to be installed to reach a database; pip install sqlalchemy") from error
    return sqlalchemy


def _url(con: Any) -> str:
    if isinstance(con, str):
        return con
    url = getattr(con, "url", None)
    if url is None or not hasattr(url, "render_as_string"):
        raise InputError(
            f"expected the URL of a database or an SQLAlchemy Engine, found {type(con).__name__}; workers connect by a URL"
        )
    text: str = url.render_as_string(hide_password=False)
    return text


def _even(low: Any, high: Any, count: int, index_col: str) -> list[Any]:
    if low is None or count == 1:
        return [low, high]
    try:
        if isinstance(low, int):
            return [low + (high - low) * i // count for i in range(count)] + [high]
        return [low + (high - low) * (i / count) for i in range(count)] + [high]
    except TypeError as error:
        raise InputError(
            f"expected numbers or times in {index_col!r} to make even ranges of, found {low!r}; pass divisions=, a list of keys"
        ) from error


@dataclass(frozen=True)
class Query:
    """A table or a SELECT."""

    sql: str
    schema: str | None

    def rows(self, connection: Any) -> Any:
        """As what SQLAlchemy selects from."""
        sa = _sqlalchemy()
        if _is_select(self.sql):
            text = sa.text(self.sql)
            names = connection.execute(sa.select(sa.text("*")).select_from(text.columns().subquery("parml")).limit(0)).keys()
            return text.columns(*[sa.column(name) for name in names]).subquery("parml")
        try:
            return sa.Table(self.sql, sa.MetaData(), autoload_with=connection, schema=self.schema)
        except sa.exc.NoSuchTableError as error:
            raise InputError(f"expected the name of a table or a query that begins with SELECT, found {self.sql!r}") from error


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Keys from `start` to before `stop`; None: no bound."""

    start: Any
    stop: Any
    nulls: bool


@dataclass(frozen=True)
class Database:
    """How to connect; the URL, which may hold a password, is not shown."""

    url: str = field(repr=False)

    @cached_property
    def engine(self) -> Any:
        sa = _sqlalchemy()
        return sa.create_engine(self.url, poolclass=sa.pool.NullPool)

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}

    def names(self, query: Query) -> list[str]:
        """The columns."""
        with self.engine.connect() as connection:
            return [column.name for column in query.rows(connection).columns]

    def described(self, query: Query, key: str, columns: Sequence[str]) -> tuple[pd.DataFrame, Any, Any, int, float]:
        """The empty frame, the least and greatest key, the number of rows and the bytes of one."""
        sa = _sqlalchemy()
        with self.engine.connect() as connection:
            rows = query.rows(connection)
            counts = [sa.func.count(rows.c[name]) for name in columns]
            low, high, total, *there = connection.execute(
                sa.select(sa.func.min(rows.c[key]), sa.func.max(rows.c[key]), sa.func.count(), *counts).select_from(rows)
            ).one()
            asked = [rows.c[name] for name in dict.fromkeys([key, *columns])]
            sample = pd.read_sql_query(sa.select(*asked).limit(_SAMPLED_ROWS), connection)
            for name, found in zip(columns, there, strict=True):
                if 0 < found < total:  # its dtype is that of its values, with room for the missing ones
                    some = sa.select(rows.c[name]).where(rows.c[name].is_not(None)).limit(_SAMPLED_ROWS)
                    sample[name] = _with_nulls(pd.read_sql_query(some, connection)[name]).reindex(sample.index)
        nbytes = sample.memory_usage(deep=True).sum() / max(1, len(sample))
        return sample.set_index(key).iloc[:0][list(columns)], low, high, int(total), float(nbytes)


def _with_nulls(column: pd.Series) -> pd.Series:
    return pd.concat(
        [column, pd.Series([None], dtype=object if column.dtype == object else None)], ignore_index=True
    ).infer_objects()


@dataclass(frozen=True)
class SqlReader:
    """Asks for some columns of a range of keys."""

    database: Database
    query: Query
    key: str
    meta: pd.DataFrame
    name: str = field(default="read_sql", init=False)

    def load(self, part: KeyRange) -> pd.DataFrame:
        sa = _sqlalchemy()
        with self.database.engine.connect() as connection:
            rows = self.query.rows(connection)
            key = rows.c[self.key]
            within = [
                *([key >= part.start] if part.start is not None else []),
                *([key < part.stop] if part.stop is not None else []),
            ]
            where = sa.and_(sa.true(), *within)
            if part.nulls and within:
                where = sa.or_(where, key.is_(None))
            asked = [key, *(rows.c[name] for name in self.meta.columns if name != self.key)]
            frame = pd.read_sql_query(sa.select(*asked).where(where), connection)
        frame = frame.set_index(self.key)[list(self.meta.columns)]
        wrong = {name: dtype for name, dtype in self.meta.dtypes.items() if frame.dtypes[name] != dtype}
        return frame.astype(wrong) if wrong else frame

    def argument(self, part: KeyRange) -> KeyRange:
        return part

    def narrowed(self, wanted: Columns) -> SqlReader:
        columns = [name for name in self.meta.columns if name in wanted] or list(self.meta.columns[:1])
        return replace(self, meta=self.meta[columns])

    def __parml_token__(self) -> str:
        return tokenize(self.database, self.query, self.key, self.meta)

    def describe(self) -> str:
        return f"read_sql columns {', '.join(map(repr, self.meta.columns))} by {self.key!r}"


@dataclass(frozen=True)
class SqlTable:
    """A table that is being written, and which partitions it has."""

    database: Database
    name: str
    schema: str | None
    index: bool
    index_label: Any
    dtype: Any
    record: str

    def _parts(self) -> Any:
        sa = _sqlalchemy()
        columns = [sa.Column("part", sa.Integer, primary_key=True), sa.Column("n_rows", sa.BigInteger)]
        return sa.Table(self.record, sa.MetaData(), *columns, schema=self.schema)

    def create(self, meta: pd.DataFrame, if_exists: str) -> None:
        """The table without rows, unless the same write has begun before."""
        sa = _sqlalchemy()
        with self.database.engine.begin() as connection:
            if sa.inspect(connection).has_table(self.record, schema=self.schema):
                return
            self._put(meta, connection, if_exists)
            self._parts().create(connection)

    def insert(self, part: pd.DataFrame, number: int, before: int) -> int:
        """Add a partition, once; returns the number of rows so far."""
        sa = _sqlalchemy()
        parts = self._parts()
        with self.database.engine.begin() as connection:
            found = connection.execute(sa.select(parts.c.n_rows).where(parts.c.part == number)).scalar()
            if found is None:
                connection.execute(parts.insert().values(part=number, n_rows=len(part)))
                if len(part):
                    self._put(part, connection, "append")
        return before + len(part)

    def forget(self) -> None:
        """Remove what says which partitions are written."""
        with self.database.engine.begin() as connection:
            self._parts().drop(connection, checkfirst=True)

    def _put(self, frame: pd.DataFrame, connection: Any, if_exists: Any) -> None:
        given = {"schema": self.schema, "index": self.index, "index_label": self.index_label, "dtype": self.dtype}
        frame.to_sql(self.name, connection, if_exists=if_exists, **given)


for _collection in (DataFrame, Series):
    setattr(_collection, to_sql.__name__, to_sql)
