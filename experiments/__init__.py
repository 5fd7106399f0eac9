"""One script per page of results: what is committed under docs/ is made anew by these. Run them from the repository's root."""
