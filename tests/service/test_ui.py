"""The pages under /ui: who may see them, and what keeps other sites, scripts and strangers out."""

import re
import ssl
from typing import Any

import httpx2
import pytest
import trustme

from router.cli.service import with_pages
from router.errors import InvalidRequest, Unauthenticated
from router.service.auth.certificates import server_contexts
from router.service.ui import pages
from router.service.ui.sessions import SESSION_SECONDS, Sessions
from tests.support.browsing import ANN, BOB, browsing, log_in
from tests.support.http import serving

VIEWS = ["/ui", "/ui/policy", "/ui/calls"]


async def test_there_are_no_pages_unless_asked_for(solver):
    async with serving(solver) as server, httpx2.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{server.http_port}/ui")).status_code == 404


@pytest.mark.parametrize(
    ("ui", "http", "share_port", "there"),
    [
        (None, ("127.0.0.1", 0), False, True),
        (None, ("::1", 0), False, True),
        (None, ("0.0.0.0", 0), False, False),
        (None, ("127.0.0.1", 0), True, False),
        (None, None, False, False),
        (True, ("0.0.0.0", 0), False, True),
        (False, ("127.0.0.1", 0), False, False),
    ],
)
def test_beyond_loopback_they_are_off_unless_asked_for(ui, http, share_port, there):
    assert with_pages(ui, http, share_port=share_port) is there


@pytest.mark.parametrize("view", VIEWS)
async def test_without_tokens_whoever_connects_sees_them(solver, view):
    async with browsing(solver) as client:
        reply = await client.get(view)
        assert reply.status_code == 200
        assert "Log out" not in reply.text


async def test_the_policy_is_a_plan_for_each_level_and_budget(solver):
    async with browsing(solver) as client:
        text = (await client.get("/ui/policy")).text
    assert solver.bundle.id in text
    assert "<b>Level 5, 16 solutions:</b> <code>lookahead(<wbr>n=8, <wbr>m=4, <wbr>k=1)</code>" in text
    assert "<dt>accuracy</dt><dd>0.50 [0.30, 0.95]</dd>" in text
    assert "Level 5, 4 solutions on average" in text


# Who may see them


@pytest.mark.parametrize("view", VIEWS)
async def test_with_tokens_a_login_is_needed(solver, view):
    async with browsing(solver, tokens=[ANN]) as client:
        reply = await client.get(view)
        assert reply.status_code == 401
        assert '<input id="token"' in reply.text
        assert solver.bundle.id not in reply.text


async def test_a_login_leads_to_the_page_that_was_asked_for(solver):
    async with browsing(solver, tokens=[ANN]) as client:
        asked = await client.get("/ui/policy")
        reply = await log_in(client, next=re.search(r'name="next" value="(\w*)"', asked.text)[1])
        assert reply.url.path == "/ui/policy"
        assert reply.status_code == 200
        assert ">ann</span>" in reply.text


@pytest.mark.parametrize("elsewhere", ["//evil.example", "https://evil.example/", "../v1/models", "policy/../.."])
async def test_a_login_leads_nowhere_else(solver, elsewhere):
    async with browsing(solver, tokens=[ANN]) as client:
        reply = await client.post("/ui/login", data={"token": "ann's", "next": elsewhere}, follow_redirects=False)
        assert reply.headers["location"] == "/ui"


@pytest.mark.parametrize("token", ["", "wrong", "é", "x" * 2000])
async def test_a_wrong_token_is_refused_and_logged(solver, token):
    calls: list[Any] = []
    async with browsing(solver, tokens=[ANN], observers=[calls.append]) as client:
        reply = await log_in(client, token)
        assert reply.status_code == 401
        assert "set-cookie" not in reply.headers
        assert "not known" in reply.text
    assert [(call.method, call.code) for call in calls] == [("Login", "UNAUTHENTICATED")]


async def test_strangers_have_no_large_form_read(solver):
    async with browsing(solver, tokens=[ANN]) as client:
        reply = await client.post("/ui/login", data={"token": "x" * 4096})
        assert reply.status_code == 413
        assert "larger than 4096 bytes" in reply.text


