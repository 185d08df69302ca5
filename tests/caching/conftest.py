import math

import pytest

from dre.caching import sources


@pytest.fixture(autouse=True, scope="session")
def edited_files_are_the_ones_that_run():
    """Let a developer edit the package while its tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "STARTED", math.inf)
        yield
