"""Elements of SVG."""

from __future__ import annotations

from xml.etree import ElementTree


def add(
    parent: ElementTree.Element, tag: str, text: str | None = None, *, class_: str | None = None, **attributes: float | str
) -> ElementTree.Element:
    """A new element, the last of its parent's."""
    element = ElementTree.SubElement(parent, tag, {name: value if isinstance(value, str) else number(value) for name, value in attributes.items()})
    if class_:
        element.set("class", class_)
    element.text = text
    return element


def number(value: float) -> str:
    """A length, to a hundredth of a pixel."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
