"""One script per page of results: these write what is committed under docs/. Run them from the repository's root."""
