// The page: the wall of cameras, one of them enlarged, and the keys and addresses that lead there.

import { Feeds } from "./feeds.js";
import { byName, layout, matching, usualAspect } from "./layout.js";
import { Link } from "./link.js";
import { Tile } from "./tile.js";
import { Tree } from "./tree.js";

const TICK_MS = 500;
const SAY_LOST_MS = 700;
const TOAST_MS = 4000;
const IDLE_MS = 3000;
const SWIPE_PX = 60;
const GAP_PX = 6;
const BAD = ["offline", "stalled", "stale"]; // states of a tile
const METHODS = ["webcodecs", "mse", "jpeg"];

const $ = (id) => document.getElementById(id);
const [wall, list, bar] = [$("wall"), $("tiles"), $("bar")];

const tiles = new Map(); // by name, in the wall's order
let names = []; // those that the filter leaves
let filter = "";
let big = null; // the enlarged camera's name
let current = null; // the camera that has the keys
let columns = 1;
let isLinked = false;
let hasCameras = false;
let lostMs = performance.now();
let lostReason = "";
let trouble = "";
let error = "";

const parameters = () => new URLSearchParams(location.hash.slice(1));
const forced = METHODS.find((method) => method === parameters().get("video"));

const socketUrl = new URL("api/stream", document.baseURI);
socketUrl.protocol = socketUrl.protocol.replace("http", "ws");
const link = new Link(socketUrl);
const feeds = new Feeds(link, forced);
const tree = new Tree($("tree"));
const onScreen = new IntersectionObserver(
    (entries) => {
        for (const { target, isIntersecting } of entries) {
            const tile = tiles.get(target.dataset.camera);
            if (tile !== undefined) {
                tile.isVisible = isIntersecting;
            }
        }
        watch();
    },
    { root: wall },
);

// What the gateway tells

link.addEventListener("open", () => {
    isLinked = true;
    error = "";
    tick();
});
link.addEventListener("hello", ({ detail: { user } }) => {
    $("sign-out").hidden = user === null;
    $("user").textContent = user ?? "";
});
link.addEventListener("cameras", ({ detail: { cameras } }) => {
    hasCameras = true;
    const here = new Set(cameras.map(({ name }) => name));
    hear(cameras, [...tiles.keys()].filter((name) => !here.has(name)));
    sayEmpty(); // of none, too
});
link.addEventListener("status", ({ detail: { cameras, gone } }) => hear(cameras ?? [], gone ?? []));
link.addEventListener("trouble", ({ detail: { text } }) => {
    trouble = text;
    tick();
});
link.addEventListener("error", ({ detail: { text } }) => { error = text; });
link.addEventListener("lost", ({ detail: { reason } }) => {
    if (isLinked) {
        lostMs = performance.now();
    }
    isLinked = false;
    lostReason = error || reason;
    tick();
    setTimeout(tick, SAY_LOST_MS);
});
link.addEventListener("signed-out", () => location.assign(new URL("sign-in", document.baseURI) + location.hash));

function hear(statuses, gone) {
    const nowMs = performance.now();
    let isNew = gone.length > 0;
    for (const status of statuses) {
        let tile = tiles.get(status.name);
        if (tile === undefined) {
            tile = new Tile(status.name);
            tiles.set(status.name, tile);
            isNew = true;
        }
        const { width, height } = tile.status ?? {};
        isNew ||= width !== status.width || height !== status.height;
        tile.hear(status, nowMs);
    }
    for (const name of gone) {
        const tile = tiles.get(name);
        if (tile !== undefined) {
            onScreen.unobserve(tile.root);
            tile.root.remove();
            tiles.delete(name);
        }
    }
    if (isNew) {
        arrange();
    } else {
        watch();
    }
    tick();
}

// The wall

