"""Directories named ``key=value``: columns whose value is the same in every row of a file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import unquote

from parml_core.errors import InputError

NULL = "__HIVE_DEFAULT_PARTITION__"


def partition_values(folders: Sequence[str], files: Sequence[Any], columns: Collection[str]) -> dict[str, list[Any]]:
    """
    For each key in the names of directories its value for each file: whole numbers where all are, else texts.

    Parameters
    ----------
    folders : sequence of str
        For each file the directories that lead to it.
    files : sequence
        For messages.
    columns : collection of str
        Those that the files themselves have.

    Raises
    ------
    InputError
        The directories of two files have different keys, or a file has a column of the name of a key.

    Examples
    --------
    >>> partition_values(["year=2013/k=a", "year=2014/k=b"], ["1", "2"], [])
    {'year': [2013, 2014], 'k': ['a', 'b']}
    """
    found = [dict(part.split("=", 1) for part in folder.split("/") if "=" in part) for folder in folders]
    for keys, file in zip(found, files, strict=True):
        if list(keys) != list(found[0]):
            raise InputError(
                f"expected the directories of every file to have the keys of {files[0]} ({', '.join(found[0]) or 'none'}), "
                f"found {', '.join(keys) or 'none'} in {file}; read the directories apart"
            )
    for key in found[0]:
        if key in columns:
            raise InputError(
                f"expected the column {key!r} in the names of directories alone, found it in {files[0]} too; "
                "read the files by a list of their paths, or rename the directories"
            )
    values = {key: [None if keys[key] == NULL else unquote(keys[key]) for keys in found] for key in found[0]}
    return {key: _typed(texts) for key, texts in values.items()}


def _typed(texts: list[str | None]) -> list[Any]:
    try:
        return [None if text is None else int(text) for text in texts]
    except ValueError:
        return list(texts)
