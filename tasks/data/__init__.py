"""Loading datasets: sources, splits, checks."""
