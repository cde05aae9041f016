"""What a classifier of texts is asked for: one class, any number of labels, or a number; a file each, by the setting's values."""
