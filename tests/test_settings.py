"""docs/settings.md names every setting of a deployment."""

import re

from tests.settings_page import PAGE, page

ROOT = PAGE.parents[1]
# Of the command line, the containers, the installation and TFX’s plain DAG: no deployment of Airflow 3 sets them.
OTHERS = re.compile("CAPTIONFLOW_(CONTINUED_WITH_TFX|CSV|EPOCHS|KFP_.*)")


def test_its_tables_are_those_of_the_parameters() -> None:
    assert PAGE.read_text() == page(PAGE.read_text()), "write it anew: python -m tests.settings_page"


def test_every_variable_that_the_code_reads_is_on_the_page() -> None:
    rooms = ("captionflow", "beam_jobs", "kfp_pipeline", "tfx_pipeline", "dags")
    sources = [path.read_text() for room in rooms for path in (ROOT / room).rglob("*.py")]
    variables = {found for text in sources for found in re.findall(r"\bCAPTIONFLOW_[A-Z_]*[A-Z]", text)}
    assert len(variables) > 5
    text = PAGE.read_text()
    assert [name for name in sorted(variables) if name not in text and not OTHERS.fullmatch(name)] == []
