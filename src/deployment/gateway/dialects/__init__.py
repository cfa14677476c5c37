"""The three dialects, one file each where it fits: how a request is understood, and how events are written."""
