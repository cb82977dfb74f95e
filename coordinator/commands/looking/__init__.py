"""Commands that show what happened and what happens: reports, the page, the view in a terminal."""
