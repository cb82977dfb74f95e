"""HTML that cannot be broken by what it says: text becomes markup in one place, and is escaped there.

>>> element("td", "<script>", title='"').text
'<td title="&quot;">&lt;script&gt;</td>'
"""

from __future__ import annotations

import html
from dataclasses import dataclass

__all__ = ["VOID", "Markup", "element", "joined"]

VOID = frozenset({"meta", "br", "hr", "link", "img"})


@dataclass(frozen=True)
class Markup:
    """Text that is HTML already. Only :func:`element` and constants of this package make some."""

    text: str

    def __str__(self) -> str:
        return self.text


Child = Markup | str | int | float | None


def element(tag: str, *children: Child, **attributes: str | int | float | bool | None) -> Markup:
    """One element. Children that are no markup are escaped; None is left out.

    Args:
        attributes: ``class_`` for ``class``; other underscores become hyphens. None and False are left out, True is an
            attribute without a value.
    """
    said = []
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        key = name.rstrip("_").replace("_", "-")
        said.append(f" {key}" if value is True else f' {key}="{html.escape(str(value))}"')
    opened = f"<{tag}{''.join(said)}>"
    if tag in VOID:
        return Markup(opened)
    return Markup(f"{opened}{joined(*children).text}</{tag}>")


def joined(*children: Child) -> Markup:
    """Several in a row, as :func:`element` takes them."""
    return Markup(
        "".join(
            child.text if isinstance(child, Markup) else html.escape(str(child))
            for child in children
            if child is not None
        )
    )
