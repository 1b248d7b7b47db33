"""The page's modules, each by itself, in a real browser: messages, layout, filter, fMP4 and the decoders."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files
from typing import Any, Final

import av
import cv2
import numpy as np
import pytest

from camfabric.common.frame import Codec, Frame
from camfabric.gateway.protocol import DISCONTINUITY, KEYFRAME, pack_header

pytestmark = [pytest.mark.browser, pytest.mark.timeout(60)]

_ORIGIN: Final = "http://localhost:1/"
_MODULES: Final = files("camfabric.gateway").joinpath("page")

Run = Callable[..., Any]


@pytest.fixture
def run(browser: Any) -> Iterator[Run]:
    """Run a function of JavaScript with one argument; `load(name)` in it imports a module of the page."""
    page = browser.new_page()

    def answer(route: Any) -> None:
        name = route.request.url.removeprefix(_ORIGIN)
        body = _MODULES.joinpath(name).read_bytes() if name else b""
        route.fulfill(body=body, content_type="text/javascript" if name else "text/html")

    page.route(_ORIGIN + "**", answer)
    page.goto(_ORIGIN)
    page.evaluate(
        """() => {
            window.load = (name) => import(`/${name}`);
            window.bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
            window.text = (data) => btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(""));
        }"""
    )
    yield page.evaluate
    page.close()


def _packed(frame: Frame, n: int, *, flags: int | None = None) -> str:
    """A frame as the gateway sends it, in base64; its time is that of its number at 30 pictures a second."""
    head = pack_header(
        codec=frame.codec,
        flags=(KEYFRAME if frame.keyframe else 0) if flags is None else flags,
        stream=7,
        width=frame.width,
        height=frame.height,
        n=n,
        age_ms=25.0,
        seq=frame.seq,
        lost=3,
        time_us=frame.extra["number"] * 1_000_000 // 30,
    )
    return base64.b64encode(head + bytes(frame.payload)).decode()


def test_a_message_of_the_gateway_is_what_the_page_reads(run: Run, video: Any) -> None:
    frame = video(options="bframes=0").frames[0]
    read = run(
        """async (text) => {
            const { parse } = await load("wire.js");
            const message = parse(bytes(text).buffer, 5);
            return { ...message, payload: window.text(message.payload) };
        }""",
        _packed(frame, 4_000_000_000, flags=KEYFRAME | DISCONTINUITY),
    )
    assert base64.b64decode(read.pop("payload")) == bytes(frame.payload)
    assert read == {
        "codec": "h264", "keyframe": True, "discontinuity": True, "id": 7, "width": 128, "height": 96,
        "n": 4_000_000_000, "ageMs": 25, "seq": 0, "lost": 3, "timeUs": 0, "receivedMs": 5,
    }  # fmt: skip


@pytest.mark.parametrize("data", [b"", b"\x01" * 36, b"\x02" * 60])
def test_what_is_no_message_is_an_error(run: Run, data: bytes) -> None:
    said = run(
        """async (text) => {
            const { parse } = await load("wire.js");
            try { return parse(bytes(text).buffer, 0); } catch (error) { return error.name; }
        }""",
        base64.b64encode(data).decode(),
    )
    assert said == "RangeError"


def test_what_is_told_is_the_number_up_to_which_all_are_done(run: Run) -> None:
    told = run(
        """async () => {
            const { Acks } = await load("wire.js");
            const acks = new Acks();
            const told = [];
            [1, 2, 3, 4].forEach((n) => acks.take(n));
            for (const n of [2, 1, 4, 3]) {
                acks.done(n);
                told.push(acks.next());
            }
            acks.take(5);
            return [...told, acks.next()];
        }"""
    )
    assert told == [None, 2, None, 4, None]


def test_the_time_on_the_way_counts_as_age(run: Run) -> None:
    ages = run(
        """async () => {
            const { Transit } = await load("wire.js");
            const transit = new Transit();
            // A picture every 100 ms, 20 ms old when sent; then the way takes longer and longer; then a new clock.
            const sent = [0, 100, 200, 300, 400];
            const ages = sent.map((at, place) => transit.ageOf(
                { ageMs: 20, timeUs: (at + 7e6) * 1000, receivedMs: at + 5 + Math.max(0, place - 2) * 500 },
            ));
            const none = transit.ageOf({ ageMs: null, timeUs: 0, receivedMs: 2000 });
            return [...ages, none, transit.ageOf({ ageMs: 20, timeUs: 1e15, receivedMs: 2100 })];
        }"""
    )
    assert ages == pytest.approx([20, 20, 20, 520, 1020, None, 20], abs=1)


def test_a_wall_fits_its_space_or_scrolls(run: Run) -> None:
    spaces = [(1280, 750), (390, 780), (780, 390), (3840, 2100), (320, 480)]
    cases = [(count, *space) for count in (1, 2, 3, 4, 9, 16, 40, 300) for space in spaces]
    found = run(
        """async (cases) => {
            const { layout } = await load("layout.js");
            return cases.map(([count, width, height]) => layout(count, width, height, { gap: 6 }));
        }""",
        cases,
    )
    for (count, width, height), tiles in zip(cases, found, strict=True):
        columns, across = tiles["columns"], tiles["width"]
        assert columns * across + (columns - 1) * 6 <= width
        rows = -(-count // columns)
        fits = rows * across * 9 / 16 + (rows - 1) * 6 <= height + 1
        assert fits or across < 320, (count, width, height, tiles)
        assert across >= 150
        # No other number of columns would have made them larger.
        if fits:
            for other in range(1, count + 1):
                down = (height - (-(-count // other) - 1) * 6) / -(-count // other) * 16 / 9
                assert min((width - (other - 1) * 6) / other, down) < across + 1


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("", ["cctv/10", "cctv/2", "cctv2/a", "drone/Gate"]),
        ("cctv", ["cctv/10", "cctv/2"]),
        ("CCTV/", ["cctv/10", "cctv/2"]),
        ("cctv/1", ["cctv/10"]),
        ("gate", ["drone/Gate"]),
        ("2 ct", ["cctv/2", "cctv2/a"]),
        ("xyz", []),
    ],
)
def test_a_filter_is_leading_segments_or_text(run: Run, text: str, left: list[str]) -> None:
    names = ["cctv/10", "cctv/2", "cctv2/a", "drone/Gate"]
    assert run("async ([names, text]) => (await load('layout.js')).matching(names, text)", [names, text]) == left


def test_names_are_in_the_order_of_their_numbers(run: Run) -> None:
    found = run("async (names) => names.sort((await load('layout.js')).byName)", ["cam/10", "cam/9", "b", "Cam/1"])
    assert found == ["b", "Cam/1", "cam/9", "cam/10"]


@pytest.mark.parametrize(("codec", "wanted"), [(Codec.H264, "avc1."), (Codec.H265, "hev1.1.6.L30.90")])
def test_a_codec_string_is_that_of_the_stream(run: Run, video: Any, codec: Codec, wanted: str) -> None:
    payload = bytes(video(codec).frames[0].payload)
    found = run(
        "async ([codec, text]) => (await load('annexb.js')).codecString(codec, bytes(text))",
        [codec.name.lower(), base64.b64encode(payload).decode()],
    )
    if codec is Codec.H264:
        sps = payload.index(b"\x00\x00\x01\x67") + 4
        wanted += payload[sps : sps + 3].hex()
    assert found == wanted


@pytest.mark.parametrize("options", ["bframes=0", "bframes=3:b-pyramid=normal", "slices=4:bframes=0"])
def test_a_decoder_of_mp4_finds_each_picture(run: Run, video: Any, options: str) -> None:
    film = video(options=options)
    made = run(
        """async (packets) => {
            const [{ parse }, { header, fragment }] = [await load("wire.js"), await load("fmp4.js")];
            const messages = packets.map((packet) => parse(bytes(packet).buffer, 0));
            const parts = [header(messages[0])];
            messages.forEach((message, at) => parts.push(fragment(message, {
                number: at + 1, decodeUs: at * 33_333, presentationUs: message.timeUs + 100_000, durationUs: 33_333,
            })));
            return parts.map(window.text);
        }""",
        [_packed(frame, at) for at, frame in enumerate(film.frames)],
    )
    mp4 = io.BytesIO(b"".join(base64.b64decode(part) for part in made))
    numbers = []
    container: Any
    with av.open(mp4, format="mp4") as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (128, 96)
        for image in container.decode(video=0):
            number = round((float(image.pts * image.time_base) - 0.1) * 30)
            assert np.array_equal(image.to_ndarray(format="bgr24"), film.clean[number])
            numbers.append(number)
    assert numbers == sorted(film.clean)


_PLAY: Final = """
    async ([module, player, packets]) => {
        const [{ parse }, exports] = [await load("wire.js"), await load(module)];
        const told = { drawn: [], done: [], failed: [] };
        const context = new OffscreenCanvas(128, 96).getContext("2d", { willReadFrequently: true });
        const host = {
            title: "test",
            done: ({ n }) => told.done.push(n),
            fail: (why) => told.failed.push(why),
            drawn: (message) => {
                context.drawImage(made.element, 0, 0, 128, 96);
                let shown = 0;
                for (let bit = 0; bit < 8; bit += 1) {
                    shown |= (context.getImageData(bit * 16 + 8, 72, 1, 1).data[1] > 128) << bit;
                }
                told.drawn.push([Math.round(message.timeUs * 30 / 1e6) % 256, shown]);
            },
        };
        const made = new exports[player](host);
        document.body.append(made.element);
        const begun = performance.now();
        for (const [at, packet] of packets.entries()) {
            await new Promise((resolve) => setTimeout(resolve, begun + at * 1000 / 30 - performance.now()));
            made.push(parse(bytes(packet).buffer, performance.now()));
        }
        await new Promise((resolve) => setTimeout(resolve, 300));
        made.stop();
        await new Promise((resolve) => setTimeout(resolve, 50));
        made.release();
        return told;
    }