/** Put the tiles that the filter leaves on the wall, in order. */
function arrange() {
    const all = [...tiles.keys()].sort(byName);
    names = matching(all, filter);
    tree.build(all);
    const left = new Set(names);
    for (const [name, tile] of tiles) {
        if (!left.has(name) && name !== big) {
            onScreen.unobserve(tile.root);
            tile.isVisible = false;
            tile.root.remove();
        }
    }
    const shown = big !== null && tiles.has(big) && !left.has(big) ? [...names, big] : names;
    const fresh = [];
    shown.forEach((name, at) => {
        const tile = tiles.get(name);
        if (list.children[at] !== tile.root) {
            if (!tile.root.isConnected) {
                fresh.push(tile);
            }
            list.insertBefore(tile.root, list.children[at] ?? null);
            onScreen.observe(tile.root);
        }
    });
    if (!names.includes(current)) {
        current = names[0] ?? null;
    }
    fit();
    const place = wall.getBoundingClientRect();
    for (const tile of fresh) { // without waiting for the observer
        const { top, bottom } = tile.root.getBoundingClientRect();
        tile.isVisible = top < place.bottom && bottom > place.top;
    }
    enlarge();
    sayEmpty();
    tree.select(big ?? filter.replace(/\/*$/, "/"));
}

function fit() {
    const style = getComputedStyle(wall);
    const width = wall.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const height = wall.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
    const aspect = usualAspect(names.map((name) => tiles.get(name).status));
    const best = layout(names.length, width, height, { gap: GAP_PX, aspect });
    columns = best.columns;
    list.style.setProperty("--columns", columns);
    list.style.setProperty("--width", `${best.width}px`);
    list.style.setProperty("--aspect", aspect);
    list.style.setProperty("--gap", `${GAP_PX}px`);
}

/** Show `big` alone, or all. */
function enlarge() {
    document.body.classList.toggle("big", big !== null);
    for (const [name, each] of tiles) {
        each.root.classList.toggle("big", name === big);
        each.button.tabIndex = name === (big ?? current) ? 0 : -1;
    }
    $("title").textContent = big ?? "";
    watch();
}

function watch() {
    const streams = [];
    const nowMs = performance.now();
    for (const [name, tile] of tiles) {
        const isWanted = !document.hidden && (big === null ? tile.isVisible : name === big);
        tile.expect(isWanted, nowMs);
        if (!isWanted) {
            continue;
        }
        const screen = tile.screen ??= screenOf(tile);
        // Until the first large picture is there, the small one goes on.
        if (tile.status.low && !(isLarge(name) && hasMain(tile))) {
            streams.push({ camera: name, channel: "low", screen });
        }
        if (!tile.status.low || isLarge(name)) {
            streams.push({ camera: name, channel: "cam", screen });
        }
    }
    feeds.want(streams);
}

/** Enlarged, or alone on the wall, which comes to the same. */
function isLarge(name) {
    return name === big || names.length === 1;
}

/** Whether the main picture can be seen, and goes on. */
function hasMain(tile) {
    return tile.channel === "cam" && feeds.has(tile.camera, "cam");
}

function screenOf(tile) {
    return {
        show(player, info) {
            const before = tile.channel;
            if (info.channel === "low" && isLarge(tile.camera) && hasMain(tile)) {
                return; // the main picture was quicker
            }
            tile.show(player, info);
            if (before !== tile.channel && isLarge(tile.camera)) {
                watch();
                sayBig();
            }
        },
    };
}

// What is said of it all

function tick() {
    const nowMs = performance.now();
    const counts = { live: 0, bad: 0 }; // of those that the filter leaves
    const left = new Set(names);
    const changes = [];
    for (const [name, tile] of tiles) {
        const before = tile.root.dataset.state;
        const changed = tile.update(nowMs, isLinked, trouble !== "");
        const isBad = BAD.includes(tile.root.dataset.state);
        // Of what is not on the screen, the gateway's word is all there is.
        tree.mark(name, tile.root.dataset.state === "resting" ? tile.status.state : tile.root.dataset.state);
        if (left.has(name)) {
            counts.bad += isBad;
            counts.live += !isBad && tile.status.state !== "idle";
        }
        if (changed !== null && before !== undefined && (isBad || (changed === "live" && BAD.includes(before)))) {
            changes.push(`${name}: ${changed === "live" ? "live again" : `${tile.word.textContent} ${tile.reason.textContent}`}`);
        }
    }
    if (changes.length > 0) {
        $("said").textContent = changes.join(". ");
    }
    sayTrouble(nowMs);
    saySummary(counts);
    sayBig();
}

/** What is known of the enlarged camera stands in the bar, and not on its picture. */
function sayBig() {
    const tile = tiles.get(big);
    const facts = tile === undefined ? [] : [tile.note, tile.rate, tile.age, tile.size].map((node) => node.textContent);
    const text = facts.filter(Boolean).join("  ·  ");
    if ($("facts").textContent !== text) {
        $("facts").textContent = text;
    }
    $("what").dataset.state = tile?.root.dataset.state ?? "";
}

function saySummary({ live, bad }) {
    const parts = [];
    if (filter !== "" && names.length !== tiles.size) {
        parts.push(`${names.length} of ${tiles.size}`);
    }
    if (isLinked && tiles.size > 0) {
        parts.push(`${live} live`);
        if (bad > 0) {
            parts.push(`${bad} not live`);
        }
    }
    // On a phone it has several lines, and none of them begins within a part.
    const text = parts.map((part) => part.replaceAll(" ", "\u00a0")).join(" · ");
    if ($("summary").textContent !== text) {
        $("summary").textContent = text;
    }
    const title = `${bad > 0 && isLinked ? `(${bad}) ` : ""}${big === null ? "" : `${big} · `}camfabric`;
    if (document.title !== title) {
        document.title = title;
    }
}

function sayTrouble(nowMs) {
    const isLost = !isLinked && nowMs - lostMs > SAY_LOST_MS;
    const lost = `No connection to the gateway${lostReason ? ` (${lostReason})` : ""}. Trying again by itself.`;
    const text = isLost ? lost : isLinked && trouble ? `The gateway has ${trouble}` : "";
    document.body.classList.toggle("lost", isLost);
    if ($("trouble").textContent !== text) {
        $("trouble").textContent = text;
        $("trouble").hidden = text === "";
    }
}

function sayEmpty() {
    const empty = $("empty");
    const [line, hint, button] = empty.children;
    const isNone = tiles.size === 0 && big === null;
    empty.hidden = !hasCameras || (big === null ? names.length > 0 : tiles.has(big));
    line.textContent = isNone ? "No camera has been seen yet."
        : big === null ? `No camera matches “${filter}”.` : `No camera is called “${big}”.`;
    hint.textContent = isNone ? "camfabric publish test:// --camera cctv/lobby" : "";
    button.hidden = isNone;
}

let toastTimer = 0;

function toast(text) {
    $("toast").textContent = text;
    $("toast").hidden = false;
    clearTimeout(toastTimer);
    toastTimer = setTimeout(() => { $("toast").hidden = true; }, TOAST_MS);
}

// Addresses: #camera=cctv/lobby&filter=cctv&video=mse

function address(camera, text) {
    const parts = [["camera", camera], ["filter", text], ["video", forced]].filter(([, value]) => value);
    const encoded = parts.map(([name, value]) => `${name}=${encodeURIComponent(value).replaceAll("%2F", "/")}`);
    return encoded.length > 0 ? `#${encoded.join("&")}` : location.pathname + location.search;
}

function readAddress() {
    const from = parameters();
    big = from.get("camera") || null;
    filter = from.get("filter") ?? "";
    if (big !== null) {
        current = big;
    }
    if (document.activeElement !== $("filter")) {
        $("filter").value = filter;
    }
    arrange();
    focusCurrent();
    tick();
}

function open(camera) {
    if (camera === big) {
        return;
    }
    // From the wall, so that the browser's own way back leads to it; from one to the next, in the same place.
    if (big === null) {
        history.pushState({ isFromWall: true }, "", address(camera, filter));
    } else {
        history.replaceState(history.state, "", address(camera, filter));
    }
    readAddress();
}

function close() {
    if (big === null) {
        return;
    }
    if (history.state?.isFromWall) {
        history.back();
    } else {
        history.replaceState(null, "", address(null, filter));
        readAddress();
    }
}

function setFilter(text) {
    if (big !== null) {
        history.pushState(null, "", address(null, text));
    } else {
        history.replaceState(history.state, "", address(null, text));
    }
    $("filter").value = text;
    readAddress();
    wall.scrollTop = 0;
}

addEventListener("popstate", readAddress);

// Keys and pointers

function focusCurrent() {
    if (document.activeElement === $("filter") || $("help").open || $("tree").contains(document.activeElement)) {
        return;
    }
    tiles.get(big ?? current)?.button.focus({ preventScroll: big !== null });
}

function move(step) {
    if (names.length === 0) {
        return;
    }
    const at = names.indexOf(big ?? current);
    const to = Math.min(Math.max(at + step, 0), names.length - 1);
    if (big === null) {
        // The first arrow shows where one is.
        const isThere = list.contains(document.activeElement) || Math.abs(step) >= names.length;
        setCurrent(isThere ? names[to] : current);
        tiles.get(current).button.focus();
    } else {
        const next = at === -1 && step < 0 ? -1 : at + Math.sign(step);
        open(names.at(next % names.length));
    }
}

function setCurrent(name) {
    const old = tiles.get(current);
    if (old !== undefined) {
        old.button.tabIndex = -1;
    }
    current = name;
    tiles.get(name).button.tabIndex = 0;
}

async function snapshot() {
    const camera = big ?? current;
    if (camera === null) {
        return;
    }
    const path = camera.split("/").map(encodeURIComponent).join("/");
    try {
        const answer = await fetch(new URL(`api/cameras/${path}/snapshot.jpg`, document.baseURI), { cache: "no-store" });
        if (!answer.ok) {
            toast(`No snapshot of ${camera}: ${(await answer.text()).trim().slice(0, 200) || answer.statusText}`);
            return;
        }
        const captured = new Date(answer.headers.get("Camfabric-Captured") ?? Date.now());
        const name = `${camera.replaceAll("/", "-")} ${stamp(captured)}.jpg`;
        const url = URL.createObjectURL(await answer.blob());
        const anchor = Object.assign(document.createElement("a"), { href: url, download: name });
        anchor.click();
        setTimeout(() => URL.revokeObjectURL(url), 60_000);
        toast(`Saved ${name}`);
    } catch {
        toast(`No snapshot of ${camera}: no connection to the gateway`);
    }
}

/** Local time for a file's name: 2026-03-29 14.05.09 */
function stamp(at) {
    const two = (number) => String(number).padStart(2, "0");
    const day = [at.getFullYear(), two(at.getMonth() + 1), two(at.getDate())].join("-");
    return `${day} ${[at.getHours(), at.getMinutes(), at.getSeconds()].map(two).join(".")}`;
}

function fullScreen() {
    if (document.fullscreenElement !== null) {
        document.exitFullscreen();
    } else if (document.fullscreenEnabled) {
        document.documentElement.requestFullscreen().catch((failure) => toast(`No full screen: ${failure.message}`));
    }
}

const narrow = matchMedia("(max-width: 800px)");

function showTree(isOpen) {
    document.body.classList.toggle("with-tree", isOpen);
    $("menu").setAttribute("aria-expanded", String(isOpen));
    $("names").inert = !isOpen;
}

function toggleTree() {
    const isOpen = !document.body.classList.contains("with-tree");
    showTree(isOpen);
    if (!narrow.matches) {
        remember("tree", isOpen ? "open" : "closed");
    }
    if (isOpen) {
        $("tree").querySelector("[tabindex='0']")?.focus();
    } else {
        focusCurrent();
    }
}

// A browser can be told to keep nothing for a site, and then even asking throws.
function remember(name, value) {
    try {
        localStorage.setItem(`camfabric.${name}`, value);
    } catch (failure) {
        console.info(`camfabric: not remembered: ${failure.message}`);
    }
}

function remembered(name) {
    try {
        return localStorage.getItem(`camfabric.${name}`);
    } catch {
        return null;
    }
}

const KEYS = {
    ArrowLeft: () => move(-1),
    ArrowRight: () => move(1),
    ArrowUp: () => move(-columns),
    ArrowDown: () => move(columns),
    Home: () => move(-names.length),
    End: () => move(names.length),
    Escape: () => (narrow.matches && document.body.classList.contains("with-tree") ? toggleTree() : close()),
    s: snapshot,
    f: fullScreen,
    t: toggleTree,
    "/": () => {
        close();
        $("filter").focus();
        $("filter").select();
    },
    "?": () => $("help").showModal(),
};

addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, dialog")) {
        return;
    }
    const act = KEYS[event.key];
    if (act !== undefined) {
        event.preventDefault();
        act();
    } else if (event.key === "Enter" && event.target === document.body && current !== null) {
        event.preventDefault(); // else it would be a click on what gets the focus
        open(current);
    }
});

