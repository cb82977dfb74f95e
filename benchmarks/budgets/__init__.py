"""Fleets, policies and scripts that compare budgets of energy."""