"""


@pytest.mark.parametrize("options", ["bframes=0", "bframes=3:b-pyramid=normal"])
@pytest.mark.parametrize(("module", "player"), [("webcodecs.js", "WebCodecsPlayer"), ("mse.js", "MsePlayer")])
def test_pictures_are_shown_in_order_and_each_packet_is_dealt_with_once(
    run: Run, video: Any, options: str, module: str, player: str
) -> None:
    film = video(options=options, count=72)
    told = run(_PLAY, [module, player, [_packed(frame, at + 1) for at, frame in enumerate(film.frames)]])
    assert told["failed"] == []
    assert sorted(told["done"]) == list(range(1, 73))
    said = [number for number, _ in told["drawn"]]
    shown = [number for _, number in told["drawn"]]
    assert len(shown) > 10
    assert shown == sorted(shown)
    assert said == sorted(said)
    assert shown[-1] > 60
    if player == "WebCodecsPlayer":
        assert said == shown  # its ages are those of its pictures


def test_packets_before_a_keyframe_are_thrown_away(run: Run, video: Any) -> None:
    film = video(options="bframes=0")
    packets = [_packed(frame, at + 1) for at, frame in enumerate(film.frames)][6:]
    for module, player in (("webcodecs.js", "WebCodecsPlayer"), ("mse.js", "MsePlayer")):
        told = run(_PLAY, [module, player, packets])
        assert told["failed"] == []
        assert sorted(told["done"]) == list(range(7, 61))
        assert min(number for number, _ in told["drawn"]) >= 12


def test_after_a_discontinuity_the_times_may_be_any(run: Run, video: Any) -> None:
    first = video(options="bframes=0", count=36)
    again = [replace(frame, extra={"number": frame.extra["number"] + 256 * 1000}) for frame in first.frames]
    packets = [_packed(frame, at + 1) for at, frame in enumerate(first.frames)]
    packets.append(_packed(again[0], 37, flags=KEYFRAME | DISCONTINUITY))
    packets += [_packed(frame, at + 38) for at, frame in enumerate(again[1:])]
    for module, player in (("webcodecs.js", "WebCodecsPlayer"), ("mse.js", "MsePlayer")):
        told = run(_PLAY, [module, player, packets])
        assert told["failed"] == []
        assert sorted(told["done"]) == list(range(1, 73))
        shown = [number for _, number in told["drawn"]]
        falls = [at for at in range(1, len(shown)) if shown[at] < shown[at - 1]]
        assert len(falls) == 1, shown
        assert shown[-1] > 25


@pytest.mark.parametrize("damage", ["empty", "short"])
def test_a_broken_jpeg_is_left_out(run: Run, picture: Any, damage: str) -> None:
    payload = cv2.imencode(".jpg", picture(width=128, height=96))[1].tobytes()
    whole = Frame(camera="a", codec=Codec.JPEG, width=128, height=96, extra={"number": 0}, payload=payload)
    broken = replace(whole, payload=b"\xff" if damage == "empty" else payload[:40])
    packets = [_packed(each, n + 1) for n, each in enumerate((whole, broken, whole))]
    told = run(_PLAY, ["jpeg.js", "JpegPlayer", packets])
    assert sorted(told["done"]) == [1, 2, 3]
    assert len(told["drawn"]) == 2
