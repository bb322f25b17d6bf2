"""Which tests run, and what parml need not pass, each looked into."""

from __future__ import annotations

from dataclasses import replace

from tests.upstream.run import Suite

NESTED = "asserts the classes of joblib's own nested backends; parml's inner calls run on the cluster again"
MEMMAP = "asserts that tasks get numpy.memmap, loky's way of sharing; parml's tasks share plain arrays"

JOBLIB = Suite(
    modules=["joblib.test.test_parallel"],
    select="parml",
    fail={
        "test_error_capture[parml]": "reads the attributes _pool and _workers, and asserts that loky made another pool",
        "test_nested_backend_context_manager": NESTED,
        "test_nested_parallelism_limit": NESTED,
        "test_auto_memmap_on_arrays_from_generator": MEMMAP,
        "test_memmapping_leaks": MEMMAP,
    },
    idle={
        "test_background_thread_parallelism[parml]": "its calls name no backend",
        "test_nested_loop[loky-parml]": "a call inside a process of loky's, which has no client: threads run it",
        "test_nested_loop[multiprocessing-parml]": "a call inside a fork, which has no client: threads run it",
    },
)

NAMES_LOKY = "names loky itself"

WHOLE = Suite(
    modules=["sklearn.utils.tests.test_parallel", "sklearn.model_selection", "sklearn.ensemble"],
    backend="parml",
    idle={
        "test_configuration_passes_through_to_joblib[loky": NAMES_LOKY,
        "test_filter_warning_propagates[2-loky]": NAMES_LOKY,
        "test_filter_warning_propagates_no_side_effect_with_loky_backend": NAMES_LOKY,
        "test_backend_respected": "names a backend of its own, made from loky's",
    },
)

# --- parts for `make test`, of which each test says something of parml that no other does ------------------------------------

SOME_OF_JOBLIB = replace(
    JOBLIB,
    # One of the twelve unpicklable functions, each of which starts a process; none whose calls go elsewhere by their nature.
    select="parml and not loky-parml and not multiprocessing and not background and not (unpicklable and (args- or return))",
    idle={},
)

SOME_OF_SEARCH = Suite(
    modules=[
        "sklearn.utils.tests.test_parallel",
        "sklearn.model_selection.tests.test_search",
        "sklearn.ensemble.tests.test_voting",
    ],
    backend="parml",
    select="(grid_search or random_search or refit or fit_param or callable or as_list or run_search"
    " or dispatch_config_parallel[2] or parallel_fit or estimator_drop or tie_situation or weights_regressor)"
    # what calls nothing in parallel, or fails on loky as well
    " and not grid_search_error and not bad and not custom_fit and not consistency",
)
