"""The pages under /ui in a real Chromium: what a person sees and does, and what a model's text can't."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright, expect

from router.service.auth.callers import Token
from router.service.recorder import Recorder
from tests.support.browsing import ANN
from tests.support.http import serving

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

PICTURES = Path(__file__).parent.parent.parent / "build" / "ui"
EASY, HARD = "7 + 7 =", "7 + 7 + 7 + 7 + 7 + 7 + 7 + 7 ="
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1200, "height": 800}
VIEWS = ["/ui", "/ui/policy", "/ui/calls"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        # As root Chromium has no sandbox of its own; the pages are ours.
        started = await playwright.chromium.launch(
            executable_path=shutil.which("chromium") or "/usr/bin/chromium", args=["--no-sandbox"]
        )
        yield started
        await started.close()


class Seen:
    """What a page asked for and complained of."""

    def __init__(self, page: Page):
        self.urls: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.urls.append(request.url))
        page.on(
            "console", lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@asynccontextmanager
async def looking(
    browser: Browser,
    solver,
    *,
    tokens: list[Token] | None = None,
    context: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Page, Seen]]:
    """A page of a server, and all that it asked for: nothing of anybody else."""
    known = None if tokens is None else (lambda: tokens)
    async with serving(solver, ui=True, tokens=known, **options) as server:
        base = f"http://127.0.0.1:{server.http_port}"
        own = await browser.new_context(base_url=base, **{"viewport": DESK, **(context or {})})
        page = await own.new_page()
        seen = Seen(page)
        yield page, seen
        await own.close()
    assert all(url.startswith(base) for url in seen.urls), seen.urls


async def search(page: Page, prompt: str = HARD, arm: str = "") -> None:
    await page.goto("/ui")
    await page.get_by_role("textbox", name="Prompt").fill(prompt)
    if arm:
        await page.get_by_text("More", exact=True).click()
        await page.get_by_label("Run this arm").fill(arm)
    await page.get_by_role("button", name="Search").click()


async def test_a_search_is_followed_to_its_answer(browser, solver, generator):
    generator.latency = 0.03
    async with looking(browser, solver) as (page, seen):
        await search(page, arm="single @1 > beam_search(n=8, m=4)")
        await expect(page.locator("#decision")).to_contain_text("level 5")
        await expect(page.locator("#status")).to_contain_text("stage 2 of 2", timeout=60_000)
        await expect(page.locator("#tree .fate").first).to_be_visible(timeout=60_000)
        assert await page.locator(".solution").count() == 0  # all that before the end
        await expect(page.locator(".solution .big")).to_contain_text("56", timeout=120_000)
        await expect(page.locator("#status")).to_be_empty()
        await expect(page.get_by_role("button", name="Stop")).to_be_hidden()
        for part in ("Stages of the plan", "Confidence over the rounds", "Candidates", "What it cost"):
            await expect(page.get_by_role("heading", name=part)).to_be_visible()
    assert seen.complaints == []


async def test_what_models_write_runs_nowhere(browser, solver, generator):
    evil = (
        "<script>window.ran = 1</script>\n<img src=x onerror='window.ran = 2'>\nAnswer: <svg onload='window.ran = 3'>"
    )
    generator.write = lambda prompt, candidate, rng: evil.removeprefix(candidate.text)
    async with looking(browser, solver) as (page, seen):
        await search(page, "<img src=y onerror='window.ran = 4'> 7 + 7 =", arm="majority(n=4)")
        await expect(page.locator("#tree")).to_contain_text("<script>window.ran = 1</script>")
        assert await page.evaluate("window.ran") is None
        assert await page.locator("#results img, #results script").count() == 0
    assert seen.complaints == []


async def test_the_policy_of_content_stops_a_script_that_came_in_all_the_same(browser, solver):
    async with looking(browser, solver) as (page, seen):
        await page.goto("/ui")
        await page.evaluate(
            """() => {
                const script = document.createElement("script");
                script.textContent = "window.ran = 1";
                document.body.append(script);
                document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.ran = 2'>");
            }"""
        )
        await page.wait_for_timeout(300)
        assert await page.evaluate("window.ran") is None
    assert any("Content Security Policy" in each for each in seen.complaints)


async def test_all_can_be_done_with_the_keyboard(browser, solver):
    async with looking(browser, solver) as (page, _):
        await page.goto("/ui")
        await page.keyboard.press("Tab")
        await expect(page.get_by_text("Skip to the content")).to_be_focused()
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("textbox", name="Prompt")).to_be_focused()
        await page.keyboard.type(HARD)
        await page.keyboard.press("Tab")
        for _ in range(2):  # a budget, then the average
            await page.keyboard.press("ArrowDown")
        await page.keyboard.press("Control+Enter")
        await expect(page.locator(".solution .big")).to_contain_text("56", timeout=60_000)
        await expect(page.locator("#decision")).to_contain_text("target accuracy 0.9")
        whole = page.locator("#whole summary")
        await whole.focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("#whole")).to_have_attribute("open", "")


async def test_a_cell_tells_more_where_the_keyboard_or_the_mouse_is(browser, solver):
    async with looking(browser, solver) as (page, _):
        await page.goto("/ui/policy")
        first, second = page.locator(".cell").nth(0), page.locator(".cell").nth(1)
        await first.focus()
        await expect(first.locator(".card")).to_be_visible()
        await expect(first.locator(".card")).to_contain_text("accuracy")
        await second.hover()
        await expect(second.locator(".card")).to_be_visible()
        await expect(first.locator(".card")).to_be_hidden()
        await page.mouse.move(0, 0)
        await first.focus()
        await page.keyboard.press("Tab")
        await expect(second.locator(".card")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
async def test_every_view_fits_its_window(browser, solver, tmp_path, size, scheme):
    PICTURES.mkdir(parents=True, exist_ok=True)
    device = {"viewport": size, "color_scheme": scheme}
    recorder = Recorder(f"sqlite:///{tmp_path}/calls.db")
    async with looking(browser, solver, recorder=recorder, context=device) as (page, seen):
        await search(page, arm="single @1 > beam_search(n=16, m=4)")
        await expect(page.locator(".solution")).to_be_visible(timeout=60_000)
        await _fits(page, f"search-{size['width']}-{scheme}")
        while not recorder.newest(1):
            await page.wait_for_timeout(50)
        for view in VIEWS:
            await page.goto(view)
            await _fits(page, f"{view.strip('/').replace('/', '-')}-{size['width']}-{scheme}")
    assert seen.complaints == []


async def _fits(page: Page, name: str) -> None:
    await page.screenshot(path=PICTURES / f"{name}.png", full_page=True)
    assert await page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"], name


async def test_what_was_opened_stays_open_while_the_tree_grows(browser, solver, generator):
    generator.latency = 0.05
    async with looking(browser, solver) as (page, _):
        await search(page, arm="majority(n=2) @1 > beam_search(n=8, m=4)")
        branch = page.locator("#tree details").first
        await branch.locator("summary").click(timeout=60_000)
        number = await branch.get_attribute("id")
        await expect(page.locator("#status")).to_contain_text("stage 2 of 2", timeout=60_000)
        await page.wait_for_timeout(2500)
        await expect(page.locator(f"[id='{number}']")).to_have_attribute("open", "")


async def test_a_search_can_be_stopped(browser, solver, generator):
    generator.latency, ended = 0.2, asyncio.get_running_loop().create_future()

    def noticed(call: Any) -> None:
        if call.method == "StreamSolve":
            ended.set_result(call)

    async with looking(browser, solver, observers=[noticed]) as (page, _):
        await search(page, arm="beam_search(n=8, m=4)")
        await expect(page.locator("#decision")).to_contain_text("level", timeout=60_000)
        await page.get_by_role("button", name="Stop").click()
        await expect(page.locator("#status")).to_contain_text("You stopped the search")
        assert (await ended).code == "CANCELLED"


async def test_an_error_is_shown_where_the_search_would_be(browser, solver):
    async with looking(browser, solver) as (page, _):
        await search(page, arm="magic(n=2)")
        await expect(page.locator("#error")).to_contain_text("magic")
        await expect(page.locator("#status")).to_be_empty()


async def test_without_script_the_same_is_a_page_that_grows(browser, solver):
    async with looking(browser, solver, context={"java_script_enabled": False}) as (page, _):
        await search(page, arm="single @1 > beam_search(n=8, m=4)")
        await expect(page.locator(".solution .big")).to_contain_text("56")
        await expect(page.get_by_role("heading", name="Candidates")).to_be_visible()


async def test_a_token_opens_the_pages_and_a_logout_closes_them(browser, solver):
    tokens = [ANN]
    async with looking(browser, solver, tokens=tokens) as (page, _):
        await page.goto("/ui/policy")
        await page.get_by_label("Your bearer token").fill("wrong")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("not known")
        await page.get_by_label("Your bearer token").fill("ann's")
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("heading", name="What the policy runs")).to_be_visible()
        assert await page.evaluate("document.cookie") == ""
        (cookie,) = await page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert "ann's" not in cookie["value"]
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_label("Your bearer token")).to_be_visible()


async def test_a_session_that_ends_asks_for_the_token_again(browser, solver):
    tokens = [ANN]
    async with looking(browser, solver, tokens=tokens) as (page, _):
        await page.goto("/ui")
        await page.get_by_label("Your bearer token").fill("ann's")
        await page.keyboard.press("Enter")
        await page.get_by_role("textbox", name="Prompt").fill(EASY)
        tokens.clear()
        await page.get_by_role("button", name="Search").click()
        await expect(page.get_by_label("Your bearer token")).to_be_visible()


async def test_another_sites_page_gets_nothing(browser, solver):
    """A form that it makes a browser send in which somebody is logged in."""
    async with looking(browser, solver, tokens=[ANN]) as (page, _):
        await page.goto("/ui")
        await page.get_by_label("Your bearer token").fill("ann's")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("textbox", name="Prompt")).to_be_visible()
        base = page.url.removesuffix("/ui")
        elsewhere = await page.context.new_page()
        field = '<input name="prompt" value="7">'
        html = f'<form method="post" action="{base}/ui/search">{field}<button>go</button></form>'
        await elsewhere.route("http://evil.example/", lambda route: route.fulfill(body=html, content_type="text/html"))
        await elsewhere.goto("http://evil.example/")
        sent: list[Request] = []
        elsewhere.on("request", lambda request: sent.append(request))  # noqa: PLW0108 - Playwright marks its handlers, a list can't be
        await elsewhere.get_by_role("button").click()
        await expect(elsewhere.get_by_text("sent by a page of another site")).to_be_visible()
        assert "cookie" not in await sent[0].all_headers()


async def test_recorded_calls_are_there(browser, solver, tmp_path):
    recorder = Recorder(f"sqlite:///{tmp_path}/texts.db", prompts=True)
    async with looking(browser, solver, recorder=recorder) as (page, _):
        await search(page)
        await expect(page.locator(".solution")).to_be_visible(timeout=60_000)
        while not recorder.newest(1):
            await page.wait_for_timeout(50)
        await page.get_by_role("link", name="Recorded calls").click()
        await page.locator("ul.calls summary").first.click()
        await expect(page.locator("ul.calls dl").first).to_contain_text(HARD)
