"""The parameters of the evaluate step."""

from dataclasses import dataclass

from captionflow.captioner.parameters import CaptionParameters
from captionflow.core.parameters import parameter


@dataclass(frozen=True, kw_only=True)
class EvaluateParameters(CaptionParameters):
    """How captions are generated, and how many the report shows."""

    evaluate_batch_size: int = parameter(32, "Images captioned at a time.", minimum=1, maximum=4096)
    gallery_size: int = parameter(
        12, "Pictures in the report with the best captions, and as many with the worst.", minimum=1, maximum=500
    )
