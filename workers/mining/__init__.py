"""Hard negatives: texts that a model, or BM25, ranks high for a query and that do not answer it.

    pairs.py     a shard -> keys of its queries and documents, and the documents' texts
    pool.py      those of all shards -> the distinct candidates, and which documents are known to answer which query
    nearest.py   vectors -> the nearest candidates, block by block; bm25.py: the same by words
    choose.py    a query's nearest candidates -> its negatives
    embedded.py  shards whose vectors lie in Parquet files -> their negatives; lexical.py: those of BM25
    write.py     a shard and its negatives -> a tar with `negatives.json`
    table.py     a shard and its negatives -> its file of a version in the run directory of the job that mines
    versions.py  which version a step trains with

A *query* is what negatives are looked for (a query, or an image), a *document* what they are (a document, or a
caption). Both are known by keys, 64-bit hashes of their contents: what is equal is one, wherever it lies. (A copy of a
positive that differs in white space is another document; it scores about what the positive does, and the relative bound
keeps it out.) Candidates are numbered in the order of their keys, so that nothing depends on the order or the division
of the shards.

Who spreads it over a cluster is orchestrator/mining.py; orchestrator/job_mining.py in a job.
"""
