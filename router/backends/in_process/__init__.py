"""Models in this process, by torch and transformers."""
