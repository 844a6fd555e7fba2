"""Contrastive losses over the global batch: tensors in, loss out. Nothing here knows of specs or data."""
