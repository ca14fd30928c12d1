"""One Chromium for all tests that look at the page."""

import pytest
from serving import FLAGS, chromium


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One Chromium for the tests of a file; while it lives, asyncio is taken in this thread."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("chromium")),
            executable_path=path,
            headless=True,
            args=FLAGS,
            viewport={"width": 1360, "height": 950},
        )
        yield context
        context.close()
