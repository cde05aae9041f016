"""The compute process: it alone imports torch, Trainer and evaluate. `python -m tasks.compute` runs it, `client` talks to it.

Commands come as JSON lines on its standard input: `{"command": NAME, "arguments": {...}}`. On its standard output it answers each
with one line `{"event": "answer", ...}` or `{"event": "error", ...}`, after any number of `log` and `progress` events. It gets
local paths, no credentials, and knows neither Prefect nor the store. It ends when its standard input does: so with its parent.
For training in several processes, `elastic` speaks the same protocol.
"""
