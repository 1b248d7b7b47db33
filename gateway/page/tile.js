// One camera on the wall: its picture, what is known of it, and whether it may be believed.

const STALE_MS = 3000;
const STALE_PICTURES = 3; // of a camera that makes few
const JITTER_MS = 100; // ages that differ by more are not made smooth
const SILENT = "its publisher fell silent";
const PATIENCE_MS = 800; // a picture that is only just asked for is not missing yet
const RATE_MS = 3000;
const RATE_LEAST_MS = 900;

/** Ages as people say them. */
export function duration(ms) {
    if (ms < 995) {
        return `${Math.max(0, Math.round(ms / 10) * 10)} ms`;
    }
    if (ms < 9950) {
        return `${(ms / 1000).toFixed(1)} s`;
    }
    const s = Math.round(ms / 1000);
    if (s < 120) {
        return `${s} s`;
    }
    return s < 7200 ? `${Math.floor(s / 60)} min` : s < 172_800 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86_400)} d`;
}

function clock(agoMs) {
    const at = new Date(Date.now() - agoMs);
    const sameDay = at.toDateString() === new Date().toDateString();
    return sameDay ? at.toLocaleTimeString() : at.toLocaleString();
}

function element(tag, className, parent) {
    const made = document.createElement(tag);
    made.className = className;
    parent?.append(made);
    return made;
}

function write(node, text) {
    if (node.textContent !== text) {
        node.textContent = text;
    }
}

export class Tile {
    status;
    sinceMs = 0; // on the page's clock
    isVisible = false;
    shown = null; // the player whose picture can be seen
    #drawn = []; // times of the newest pictures
    #pictureMs = -Infinity; // when the picture that can be seen was taken
    #ageMs = null;
    #info = null;
    #wantedMs = null;

    constructor(camera) {
        this.camera = camera;
        const root = this.root = element("li", "tile");
        root.dataset.camera = camera;
        this.button = element("button", "picture", root);
        this.button.type = "button";
        this.button.tabIndex = -1;
        const caption = element("div", "caption", root);
        element("i", "dot", caption);
        const name = element("span", "name", caption);
        const leaf = camera.lastIndexOf("/") + 1;
        write(element("bdi", "", element("span", "path", name)), camera.slice(0, leaf));
        write(element("b", "leaf", name), camera.slice(leaf));
        name.title = camera;
        const facts = element("span", "facts", caption);
        facts.id = `facts-${camera}`;
        [this.rate, this.age, this.size] = ["rate", "age", "size"].map((name) => element("span", name, facts));
        this.button.setAttribute("aria-describedby", facts.id);
        const why = element("div", "why", root);
        [this.word, this.reason, this.since] = ["b", "p", "small"].map((tag) => element(tag, "", why));
        this.note = element("span", "note", caption);
    }

    hear(status, nowMs) {
        this.status = status;
        this.sinceMs = nowMs - (status.since_ms ?? 0);
    }

    /** It is watched from now on, or not any more. */
    expect(isWatched, nowMs) {
        if (!isWatched) {
            this.#wantedMs = null;
        } else {
            this.#wantedMs ??= nowMs;
        }
    }

    /** A picture of a player can be seen: the first one puts its element here. */
    show(player, info) {
        if (this.shown !== player) {
            const old = this.shown;
            this.shown = player;
            this.button.replaceChildren(player.element);
            old?.release();
            this.#forget();
        }
        if (this.root.dataset.state !== "live") {
            this.#forget();
        }
        const { nowMs, ageMs } = this.#info = info;
        this.#drawn.push(nowMs);
        this.#pictureMs = nowMs - (ageMs ?? 0);
        if (ageMs !== null) {
            const isNear = this.#ageMs !== null && Math.abs(ageMs - this.#ageMs) <= JITTER_MS;
            this.#ageMs = isNear ? this.#ageMs + (ageMs - this.#ageMs) * 0.2 : ageMs;
        }
        if (this.root.dataset.state !== "live") {
            this.update(nowMs, this.isLinked, this.isCutOff);
        }
    }

    /** What was before a pause says nothing of what comes after it. */
    #forget() {
        this.#drawn.length = 0;
        this.#ageMs = null;
    }

    /** How old the newest picture of a camera that is live may be. */
    get #staleMs() {
        const { fps } = this.status;
        return fps > 0 ? Math.max(STALE_MS, STALE_PICTURES * 1000 / fps) : STALE_MS;
    }

    /** The channel of the picture that can be seen, or null. */
    get channel() {
        return this.#info?.channel ?? null;
    }

    /** What may be said of it: "live" only where the picture itself is new. */
    #state(nowMs, isLinked) {
        if (!isLinked) {
            return "lost";
        }
        if (this.status.state === "offline" || this.status.state === "stalled") {
            return this.status.state;
        }
        if (nowMs - this.#pictureMs <= this.#staleMs) {
            return "live";
        }
        if (this.#wantedMs === null || nowMs - this.#wantedMs < PATIENCE_MS) {
            return "resting";
        }
        if (this.status.state === "idle") {
            return "idle";
        }
        return this.#info === null ? "waiting" : "stale";
    }

    /**
     * Say how it is now. Returns its state where that has changed. `isCutOff`: the gateway has trouble of its own, and
     * from a camera's silence nothing follows for its publisher.
     */
    update(nowMs, isLinked, isCutOff) {
        this.isLinked = isLinked;
        this.isCutOff = isCutOff;
        const state = this.#state(nowMs, isLinked);
        const before = this.root.dataset.state;
        this.root.dataset.state = state;
        this.root.classList.toggle("blank", this.#info === null);
        const [word, reason, since] = this.#words(state, nowMs);
        write(this.word, word);
        write(this.reason, reason);
        write(this.since, since);
        const isLive = state === "live";
        const rate = isLive ? this.#rate(nowMs) : null;
        write(this.rate, rate === null ? "" : `${rate < 0.095 ? rate.toFixed(2) : rate < 2.95 ? rate.toFixed(1) : Math.round(rate)} fps`);
        const old = nowMs - this.#pictureMs;
        const age = isLive && old < 1000 ? this.#ageMs ?? old : old;
        write(this.age, this.#info === null ? "" : isLive ? duration(age) : `${duration(age)} old`);
        write(this.size, this.#info === null ? "" : `${this.#info.width}×${this.#info.height}`);
        write(this.note, this.status.rivals > 0 ? "claimed twice" : this.status.insecure ? "without keys" : "");
        const label = [this.camera, isLive ? "live" : word || "not watched", reason, since && `since ${clock(nowMs - this.sinceMs)}`];
        const said = label.filter(Boolean).join(", ");
        if (this.button.getAttribute("aria-label") !== said) {
            this.button.setAttribute("aria-label", said);
        }
        return state === before ? null : state;
    }

    get #reason() {
        const { reason } = this.status;
        return this.isCutOff && reason === SILENT ? "nothing is heard of it" : reason || "";
    }

    #words(state, nowMs) {
        const sinceState = `since ${clock(nowMs - this.sinceMs)} · ${duration(nowMs - this.sinceMs)}`;
        switch (state) {
            case "offline":
            case "stalled":
                return [state, this.#reason, sinceState];
            case "lost":
                return ["not connected", "", ""];
            case "stale":
                return ["no new picture", "", `the last one is ${duration(nowMs - this.#pictureMs)} old`];
            case "idle":
                return ["idle", "opening the camera", ""];
            case "waiting":
                return ["waiting for a picture", "", ""];
            default:
                return ["", "", ""];
        }
    }

    #rate(nowMs) {
        while (this.#drawn.length > 2 && nowMs - this.#drawn[0] > RATE_MS) {
            this.#drawn.shift();
        }
        const [first] = this.#drawn;
        const spanMs = this.#drawn.at(-1) - first;
        // One is no rate, and neither is what came at once in the beginning.
        return !(spanMs > 0) || nowMs - first < RATE_LEAST_MS ? null : (this.#drawn.length - 1) * 1000 / spanMs;
    }
}
