"""The command `doctor`: says whether a run would work here. One file per subject; `command` puts them together."""
