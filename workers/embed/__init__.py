"""Tars -> embeddings in Parquet files, one a shard, for a vector store.

    settings.py       what is embedded and how, and what a file says of itself
    shard.py          a shard -> rows
    parquet_file.py   rows -> a file, and what it says without reading it all

Who spreads the shards over a cluster is orchestrator/embedding.py.
"""