$("filter").addEventListener("input", () => setFilter($("filter").value));
$("filter").addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
        setFilter("");
    }
    if (event.key === "Escape" || event.key === "Enter" || event.key === "ArrowDown") {
        event.preventDefault();
        $("filter").blur();
        focusCurrent();
    }
});
list.addEventListener("click", (event) => {
    const tile = event.target.closest(".tile");
    if (tile === null) {
        return;
    }
    setCurrent(tile.dataset.camera);
    if (big === null) {
        open(tile.dataset.camera);
    } else if (event.detail !== 1 || !wasSwipe) {
        close();
    }
});
list.addEventListener("focusin", (event) => big === null && setCurrent(event.target.closest(".tile").dataset.camera));

let touched = null;
let wasSwipe = false;
list.addEventListener("touchstart", ({ touches }) => {
    touched = touches.length === 1 ? [touches[0].clientX, touches[0].clientY] : null;
    wasSwipe = false;
}, { passive: true });
list.addEventListener("touchend", ({ changedTouches: [end] }) => {
    if (big === null || touched === null || (visualViewport?.scale ?? 1) > 1.05) {
        return;
    }
    const [across, down] = [end.clientX - touched[0], end.clientY - touched[1]];
    if (Math.abs(across) > SWIPE_PX && Math.abs(across) > 2 * Math.abs(down)) {
        wasSwipe = true;
        move(across < 0 ? 1 : -1);
    }
}, { passive: true });

