"""The model at work on this board: kept, chosen, served to applications, measured."""
