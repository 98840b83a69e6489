"""The relay: everything that bridges have in common, whatever the broker."""
