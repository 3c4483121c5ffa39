"""Traps of event time: very many windows and unmatched records whose time comes at once."""
