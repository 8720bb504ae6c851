"""The benchmark: workloads, contenders, limits, tables, studies. Begin with `command`."""
