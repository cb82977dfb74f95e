"""The own examples of a board that grow: added, labelled, kept within bounds."""
