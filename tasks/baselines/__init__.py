"""Cheap baselines, scored on the same test rows as the model: what a fine-tuned one has to beat."""
