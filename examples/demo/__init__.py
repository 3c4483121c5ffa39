"""The demo: a word count on a real broker whose process is killed again and again, and the proof that it is right."""
