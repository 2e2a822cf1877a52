"""The licences of pictures, by name."""

COCO_LICENSES = (
    "Attribution-NonCommercial-ShareAlike License",
    "Attribution-NonCommercial License",
    "Attribution-NonCommercial-NoDerivs License",
    "Attribution License",
    "Attribution-ShareAlike License",
    "Attribution-NoDerivs License",
    "No known copyright restrictions",
    "United States Government Work",
)
"""The eight licence names that COCO's files carry, in the order of their COCO ids 1 to 8."""
