"""Addresses, tokens, names and messages of the web view, without a server."""

from __future__ import annotations

import json
import math
import socket
import sys
from contextlib import closing
from dataclasses import replace

import pytest

from runtime.core.errors import ConfigError
from runtime.demo.controls import Command, Controls
from runtime.web import serve_view
from runtime.web.access import Access, access_for, same_origin
from runtime.web.address import Address, listen, page_url, parse_address
from runtime.web.messages import checked_command, read_message, status_message
from tests.support.web_status import STATUS

TOKEN = "a-token-of-26-characters.."


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("8080", "127.0.0.1", 8080),
        ("0", "127.0.0.1", 0),
        ("0.0.0.0:80", "0.0.0.0", 80),
        ("pi.local:65535", "pi.local", 65535),
        ("[::1]:8080", "::1", 8080),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
    ],
)
def test_address(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)


@pytest.mark.parametrize(
    "text", ["", ":8080", "localhost", "::1:8080", "[::1]", "8080:localhost", "65536", "-1", "٣", "a:b:1", "[]:1", "1 "]
)
def test_bad_address_says_what_is_expected(text: str) -> None:
    with pytest.raises(ConfigError, match=r"\[HOST:\]PORT"):
        parse_address(text)


def test_port_in_use() -> None:
    with closing(listen(Address("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1: it is in use; stop"):
            listen(Address("127.0.0.1", port))


@pytest.mark.parametrize(
    ("host", "message"),
    [("192.0.2.7", "no such address"), ("no-such-host.invalid", "not known here"), ("x" * 70, "not known here")],
)
def test_host_of_another_machine(host: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        listen(Address(host, 0))


def test_without_aiohttp_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with (
        pytest.raises(ConfigError, match=r"needs aiohttp.*`pip install aiohttp`") as caught,
        serve_view("0", Controls()),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_loopback_needs_no_token() -> None:
    address = Address("127.0.0.1", 0)
    with closing(listen(address)) as listener:
        assert access_for(address, listener, None).token is None
        assert page_url(address, listener, None) == f"http://127.0.0.1:{listener.getsockname()[1]}/"


def test_a_token_is_generated_where_others_can_connect() -> None:
    address = Address("0.0.0.0", 0)
    with closing(listen(address)) as listener:
        first, second = (access_for(address, listener, None) for _ in range(2))
        url = page_url(address, listener, first.token)
    assert first.token and second.token and first.token != second.token
    assert len(first.token) >= 22
    # An address that a browser on another machine can open.
    assert url.endswith(f"/?token={first.token}")
    assert "0.0.0.0" not in url


def test_ipv6_url_has_brackets() -> None:
    address = Address("::1", 0)
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        listener = listen(address)
    except ConfigError:
        pytest.skip("no IPv6 loopback here")
    with closing(listener):
        assert page_url(address, listener, None) == f"http://[::1]:{listener.getsockname()[1]}/"
        assert access_for(address, listener, None).loopback


@pytest.mark.parametrize("token", ["", "short", "x" * 15, "with a space in it", "ünïcödé-ünïcödé-ünïcödé", "a&b=c" * 5])
def test_bad_token_is_not_repeated(token: str) -> None:
    address = Address("127.0.0.1", 0)
    with closing(listen(address)) as listener, pytest.raises(ConfigError, match=r"16 or more.*python -c") as caught:
        access_for(address, listener, token)
    if token:
        assert token not in str(caught.value)


ACCESS = Access(TOKEN, "cookie", loopback=False, names=frozenset({"localhost", "pi", "pi.local"}))


@pytest.mark.parametrize(
    ("token", "cookie", "admitted"),
    [
        (TOKEN, None, True),
        (None, ACCESS.cookie, True),
        (TOKEN, "wrong", True),
        (None, None, False),
        ("", None, False),
        ("wrong", None, False),
        (TOKEN[:-1], None, False),
        ("ü\ud800", None, False),
        (None, TOKEN, False),
        (ACCESS.cookie, None, False),
        ("wrong", ACCESS.cookie, False),
    ],
)
def test_who_is_admitted(token: str | None, cookie: str | None, admitted: bool) -> None:
    assert ACCESS.admits(token, cookie) is admitted


def test_the_cookie_does_not_hold_the_token() -> None:
    assert TOKEN not in ACCESS.cookie
    assert replace(ACCESS, token=TOKEN + "x").cookie != ACCESS.cookie


@pytest.mark.parametrize(
    ("header", "on_loopback", "on_network"),
    [
        ("127.0.0.1:8080", True, True),
        ("LOCALHOST:1", True, True),
        ("[::1]:8080", True, True),
        ("pi.local:8080", False, True),
        ("192.168.1.7:8080", False, True),
        ("[fe80::1]", False, True),
        ("evil.example:8080", False, False),
        ("127.0.0.1.evil.example", False, False),
        ("localhost.evil.example", False, False),
        ("127.0.0.1:8080@evil.example", False, False),
        ("localhost:8080/x", False, False),
        ("localhost, evil.example", False, False),
        ("[::1", False, False),
        ("", False, False),
        (None, False, False),
    ],
)
def test_host_names_of_this_machine(header: str | None, on_loopback: bool, on_network: bool) -> None:
    assert Access(None, "", True, frozenset({"localhost"})).knows_host(header) is on_loopback
    assert ACCESS.knows_host(header) is on_network


@pytest.mark.parametrize(
    ("origin", "same"),
    [
        (None, True),
        ("http://pi:8080", True),
        ("https://PI:8080", True),
        ("http://pi:8081", False),
        ("http://pi", False),
        ("http://evil.example", False),
        ("http://pi:8080.evil.example", False),
        ("null", False),
        ("", False),
    ],
)
def test_origins(origin: str | None, same: bool) -> None:
    assert same_origin(origin, "pi:8080") is same


def test_status_is_json_without_nan() -> None:
    message = json.loads(status_message(replace(STATUS, latency_p50_ms=math.nan, top5=(("a\ud800", math.inf),))))
    assert message["type"] == "status"
    assert message["latency_p50_ms"] is None
    assert message["top5"] == [["a\\ud800", None]]  # a lone surrogate is no text, so it is escaped
    assert message["settings"] == {"level": 0, "layout": "grid", "precision": "int8", "compare": False}


@pytest.mark.parametrize(
    ("action", "value"),
    [
        ("level", "4"),
        ("level", "0"),
        ("level", ""),
        ("layout", "blend"),
        ("precision", "float32"),
        ("compare", "on"),
        ("record", "off"),
        ("record", ""),
    ],
)
def test_commands(action: str, value: str) -> None:
    read = read_message(json.dumps({"action": action, "value": value}))
    assert checked_command(*read, STATUS) == Command(action, value)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ['{"action": "level", "value": 2}', '{"action": "level", "value": "2"}'])
def test_a_number_is_a_value(text: str) -> None:
    assert read_message(text) == ("level", "2")


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", '"level"', "{}", "{", '{"action": 1}', '{"action": "level", "value": null}',
        '{"action": "level", "value": true}', '{"action": "level", "value": ["1"]}', '{"action": "level", "more": 1}',
        "[" * 1000, '{"value": "1"}', '{"action": "level", "value": 1.0}',
    ],
)  # fmt: skip
def test_invalid_messages(text: str) -> None:
    with pytest.raises(ConfigError, match=r"received.*expected") as caught:
        read_message(text)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize(
    ("action", "value"),
    [
        ("level", "5"), ("level", "-1"), ("level", "x" * 900), ("layout", "list"), ("precision", "int4"),
        ("precision", "../../etc/passwd"), ("compare", "maybe"), ("record", "/tmp/x.mp4"), ("quit", ""),
        ("snapshot", "/etc/passwd"), ("__class__", ""), ("", ""),
    ],
)  # fmt: skip
def test_invalid_commands(action: str, value: str) -> None:
    with pytest.raises(ConfigError, match="expected one of") as caught:
        checked_command(action, value, STATUS)
    assert len(str(caught.value)) < 250


def test_commands_before_the_first_frame_are_errors() -> None:
    with pytest.raises(ConfigError, match="no frame yet"):
        checked_command("level", "1", None)


def test_compare_needs_two_artifacts() -> None:
    with pytest.raises(ConfigError, match="compare needs two artifacts"):
        checked_command("compare", "on", replace(STATUS, precisions=("int8",)))
