"""From object storage to batches: index, order, shards, decode, loader."""
