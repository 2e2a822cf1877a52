"""One picture: fetched within limits for each host, decoded in a sandbox, resized, stored.

Shards, which hold many, are written in `preprocess`. It imports `core` and `web`.
"""
