"""The test suite: one folder per part, run by `make test`."""
