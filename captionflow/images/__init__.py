"""One picture: fetched politely, decoded in a sandbox, resized, stored.

Shards, which hold many, are written in `preprocess`. It imports `core` and `web`.
"""
