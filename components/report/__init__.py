"""The matrix for people, one file a medium; `words` is what they share."""