async def test_the_cookie_is_neither_the_token_nor_for_scripts_or_other_sites(solver):
    async with browsing(solver, tokens=[ANN]) as client:
        reply = await client.post("/ui/login", data={"token": "ann's"}, follow_redirects=False)
        name, *attributes = reply.headers["set-cookie"].split("; ")
        assert re.fullmatch(r"router_session=[\w-]{43}", name)
        assert {each.lower() for each in attributes} == {
            "httponly",
            "samesite=strict",
            "path=/",
            f"max-age={SESSION_SECONDS}",
        }


async def test_behind_tls_the_cookie_is_secure(solver):
    async with browsing(solver, tokens=[ANN]) as client:
        origin = {"origin": str(client.base_url).replace("http:", "https:")}
        reply = await client.post("/ui/login", data={"token": "ann's"}, headers=origin, follow_redirects=False)
        assert reply.headers["set-cookie"].startswith("__Host-router_session=")
        assert "; secure" in reply.headers["set-cookie"].lower()


async def test_after_a_logout_the_cookie_is_worth_nothing(solver):
    async with browsing(solver, tokens=[ANN]) as client:
        await log_in(client)
        kept = {"cookie": "; ".join(f"{cookie.name}={cookie.value}" for cookie in client.cookies.jar)}
        assert (await client.get("/ui/policy", headers=kept)).status_code == 200
        assert (await client.post("/ui/logout")).status_code == 401
        assert not list(client.cookies.jar)
        assert (await client.get("/ui/policy", headers=kept)).status_code == 401


FOREIGN = [
    "bad name=1; ",
    'unclosed="; ',
    "no value; é=1; [a]=b; ",
    "$Version=1; theme={'a': \"b\"}; ",
    "router_session=of-another-router-on-this-host; ",
    "router_session=; ",
]


@pytest.mark.parametrize("before", FOREIGN)
@pytest.mark.parametrize("after", ["", "; router_session=of-a-site-above; ;="])
async def test_cookies_of_others_lock_nobody_out(solver, before, after):
    async with browsing(solver, tokens=[ANN]) as client:
        reply = await client.post("/ui/login", data={"token": "ann's"}, follow_redirects=False)
        own = reply.headers["set-cookie"].partition(";")[0]
        client.cookies.clear()
        sent = {b"cookie": f"{before}{own}{after}".encode("latin-1")}
        assert (await client.get("/ui/policy", headers=sent)).status_code == 200
        assert (await client.post("/ui/logout", headers=sent, follow_redirects=False)).status_code == 303
        assert (await client.get("/ui/policy", headers=sent)).status_code == 401


