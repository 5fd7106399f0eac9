"""Corpus -> tokenizer -> token shards -> units and windows."""
