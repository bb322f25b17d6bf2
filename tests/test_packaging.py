"""What the packages promise: who imports whom, what is public, that examples are true, that they load fast."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("parml_core", "parml")
HEAVY = ("lightgbm", "matplotlib", "numpy", "pandas", "pyarrow", "rich", "scipy", "sklearn", "tornado", "xgboost")


def modules_of(package: str) -> list[str]:
    path = [str(ROOT / package)]
    found = [info.name for info in pkgutil.walk_packages(path, f"{package}.")]
    return [package, *(name for name in found if not name.endswith("__main__"))]


MODULES = [name for package in PACKAGES for name in modules_of(package)]


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_contracts_hold() -> None:
    """The architecture's table of who may import whom is kept, in-function imports included."""
    # In a process of its own: it changes the logging of all others' loggers.
    code = "import sys\nfrom importlinter.cli import lint_imports\nsys.exit(lint_imports(no_cache=True, no_logo=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_sorted_present_and_documented(name: str) -> None:
    """`__all__` is in order, names nothing twice, and what it names exists and says what it is."""
    module = importlib.import_module(name)
    assert module.__doc__ or not any(_defined_here(module)), f"{name} has no docstring"
    names = list(getattr(module, "__all__", []))
    assert names == sorted(set(names), key=_rank)
    for public in names:
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert inspect.getdoc(value), f"{name}.{public} has no docstring"


def _rank(name: str) -> tuple[int, str]:
    """CONSTANTS, Classes, functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def _defined_here(module: object) -> list[str]:
    return [n for n, v in vars(module).items() if getattr(v, "__module__", None) == getattr(module, "__name__", "")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name: str) -> None:
    """Each example prints what it says it prints."""
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_import_parml_core_loads_no_heavy_library() -> None:
    """A worker or a command line starts without waiting for an array, frame or network library."""
    loaded = json.loads(python(f"import parml_core, sys, json; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"))
    assert loaded == []


def test_every_module_of_parml_core_loads_without_array_or_model_library() -> None:
    """The graph engine knows no array, frame or model: not one of its modules needs such a library to be imported."""
    names = [n for n in modules_of("parml_core") if not n.startswith(("parml_core.testing", "parml_core.adapters"))]
    banned = ("numpy", "pandas", "sklearn", "xgboost", "lightgbm", "pyarrow", "parml")
    code = f"import importlib, json, sys\nfor n in {names}: importlib.import_module(n)\n"
    loaded = json.loads(python(code + f"print(json.dumps([m for m in {banned} if m in sys.modules]))"))
    assert loaded == []


def test_import_parml_loads_no_frame_model_or_network_library() -> None:
    """`import parml` registers the joblib backend and is light: what it does not need yet is not loaded."""
    banned = [m for m in HEAVY if m != "numpy"]  # joblib itself may load numpy
    loaded = json.loads(python(f"import parml, sys, json; print(json.dumps([m for m in {banned} if m in sys.modules]))"))
    assert loaded == []


def test_version_is_the_same_everywhere() -> None:
    """The project file, the package and the change log agree on the version."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert importlib.import_module("parml").__version__ == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_make_target_describes_itself() -> None:
    """`make` alone lists each target with a sentence."""
    listed = subprocess.run(["make", "-s", "-C", str(ROOT)], capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    for target in phony[1].split():
        assert re.search(rf"^  make {target} +\S", listed, re.MULTILINE), target


def test_links_of_the_documentation_lead_somewhere() -> None:
    """Every relative link in the Markdown pages names a file of the repository."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]
    broken = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []
