"""What hubsub costs, beside its peers: `make bench`, described in docs/benchmarks.md."""
