"""``.cat`` of a series."""

from __future__ import annotations

from typing import Any

import pandas as pd

from parml.dataframe.operators import Accessor


class Categories(Accessor):
    """
    Functions of categories, as in pandas; and those that Dask has besides.

    Examples
    --------
    >>> import pandas as pd, parml.dataframe as pdf
    >>> series = pdf.from_pandas(pd.Series(["a", "b"], dtype=pd.CategoricalDtype(["a", "b", "c"])), npartitions=2)
    >>> series.cat.remove_unused_categories().cat.categories.tolist()
    ['a', 'b']
    """

    def __init__(self, series: Any) -> None:
        super().__init__(series, "cat")

    @property
    def known(self) -> bool:
        """Whether the categories are known before the rows are: always, as they are the dtype."""
        return True

    def as_known(self) -> Any:
        """The series itself: its categories are known."""
        return self._series

    def remove_unused_categories(self, *, engine: Any = None) -> Any:
        """The series with no other categories than those that occur; looks at all rows now to find them."""
        series: Any = self._series
        found = pd.Categorical(series.unique().compute(engine=engine), dtype=series.dtype)
        return self.set_categories(found.remove_unused_categories().categories)
