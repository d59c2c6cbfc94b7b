"""Each error has a place in docs/errors.md, which its docstring names."""

from __future__ import annotations

import inspect

import pytest

from flowstates import errors
from tests.examples import ROOT

pytestmark = pytest.mark.once

PAGE = (ROOT / "docs" / "errors.md").read_text()
ERRORS = [error for _, error in inspect.getmembers(errors, inspect.isclass) if issubclass(error, Exception)]


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_has_an_anchor_that_its_docstring_names(error: type[Exception]) -> None:
    assert f"\n## {error.__name__}\n" in PAGE
    assert f"docs/errors.md#{error.__name__.lower()}" in (error.__doc__ or "")


def test_the_tree_is_whole() -> None:
    assert errors.__doc__ is not None
    assert {error.__name__ for error in ERRORS if error.__name__ not in errors.__doc__} == set()
