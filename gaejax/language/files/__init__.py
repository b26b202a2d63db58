"""Pretrained models on disk: Hugging Face folders, .gguf files, and their tokenizers."""
