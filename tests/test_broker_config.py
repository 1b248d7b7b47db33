"""`broker.toml`: what is taken, what is refused and in which words, and what a bad one takes away."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camfabric.broker.config import (
    EVERY,
    SETTABLE_LIMITS,
    BrokerConfig,
    OutletConfig,
    PublisherGrant,
    make_config,
    read_config,
    unknown_keys,
)
from camfabric.broker.removals import only_removals
from camfabric.common.errors import ConfigError
from camfabric.common.settings import BROKER_PUBLISHERS, LIMITS, Limits
from camfabric.common.topics import covers

_SOME = settings(max_examples=80, deadline=None)

_TOP: Final = 'keys = "keys"\n'
_LOBBY: Final = '[[publisher]]\nkey = "lobby"\ncameras = ["cctv/lobby", "drone"]\n'
_GUARD: Final = '[[outlet]]\nname = "guard"\nendpoint = "tcp://*:5551"\nkeys = ["guard", "viewer"]\ncameras = ["*"]\n'
_VISITOR: Final = (
    '[[outlet]]\nname = "visitor"\nendpoint = "tcp://*:5552"\nkeys = ["*"]\ncameras = ["cctv/lobby", "drone"]\n'
)
_SITE: Final = '[[upstream]]\nendpoint = "tcp://10.0.0.5:5551"\nserver_key = "site-a"\ncameras = ["cctv"]\n'
_GOOD: Final = _TOP + _LOBBY + _GUARD + _VISITOR + _SITE
_PLAIN: Final = '[[outlet]]\nname = "a"\nendpoint = "tcp://127.0.0.1:5551"\ncameras = ["*"]\n'
_PUBLIC: Final = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "broker.toml"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "broker.toml"


def _read(file: Path, text: str, **options: Any) -> BrokerConfig:
    file.write_text(text, encoding="utf-8")
    return read_config(file, **options)


def _refused(file: Path, text: str, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        _read(file, text, **options)
    line = str(caught.value)
    assert line.startswith(f"{file}: ")
    assert len(line.splitlines()) == 1
    assert caught.value.setting
    return line.removeprefix(f"{file}: ")


# What is taken


def test_a_whole_file(file: Path) -> None:
    config = _read(file, _GOOD.replace(_TOP, _TOP + 'key = "broker"\npublishers = ["tcp://*:5550"]\n'))
    assert config.keys == file.parent / "keys"
    assert config.key == "broker"
    assert [endpoint.text for endpoint in config.publishers] == ["tcp://*:5550"]
    assert config.grants == (PublisherGrant(key="lobby", cameras=frozenset({"cctv/lobby", "drone"})),)
    guard, visitor = config.outlets
    assert (guard.name, guard.endpoint.text) == ("guard", "tcp://*:5551")
    assert guard.keys == {"guard", "viewer"}
    assert guard.cameras == {""}
    assert visitor.keys == {EVERY}
    assert visitor.cameras == {"cctv/lobby", "drone"}
    (upstream,) = config.upstreams
    assert (upstream.endpoint.text, upstream.server_key) == ("tcp://10.0.0.5:5551", "site-a")
    assert upstream.cameras == {"cctv"}
    assert config.limits == LIMITS


def test_the_least_file(file: Path) -> None:
    config = _read(file, _PLAIN)
    assert config.keys is None
    assert [endpoint.text for endpoint in config.publishers] == [BROKER_PUBLISHERS]
    assert config.outlets[0].keys == frozenset()
    assert config.grants == ()
    assert config.upstreams == ()


def test_files_are_found_from_the_file_and_not_from_where_one_stands(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent.parent)
    relative = Path(file.parent.name) / file.name
    for text, found in (("own.key_secret", file.parent / "own.key_secret"), ("/etc/own", Path("/etc/own"))):
        top = f'{_TOP}key = "{text}"\n' + _LOBBY + _GUARD + _SITE.replace("site-a", "../site-a.key")
        file.write_text(top)
        config = read_config(relative)
        assert config.keys == file.parent / "keys"
        assert config.key == str(found)
        assert config.upstreams[0].server_key == str(file.parent / ".." / "site-a.key")


def test_the_folder_of_the_command_line_wins(file: Path, tmp_path: Path) -> None:
    assert _read(file, _GOOD, keys=tmp_path / "other").keys == tmp_path / "other"
    assert _read(file, _GOOD.replace(_TOP, ""), keys=tmp_path / "other").keys == tmp_path / "other"


def test_filters_are_in_nfc_and_without_their_last_slash(file: Path) -> None:
    config = _read(file, _PLAIN.replace('"*"', '"cctv/", "Tu\u0308r"'))
    assert config.outlets[0].cameras == {"cctv", "T\u00fcr"}


@pytest.mark.parametrize(
    ("key", "given"),
    [("a", {"cctv/gate", "drone", "low"}), ("b", {"drone"}), (EVERY, {"drone"}), ("", {"drone"})],
)
def test_a_key_may_publish_what_it_and_all_were_granted(file: Path, key: str, given: set[str]) -> None:
    grants = (("a", '"cctv/gate"'), ("*", '"drone"'), ("a", '"low"'))
    tables = "".join(f'[[publisher]]\nkey = "{name}"\ncameras = [{camera}]\n' for name, camera in grants)
    assert _read(file, _TOP + _GUARD + tables).may_publish(key) == given


def test_who_was_granted_nothing_may_publish_nothing(file: Path) -> None:
    assert _read(file, _GOOD).may_publish("lobby2") == frozenset()
    assert _read(file, _PLAIN).may_publish("lobby") == frozenset()


def test_limits(file: Path) -> None:
    config = _read(file, _PLAIN + "[limits]\nconnections = 500\npayload_bytes = 65536\n")
    assert config.limits == replace(LIMITS, connections=500, payload_bytes=65536)
    assert set(SETTABLE_LIMITS) <= {field.name for field in fields(Limits)}
    for name in SETTABLE_LIMITS:
        default = getattr(LIMITS, name)
        assert getattr(_read(file, f"{_PLAIN}[limits]\n{name} = {default}\n").limits, name) == default


def test_upstreams_alone_are_something_to_forward(file: Path) -> None:
    config = _read(file, _TOP + "publishers = []\n" + _GUARD + _SITE)
    assert config.publishers == ()
    assert config.grants == ()
    # Nobody may publish at the default endpoint, which is no mistake where there is an upstream.
    assert len(_read(file, _TOP + _GUARD + _SITE).publishers) == 1


def test_ports_that_the_system_chooses_are_not_the_same(file: Path) -> None:
    outlets = _GUARD.replace("5551", "*") + _VISITOR.replace("5552", "*")
    assert len(_read(file, _TOP + _LOBBY + outlets).outlets) == 2


def test_beyond_loopback_by_saying_so(file: Path) -> None:
    plain = _PLAIN.replace("127.0.0.1", "*") + '[[upstream]]\nendpoint = "tcp://10.0.0.5:1"\ncameras = ["*"]\n'
    assert _read(file, plain, insecure=True).keys is None
    keyed = _GOOD.replace('server_key = "site-a"\n', "")
    assert _read(file, keyed, insecure=True).upstreams[0].server_key == ""


def test_a_byte_order_mark_is_no_mistake(file: Path) -> None:
    assert _read(file, "\ufeff" + _GOOD) == _read(file, _GOOD)


# What is refused


def _swapped(old: str, new: str, text: str = _GOOD) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("text", "essentials"),
    [
        # Unknown names
        (_swapped('cameras = ["*"]', 'camera = ["*"]'), 'unknown "camera" in outlet "guard": did you mean "cameras"'),
        (_swapped("[[outlet]]", "[[outlets]]"), 'unknown "outlets": did you mean "outlet"?'),
        (_swapped("[[publisher]]", "[[publishers]]"), "publishers has a table in it (did you mean [[publisher]]?)"),
        (_swapped("server_key", "serverkey"), 'unknown "serverkey" in upstream "tcp://10.0.0.5:5551": did you mean'),
        (_swapped('key = "lobby"', 'kye = "lobby"'), 'unknown "kye" in publisher 1: did you mean "key"?'),
        (_GOOD + "[zzz]\n", 'unknown "zzz": there is keys, key, publishers'),
        (_GOOD + '["a\\nb"]\n', 'unknown "a\\nb"'),
        (_GOOD + f'["{_PUBLIC}"]\n', "unknown (a key itself, not shown)"),
        (_GOOD + "[limits]\nconections = 5\n", 'unknown "conections" in limits: did you mean "connections"?'),
        (_GOOD + "[limits]\npixels = 5\n", 'unknown "pixels" in limits'),
        # Types
        ("outlet = 3\n" + _TOP, "outlet is not written as [[outlet]]"),
        ("outlet = [3]\n" + _TOP, "outlet is not written as [[outlet]]"),
        (_swapped("[[outlet]]", "[outlet]", _PLAIN), "outlet is not written as [[outlet]]"),
        ("keys = 3\n" + _PLAIN, 'keys is a number: it has to be a text such as "keys"'),
        ('keys = ""\n' + _PLAIN, "keys is empty"),
        ('keys = "a\\u0000"\n' + _PLAIN, 'keys: "a\\x00" is no path'),
        ("key = []\n" + _PLAIN, "key is a list"),
        ('publishers = "tcp://*:5550"\n' + _PLAIN, 'publishers is a text: it has to be a list such as ["tcp://'),
        ("publishers = [5550]\n" + _PLAIN, "publishers has a number in it"),
        (_swapped('name = "guard"', "name = true"), "outlet 1: name is true or false: it has to be a text"),
        (_swapped('cameras = ["cctv"]', "cameras = 1979-05-27"), '"tcp://10.0.0.5:5551": cameras is a date'),
        (_swapped('["guard", "viewer"]', '["guard", 1.5]'), 'outlet "guard": keys has a number in it'),
        (_swapped('["guard", "viewer"]', '["guard", ["viewer"]]'), 'outlet "guard": keys has a list in it'),
        ("limits = 3\n" + _PLAIN, "limits is a number: it has to be a table, [limits]"),
        # What is missing
        (_swapped('cameras = ["*"]\n', ""), 'outlet "guard": cameras is missing: it has to be such as ["cctv/lobby"'),
        (_swapped('keys = ["*"]\n', ""), 'outlet "visitor": keys is missing'),
        (_swapped('cameras = ["cctv"]\n', ""), 'upstream "tcp://10.0.0.5:5551": cameras is missing'),
        (_swapped('cameras = ["cctv/lobby", "drone"]\n', ""), 'publisher "lobby": cameras is missing'),
        (_swapped('cameras = ["*"]', "cameras = []"), 'outlet "guard": cameras is empty'),
        (_swapped('keys = ["*"]', "keys = []"), 'outlet "visitor": keys is empty'),
        (_swapped('key = "lobby"\n', ""), "publisher 1: key is missing"),
        (_swapped('name = "guard"\n', ""), 'outlet 1: name is missing: it has to be such as "guard"'),
        (_swapped('endpoint = "tcp://*:5551"\n', ""), 'outlet "guard": endpoint is missing'),
        (_swapped('endpoint = "tcp://10.0.0.5:5551"\n', ""), "upstream 1: endpoint is missing"),
        ("", "a broker needs an endpoint for subscribers and something to forward"),
        (_TOP + _LOBBY, "a broker needs an endpoint for subscribers"),
        ("publishers = []\n" + _PLAIN, "something to forward"),
        (_TOP + _GUARD, "nobody may publish: add a [[publisher]]"),
        # Names
        (_swapped('name = "guard"', 'name = "visitor"'), 'two outlets have one name: outlet "visitor"'),
        (_swapped('name = "guard"', 'name = "gu ard"'), 'name "gu ard": a name is ASCII letters'),
        (_swapped('name = "guard"', 'name = "wächter"'), "a name is ASCII letters"),
        (_swapped('name = "guard"', 'name = "guard\\n"'), 'name "guard\\n": a name is'),
        (_swapped('name = "guard"', f'name = "{"a" * 65}"'), "64 at most"),
        (_swapped('name = "guard"', 'name = ".."'), 'name ".."'),
        (_swapped('key = "lobby"', 'key = "lob by"'), '"lob by" is no name of a key'),
        (_swapped('"viewer"', '"viewer.key"'), 'keys: "viewer.key" is a file: give the name of a key'),
        (_swapped('"viewer"', '"sub/viewer"'), '"sub/viewer" is no name of a key'),
        (_swapped('"viewer"', '""'), '"" is no name of a key'),
        (_swapped('"viewer"', '"*"'), 'keys has "*" and others: "*" stands by itself'),
        (_swapped('"site-a"', '"*"'), 'server_key: "*" is no name of a key'),
        (_swapped('"site-a"', '""'), "server_key is empty"),
        ('key = "*"\n' + _GOOD, 'key: "*" is no name of a key'),
        ('key = ""\n' + _GOOD, "key is empty"),
        # Filters
        (_swapped('"drone"]', '"*"]'), 'publisher "lobby": cameras has "*" and others'),
        (_swapped('"drone"]', '""]'), 'publisher "lobby": cameras has an empty text'),
        (_swapped('"drone"]', '"/"]'), 'publisher "lobby": cameras: filter'),
        (_swapped('"drone"]', '"cctv/*"]'), "cameras: filter 'cctv/*': it has '*'; a filter is a camera's name"),
        (_swapped('"drone"]', '"a//b"]'), "it has an empty segment"),
        (_swapped('"drone"]', f'"{"a" * 129}"]'), "it has more than 128 bytes"),
        # Endpoints
        (_swapped("tcp://*:5551", "udp://*:5551"), "outlet \"guard\": endpoint 'udp://*:5551': an unknown scheme"),
        (_swapped("tcp://*:5551", "tcp://u:S3cr3t@h"), 'outlet "guard": endpoint'),
        (_swapped("tcp://10.0.0.5:5551", "tcp://*:5551"), "endpoint 'tcp://*:5551': '*' is no host to connect to"),
        ('publishers = ["5550"]\n' + _PLAIN, "publishers '5550': no scheme"),
        (_swapped("tcp://*:5552", "tcp://*:5551"), 'one endpoint is there twice: tcp://*:5551 (outlet "guard" and'),
        (_swapped("tcp://*:5552", "tcp://*:05551"), "one endpoint is there twice: tcp://*:5551"),
        (_swapped("tcp://*:5551", BROKER_PUBLISHERS), '(publishers and outlet "guard")'),
        ('publishers = ["ipc://a", "ipc://a"]\n' + _PLAIN, "one endpoint is there twice: ipc://a (publishers)"),
        (_GOOD + _SITE, "one endpoint is there twice: tcp://10.0.0.5:5551 (upstream)"),
        # Keys without a folder, and beyond loopback without keys
        (_LOBBY + _PLAIN, 'publisher "lobby": it grants something to a key, but there is no folder of keys'),
        (_PLAIN + 'keys = ["*"]\n', 'outlet "a": it has keys, but there is no folder of keys: name one by keys ='),
        (_PLAIN + _SITE, "upstream: it has a server_key, but there is no folder of keys"),
        ('key = "broker"\n' + _PLAIN, 'key "broker", but there is no folder of keys'),
        (_swapped("127.0.0.1", "*", _PLAIN), 'outlet "a": endpoint tcp://*:5551 is beyond loopback'),
        ('publishers = ["tcp://*:1"]\n' + _PLAIN, "publishers: endpoint tcp://*:1 is beyond loopback"),
        (_swapped('server_key = "site-a"\n', ""), "upstream: tcp://10.0.0.5:5551 is beyond loopback: say which key"),
        # Limits
        (_PLAIN + "[limits]\nconnections = 0\n", "limits: connections is 0: it can be 1 to "),
        (_PLAIN + "[limits]\nconnections = true\n", "limits: connections is true or false: it has to be a whole"),
        (_PLAIN + "[limits]\nparts = 2.0\n", "limits: parts is a number: it has to be a whole number"),
        (_PLAIN + "[limits]\npayload_bytes = 1000\n", "limits: payload_bytes is 1000: it can be 65536 to"),
        (_PLAIN + f"[limits]\nparts = 0x{'f' * 6000}\n", "limits: parts is far out of range: it can be 1 to"),
        # No TOML
        ("keys = \n", "it is not TOML: Invalid value (at line 1, column 8)"),
        (_PLAIN + "name = 'b'\n", "it is not TOML: Cannot overwrite a value"),
        ("a = " + "[" * 50_000, "it is nested too deeply"),
        ("a = " + "1" * 5000, "it is not TOML"),
        ("#" * 1_000_001, "it has more than 1 MB"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_in_one_line(file: Path, text: str, essentials: str) -> None:
    line = _refused(file, text)
    assert essentials in line
    assert len(line) < 400
    assert "S3cr3t" not in line


@pytest.mark.parametrize(
    "place",
    ['"viewer"', '"lobby"', '"site-a"', '"guard"', '"keys"', '"drone"', '"tcp://*:5551"', '"tcp://10.0.0.5:5551"'],
)
def test_a_key_in_the_place_of_a_name_is_not_shown(file: Path, place: str) -> None:
    line = _refused(file, _swapped(place, f'"{_PUBLIC}"'))
    assert _PUBLIC not in line
    assert "a key itself" in line


def test_what_cannot_be_read(file: Path) -> None:
    for path, why in ((file, "No such file"), (file.parent, "Is a directory"), (Path("a\0b"), "no such path")):
        with pytest.raises(ConfigError, match=f"it cannot be read: {why}"):
            read_config(path)
    file.write_bytes(_GOOD.encode() + b"# \xff\n")
    with pytest.raises(ConfigError, match=rf"it is not UTF-8 \(at line {_GOOD.count(chr(10)) + 1}\)"):
        read_config(file)


# From the command line


def _made(**options: Any) -> BrokerConfig:
    given: dict[str, Any] = {
        "publishers": ["tcp://127.0.0.1:5550"],
        "subscribers": ["tcp://127.0.0.1:*"],
        "upstreams": [],
        "keys": None,
        "insecure": False,
    }
    return make_config(**given | options)


def test_without_keys_nothing_is_asked() -> None:
    config = _made(upstreams=["tcp://127.0.0.1:1"] * 2 + ["ipc://a"])
    assert (config.keys, config.key, config.grants, config.outlets[0].keys) == (None, "", (), frozenset())
    assert [upstream.endpoint.text for upstream in config.upstreams] == ["tcp://127.0.0.1:1", "ipc://a"]
    assert {upstream.cameras for upstream in config.upstreams} == {frozenset({""})}
    assert unknown_keys(config, []) == []


def test_with_keys_every_one_may_publish_and_see_all() -> None:
    config = _made(keys=Path("keys"), key="broker", subscribers=["tcp://*:1", "tcp://*:2", "tcp://*:*"])
    assert config.may_publish("whoever") == {""}
    assert [outlet.name for outlet in config.outlets] == ["outlet", "outlet-2", "outlet-3"]
    assert {(outlet.keys, outlet.cameras) for outlet in config.outlets} == {(frozenset({EVERY}), frozenset({""}))}
    assert config.key == "broker"


def test_server_keys_are_for_all_or_for_each() -> None:
    upstreams = ["tcp://10.0.0.5:1", "tcp://10.0.0.6:1"]
    for said, taken in ((["a"], ["a", "a"]), (["a", "b.key"], ["a", str(Path.cwd() / "b.key")])):
        config = _made(keys=Path("keys"), upstreams=upstreams, server_key=said)
        assert [upstream.server_key for upstream in config.upstreams] == taken


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"subscribers": []}, "a broker needs an endpoint for subscribers and something to forward"),
        ({"publishers": []}, "something to forward"),
        ({"publishers": ["tcp://*:1"]}, "beyond loopback"),
        ({"subscribers": ["tcp://*:1"]}, "beyond loopback"),
        ({"subscribers": ["nonsense"]}, "no scheme"),
        ({"upstreams": ["tcp://127.0.0.1:*"]}, "upstream 'tcp://127.0.0.1:"),
        ({"upstreams": ["tcp://10.0.0.5:1"], "keys": Path("keys")}, "beyond loopback"),
        ({"upstreams": ["tcp://10.0.0.5:1"], "server_key": ["a"]}, "no folder of keys"),
        ({"key": "broker"}, "no folder of keys"),
        ({"keys": Path("keys"), "key": "bro ker"}, "no name of a key"),
        ({"keys": Path("keys"), "server_key": ["a"]}, "1 server keys for 0 upstreams"),
        ({"keys": Path("keys"), "server_key": ["a", "b"], "upstreams": ["ipc://a"] * 3}, "2 server keys for 3"),
        ({"keys": Path("keys"), "server_key": ["a", "b"], "upstreams": ["ipc://a"] * 2}, "endpoint is there twice"),
        ({"subscribers": ["tcp://127.0.0.1:5550"]}, "one endpoint is there twice"),
    ],
)
def test_a_wrong_command_line_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        _made(**options)
    assert len(str(caught.value).splitlines()) == 1


def test_insecure_is_beyond_loopback_without_keys() -> None:
    upstreams = ["tcp://10.0.0.5:1"]
    assert _made(subscribers=["tcp://*:1"], upstreams=upstreams, insecure=True).upstreams[0].server_key == ""


# Keys that are not there


def test_keys_that_are_named_and_not_there(file: Path) -> None:
    config = _read(file, 'key = "broker"\n' + _GOOD.replace('keys = ["*"]', 'keys = ["guard"]'))
    assert unknown_keys(config, {"broker", "lobby", "guard", "viewer", "site-a", "another"}) == []
    assert unknown_keys(config, {"broker", "lobby", "gaurd", "viewer"}) == [
        f'no key "guard" in {config.keys}, named by outlet "guard", outlet "visitor": did you mean "gaurd"?',
        f'no key "site-a" in {config.keys}, named by upstream "tcp://10.0.0.5:5551"',
    ]
    assert len(unknown_keys(config, ())) == 5


def test_files_and_all_are_no_names(file: Path) -> None:
    text = _TOP + 'key = "/etc/own.key_secret"\n' + _LOBBY.replace('"lobby"', '"*"') + _VISITOR
    assert unknown_keys(_read(file, text), ()) == []


# What a bad file takes away


def _left(file: Path, text: str, old: str = _GOOD) -> BrokerConfig:
    before = _read(file, old)
    file.write_text(text, encoding="utf-8")
    return only_removals(before, file)


def test_what_is_the_same_stays_the_same(file: Path) -> None:
    old = _read(file, _GOOD)
    assert only_removals(old, file) == old
    assert only_removals(old, file.parent) == old
    file.unlink()
    assert only_removals(old, file) == old


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# all of it\n",
        "keys = ",
        _GOOD + "\n[",
        _GOOD.replace("[[outlet]]", "[[outlets]]").replace("[[publisher]]", "[[publishers]]"),
        "outlet = 3\npublisher = 3\nupstream = 3\n",
        "outlet = [3]\npublisher = [3]\nupstream = [3]\n",
        _GOOD.replace("name =", "nmae =").replace("key =", "kye =").replace("endpoint =", "end ="),
        _GOOD.replace("cameras", "camera").replace("keys = [", "key = ["),
        "zzz = 1\n",
    ],
)  # fmt: skip
def test_what_is_not_clearly_taken_away_stays(file: Path, text: str) -> None:
    assert _left(file, text) == _read(file, _GOOD)


def test_a_misspelt_section_keeps_what_was_in_it_alone(file: Path) -> None:
    left = _left(file, _GOOD.replace("[[publisher]]", "[[publishers]]").replace(_VISITOR, "").replace(_SITE, ""))
    assert left.may_publish("lobby") == {"cctv/lobby", "drone"}
    assert left.outlets[1].cameras == left.outlets[1].keys == frozenset()
    assert left.upstreams == ()


def test_an_outlet_that_is_gone_stays_bound_and_nobody_gets_in(file: Path) -> None:
    left = _left(file, _GOOD.replace(_VISITOR, "") + "[limits]\nparts = 0\n")
    old = _read(file, _GOOD)
    assert left.outlets == (old.outlets[0], replace(old.outlets[1], keys=frozenset(), cameras=frozenset()))
    assert (left.grants, left.upstreams, left.limits) == (old.grants, old.upstreams, old.limits)


def test_the_last_of_a_section_can_be_taken_away(file: Path) -> None:
    # Without it, the file is wrong for that alone: "nobody may publish".
    text = _TOP + _GUARD
    assert "nobody may publish" in _refused(file, text)
    left = _left(file, text, _TOP + _GUARD + _LOBBY)
    assert left.grants == ()
    assert left.may_publish("lobby") == frozenset()


def _outlet(keys: str, cameras: str) -> str:
    return f'[[outlet]]\nname = "guard"\nendpoint = 3\nkeys = {keys}\ncameras = {cameras}\n'


@pytest.mark.parametrize(
    ("old", "new", "left"),
    [
        ('["a", "b"]', '["b", "c"]', {"b"}),
        ('["a", "b"]', '["*"]', {"a", "b"}),
        ('["a", "b"]', "[]", set()),
        ('["a", "b"]', '["b", 3, "/"]', {"b"}),
        ('["a", "b"]', '"a"', {"a", "b"}),
        ('["*"]', '["a"]', {"a"}),
        ('["*"]', '["a", "*"]', {"*"}),
        ('["*"]', '["a", "b c", "a.key", 3]', {"a"}),
        ('["*"]', "3", {"*"}),
    ],
)
def test_keys_of_an_outlet(file: Path, old: str, new: str, left: set[str]) -> None:
    before = _TOP + _LOBBY + _outlet(old, '["cctv"]').replace("endpoint = 3", 'endpoint = "tcp://*:1"')
    (outlet,) = _left(file, _TOP + _LOBBY + _outlet(new, '["cctv"]'), before).outlets
    assert outlet.keys == left
    assert outlet.cameras == {"cctv"}


_FILTERS: Final = [
    ('["cctv", "drone"]', '["drone", "low"]', {"drone"}),
    ('["cctv"]', '["cctv/lobby"]', {"cctv/lobby"}),
    ('["cctv/lobby"]', '["cctv"]', {"cctv/lobby"}),
    ('["cctv"]', '["cctv2", "cct"]', set()),
    ('["*"]', '["cctv", "drone/1"]', {"cctv", "drone/1"}),
    ('["cctv"]', '["*"]', {"cctv"}),
    ('["cctv"]', '["cctv", "cctv/lobby"]', {"cctv"}),
    ('["cctv", "cctv/lobby"]', '["cctv"]', {"cctv", "cctv/lobby"}),
    ('["*"]', '["", "/", "cctv/*", 3]', set()),
    ('["cctv"]', '["cctv/gate", 3]', {"cctv/gate"}),
    ('["cctv"]', "[]", set()),
    ('["cctv"]', '"drone"', {"cctv"}),
    ('["T\u00fcr"]', '["Tu\u0308r/"]', {"T\u00fcr"}),
]


@pytest.mark.parametrize(("old", "new", "left"), _FILTERS)
def test_cameras(file: Path, old: str, new: str, left: set[str]) -> None:
    def text(cameras: str, wrong: str) -> str:
        return (
            f'{_TOP}publishers = []\n[[publisher]]\nkey = "a"\ncameras = {cameras}\n[[upstream]]\n'
            f'endpoint = "ipc://a"\ncameras = {cameras}\n'
            f'[[outlet]]\nname = "a"\nendpoint = "ipc://b"\nkeys = ["a"]\ncameras = {cameras}\n{wrong}'
        )

    config = _left(file, text(new, "parts = 3"), text(old, ""))
    assert config.outlets[0].cameras == config.upstreams[0].cameras == config.may_publish("a") == left


@pytest.mark.parametrize(
    ("old", "new", "left"),
    [
        ([("*", "cctv")], [("a", "cctv/1")], [("a", "cctv/1")]),
        ([("*", "cctv")], [("*", "cctv"), ("a", "cctv/1")], [("*", "cctv")]),
        ([("a", "cctv")], [("*", "cctv/1")], [("a", "cctv/1")]),
        ([("a", "cctv"), ("b", "drone")], [("b", "drone")], [("b", "drone")]),
        ([("a", "cctv")], [("a", "drone"), ("a", "cctv")], [("a", "cctv")]),
        ([("a", "cctv"), ("a", "drone")], [("a", "drone")], [("a", "drone")]),
        ([("a", "cctv"), ("*", "drone")], [("a", "cctv"), ("a", "drone")], [("a", "cctv"), ("a", "drone")]),
        ([("a", "cctv")], [("b", "cctv")], []),
    ],
)
def test_grants(
    file: Path, old: list[tuple[str, str]], new: list[tuple[str, str]], left: list[tuple[str, str]]
) -> None:
    def text(grants: list[tuple[str, str]]) -> str:
        return _TOP + _GUARD + "".join(f'[[publisher]]\nkey = "{k}"\ncameras = ["{camera}"]\n' for k, camera in grants)

    config = _left(file, text(new) + "parts = 3\n", text(old))
    assert [(grant.key, set(grant.cameras)) for grant in config.grants] == [(key, {camera}) for key, camera in left]


def test_a_name_that_is_there_twice_keeps_what_one_of_them_has(file: Path) -> None:
    text = _GOOD + _GUARD.replace('["guard", "viewer"]', '["viewer"]').replace('"*"', '"cctv"')
    assert _left(file, text) == _read(file, _GOOD)
    assert _left(file, text.replace('["guard", "viewer"]', '["other"]')).outlets[0].keys == {"viewer"}
    # Which of them is meant is not clear where one of them has no list.
    assert _left(file, text.replace('["guard", "viewer"]', "3")).outlets[0].keys == {"guard", "viewer"}
    assert _left(file, text.replace('["viewer"]', "3")).outlets[0].keys == {"guard", "viewer"}


# Properties

_KEYS = ("a", "b", "c")
_CAMERAS = ("cctv", "cctv/1", "cctv/1/x", "cctv/2", "cctv2", "drone/1", "z")
_ENDPOINTS = ("tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "ipc://a")
_key_lists = st.just([EVERY]) | st.lists(st.sampled_from(_KEYS), min_size=1, max_size=3)
_camera_lists = st.just([EVERY]) | st.lists(st.sampled_from((*_CAMERAS, "drone")), min_size=1, max_size=3)


@st.composite
def _good_documents(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(("o1", "o2", "o3")), min_size=1, unique=True))
    upstreams = draw(st.lists(st.sampled_from(_ENDPOINTS), min_size=1, unique=True))
    return {
        "keys": "keys",
        "publisher": [
            {"key": draw(st.sampled_from((*_KEYS, EVERY))), "cameras": draw(_camera_lists)}
            for _ in range(draw(st.integers(0, 4)))
        ],
        "outlet": [
            {"name": name, "endpoint": f"ipc://{name}", "keys": draw(_key_lists), "cameras": draw(_camera_lists)}
            for name in names
        ],
        "upstream": [{"endpoint": endpoint, "cameras": draw(_camera_lists)} for endpoint in upstreams],
    }


_WORDS: Final = (
    *("keys", "key", "publishers", "publisher", "outlet", "upstream", "limits", "name", "endpoint", "server_key"),
    *("cameras", "connections", "parts", "camera", "outlets", "*", "", "a", "b", "o1", "o2", "cctv", "cctv/1"),
    *("tcp://127.0.0.1:1", "tcp://*:1", "ipc://a", "x.key", "./x", "\n", "\u2028", "\x7f", _PUBLIC),
)
_words = st.sampled_from(_WORDS) | st.text(max_size=5)
_values = st.recursive(
    _words | st.integers() | st.booleans() | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_words, inner, max_size=5),
    max_leaves=20,
)
_documents = st.dictionaries(_words, _values, max_size=6)


@st.composite
def _damaged_documents(draw: st.DrawFn) -> dict[str, Any]:
    """Good documents in which some values or names are something else."""
    content = draw(_good_documents())
    for _ in range(draw(st.integers(1, 4))):
        section = draw(st.sampled_from(sorted(content))) if content else ""
        tables = content.get(section)
        if isinstance(tables, list) and tables and isinstance(tables[0], dict) and draw(st.integers(0, 3)):
            table = tables[draw(st.integers(0, len(tables) - 1))]
            if isinstance(table, dict) and table:
                name = draw(st.sampled_from(sorted(table)))
                value = table.pop(name) if draw(st.booleans()) else draw(_values)
                table[draw(_words) if draw(st.booleans()) else name] = value
        elif draw(st.booleans()):
            content.pop(section, None)
        else:
            content[draw(_words)] = draw(_values)
    return content


def _toml(value: Any) -> str:
    """A value, with tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(name)} = {_toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else repr(value)


def _write(file: Path, content: dict[str, Any]) -> None:
    text = "".join(f"{_toml(name)} = {_toml(value)}\n" for name, value in content.items())
    file.write_text(text, encoding="utf-8", errors="surrogatepass")


def _admits(outlet: OutletConfig, key: str) -> bool:
    return key in outlet.keys or EVERY in outlet.keys


def _gives(filters: frozenset[str], camera: str) -> bool:
    return any(covers(filter_, camera) for filter_ in filters)


def _granted(config: BrokerConfig) -> set[tuple[str, ...]]:
    """All that a config gives, of the keys and cameras here and one of each that it never names."""
    keys, cameras = (*_KEYS, "other"), (*_CAMERAS, "other")
    given: set[tuple[str, ...]] = {
        ("publish", key, camera) for key in keys for camera in cameras if _gives(config.may_publish(key), camera)
    }
    for outlet in config.outlets:
        given |= {("admit", outlet.name, key) for key in keys if _admits(outlet, key)}
        given |= {("show", outlet.name, camera) for camera in cameras if _gives(outlet.cameras, camera)}
    for upstream in config.upstreams:
        endpoint = upstream.endpoint.text
        given |= {("believe", endpoint, camera) for camera in cameras if _gives(upstream.cameras, camera)}
    return given


@_SOME
@given(_good_documents(), _good_documents())
def test_of_a_whole_file_what_both_give_is_left(
    scratch: Path, old_content: dict[str, Any], new_content: dict[str, Any]
) -> None:
    _write(scratch, old_content)
    old = read_config(scratch)
    assert only_removals(old, scratch) == old
    _write(scratch, new_content)
    new = read_config(scratch)
    left = only_removals(old, scratch)
    assert _granted(left) == _granted(old) & _granted(new)
    assert [outlet.endpoint for outlet in left.outlets] == [outlet.endpoint for outlet in old.outlets]
    assert only_removals(left, scratch) == left


@_SOME
@given(_good_documents(), _damaged_documents() | _documents)
def test_whatever_the_file_is_nothing_is_given(
    scratch: Path, old_content: dict[str, Any], new_content: dict[str, Any]
) -> None:
    _write(scratch, old_content)
    old = read_config(scratch)
    _write(scratch, new_content)
    left = only_removals(old, scratch)
    assert _granted(left) <= _granted(old)
    assert (left.keys, left.key, left.publishers, left.limits) == (old.keys, old.key, old.publishers, old.limits)
    assert [outlet.name for outlet in left.outlets] == [outlet.name for outlet in old.outlets]
    assert {upstream.endpoint for upstream in left.upstreams} <= {upstream.endpoint for upstream in old.upstreams}


@_SOME
@given(_damaged_documents() | _documents, st.booleans())
def test_any_document_is_a_config_or_refused(scratch: Path, content: dict[str, Any], insecure: bool) -> None:
    _write(scratch, content)
    try:
        config = read_config(scratch, insecure=insecure)
    except ConfigError as error:
        line = str(error)
        assert len(line.splitlines()) == 1
        assert _PUBLIC not in line
        return
    assert config.outlets
    if config.keys is not None:
        assert all(outlet.keys and outlet.cameras for outlet in config.outlets)
    elif not insecure:
        assert all(outlet.endpoint.is_local for outlet in config.outlets)
    assert only_removals(config, scratch) == config


@_SOME
@given(st.text(max_size=10), st.integers(0, len(_GOOD)), st.integers(0, 30))
def test_any_text_is_a_config_or_refused(scratch: Path, text: str, start: int, length: int) -> None:
    scratch.write_text(_GOOD, encoding="utf-8")
    old = read_config(scratch)
    scratch.write_text(_GOOD[:start] + text + _GOOD[start + length :], encoding="utf-8", errors="surrogatepass")
    assert _granted(only_removals(old, scratch)) <= _granted(old)
    try:
        read_config(scratch)
    except ConfigError as error:
        line = str(error)
        assert len(line.splitlines()) == 1
