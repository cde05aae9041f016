"""From rows to features, where that takes more than a tokenizer's call."""
