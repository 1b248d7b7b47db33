"""The page in a real browser, without a fabric: its modules each by itself, and all of it with a gateway that says what
the test wants it to say, and a clock that the test can move."""

from __future__ import annotations

import base64
import io
import json
import mimetypes
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

from .browser import state, wait_for_states

pytestmark = [pytest.mark.browser, pytest.mark.timeout(60)]

_ORIGIN: Final = "http://localhost:1/"
_MODULES: Final = files("camfabric.gateway").joinpath("page")

Run = Callable[..., Any]


def _serve(page: Any, index: bytes) -> None:
    def answer(route: Any) -> None:
        name = route.request.url.removeprefix(_ORIGIN).removeprefix("page/")
        body = _MODULES.joinpath(name).read_bytes() if name else index
        route.fulfill(body=body, content_type=mimetypes.guess_type(name)[0] or "text/html")

    page.route(_ORIGIN + "**", answer)


@pytest.fixture(scope="module")
def run(browser: Any) -> Iterator[Run]:
    """Run a function of JavaScript with one argument; `load(name)` in it imports a module of the page.

    All tests have the same page: the modules keep nothing but what they are asked to make.
    """
    page = browser.new_page()
    _serve(page, b"")
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
    async (films) => Promise.all(films.map(async ([module, player, packets]) => {
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
        made.element.remove();
        return told;
    }))
"""
_DECODERS: Final = (("webcodecs.js", "WebCodecsPlayer"), ("mse.js", "MsePlayer"))


def test_pictures_are_shown_in_order_and_each_packet_is_dealt_with_once(run: Run, video: Any) -> None:
    films = []
    for options in ("bframes=0", "bframes=3:b-pyramid=normal"):
        packets = [_packed(frame, at + 1) for at, frame in enumerate(video(options=options, count=72).frames)]
        films += [[*decoder, packets] for decoder in _DECODERS]
    for (_, player, _), told in zip(films, run(_PLAY, films), strict=True):
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


def test_a_film_begins_at_a_keyframe_and_after_a_discontinuity_the_times_may_be_any(run: Run, video: Any) -> None:
    late = [_packed(frame, at + 1) for at, frame in enumerate(video(options="bframes=0").frames)][6:]
    first = video(options="bframes=0", count=36)
    again = [replace(frame, extra={"number": frame.extra["number"] + 256 * 1000}) for frame in first.frames]
    packets = [_packed(frame, at + 1) for at, frame in enumerate(first.frames)]
    packets.append(_packed(again[0], 37, flags=KEYFRAME | DISCONTINUITY))
    packets += [_packed(frame, at + 38) for at, frame in enumerate(again[1:])]
    films = [[*decoder, film] for film in (late, packets) for decoder in _DECODERS]
    told = run(_PLAY, films)
    assert [each["failed"] for each in told] == [[]] * 4
    for each in told[:2]:
        assert sorted(each["done"]) == list(range(7, 61))
        assert min(number for number, _ in each["drawn"]) >= 12
    for each in told[2:]:
        assert sorted(each["done"]) == list(range(1, 73))
        shown = [number for _, number in each["drawn"]]
        falls = [at for at in range(1, len(shown)) if shown[at] < shown[at - 1]]
        assert len(falls) == 1, shown
        assert shown[-1] > 25


@pytest.mark.parametrize("damage", ["empty", "short"])
def test_a_broken_jpeg_is_left_out(run: Run, picture: Any, damage: str) -> None:
    payload = cv2.imencode(".jpg", picture(width=128, height=96))[1].tobytes()
    whole = Frame(camera="a", codec=Codec.JPEG, width=128, height=96, extra={"number": 0}, payload=payload)
    broken = replace(whole, payload=b"\xff" if damage == "empty" else payload[:40])
    packets = [_packed(each, n + 1) for n, each in enumerate((whole, broken, whole))]
    (told,) = run(_PLAY, [["jpeg.js", "JpegPlayer", packets]])
    assert sorted(told["done"]) == [1, 2, 3]
    assert len(told["drawn"]) == 2


# All of the page


class _Wall:
    """The page, and the gateway that it is connected to."""

    def __init__(self, page: Any, cameras: list[dict[str, Any]]) -> None:
        self.page = page
        self.cameras = cameras
        self.streams: list[dict[str, Any]] = []
        self.connections = 0
        self.is_there = True
        self._n = 0
        self._socket: Any = None
        _serve(page, _MODULES.joinpath("index.html").read_bytes())
        page.route("**/api/cameras", lambda route: route.fulfill(status=200 if self.is_there else 502))
        page.route_web_socket("**/api/stream", self._open)

    def _open(self, socket: Any) -> None:
        self._socket = socket
        self._n = 0
        self.connections += 1
        if not self.is_there:
            socket.close()
            return
        socket.on_message(self._take)

    def _take(self, text: str) -> None:
        message = json.loads(text)
        if message["type"] == "hello":
            self.tell("hello", v=1, user=None, server="test", now_ms=0)
            self.tell("cameras", cameras=self.cameras)
        elif message["type"] == "watch":
            self.streams = message["streams"]

    def tell(self, kind: str, **fields: Any) -> None:
        """A message of the gateway."""
        self._socket.send(json.dumps({"type": kind, **fields}))

    def show(self, camera: str, *, age_ms: float = 20.0) -> None:
        """A picture of a camera that the page watches, and wait until it can be seen."""
        stream = next(stream["id"] for stream in self.streams if stream["camera"] == camera)
        now_ms = self.page.evaluate("performance.now()")
        header = pack_header(
            codec=Codec.JPEG, flags=KEYFRAME, stream=stream, width=64, height=36, n=(n := self._n + 1),
            age_ms=age_ms, seq=n, lost=0, time_us=int((now_ms - age_ms) * 1000),
        )  # fmt: skip
        self._n = n
        done = self.page.evaluate("window.drawn")
        self._socket.send(header + cv2.imencode(".jpg", np.full((36, 64, 3), 90, np.uint8))[1].tobytes())
        self.page.wait_for_function("(done) => window.drawn > done", arg=done)

    def text(self, camera: str, part: str) -> str:
        """What stands in a part of a tile."""
        found: str = self.page.locator(f".tile[data-camera='{camera}'] {part}").text_content()
        return found

    def summary(self) -> str:
        """What stands in the bar."""
        found: str = self.page.locator("#summary").text_content()
        return found.replace("\u00a0", " ")


def _camera(name: str, **status: Any) -> dict[str, Any]:
    usual = {"state": "live", "reason": "", "codec": "jpeg", "width": 64, "height": 36, "fps": 25, "low": False}
    return {"name": name, **usual, "rivals": 0, "insecure": False, "since_ms": 0, **status}


_COUNT_DRAWN: Final = """
    window.drawn = 0;
    const { transferFromImageBitmap } = ImageBitmapRenderingContext.prototype;
    ImageBitmapRenderingContext.prototype.transferFromImageBitmap = function (bitmap) {
        transferFromImageBitmap.call(this, bitmap);
        queueMicrotask(() => { window.drawn += 1; });
    };
