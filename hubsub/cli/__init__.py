"""What `python -m hubsub` runs."""
