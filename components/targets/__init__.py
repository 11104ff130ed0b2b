"""Model to file that ships. One file a target kind."""
