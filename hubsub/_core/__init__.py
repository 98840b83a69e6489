"""The engine: private. `hub.py` and the rooms beside it are its only users."""
