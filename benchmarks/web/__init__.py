"""Browsers: a server under uvicorn in a process of its own, and the load that this one puts on it."""
