"""Each trap of the design has its test: what a framework of this kind gets wrong, and this one must not."""