"""

Open = Callable[..., _Wall]


@pytest.fixture
def open_wall(browser: Any) -> Iterator[Open]:
    """Open the page with cameras and an address; its time stands still where no `page.clock` moves it."""
    errors: list[str] = []
    contexts: list[Any] = []

    def run(*cameras: dict[str, Any], address: str = "", **options: Any) -> _Wall:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.clock.install(time=0)
        page.clock.pause_at(1)
        page.add_init_script(_COUNT_DRAWN)
        wall = _Wall(page, list(cameras))
        page.goto(_ORIGIN + address)
        _until(page, lambda: wall.streams or not page.locator("#empty").is_hidden())
        return wall

    yield run
    for context in contexts:
        context.close()
    assert errors == []


def _until(page: Any, condition: Callable[[], Any]) -> None:
    for _ in range(500):
        if condition():
            return
        page.clock.run_for(20)
    raise AssertionError("it never is so")


def test_a_slow_camera_is_live_until_three_of_its_pictures_are_missing(open_wall: Open) -> None:
    wall = open_wall(_camera("slow", fps=0.2), _camera("quick"))
    for _ in range(3):
        wall.show("slow")
        wall.show("quick")
        wall.page.clock.run_for(4900)
        assert state(wall.page, "slow") == "live"
        assert state(wall.page, "quick") == "stale"
    assert wall.text("slow", ".rate") == "0.2 fps"
    wall.tell("status", cameras=[], gone=[])
    wall.page.clock.run_for(9000)
    assert state(wall.page, "slow") == "live"
    wall.tell("status", cameras=[], gone=[])
    wall.page.clock.run_for(2000)
    assert state(wall.page, "slow") == "stale"


def test_after_a_pause_the_age_is_that_of_the_new_picture(open_wall: Open) -> None:
    wall = open_wall(_camera("a"))

    def show(age_ms: float) -> str:
        wall.show("a", age_ms=age_ms)
        wall.page.clock.run_for(500)
        return wall.text("a", ".age")

    assert show(20) == "20 ms"
    assert show(60) == "30 ms"  # smooth
    assert show(300) == "300 ms"
    assert show(20) == "20 ms"
    wall.page.clock.run_for(5000)
    assert state(wall.page, "a") == "stale"
    assert show(80) == "80 ms"


def test_an_empty_wall_notices_that_the_gateway_is_gone(open_wall: Open) -> None:
    wall = open_wall()
    assert "No camera has been seen yet" in wall.page.locator("#empty").text_content()
    wall.page.clock.run_for(14_000)
    assert wall.page.locator("#trouble").is_hidden()
    assert wall.connections == 1
    wall.is_there = False
    wall.page.clock.run_for(2000)
    _until(wall.page, lambda: "No connection to the gateway" in wall.page.locator("#trouble").text_content())
    wall.is_there = True
    _until(wall.page, lambda: wall.page.locator("#trouble").is_hidden())


def test_with_trouble_of_the_gateway_no_publisher_is_blamed(open_wall: Open) -> None:
    wall = open_wall(
        _camera("a", state="offline", reason="its publisher fell silent"),
        _camera("b", state="offline", reason="closed"),
    )
    assert wall.text("a", ".why p") == "its publisher fell silent"
    wall.tell("trouble", text="no connection to tcp://127.0.0.1:5551: nothing is heard from there")
    wall.page.wait_for_selector("#trouble:not([hidden])")
    assert wall.text("a", ".why p") == "nothing is heard of it"
    assert wall.text("b", ".why p") == "closed"
    wall.tell("trouble", text="")
    wall.page.wait_for_selector("#trouble", state="hidden")
    assert wall.text("a", ".why p") == "its publisher fell silent"


def test_a_camera_that_is_not_there_is_said_until_one_goes_back(open_wall: Open) -> None:
    wall = open_wall(_camera("a"), _camera("b"), address="#camera=nope")
    page = wall.page
    said = page.locator("#empty p")
    assert said.text_content() == "No camera is called “nope”."
    page.clock.run_for(10_000)
    assert said.is_visible()
    wall.tell("status", cameras=[_camera("nope")], gone=[])
    page.wait_for_selector("#empty", state="hidden")
    wall.tell("status", cameras=[], gone=["nope"])  # and while it is enlarged, it goes
    page.wait_for_selector("#empty:not([hidden])")
    assert said.text_content() == "No camera is called “nope”."
    page.keyboard.press("ArrowLeft")
    assert page.locator("#title").text_content() == "b"
    assert page.locator("#empty").is_hidden()
    page.evaluate("location.hash = '#camera=nope'")
    page.get_by_role("button", name="Show all cameras").click()
    assert page.locator("#empty").is_hidden()
    assert page.locator(".tile:visible").count() == 2


def test_the_first_arrow_goes_to_the_first_camera(open_wall: Open) -> None:
    page = open_wall(*map(_camera, "abc")).page
    focused = "document.activeElement.closest('[data-camera]')?.dataset.camera"
    assert page.evaluate(focused) is None
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "a"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "b"
    page.keyboard.press("End")
    assert page.evaluate(focused) == "c"


def test_what_is_counted_is_what_the_filter_leaves(open_wall: Open) -> None:
    wall = open_wall(_camera("a/1"), _camera("a/2", state="offline"), _camera("b/1"), _camera("b/2", state="stalled"))
    assert wall.summary() == "2 live · 2 not live"
    wall.page.locator("#filter").fill("b")
    assert wall.summary() == "2 of 4 · 1 live · 1 not live"
    wall.page.locator("#filter").fill("1")
    assert wall.summary() == "2 of 4 · 2 live"


def test_a_camera_that_is_a_folder_too_is_both_in_the_tree(open_wall: Open) -> None:
    wall = open_wall(_camera("cctv"), _camera("cctv/lobby"), _camera("gate"))
    page = wall.page
    page.keyboard.press("t")
    items = page.locator("[role=treeitem]")
    paths = [items.nth(at).get_attribute("data-path") for at in range(items.count())]
    assert paths == ["cctv", "cctv/", "cctv/lobby", "gate"]
    assert page.locator("[data-path='cctv'] > .row > .dot").is_visible()
    assert page.locator("[data-path='cctv']").get_attribute("data-state") == "live"
    page.locator("[data-path='cctv/'] > .row > span").click()
    assert page.url.endswith("#filter=cctv")
    assert wall.summary().startswith("2 of 3")
    selected = page.locator("[aria-selected=true]")
    assert selected.get_attribute("data-path") == "cctv/"
    page.locator("[data-path='cctv'] > .row > span").click()
    assert page.locator("#title").text_content() == "cctv"
    wall.show("cctv")
    wait_for_states(page, "live", "cctv")


def test_on_a_phone_many_cameras_leave_room_to_filter_them(open_wall: Open) -> None:
    cameras = [_camera(f"site/{at}", state="offline" if at % 2 else "live") for at in range(300)]
    wall = open_wall(*cameras, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    wall.page.locator("#filter").fill("1")
    left = [at for at in range(300) if "1" in str(at)]
    bad = sum(at % 2 for at in left)
    assert wall.summary() == f"{len(left)} of 300 · {len(left) - bad} live · {bad} not live"
    assert wall.page.locator("#filter").bounding_box()["width"] >= 75  # ten letters
    summary = wall.page.locator("#summary")
    box = summary.bounding_box()
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= 46
    assert summary.evaluate("(node) => node.scrollWidth <= node.clientWidth")  # all of it can be read
