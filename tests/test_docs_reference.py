"""docs/reference.md has a line for each public name, and for no other."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import flowstates
from flowstates import FlowRunState, FlowRunStateAnalytics, FlowRunStateFeed, FlowRunStateRepository, FlowRunStateRetention, StateType

pytestmark = pytest.mark.once

PAGE = (Path(__file__).parent.parent / "docs" / "reference.md").read_text()
LINES = re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE, re.MULTILINE)
CALLED = (FlowRunStateRepository, FlowRunStateAnalytics, FlowRunStateRetention, FlowRunStateFeed)


def methods_of(record: type) -> list[str]:
    return [name for name, value in vars(record).items() if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))]


def test_each_public_name_and_method_has_a_line_and_nothing_else_has_one() -> None:
    names = {*flowstates.__all__} - {called.__name__ for called in CALLED}
    methods = [name for called in CALLED for name in methods_of(called)]
    assert sorted(name for name, _ in LINES) == sorted([*names, *methods])


@pytest.mark.parametrize("called", CALLED)
def test_a_class_has_its_constructor_and_its_methods_in_their_order(called: type) -> None:
    (section,) = [part for part in PAGE.split("\n## ") if f"`{called.__name__}(" in part]
    parameters = [name for name in inspect.signature(called).parameters if name != "pool_or_connection"]
    assert f"`{called.__name__}(pool_or_connection, *, {', '.join(parameters)})`" in section
    assert re.findall(r"^\| `(\w+)`", section, re.MULTILINE) == methods_of(called)


@pytest.mark.parametrize("record", [FlowRunState, StateType])
def test_a_record_has_its_methods_in_its_line(record: type) -> None:
    (line,) = [text for name, text in LINES if name == record.__name__]
    assert [name for name in methods_of(record) if f"`{name}`" not in line] == []
