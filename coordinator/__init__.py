"""The coordinator: plans rounds, hands out budgets, folds updates, keeps state."""
