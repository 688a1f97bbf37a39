import pytest

from router.tasks import sandbox as module
from router.tasks.sandbox import Sandbox, SandboxUnavailable
from tests.support.sandbox import MARK


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    module._ENTRY = MARK + module._ENTRY
    try:
        return Sandbox(allow_code=True, at_once=4)
    except SandboxUnavailable as error:
        pytest.skip(str(error))
