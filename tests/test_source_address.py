"""Addresses of sources: what they name, and what is refused before anything is opened."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camfabric.common.errors import ConfigError
from camfabric.publisher.sources.source import SourceAddress, parse_size, parse_source

_SOME = settings(max_examples=300, deadline=None)
_SECRET = "S3cr3t"


# What there is


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("test://", {"size": "1280x720", "fps": "30"}),
        ("TEST://", {"size": "1280x720", "fps": "30"}),
        ("test:///", {"size": "1280x720", "fps": "30"}),
        ("test://?size=1920x1080&fps=25", {"size": "1920x1080", "fps": "25"}),
        ("test://?fps=0.5", {"size": "1280x720", "fps": "0.5"}),
    ],
)
def test_a_scene_has_options(text: str, options: dict[str, str]) -> None:
    address = parse_source(text)
    assert address.kind == "test"
    assert dict(address.options) == options


@pytest.mark.parametrize(
    ("text", "path"),
    [("0", "/dev/video0"), ("12", "/dev/video12"), ("/dev/video3", "/dev/video3"), ("/dev/null", "/dev/null")],
)
def test_a_number_or_a_path_is_a_device(text: str, path: str) -> None:
    assert parse_source(text) == SourceAddress("device", path)


def test_a_path_is_a_file_or_a_folder(tmp_path: Path) -> None:
    film = tmp_path / "a film.mp4"
    assert parse_source(str(film)) == SourceAddress("file", str(film)), "it need not be there yet"
    assert parse_source(str(tmp_path)) == SourceAddress("folder", str(tmp_path))
    assert parse_source(f"file://{tmp_path}") == SourceAddress("folder", str(tmp_path))
    assert parse_source("file:///film.mp4") == SourceAddress("file", "/film.mp4")
    assert parse_source("film.mp4").kind == "file"
    assert parse_source("rtsp:film.mp4").kind == "file"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("rtsp://10.0.0.5/live", "rtsp"),
        ("RTSP://10.0.0.5/live", "rtsp"),
        ("rtsp://admin:S3cr3t@10.0.0.5:554/live", "rtsp"),
        ("rtsp://admin:a@S3cr3t@10.0.0.5:554/live", "rtsp"),
        ("rtsp://admin:a[S3cr3t@10.0.0.5/live", "rtsp"),
        ("rtsp://admin:]S3cr3t@10.0.0.5/live", "rtsp"),
        ("rtsp://admin:S3cr3t%2F@10.0.0.5/live", "rtsp"),
        ("rtsps://[fe80::1]:322/live", "rtsps"),
        ("http://10.0.0.5/video.mjpg?token=S3cr3t", "http"),
        ("https://camera.example/a.m3u8", "https"),
        ("udp://@239.0.0.1:1234", "udp"),
        ("udp://:1234", "udp"),
        ("srt://10.0.0.5:9000?passphrase=S3cr3t", "srt"),
        ("srt://:9000?mode=listener", "srt"),
    ],
)
def test_a_url_is_taken_as_it_is_and_shown_without_credentials(text: str, kind: str) -> None:
    address = parse_source(text)
    assert (address.kind, address.text) == (kind, text)
    assert _SECRET not in str(address)
    assert _SECRET not in repr(address)


# What there is not


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("", "test://"),
        ("ftp://10.0.0.5/film.mp4", "rtsp://"),
        ("gopher://admin:S3cr3t@10.0.0.5/", "rtsp://"),
        ("://10.0.0.5", "rtsp://"),
        ("rtsp://", "host"),
        ("rtsp:///live", "host"),
        ("rtsp://admin:S3cr3t@/live", "host"),
        ("rtsp://[::1/live", "host"),
        ("rtsp://10.0.0.5:port/live", "host"),
        ("rtsp://admin:a/S3cr3t@10.0.0.5/live", "%2F"),
        ("rtsp://admin:a#S3cr3t@10.0.0.5/live", "%23"),
        ("rtsp://admin:S3cr3t b@10.0.0.5/live", "%20"),
        ("rtsp://admin:a S3cr3t@10.0.0.5/live", "%20"),
        ("rtsp://10.0.0.5/live\n", "%20"),
        ("test://?size=12", "1280x720"),
        ("test://?size=1280x", "1280x720"),
        ("test://?size=8x8", "16 to 16384"),
        ("test://?size=99999x16", "16 to 16384"),
        ("test://?size=", "1280x720"),
        ("test://?fps=0", "fps is a number"),
        ("test://?fps=-1", "fps is a number"),
        ("test://?fps=fast", "fps is a number"),
        ("test://?fps=nan", "fps is a number"),
        ("test://?fps=1001", "fps is a number"),
        ("test://?speed=2", "size, fps"),
        ("test://lobby", "size=1920x1080"),
        ("test://admin:S3cr3t@lobby", "size=1920x1080"),
        ("test://[", "size=1920x1080"),
        ("file://", "file:///"),
        ("file://film.mp4", "file:///"),
        ("file://folder/film.mp4", "file:///"),
    ],
)
def test_a_wrong_one_is_refused_and_told_what_is_right(text: str, right: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_source(text)
    assert right in str(caught.value)
    assert "\n" not in str(caught.value)
    assert _SECRET not in str(caught.value)
    assert _SECRET not in str(caught.value.value)


def test_a_path_that_cannot_be_looked_at_is_left_to_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refuse)
    monkeypatch.setattr(Path, "is_char_device", refuse)
    assert parse_source("/home/somebody/film.mp4").kind == "file"


@pytest.mark.parametrize(
    "text", ["x" * 5000, "a\0b", "1" * 5000, "\ud800", "/dev/" + "v" * 5000, "file:///" + "x" * 5000]
)
def test_odd_paths_harm_nobody(text: str) -> None:
    try:
        address = parse_source(text)
    except ConfigError:
        return
    assert address.kind in {"file", "device"}


@_SOME
@given(
    st.text(st.characters(), max_size=40)
    | st.sampled_from(["rtsp://", "test://", "file://", "udp://", "http://u:p@"]).flatmap(
        lambda scheme: (st.text(st.characters(), max_size=20) | st.text("ab:/@?&=[]#%.0 \n", max_size=20)).map(
            lambda tail: scheme + tail
        )
    )
)
def test_any_text_is_a_source_or_refused(text: str) -> None:
    try:
        address = parse_source(text)
    except ConfigError as error:
        refused = str(error)
        assert refused
        return
    assert address.text
    assert str(address)


# Sizes


@pytest.mark.parametrize(
    ("text", "size"), [("1280x720", (1280, 720)), ("16x16", (16, 16)), ("16384X16384", (16384, 16384))]
)
def test_these_are_sizes(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "x", "1280", "1280x", "x720", "1280*720", "15x16", "16x16385", "1280x720x3", "-16x16", "1e3x16", " 64x64"],
)
def test_these_are_not(text: str) -> None:
    with pytest.raises(ConfigError, match=r"1280x720") as caught:
        parse_size(text, setting="--size")
    assert caught.value.setting == "--size"
