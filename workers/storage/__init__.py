"""One small interface over `s3://bucket/key` and `file:///folder/name`.

In: URIs as `absolute()` and `join()` make them. Out: bytes, streams, and `ObjectInfo`. The loader
reads shards with it, the checkpoint code writes with it, the orchestrator does both.

    store = Storage(spec.storage.s3, cache=None, read_ahead=2)
    store.write("s3://b/run/spec.yaml", b"…")       atomic: readers see the old object or the new one
    store.write(lock, token, if_absent=True)        AlreadyExistsError where another one was first
    store.open("s3://b/shard.tar", start=512)       a stream of ranges, each checked and retried
    store.open(uri, start, known=info)              the object of the index, or ChangedError if it was changed since
    store.list("s3://b/run")                        what is below a folder, sorted
    store.stat(uri), store.exists(uri), store.read(uri), store.delete(uri)

Both schemes behave alike: only objects exist, a folder is a prefix that lists something. What
follows `file://` is the path as it stands; nothing in it is percent-encoded.

S3 is AWS's or another server's that does what it does. One that ignores If-Match is read as safely, for the
ETag of every answer is looked at; one that ignores If-None-Match is refused conditional writes.

Every failure is a `StorageError` that names the URI, the cause and the remedy, or a `DataError`
where an object changed under a reader. Messages carry error codes and never a server's own text,
so no credential gets into them. boto3 is imported when the first `s3://` URI is used: it takes
about half a second, and the loader processes of local data do without it.

    store.py    Storage: picks the backend of a URI, translates its errors
    schemes.py  which backend each scheme has; absolute
    backend.py  ObjectInfo, and what a backend has to do
    files.py    the backend of file://
    s3.py       the backend of s3://; s3_client.py connects it, s3_range.py fetches one range,
                s3_upload.py writes in parts
    read_ahead.py   a stream of ranges, fetched in threads ahead of the reader
    cache.py    a folder that keeps ranges
    errors.py   from OSError and botocore's errors to ours
    received.py a count of the bytes that came
    uris.py     join, basename
"""

from workers.storage.backend import ObjectInfo
from workers.storage.received import received
from workers.storage.schemes import absolute
from workers.storage.store import Storage
from workers.storage.uris import basename, join

__all__ = ["ObjectInfo", "Storage", "absolute", "basename", "join", "received"]