// A form's own POST has no origin where no referrer is sent; this one has.
$("sign-out").onsubmit = async (event) => {
    event.preventDefault();
    try {
        await fetch($("sign-out").action, { method: "POST" });
        location.assign(new URL("sign-in", document.baseURI));
    } catch {
        toast("Not signed out: no connection to the gateway");
    }
};
$("back").onclick = close;
$("previous").onclick = () => move(-1);
$("next").onclick = () => move(1);
$("snapshot").onclick = snapshot;
$("full").onclick = fullScreen;
$("full").hidden = !document.fullscreenEnabled;
$("help-button").onclick = () => $("help").showModal();
$("menu").onclick = toggleTree;
$("empty").querySelector("button").onclick = () => setFilter("");
tree.addEventListener("folder", ({ detail }) => {
    setFilter(filter.replace(/\/+$/, "") === detail ? "" : detail);
    leaveTree();
});
tree.addEventListener("camera", ({ detail }) => {
    open(detail);
    leaveTree();
});

/** On a small screen the tree lies over the wall. */
function leaveTree() {
    if (narrow.matches) {
        showTree(false);
        focusCurrent();
    }
}

wall.addEventListener("click", (event) => event.target === wall && narrow.matches && showTree(false));

// In full screen, what lies on the picture goes away while nobody moves.
let idleTimer = 0;
function stir() {
    document.body.classList.remove("at-rest");
    clearTimeout(idleTimer);
    idleTimer = setTimeout(() => {
        const isHeld = bar.contains(document.activeElement) || $("help").open;
        document.body.classList.toggle("at-rest", document.fullscreenElement !== null && !isHeld);
    }, IDLE_MS);
}
["pointermove", "keydown", "pointerdown"].forEach((type) => addEventListener(type, stir, { passive: true }));
document.addEventListener("fullscreenchange", stir);

document.addEventListener("visibilitychange", () => {
    if (!document.hidden) {
        link.retry();
    }
    watch();
    tick();
});
new ResizeObserver(fit).observe(wall);
setInterval(tick, TICK_MS);
showTree(!narrow.matches && remembered("tree") === "open");
readAddress();
