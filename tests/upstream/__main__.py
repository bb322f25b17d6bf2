"""`python -m tests.upstream`: joblib's tests of Parallel, and all of scikit-learn's of model_selection and ensemble."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.upstream.run import losses
from tests.upstream.suites import JOBLIB, WHOLE


def main() -> int:
    n_lost = 0
    for name, suite in {"joblib": JOBLIB, "scikit-learn": WHOLE}.items():
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found, lost = losses(suite, Path(folder))
        n_lost += len(lost)
        counts = [result.parml for result in found if result.parml]
        print(
            f"{name}: {dict(Counter(result.outcome for result in found))}, "
            f"{sum(counts)} batches of {len(counts)} tests went to parml, "
            f"{len(lost)} lost, {time.monotonic() - start:.0f} s",
            *lost,
            sep="\n",
            flush=True,
        )
    return min(n_lost, 1)


if __name__ == "__main__":
    sys.exit(main())
