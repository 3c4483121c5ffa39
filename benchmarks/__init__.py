"""Benchmarks: every figure in docs/performance.md comes from one of these."""
