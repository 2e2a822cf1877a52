"""Many pictures: captions filtered and cleaned, images of a shard fetched and written as one unit.

It knows no Beam: `beam_jobs` spreads the shards over workers. It imports `core`, `web` and `images`.
"""
