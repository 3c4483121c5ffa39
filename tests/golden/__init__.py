"""Golden cases: inputs and results that nobody here wrote, through the examples, with and without crashes."""
