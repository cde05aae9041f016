"""The steps `compare` and `compare-champion`: two models on the same rows, where they differ, and what the gate asks for."""
