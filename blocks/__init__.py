"""Outside services: where artifacts are kept. Knows nothing of machine learning."""
