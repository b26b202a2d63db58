"""Decoders as policies: their shape, sampling, low-rank adaptation, and text generation."""
