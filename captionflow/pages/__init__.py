"""Pages of HTML: the base that each extends, with its style, and bars in place of charts. No page has a script.

It knows no step. It imports nothing of ours.
"""
