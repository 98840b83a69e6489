"""Bridges between hubs and brokers."""
