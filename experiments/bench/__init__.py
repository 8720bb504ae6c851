"""The benchmark: workloads, contenders, limits, tables and studies. See `experiments.bench.command`."""
