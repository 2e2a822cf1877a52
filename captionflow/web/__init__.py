"""What may be reached over http and https, and how: public addresses, or what the user opened.

What is fetched lives elsewhere: captions in `sources`, pictures in `images`. It imports `core`.
"""
