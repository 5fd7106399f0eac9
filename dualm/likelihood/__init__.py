"""Log-likelihoods: one record per way to read a continuation, and scoring."""
