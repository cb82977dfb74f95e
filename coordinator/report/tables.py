"""Tables of a report: a caption, headings that belong to their columns, and rows."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.report.markup import Markup, element

__all__ = ["MANY", "table"]

MANY = 30
"""A table with more rows is folded away; it prints folded as it stands on the screen."""


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[Markup | str]],
    *,
    caption: str,
    words: Sequence[str] = (),
) -> Markup:
    """A table; many rows stand behind a line that opens them.

    Args:
        words: headings of columns that hold sentences, set to the left and broken between words.
    """
    wordy = {index for index, name in enumerate(header) if name in words}
    made = element(
        "div",
        element(
            "table",
            element("caption", caption),
            element(
                "thead",
                element(
                    "tr",
                    *(
                        element("th", name, scope="col", class_="words" if index in wordy else None)
                        for index, name in enumerate(header)
                    ),
                ),
            ),
            element(
                "tbody",
                *(
                    element(
                        "tr",
                        element("th", row[0], scope="row"),
                        *(
                            element("td", cell, class_="words" if index in wordy else None)
                            for index, cell in enumerate(row[1:], 1)
                        ),
                    )
                    for row in rows
                ),
            ),
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )
    if len(rows) <= MANY:
        return made
    return element("details", element("summary", f"{caption} ({len(rows)} rows)"), made)
