import pytest

from router.tasks.sandbox import Sandbox, SandboxUnavailable


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    try:
        return Sandbox(allow_code=True, at_once=4)
    except SandboxUnavailable as error:
        pytest.skip(str(error))
