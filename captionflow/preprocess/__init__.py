"""Many pictures: captions filtered and cleaned, images of a shard fetched and written as one unit.

It knows no Beam: `beam_jobs` spreads the shards over workers. It imports `core`, `web`, `images` and `pages`.

The stops of an image between its shard and the socket, and why each is there:

    beam_jobs.transforms.WriteShards    Beam spreads whole shards over machines; no picture crosses its shuffle.
    workers.ShardWorkers                A process for each CPU, as Python's lock leaves each process one CPU.
    workers._Worker                     The pipe to a process, which is replaced when it dies.
    writer.ShardWriter                  Images in the order of ids, some fetched ahead: equal bytes, bounded memory.
    download.Downloader                 Threads that wait for servers; a wait for the next attempt occupies none.
    reuse.EarlierPictures               A picture of an earlier artifact is not fetched.
    images.fetch.Fetcher                One attempt: redirects, and bounds of size and time; a failure becomes a reason.
    images.attempts.Attempts            Deadlines and backoff over all attempts at an image.
    images.hosts.Hosts                  For each server a limit of requests and a circuit breaker.
    web.client.Web                      Connections kept open; one deadline for a whole response.
    web.access.PublicOnly               Connects to the address that was checked, and to public ones alone.

The bytes return to the Downloader, which has `images.sandbox` decode them: a hostile file harms no other.
"""
