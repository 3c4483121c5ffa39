"""Operators: the running form of a stage, from fragments to fragments."""
