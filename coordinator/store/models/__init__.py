"""What was learnt, and what it was learnt with: heads, bundles, statistics, by version or by content."""
