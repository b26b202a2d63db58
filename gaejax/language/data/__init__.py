"""Prompts and texts as arrays of tokens."""
