"""One script per claim about speed; each prints a ratio against a named peer. Run them from the repository's root."""
