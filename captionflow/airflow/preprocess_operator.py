"""The step preprocess as a task."""

from dataclasses import replace
from typing import Any

from airflow.sdk import Context

from captionflow.airflow.beam_step_operator import BeamStepOperator
from captionflow.airflow.form import is_place, read
from captionflow.airflow.links import DatasetPageLink
from captionflow.core.parameters import Parameters
from captionflow.core.uris import resolve
from captionflow.sources.parameters import IngestParameters
from captionflow.web.parameters import AccessParameters


class PreprocessOperator(BeamStepOperator):
    """Runs the preprocess job, with the run's folders of images open to it."""

    operator_extra_links: Any = (*BeamStepOperator.operator_extra_links, DatasetPageLink())

    def parameters(self, context: Context) -> Parameters:
        """Return the step's parameters as the form gives them, with its folders of images open.

        Whoever names such a folder wants its pictures. One that the deployment does not open stays closed; pictures on
        the public web need no opening.

        Raises:
            InvalidInputError: as the base's, or a folder leads to where no run may reach.
        """
        found = super().parameters(context)
        assert isinstance(found, AccessParameters)
        opened = {*map(resolve, found.allow_url_prefix)}
        roots = map(resolve, read(IngestParameters, context).image_root)
        more = (root for root in dict.fromkeys(roots) if root not in opened and is_place(root))
        return replace(found, allow_url_prefix=(*found.allow_url_prefix, *more))
