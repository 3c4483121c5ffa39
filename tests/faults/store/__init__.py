"""The state store under fire: power cuts, damaged files, failing calls, two instances."""
