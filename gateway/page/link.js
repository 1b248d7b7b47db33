// The connection to the gateway: one WebSocket, made again with growing pauses whenever it ends.

import { Acks, parse } from "./wire.js";

const FIRST_PAUSE_MS = 300;
const MOST_PAUSE_MS = 2000;
const ACK_MS = 8;
const WATCH_MS = 150;
const SILENCE_MS = 15_000;

/**
 * Events: "hello", "cameras", "status", "trouble" (detail: the message), "picture" (detail: see wire.js),
 * "open", "lost" (detail: {reason, retryMs}), "signed-out".
 */
export class Link extends EventTarget {
    #socket = null;
    #acks = new Acks();
    #ackTimer = 0;
    #retryTimer = 0;
    #watchTimer = 0;
    #askedMs = -Infinity;
    #failures = 0;
    #heardMs = 0;
    #watched = "[]";

    constructor(url) {
        super();
        this.url = url;
        addEventListener("online", () => this.retry());
        addEventListener("pageshow", (event) => event.persisted && this.retry());
        setInterval(() => this.#checkSilence(), 1000);
        this.#connect();
    }

    get isOpen() {
        return this.#socket?.readyState === WebSocket.OPEN;
    }

    /** Try at once, where it waits for its next try. */
    retry() {
        if (this.#socket === null) {
            clearTimeout(this.#retryTimer);
            this.#connect();
        }
    }

    /** The streams wanted from now on, on this connection. */
    watch(streams) {
        const wanted = JSON.stringify(streams);
        if (wanted !== this.#watched) {
            this.#watched = wanted;
            // At once; while somebody scrolls, a few times a second.
            this.#watchTimer ||= setTimeout(() => this.#sendWatch(), this.#askedMs + WATCH_MS - performance.now());
        }
    }

    /** A picture is drawn or thrown away. */
    done(message) {
        this.#acks.done(message.n);
        // Several at once: a message for each of them would be as many as there are pictures.
        this.#ackTimer ||= setTimeout(() => this.#sendAck(), ACK_MS);
    }

    #connect() {
        const socket = new WebSocket(this.url);
        socket.binaryType = "arraybuffer";
        let opened = false;
        socket.onopen = () => {
            opened = true;
            this.#acks = new Acks();
            this.#heardMs = performance.now();
            socket.send(JSON.stringify({ type: "hello", v: 1 }));
            // Nothing is watched on a new connection, and who hears "open" asks at once.
            this.#watched = "[]";
            this.#askedMs = -Infinity;
            this.#tell("open");
        };
        socket.onmessage = ({ data }) => this.#take(data);
        socket.onclose = ({ reason }) => this.#socket === socket && this.#lose(reason, opened);
        this.#socket = socket;
    }

    #take(data) {
        this.#heardMs = performance.now();
        if (typeof data === "string") {
            const message = JSON.parse(data);
            if (message.type === "hello") {
                this.#failures = 0;
            }
            this.#tell(message.type, message);
            return;
        }
        const picture = parse(data, this.#heardMs);
        this.#acks.take(picture.n);
        this.#tell("picture", picture);
    }

    async #lose(reason, opened) {
        this.#socket = null;
        const pauseMs = Math.min(FIRST_PAUSE_MS * 2 ** this.#failures, MOST_PAUSE_MS);
        this.#failures += 1;
        const retryMs = pauseMs * (0.75 + Math.random() / 2); // not all pages in the same moment
        this.#retryTimer = setTimeout(() => this.#connect(), retryMs);
        this.#tell("lost", { reason, retryMs });
        // A browser does not tell a page why its WebSocket was refused.
        if (!opened && await isSignedOut()) {
            clearTimeout(this.#retryTimer);
            this.#tell("signed-out");
        }
    }

    #checkSilence() {
        // A peer that vanished says nothing, and neither does TCP, for minutes.
        if (this.isOpen && performance.now() - this.#heardMs > SILENCE_MS) {
            const socket = this.#socket;
            this.#lose("it has been silent for too long", true);
            socket.close();
        }
    }

    #sendWatch() {
        clearTimeout(this.#watchTimer);
        this.#watchTimer = 0;
        if (this.isOpen) {
            this.#askedMs = performance.now();
            this.#socket.send(`{"type":"watch","streams":${this.#watched}}`);
        }
    }

    #sendAck() {
        this.#ackTimer = 0;
        const n = this.#acks.next();
        if (n !== null && this.isOpen) {
            this.#socket.send(`{"type":"ack","n":${n}}`);
        }
    }

    #tell(type, detail = null) {
        this.dispatchEvent(new CustomEvent(type, { detail }));
    }
}

async function isSignedOut() {
    try {
        const answer = await fetch(new URL("api/cameras", document.baseURI), { cache: "no-store" });
        await answer.body?.cancel();
        return answer.status === 401;
    } catch {
        return false; // not there at all
    }
}
