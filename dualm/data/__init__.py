"""Corpus -> tokenizer -> token shards -> windows -> plan of batches."""