async def test_over_tls_no_cookie_will_do_that_others_can_set(solver, tmp_path):
    """Without its prefix, any site above this host, and any program on it, could set the cookie to its own session."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    (tmp_path / "cert").write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(tmp_path / "key"))
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    tls = server_contexts(tmp_path / "cert", tmp_path / "key")
    async with serving(solver, ui=True, tokens=lambda: [ANN], http_tls=tls) as server:
        base = f"https://localhost:{server.http_port}/ui"
        async with httpx2.AsyncClient(verify=context) as client:
            reply = await client.post(f"{base}/login", data={"token": "ann's"})
            own = reply.headers["set-cookie"].partition(";")[0]
            client.cookies.clear()
            assert own.startswith("__Host-router_session=")
            assert (await client.get(f"{base}/policy", headers={"cookie": own})).status_code == 200
            plain = {"cookie": own.removeprefix("__Host-")}
            assert (await client.get(f"{base}/policy", headers=plain)).status_code == 401


async def test_behind_tls_forms_want_the_secure_cookie(solver):
    async with browsing(solver, tokens=[ANN]) as client:
        await log_in(client)
        assert [cookie.name for cookie in client.cookies.jar] == ["router_session"]
        origin = {"origin": str(client.base_url).replace("http:", "https:")}
        assert (await client.post("/ui/search", data={"prompt": "7 + 7 ="}, headers=origin)).status_code == 401
        assert (await client.post("/ui/search", data={"prompt": "7 + 7 ="})).status_code == 200


async def test_a_session_ends_with_its_token(solver):
    tokens = [ANN, BOB]
    async with browsing(solver, tokens=tokens) as client:
        await log_in(client)
        tokens.remove(ANN)
        assert (await client.get("/ui/policy")).status_code == 401


def test_a_session_ends_in_time():
    now = [0.0]
    sessions = Sessions(lambda: [ANN], lambda: now[0])
    name = sessions.begin("ann's")
    now[0] = SESSION_SECONDS - 1
    assert sessions.caller(name) == ANN.caller
    now[0] = SESSION_SECONDS
    with pytest.raises(Unauthenticated):
        sessions.caller(name)


def test_a_token_has_few_sessions():
    sessions = Sessions(lambda: [ANN, BOB])
    first, *_, last = [sessions.begin("ann's") for _ in range(100)]
    bobs = sessions.begin("bob's")
    assert sessions.count == 17
    assert sessions.caller(last) == ANN.caller
    assert sessions.caller(bobs) == BOB.caller
    with pytest.raises(Unauthenticated):
        sessions.caller(first)


async def test_the_pages_calls_are_counted_like_others(solver):
    calls: list[Any] = []
    async with browsing(solver, tokens=[ANN], observers=[calls.append]) as client:
        await log_in(client)
        await client.get("/ui/policy")
    assert ("GetBundle", "ann", "OK", "http") in [(each.method, each.caller, each.code, each.door) for each in calls]


# What keeps other sites and scripts out


@pytest.mark.parametrize("path", ["/ui/login", "/ui/logout", "/ui/search"])
@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}],
)
async def test_forms_of_other_sites_are_refused(solver, path, headers):
    async with browsing(solver, tokens=[ANN]) as client:
        reply = await client.post(path, data={"token": "ann's"}, headers=headers)
        assert reply.status_code == 403
        assert "set-cookie" not in reply.headers


async def test_without_tokens_a_name_that_was_made_to_lead_here_is_refused(solver):
    async with browsing(solver) as client:
        for host, status in (("evil.example", 403), ("localhost:80", 200), ("[::1]:80", 200)):
            assert (await client.get("/ui/policy", headers={"host": host})).status_code == status


@pytest.mark.parametrize("origin", ["http://[x", "http://x]", "//["])
async def test_a_site_that_can_not_be_read_is_another(solver, origin):
    async with browsing(solver) as client:
        assert (await client.post("/ui/search", data={"prompt": "x"}, headers={"origin": origin})).status_code == 403


@pytest.mark.parametrize("path", ["/ui/nothing", "/ui/calls/", "/ui/static/a/b", "/ui//evil.com"])
@pytest.mark.parametrize("tokens", [None, [ANN]])
async def test_a_wrong_address_has_a_page_of_its_own(solver, path, tokens):
    async with browsing(solver, tokens=tokens) as client:
        reply = await client.get(path)
    assert reply.status_code == 404
    assert reply.headers["content-type"].startswith("text/html")
    assert "No such page" in reply.text


@pytest.mark.parametrize("path", ["/ui/", "/ui/search", "/ui/login", "/ui/logout"])
async def test_an_address_that_only_a_form_is_sent_to_leads_to_the_search(solver, path):
    async with browsing(solver) as client:
        reply = await client.get(path, follow_redirects=False)
        assert (reply.status_code, reply.headers["location"]) == (303, "/ui")
        assert (await client.get(path, headers={"host": "evil.example"})).status_code == 403


@pytest.mark.parametrize("path", [*VIEWS, "/ui/nothing", "/ui/static/style.css", "/ui/static/nothing.css"])
async def test_every_reply_forbids_scripts_of_others(solver, path):
    async with browsing(solver) as client:
        headers = (await client.get(path)).headers
    policy = dict(each.strip().split(" ", 1) for each in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("view", VIEWS)
async def test_no_page_has_a_script_or_style_in_it(solver, view):
    async with browsing(solver) as client:
        text = (await client.get(view)).text
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|javascript:|https?://", text)


def test_what_templates_show_is_escaped():
    error = InvalidRequest("prompt", "<script>alert(1)</script>", reason="PROMPT_INVALID")
    assert b"&lt;script&gt;" in pages.failed(error, partial=True).body
    assert "<wbr>" in pages.arm("a(b)")
    assert "<b>" not in pages.arm("<b>(x)")
